// ShardSnapshot: one version of a shard, gathered slice by slice while the shard goes on.
//
// Begin copies what is small (dense blocks, the keys that went since the base); the tables gather
// the rest (TableSnapshot) when Gather is called, and before a step changes what was not gathered
// yet.  What was gathered leaves in blocks, in any order; the end block comes last.  Rows on disk
// are named by TakeCopies: the runtime reads them as they are at that moment, whatever becomes of
// them before they are read.
//
// States: none -> (Begin) gathering -> (all gathered, all copies here) at rest.
//
// Thread safety: none; belongs to its shard.
#pragma once

#include <cstdint>
#include <vector>

#include "proto/control.pb.h"
#include "ps/cold_rows.h"
#include "ps/shard_state.h"
#include "ps/snapshot_block.h"

namespace plexus {

class ShardSnapshot {
 public:
  // `bytes_max`: beyond what is gathered and not written, it is too far behind.  `incremental`:
  // the keys that go are remembered, so that the next snapshot can build on this one.
  ShardSnapshot(ShardState* state, std::uint64_t bytes_max, bool incremental)
      : state_(*state), bytes_max_(bytes_max), incremental_(incremental) {}

  // Of the state as it is now; `base` > 0: what changed since that version.  REQUIRES: none is
  // under way; a base is the version of the snapshot before, and needs_full() is false.
  void Begin(std::uint64_t version, std::uint64_t base);
  bool under_way() const { return under_way_; }
  std::uint64_t version() const { return version_; }
  // Of tables as of Begin.
  const std::vector<proto::TableUsage>& usage() const { return usage_; }

  // Whether Gather has something to do.
  bool has_more() const { return under_way_ && table_ < state_.table_count(); }
  // The next slice, of about `bytes`, or a walk over so many slots without any.
  void Gather(std::uint64_t bytes);
  // What was gathered since.
  std::vector<SnapshotBlock> TakeBlocks();
  // Of a table each.
  std::vector<ColdKeys> TakeCopies();
  void OnCopied(const ColdBatch& batch);
  // It cannot become whole: no end block comes.
  void Abandon();
  // So many bytes of blocks are on disk, or of no use any more.
  void OnWritten(std::uint64_t bytes);

  // Gathered, asked for, or taken, and not yet written.
  std::uint64_t bytes() const;
  // Steps change rows faster than they are written: the rest is better written at once.
  bool is_far_behind() const { return bytes() > bytes_max_; }
  std::uint64_t bytes_max() const { return bytes_max_; }

  // More keys went since than an incremental one is good for.  Once it is true it stays so until
  // Begin, and keys are not remembered any more.
  bool NeedsFull();

 private:
  void AddBlock(SnapshotBlock block);
  void AddErased(std::uint32_t table, const std::vector<Key>& keys);
  void Collect();

  ShardState& state_;
  const std::uint64_t bytes_max_;
  const bool incremental_;
  bool under_way_ = false;
  bool needs_full_ = false;
  std::uint64_t version_ = 0;
  std::uint32_t table_ = 0;  // That Gather is at.
  std::uint64_t copying_rows_ = 0;
  std::uint64_t copying_bytes_ = 0;
  std::uint64_t block_bytes_ = 0;  // Of blocks_, and of those that are on their way.
  std::vector<SnapshotBlock> blocks_;
  std::vector<proto::TableUsage> usage_;
};

// What may be gathered and not written, of a server with a memory limit; 0: it has none.
std::uint64_t SnapshotBytesMax(std::uint64_t memory_limit);

}  // namespace plexus
