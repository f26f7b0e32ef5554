#include "launch/push_log.h"

#include <algorithm>
#include <cstdio>
#include <optional>
#include <utility>

#include <glog/logging.h>

#include "common/failpoint.h"
#include "proto/checkpoint.pb.h"
#include "proto/job_identity.h"

namespace plexus {
namespace {

constexpr Millis kRetryMillis = 1000;
// For a former life of this server, which a supervisor may just have killed.
constexpr int kLockWaitMillis = 10000;

std::string FolderOf(const std::string& run_dir, std::uint32_t server) {
  char name[32];
  std::snprintf(name, sizeof(name), "/log/server-%05u", server);
  return run_dir + name;
}

PushRecordKind KindOf(const RecordLog::Record& record) {
  return static_cast<PushRecordKind>(record.kind);
}

// The step of a commit or of a step's parts; the version of a segment's begin.  0: neither.
std::uint64_t VersionOf(const RecordLog::Record& record) {
  const Bytes& payload = record.payload;
  const auto size = static_cast<int>(payload.size());
  switch (KindOf(record)) {
    case PushRecordKind::kBegin: {
      proto::LogBegin begin;
      return begin.ParseFromArray(payload.data(), size) ? begin.version() : 0;
    }
    case PushRecordKind::kStep: {
      std::uint64_t step = 0;
      return ByteReader(payload.data(), payload.size()).Get(&step) ? step : 0;
    }
    case PushRecordKind::kCommit: {
      proto::Commit commit;
      return commit.ParseFromArray(payload.data(), size) ? commit.step() : 0;
    }
  }
  return 0;
}

// The newest version that it makes, given the scheduler's commits: one more where an evaluation
// follows, for which a shard needs no parts.
std::uint64_t ReachOf(const RecordLog::Record& record) {
  const auto size = static_cast<int>(record.payload.size());
  proto::LogBegin begin;
  proto::Commit commit;
  proto::Phase next;
  if (KindOf(record) == PushRecordKind::kBegin &&
      begin.ParseFromArray(record.payload.data(), size)) {
    next = begin.phase();
  } else if (KindOf(record) == PushRecordKind::kCommit &&
             commit.ParseFromArray(record.payload.data(), size)) {
    next = commit.next();
  }
  return VersionOf(record) + (next.kind() == proto::Phase::EVALUATE ? 1 : 0);
}

}  // namespace

PushLog::PushLog(const JobPlan& plan, const NodeOptions& options, std::unique_ptr<RecordLog> log)
    : plan_(plan), who_("server " + std::to_string(options.index)), log_(std::move(log)) {}

StatusOr<std::unique_ptr<PushLog>> PushLog::Open(const JobPlan& plan, const NodeOptions& options) {
  if (!plan.durable()) {
    return std::unique_ptr<PushLog>();
  }
  ASSIGN_OR_RETURN(std::unique_ptr<RecordLog> records,
                   RecordLog::Open(FolderOf(options.run_dir, options.index), kLockWaitMillis));
  std::unique_ptr<PushLog> log(new PushLog(plan, options, std::move(records)));
  RETURN_IF_ERROR(log->Survey());
  return log;
}

Status PushLog::Survey() {
  bool other = false;
  bool is_first = true;
  bool gap = false;
  std::uint64_t version = 0;  // That the records so far make, without the scheduler's commits.
  ASSIGN_OR_RETURN(ends_early_, log_->Scan(0, [&](const RecordLog::Record& record) {
    if (KindOf(record) == PushRecordKind::kBegin) {
      proto::LogBegin begin;
      const bool parsed =
          begin.ParseFromArray(record.payload.data(), static_cast<int>(record.payload.size()));
      other = other || !parsed || begin.shards() != plan_.shards() ||
              begin.job_hash() != TrainingHash(plan_.job);
    }
    const bool is_begin = KindOf(record) == PushRecordKind::kBegin;
    if (std::exchange(is_first, false) && is_begin) {
      first_version_ = version = VersionOf(record);
    }
    gap = gap || VersionOf(record) != version + (is_begin ? 0 : 1);
    if (gap) {
      return OkStatus();
    }
    version = KindOf(record) == PushRecordKind::kCommit ? VersionOf(record) : version;
    newest_version_ = std::max(newest_version_, ReachOf(record));
    return OkStatus();
  }));
  if (other) {
    LOG(WARNING) << who_ << ": the push log is of another number of servers, or another job: it "
                 << "is not used";
    first_version_ = newest_version_ = 0;
    RETURN_IF_ERROR(log_->Clear());
  }
  LOG_IF(INFO, !ends_early_.empty()) << who_ << ": the push log ends early: " << ends_early_;
  return OkStatus();
}

Status PushLog::Replay(const proto::Recover& recover, Shard* shard,
                       const std::function<void()>& settle) {
  const auto& segments = log_->segments();
  if (std::find(segments.begin(), segments.end(), recover.checkpoint()) == segments.end()) {
    return recover.version() == recover.checkpoint()
               ? log_->Clear()
               : DataLoss("no segment of its push log begins at version " +
                          std::to_string(recover.checkpoint()));
  }
  std::optional<RecordLog::Position> end;
  bool enough = false;
  const StatusOr<std::string> why =
      log_->Scan(recover.checkpoint(), [&](const RecordLog::Record& record) {
        const bool gap =  // As a power cut may leave one.
            KindOf(record) == PushRecordKind::kBegin && VersionOf(record) > shard->version();
        if (gap || VersionOf(record) > recover.version()) {
          enough = true;
          return Aborted("");
        }
        RETURN_IF_ERROR(shard->Replay(KindOf(record), record.payload));
        settle();
        Failpoint("server.replaying");
        end = record.end;
        return OkStatus();
      });
  if (!why.ok() && !enough) {
    return why.status();
  }
  if (shard->complete_version() < recover.version()) {
    return DataLoss("its push log ends at version " + std::to_string(shard->version()) +
                    ", but version " + std::to_string(recover.version()) + " was committed" +
                    (why.ok() && !why->empty() ? ": " + *why : ""));
  }
  return end.has_value() ? log_->Truncate(*end) : log_->Clear();
}

Status PushLog::WriteQueue() {
  for (const PushRecord& record : queue_) {
    if (record.kind == PushRecordKind::kBegin) {
      if (!log_->end().has_value()) {
        RETURN_IF_ERROR(log_->Clear());  // Of a former job of this directory.
      }
      RETURN_IF_ERROR(log_->BeginSegment(
          record.version, plan_.job.checkpoint().durability() == proto::Checkpoint::SYNC));
    }
    RETURN_IF_ERROR(log_->Append(static_cast<std::uint32_t>(record.kind), record.pieces));
  }
  return sync_ ? log_->Sync() : OkStatus();
}

bool PushLog::Write(Shard& shard, Millis now) {
  Shard::LogRequest request = shard.TakeLogRequest();
  for (PushRecord& record : request.records) {
    given_up_ = given_up_ && record.kind != PushRecordKind::kBegin;
    if (!given_up_) {
      queue_.push_back(std::move(record));
    }
  }
  sync_ = sync_ || request.sync;
  if (queue_.empty()) {
    return true;
  }
  if (failing_ && now < retry_at_) {
    return false;
  }
  const std::optional<RecordLog::Position> before = log_->end();
  Failpoint("server.logging");
  const Status status = WriteQueue();
  if (status.ok()) {
    LOG_IF(WARNING, failing_) << who_ << ": the push log can be written again";
    queue_.clear();
    sync_ = false;
    failing_ = false;
    (void)log_->DropBefore(shard.log_kept_from());  // Tried again at the next.
  } else {
    // All of it is written again: of what was not synced the kernel may have lost any part.
    const Status undone = before.has_value() ? log_->Truncate(*before) : log_->Clear();
    OnFailure(undone.ok() ? status : undone, now);
  }
  shard.SetLogUsage(log_->newest_bytes(), failing_);
  return queue_.empty();
}

void PushLog::OnFailure(const Status& status, Millis now) {
  const bool pauses = plan_.job.checkpoint().on_log_error() == proto::Checkpoint::PAUSE;
  LOG_IF(ERROR, !failing_) << who_ << ": the push log cannot be written: " << status.message()
                           << (pauses ? "; it is tried again every second, and training waits"
                                      : "; training goes on, and cannot recover this server before "
                                        "the next checkpoint");
  failing_ = true;
  retry_at_ = now + kRetryMillis;
  if (!pauses) {
    given_up_ = true;
    queue_.clear();
    sync_ = false;
    (void)log_->Clear();  // What has a hole is no log.
  }
}

}  // namespace plexus
