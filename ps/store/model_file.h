// Model files: the one way in which a model's rows and dense parameters go to disk and come back.
// Knows no optimizer: a row is its record.
//
// A file is a run of blocks: u32 kind, u32 payload bytes, u64 XXH3_64(payload), payload.
//   kind 1, head:   "PLXMODEL", u32 format = 2, u32 shard, u64 version.
//   kind 2, rows:   u32 name bytes, name, (pad to 8), u32 layout code, u32 record bytes, u32 rows;
//                   per row u64 key, u64 last_step, u64 count, the record.
//   kind 3, dense:  u32 name bytes, name, (pad to 8), u32 first element, u32 count, u32 floats;
//                   f32[floats] (values, then state).
//   kind 4, end:    u64 blocks before it.
//   kind 5, filter: u32 name bytes, name, (pad to 8), u32 bucket, u32 bytes, the bytes.
//   kind 6, erased: u32 name bytes, name, (pad to 8), u32 keys, u32 zero, u64[keys].
// The files of an incremental checkpoint have format 3, and behind the version u64 base: rows that
// were updated after the base, and keys whose rows went since; filters and dense blocks are whole.
// A file is written under another name, synced and renamed.  It is refused if its end block is
// missing, or if it is another file than the manifest names (size, and XXH3_64 chained over heads
// and payloads).
//
// Thread safety: pure functions on files.
#pragma once

#include <cstdint>
#include <functional>
#include <span>
#include <string>
#include <vector>

#include "common/status.h"
#include "proto/checkpoint.pb.h"
#include "proto/plan.h"
#include "ps/shard_state.h"

namespace plexus {

// Hands out every record of a table that lies on disk, stale ones too; see ColdStore::Scan.
using ColdScan = std::function<Status(std::uint32_t table,
                                      const std::function<void(Key, const std::byte*)>& visit)>;

// Writes the shard's part into `directory` (made if absent); *digest is its part of model_digest,
// rows on disk included.  `scan` may be null if no row is on disk.
StatusOr<proto::SavedFile> WriteModelFile(const JobPlan& plan, const ShardState& state,
                                          std::uint32_t shard, std::uint64_t version,
                                          const std::string& directory, const ColdScan& scan,
                                          Digest128* digest);

// The shard's part of model_digest, rows on disk included.
StatusOr<Digest128> DigestOf(const ShardState& state, const ColdScan& scan);

// Who is shown what a saved model holds, in the order of its files; what is not set is verified and
// passed over.  An error ends the visit and is annotated with file and offset.
struct ModelVisitor {
  // The record is there until the call returns.
  std::function<void(std::uint32_t table, const RowView& row)> row;
  // Of the files of one link of a chain only; VisitModel shows none.
  std::function<void(std::uint32_t table, Key key)> erased;
  std::function<Status(std::uint32_t table, std::uint32_t bucket, const std::string& bytes)> filter;
  // `block` is an index into plan.dense.blocks(); values, then state.
  std::function<Status(std::uint32_t block, std::span<const float> floats)> dense;
};

// Shows every row of the model once, one block (about 1 MiB) of a file in memory at a time.  An
// incremental checkpoint is read with those that it builds on, from the newest file to the oldest:
// about 16 bytes are kept in memory for each row of the incremental ones.  After an error, what was
// shown is of no use.
// kNotFound: no model there.  kDataLoss: a file is damaged; the message names file and offset.
// kFailedPrecondition: a model of another job.
StatusOr<proto::Manifest> VisitModel(const JobPlan& plan, const std::string& directory,
                                     const ModelVisitor& visitor);

// Tells the state's tables how many rows will come.
void ReserveRows(const proto::Manifest& manifest, ShardState* state);

// Puts the rows and blocks of every file of the manifest into `state`, which is of no use after an
// error.  Errors as VisitModel.
StatusOr<proto::Manifest> ReadModel(const JobPlan& plan, const std::string& directory,
                                    ShardState* state);

// The manifest, with its XXH3_64 as its last line, written last: write, sync, rename, sync the
// directory.  ReadManifest: kDataLoss if the line is missing or of another text.
// `seal`, if not null, becomes that line.
Status WriteManifest(const proto::Manifest& manifest, const std::string& directory);
StatusOr<proto::Manifest> ReadManifest(const std::string& directory, std::string* seal = nullptr);

// One of the checkpoints that a checkpoint consists of.
struct ModelLink {
  std::string directory;
  proto::Manifest manifest;
};

// The checkpoint in `directory` and those that it builds on, from the newest to the one that is
// whole; a saved model is one link.  Errors as ReadManifest; kDataLoss also if one is missing, or
// another one than it was.
StatusOr<std::vector<ModelLink>> ReadChain(const std::string& directory);
// Where a checkpoint's base lies: beside it.
std::string BaseDirectory(const std::string& directory, std::uint64_t base);

}  // namespace plexus
