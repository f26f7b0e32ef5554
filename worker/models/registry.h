// The models' factories, one a file.  registry.cc holds the table of names: a static library's
// linker drops objects that register themselves.
//
// Thread safety: pure functions.
#pragma once

#include <memory>

#include "worker/models/model.h"

namespace plexus {

using ModelFactory = StatusOr<std::unique_ptr<Model>> (*)(const ModelShape&);

StatusOr<std::unique_ptr<Model>> MakeDeepFm(const ModelShape& shape);

}  // namespace plexus
