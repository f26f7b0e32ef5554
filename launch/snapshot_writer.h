// SnapshotWriter: a server's part of a checkpoint, written while its shard goes on: the shard's
// thread gathers slices between messages, a thread of the writer's own hashes and writes them.
//
// Thread safety: none; belongs to the shard's thread.  `wake` is called from the writer's thread.
#pragma once

#include <atomic>
#include <cstdint>
#include <functional>
#include <mutex>
#include <optional>
#include <string>
#include <thread>
#include <variant>

#include "common/bounded_queue.h"
#include "common/status.h"
#include "launch/cold_tier.h"
#include "launch/node.h"
#include "proto/checkpoint.pb.h"
#include "proto/plan.h"
#include "ps/shard.h"
#include "ps/snapshot_block.h"

namespace plexus {

struct SnapshotStats {
  std::uint64_t snapshots = 0;        // Whose file is complete.
  std::uint64_t bytes = 0;            // Of these files.
  std::uint64_t written_at_once = 0;  // Whose rest had to be written at once.
  double slice_seconds_max = 0;       // The shard's thread was busy with one slice,
  double at_once_seconds_max = 0;     // with such a rest.
};

class SnapshotWriter {
 public:
  SnapshotWriter(const JobPlan& plan, const NodeOptions& options, std::function<void()> wake);
  // What is not complete is removed.
  ~SnapshotWriter();
  SnapshotWriter(const SnapshotWriter&) = delete;
  SnapshotWriter& operator=(const SnapshotWriter&) = delete;

  // Takes what the shard's snapshot has, gathers a slice if it is time for one, and tells the shard
  // what was written.  Call it after each message; `idle`: no message waits.  `cold` may be null.
  void Exchange(Shard& shard, ColdTier* cold, bool idle);
  // A slice can be gathered at once: the caller should not wait long for messages.
  bool HasWork(const Shard& shard) const;

  const SnapshotStats& stats() const { return stats_; }

 private:
  using Item = std::variant<Shard::SnapshotOrder, SnapshotBlock>;
  struct Result {
    std::uint64_t version = 0;
    StatusOr<proto::SavedFile> file;
    Digest128 digest;
  };

  bool HasRoom(const Shard& shard) const;
  void Gather(Shard& shard);
  void HandOver(Shard& shard);
  void TakeResults(Shard& shard);
  // Steps change rows faster than they are written.
  void WriteRest(Shard& shard, ColdTier* cold);
  void WriteLoop();

  const JobPlan& plan_;
  const NodeOptions& options_;
  const std::function<void()> wake_;
  SnapshotStats stats_;
  double slice_ended_ = 0;  // Seconds of a steady clock.
  double slice_seconds_ = 0;

  BoundedQueue<Item> queue_;
  std::uint64_t queued_bytes_ = 0;               // So far.
  std::uint64_t told_bytes_ = 0;                 // Of written_bytes_, what the shard knows of.
  std::atomic<std::uint64_t> written_bytes_{0};  // So far.  Release, by the writer; acquire.
  std::mutex mutex_;
  std::optional<Result> result_;  // Guarded by mutex_.
  std::jthread thread_;           // Last: it uses what is above.
};

}  // namespace plexus
