// Which job a checkpoint is of: what may change between two starts of a training, and what may not.
//
// Thread safety: pure functions.
#pragma once

#include <cstdint>
#include <string>

#include "proto/job.pb.h"

namespace plexus {

// XXH3_64 of the resolved job without what changes no bit of the model: how many servers and
// workers carry it, their memory, where rows spill to, leases, and the checkpoints themselves.
std::uint64_t TrainingHash(const proto::Job& job);

// What TrainingHash looks at and differs, one "path: old -> new" a line; empty: nothing.
std::string TrainingDifferences(const proto::Job& old_job, const proto::Job& new_job);

}  // namespace plexus
