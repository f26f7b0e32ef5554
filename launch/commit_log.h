// CommitLog: the scheduler's log on disk, RUN/log/scheduler: each commit, and what the scheduler
// holds after it, before any server hears of it (docs/failover.md).  Segments begin at the versions
// of checkpoints.
//
// Thread safety: none; belongs to the scheduler's thread.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "common/record_log.h"
#include "common/status.h"
#include "proto/checkpoint.pb.h"
#include "proto/plan.h"

namespace plexus {

class CommitLog {
 public:
  // Null: checkpoint.durability is NONE.  `checkpoint`: the version of the newest checkpoint; 0:
  // there is none.
  static StatusOr<std::unique_ptr<CommitLog>> Open(const JobPlan& plan, const std::string& run_dir,
                                                   std::uint64_t checkpoint);
  // Whether the directory holds commits of a job that did not end in order.
  static bool IsThere(const std::string& run_dir);
  static Status Remove(const std::string& run_dir);

  // Schedulers that opened the log before.
  std::uint32_t former_starts() const { return former_starts_; }
  // What was committed behind the checkpoint, ascending, without a gap; once.
  std::vector<proto::CommittedStep> TakeSteps();

  // Forgets what was committed behind `version`.
  Status ResumeAt(std::uint64_t version);
  // Returns once it is written, and under SYNC on the disk.  Tries again every second, for 50 s at
  // most (others take a scheduler that is silent for longer for lost): kUnavailable, and nothing
  // may be said of the commit.  Under checkpoint.on_log_error GO_ON it gives the log up instead.
  Status Append(const proto::CommittedStep& step);
  // Segments of versions before it are of no more use.
  void KeepFrom(std::uint64_t version);

 private:
  CommitLog(const JobPlan& plan, std::unique_ptr<RecordLog> log, std::uint64_t checkpoint);
  Status Survey();
  Status AppendStart();
  Status AppendStep(const proto::CommittedStep& step);

  const bool sync_;
  const bool pauses_;
  const std::unique_ptr<RecordLog> log_;
  const std::uint64_t checkpoint_;
  std::uint32_t former_starts_ = 0;
  std::vector<proto::CommittedStep> steps_;
  std::vector<RecordLog::Position> begins_;  // Of steps_.
  std::uint64_t first_version_ = 0;          // Of begins_.
  bool given_up_ = false;
};

}  // namespace plexus
