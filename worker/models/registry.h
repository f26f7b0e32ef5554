// The models' factories, one a file.  registry.cc holds the table of names: a static library's
// linker drops objects that register themselves.
//
// Thread safety: pure functions.
#pragma once

#include <memory>

#include "worker/models/model.h"

namespace plexus {

using ModelFactory = StatusOr<std::unique_ptr<Model>> (*)(const ModelShape&);

StatusOr<std::unique_ptr<Model>> MakeAutoInt(const ModelShape& shape);
StatusOr<std::unique_ptr<Model>> MakeCounter(const ModelShape& shape);
StatusOr<std::unique_ptr<Model>> MakeDcn(const ModelShape& shape);
StatusOr<std::unique_ptr<Model>> MakeDcnV2(const ModelShape& shape);
StatusOr<std::unique_ptr<Model>> MakeDeepFm(const ModelShape& shape);
StatusOr<std::unique_ptr<Model>> MakeDlrm(const ModelShape& shape);
StatusOr<std::unique_ptr<Model>> MakeFm(const ModelShape& shape);
StatusOr<std::unique_ptr<Model>> MakeFnn(const ModelShape& shape);
StatusOr<std::unique_ptr<Model>> MakeIpnn(const ModelShape& shape);
StatusOr<std::unique_ptr<Model>> MakeLogisticRegression(const ModelShape& shape);
StatusOr<std::unique_ptr<Model>> MakeWideDeep(const ModelShape& shape);

}  // namespace plexus
