// PushLog: a shard's push log on disk: RUN/log/server-NNNNN, segments of records that begin at the
// versions of checkpoints (docs/failover.md).
//
// What cannot be written is tried again every second (checkpoint.on_log_error PAUSE: until then
// nothing that depends on it is said), or given up until the next checkpoint begins a new log
// (GO_ON: a server that dies in between cannot come back).
//
// Thread safety: none; belongs to the shard's thread.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "common/outbox.h"
#include "common/record_log.h"
#include "common/status.h"
#include "launch/node.h"
#include "proto/control.pb.h"
#include "proto/plan.h"
#include "ps/shard.h"

namespace plexus {

class PushLog {
 public:
  // Null: checkpoint.durability is NONE.  A log of another job or cluster size is emptied.
  static StatusOr<std::unique_ptr<PushLog>> Open(const JobPlan& plan, const NodeOptions& options);

  // The version that it begins with, and the newest that it can make, given the scheduler's commits
  // (0: none).  What lies behind a gap, as a power cut may leave one, does not count.
  std::uint64_t first_version() const { return first_version_; }
  std::uint64_t newest_version() const { return newest_version_; }

  // Hands the shard, which holds recover.checkpoint(), the records behind it, and calls `settle`
  // after each, which returns once nothing waits for rows.  What lies further in the log is
  // forgotten.  kDataLoss: the log does not reach recover.version(), and why.
  Status Replay(const proto::Recover& recover, Shard* shard, const std::function<void()>& settle);

  // Appends what the shard wants logged, and syncs it if that is wanted.  False: it could not be
  // written, and what the shard wants sent has to wait.
  bool Write(Shard& shard, Millis now);
  bool failing() const { return failing_ && !queue_.empty(); }

 private:
  PushLog(const JobPlan& plan, const NodeOptions& options, std::unique_ptr<RecordLog> log);
  Status Survey();
  Status WriteQueue();
  void OnFailure(const Status& status, Millis now);

  const JobPlan& plan_;
  const std::string who_;  // For messages.
  const std::unique_ptr<RecordLog> log_;
  std::uint64_t first_version_ = 0;
  std::uint64_t newest_version_ = 0;
  std::string ends_early_;         // Where and why the log that was found ends.
  std::vector<PushRecord> queue_;  // Not written yet.
  bool sync_ = false;              // After the queue.
  bool given_up_ = false;          // GO_ON: until a segment begins.
  bool failing_ = false;
  Millis retry_at_ = 0;
};

}  // namespace plexus
