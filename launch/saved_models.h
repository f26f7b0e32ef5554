// SavedModels: where saved models lie, and whose job they are of.
//
// Thread safety: pure functions on files.
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "common/status.h"
#include "proto/plan.h"

namespace plexus {

// `path` itself if it holds a model's files; else, of a run, every directory in its model/ and
// checkpoints/.  A directory without a manifest counts: something may have taken it away.
// kNotFound: there is none; the message says where it was looked for.
StatusOr<std::vector<std::string>> FindModels(const std::string& path);

// The plan of the job.textproto that lies beside the model, or in a directory above it, at most
// three up.
StatusOr<std::shared_ptr<const JobPlan>> PlanOfModel(const std::string& directory);

// `path` if it is a model's directory, else the run's model `which` (best; final if there is no
// best).
StatusOr<std::string> ModelAt(const std::string& path, const std::string& which);

}  // namespace plexus
