// RUN/checkpoints: one directory a version, each with the shards' files and a manifest that is
// written last; LATEST names the newest.  docs/checkpoints.md describes them.
//
// A directory without a manifest is no checkpoint: it was being written, or deleted, when the job
// ended.
//
// Thread safety: pure functions on files; a run directory belongs to one job at a time.
#pragma once

#include <cstdint>
#include <optional>
#include <string>

#include "common/status.h"
#include "proto/checkpoint.pb.h"
#include "proto/plan.h"

namespace plexus {

// Where shards write what a commit's `save` names: RUN/checkpoints/VERSION, or RUN/model/NAME.
std::string SavedDirectory(const std::string& run_dir, const std::string& name,
                           std::uint64_t version);

// Makes the files that `manifest` names the newest checkpoint: writes the manifest and LATEST, then
// deletes those that are older than the newest `keep`, and older unfinished ones.
Status FinishCheckpoint(const std::string& run_dir, const proto::Manifest& manifest,
                        std::uint32_t keep);

// The version of the newest checkpoint, whose files are not looked at; 0: there is none.
StatusOr<std::uint64_t> NewestCheckpoint(const std::string& run_dir);

// The newest checkpoint of which every byte is right.  Damaged ones are warned of, and renamed to
// VERSION.damaged; unfinished ones are deleted, unless servers may be writing them.  Empty: there
// never was one.
// kFailedPrecondition: a checkpoint of another job.  kDataLoss: all are damaged.
enum class Unfinished { kDelete, kKeep };
StatusOr<std::optional<proto::Manifest>> FindCheckpoint(
    const JobPlan& plan, const std::string& run_dir, Unfinished unfinished = Unfinished::kDelete);

}  // namespace plexus
