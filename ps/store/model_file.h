// Model files: the one way in which rows and dense parameters go to disk and come back.  Knows no
// optimizer: values and state are floats.
//
// A file is a run of blocks: u32 kind, u32 payload bytes, u64 XXH3_64(payload), payload.
//   kind 1, head:   "PLXMODEL", u32 format = 1, u32 shard, u64 version.
//   kind 2, rows:   u32 name bytes, name, (pad to 8), u32 floats a row, u32 rows; per row u64 key,
//   u64 last_step, u64 count, f32[floats]. kind 3, dense:  u32 name bytes, name, (pad to 8), u32
//   first element, u32 count, u32 floats; f32[floats] (values, then state). kind 4, end:    u64
//   blocks before it.
// A file is written under another name, synced and renamed.  It is refused if its end block is
// missing, or if it is another file than the manifest names (size, and XXH3_64 chained over heads
// and payloads).
//
// Thread safety: pure functions on files.
#pragma once

#include <string>

#include "common/status.h"
#include "proto/checkpoint.pb.h"
#include "proto/plan.h"
#include "ps/shard_state.h"

namespace plexus {

// Writes the shard's part into `directory` (made if absent).
StatusOr<proto::SavedFile> WriteModelFile(const JobPlan& plan, const ShardState& state,
                                          std::uint32_t shard, std::uint64_t version,
                                          const std::string& directory);

// Puts the rows and blocks of every file of the manifest into `state`, which is of no use after an
// error.
// kNotFound: no model there.  kDataLoss: a file is damaged; the message names file and offset.
// kFailedPrecondition: a model of another job.
StatusOr<proto::Manifest> ReadModel(const JobPlan& plan, const std::string& directory,
                                    ShardState* state);

// The manifest, written last: write, sync, rename, sync the directory.
Status WriteManifest(const proto::Manifest& manifest, const std::string& directory);
StatusOr<proto::Manifest> ReadManifest(const std::string& directory);

}  // namespace plexus
