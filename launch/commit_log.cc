#include "launch/commit_log.h"

#include <algorithm>
#include <filesystem>
#include <optional>
#include <system_error>
#include <utility>

#include <glog/logging.h>
#include <poll.h>

namespace plexus {
namespace {

constexpr int kRetryMillis = 1000;
constexpr int kTriesMax = 50;
constexpr int kLockWaitMillis = 10000;

enum Kind : std::uint32_t { kStart = 1, kStep = 2 };

std::string FolderOf(const std::string& run_dir) { return run_dir + "/log/scheduler"; }

Bytes BytesOf(const std::string& text) {
  return Bytes::Copy({reinterpret_cast<const std::uint8_t*>(text.data()), text.size()});
}

}  // namespace

CommitLog::CommitLog(const JobPlan& plan, std::unique_ptr<RecordLog> log, std::uint64_t checkpoint)
    : sync_(plan.job.checkpoint().durability() == proto::Checkpoint::SYNC),
      pauses_(plan.job.checkpoint().on_log_error() == proto::Checkpoint::PAUSE),
      log_(std::move(log)),
      checkpoint_(checkpoint) {}

StatusOr<std::unique_ptr<CommitLog>> CommitLog::Open(const JobPlan& plan,
                                                     const std::string& run_dir,
                                                     std::uint64_t checkpoint) {
  if (!plan.durable()) {
    return std::unique_ptr<CommitLog>();
  }
  ASSIGN_OR_RETURN(std::unique_ptr<RecordLog> records,
                   RecordLog::Open(FolderOf(run_dir), kLockWaitMillis));
  std::unique_ptr<CommitLog> log(new CommitLog(plan, std::move(records), checkpoint));
  RETURN_IF_ERROR(log->Survey());
  return log;
}

bool CommitLog::IsThere(const std::string& run_dir) {
  std::error_code error;
  for (const auto& entry : std::filesystem::directory_iterator(FolderOf(run_dir), error)) {
    if (entry.path().extension() == ".log") {
      return true;
    }
  }
  return false;
}

Status CommitLog::Remove(const std::string& run_dir) {
  std::error_code error;
  std::filesystem::remove_all(run_dir + "/log", error);
  return error ? FailedPrecondition("delete " + run_dir + "/log: " + error.message()) : OkStatus();
}

Status CommitLog::Survey() {
  std::optional<RecordLog::Position> end;
  bool gap = false;  // As a power cut may leave one: what lies behind is of no use.
  ASSIGN_OR_RETURN(const std::string why, log_->Scan(0, [&](const RecordLog::Record& record) {
    const auto size = static_cast<int>(record.payload.size());
    proto::CommittedStep step;
    if (record.kind == kStart) {
      ByteReader reader(record.payload.data(), record.payload.size());
      std::uint32_t start = 0;
      former_starts_ = reader.Get(&start) ? std::max(former_starts_, start) : former_starts_;
    } else if (record.kind == kStep && step.ParseFromArray(record.payload.data(), size)) {
      const std::uint64_t next =
          steps_.empty() ? checkpoint_ + 1 : steps_.back().state().version() + 1;
      gap = gap || step.state().version() > next;
      if (!gap && step.state().version() == next) {
        steps_.push_back(std::move(step));
        begins_.push_back(record.begin);
      }
    }
    if (!gap) {
      end = record.end;
    }
    return OkStatus();
  }));
  first_version_ = checkpoint_ + 1;
  LOG_IF(WARNING, !why.empty()) << "the scheduler's log ends early: " << why;
  RETURN_IF_ERROR(end.has_value() ? log_->Truncate(*end) : log_->Clear());
  return AppendStart();
}

// On the disk in any case: were it lost, another scheduler would give the same epochs again.
Status CommitLog::AppendStart() {
  if (!log_->end().has_value()) {
    RETURN_IF_ERROR(log_->BeginSegment(checkpoint_, true));
  }
  const std::uint32_t start = former_starts_ + 1;
  const Bytes pieces[] = {
      Bytes::Copy({reinterpret_cast<const std::uint8_t*>(&start), sizeof(start)})};
  RETURN_IF_ERROR(log_->Append(kStart, pieces));
  return log_->Sync();
}

std::vector<proto::CommittedStep> CommitLog::TakeSteps() { return std::exchange(steps_, {}); }

Status CommitLog::ResumeAt(std::uint64_t version) {
  const std::uint64_t kept = version - first_version_ + 1;
  if (kept < begins_.size()) {
    RETURN_IF_ERROR(log_->Truncate(begins_[kept]));
    RETURN_IF_ERROR(AppendStart());
  }
  begins_.clear();
  return OkStatus();
}

Status CommitLog::AppendStep(const proto::CommittedStep& step) {
  const Bytes pieces[] = {BytesOf(step.SerializeAsString())};
  RETURN_IF_ERROR(log_->Append(kStep, pieces));
  if (sync_) {
    RETURN_IF_ERROR(log_->Sync());
  }
  if (step.commit().has_checkpoint() && log_->segments().back() < step.state().version()) {
    RETURN_IF_ERROR(log_->BeginSegment(step.state().version(), true));
    return AppendStart();
  }
  return OkStatus();
}

Status CommitLog::Append(const proto::CommittedStep& step) {
  Status status;
  for (int tries = 0; !given_up_ && tries < kTriesMax; ++tries) {
    const std::optional<RecordLog::Position> before = log_->end();
    status = before.has_value() ? AppendStep(step)
                                : FailedPrecondition("the scheduler's log cannot be cut any more");
    if (status.ok()) {
      LOG_IF(WARNING, tries > 0) << "the scheduler's log can be written again";
      return OkStatus();
    }
    LOG_IF(ERROR, tries == 0) << "the scheduler's log cannot be written: " << status.message()
                              << (pauses_ ? "; it is tried again every second, and training waits"
                                          : "; training goes on, and the scheduler's death will "
                                            "return the job to the last checkpoint");
    if (before.has_value()) {
      (void)log_->Truncate(*before);  // All of it is written again.
    }
    if (pauses_) {
      ::poll(nullptr, 0, kRetryMillis);
    } else {
      given_up_ = true;
      (void)log_->Clear();  // What has a hole is no log.
    }
  }
  return given_up_ ? OkStatus()
                   : Unavailable("the scheduler's log could not be written for " +
                                 std::to_string(kTriesMax) + " s: " + status.message());
}

void CommitLog::KeepFrom(std::uint64_t version) {
  if (!given_up_) {
    (void)log_->DropBefore(version);  // Tried again at the next checkpoint.
  }
}

}  // namespace plexus
