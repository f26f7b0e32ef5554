#include <algorithm>

#include <pthread.h>

#include "common/clock.h"
#include "common/failpoint.h"
#include "launch/checkpoints.h"
#include "launch/commit_log.h"
#include "launch/node.h"
#include "launch/run_lock.h"
#include "launch/run_record.h"
#include "launch/scheduler_metrics.h"
#include "launch/status_board.h"
#include "ps/store/model_file.h"
#include "scheduler/scheduler.h"

namespace plexus {
namespace {

constexpr Millis kPollMillis = 50;
// After a failure at the start: for the members that come to be told.
constexpr Millis kLingerMillis = 2000;

// `checkpoint`: the version of the newest; `log`: null without durability.
StatusOr<SchedulerOptions> OptionsOf(const proto::Job& job, const NetContext& context,
                                     const NodeOptions& node, std::uint64_t checkpoint,
                                     CommitLog* log) {
  SchedulerOptions options;
  options.absence_hint = context.has_keys() ? KeysHint(context) : "";
  options.job_hash = JobHash(job);
  options.lease_ms = job.cluster().lease_ms();
  if (checkpoint > 0) {
    ASSIGN_OR_RETURN(const proto::Manifest manifest,
                     ReadManifest(SavedDirectory(node.run_dir, kCheckpoint, checkpoint)));
    options.resume = manifest.scheduler();
  }
  if (log != nullptr) {
    options.committed = log->TakeSteps();
    options.former_starts = log->former_starts();
  }
  return options;
}

// The checkpoint that the job was started from; or, of a job whose scheduler was restarted, the
// newest since.
StatusOr<std::uint64_t> CheckpointOf(const JobPlan& plan, const NodeOptions& options) {
  if (!plan.durable() || !CommitLog::IsThere(options.run_dir)) {
    return options.resume_version;
  }
  ASSIGN_OR_RETURN(const std::uint64_t newest, NewestCheckpoint(options.run_dir));
  return std::max(newest, options.resume_version);
}

// To end the job.
bool Asked(const NodeOptions& options) {
  return options.signals != nullptr && options.signals->load(std::memory_order_relaxed) > 0;
}

// Carries what the scheduler wants to files, metrics and peers: nobody hears of a commit before it
// is logged.
void Flush(ZmqEndpoint& endpoint, SchedulerMetrics& metrics, RunRecord& record, CommitLog* log,
           Scheduler& scheduler) {
  std::vector<Envelope> envelopes = scheduler.outbox().Take();
  bool committed = false;
  for (const SchedulerEvent& event : scheduler.TakeEvents()) {
    if (log != nullptr && event.kind == SchedulerEvent::Kind::kCommitted) {
      Failpoint("scheduler.committing");
      if (Status logged = log->Append(event.committed); !logged.ok()) {
        envelopes.clear();
        scheduler.Fail(3, logged.message(), SteadyMillis());
        break;
      }
      committed = true;
      Failpoint("scheduler.logged");
    }
    metrics.OnEvent(event, SteadySeconds());
    Status status = record.OnEvent(event);
    if (status.ok() && log != nullptr && event.kind == SchedulerEvent::Kind::kResumed) {
      status = log->ResumeAt(event.step);
    }
    if (status.ok() && log != nullptr && event.kind == SchedulerEvent::Kind::kSaved &&
        event.text == kCheckpoint) {
      log->KeepFrom(scheduler.log_kept_from());  // Its manifest is on the disk.
    }
    if (!status.ok()) {
      envelopes.clear();  // They may tell servers to drop logs that are needed.
      scheduler.Fail(1, status.message(), SteadyMillis());
    }
  }
  for (const Envelope& envelope : envelopes) {
    if (Status status = endpoint.Send(envelope); !status.ok()) {
      VLOG(1) << "scheduler: " << status.message();
    }
  }
  if (committed) {
    Failpoint("scheduler.told");
  }
}

}  // namespace

int RunSchedulerNode(std::shared_ptr<const JobPlan> plan, NetContext& context,
                     const NodeOptions& options) {
  pthread_setname_np(pthread_self(), "scheduler");
  ZmqEndpoint endpoint(context, PlexusFrameGuard());
  if (Status status = endpoint.Bind(options.scheduler_address, options.listen_fd); !status.ok()) {
    LOG(ERROR) << "scheduler: " << status.message();
    return 1;
  }
  StatusOr<FileLock> lock = LockRun(options.run_dir, kSchedulerLock, kFormerLifeMillis);
  if (!lock.ok()) {
    LOG(ERROR) << "scheduler: " << lock.status().message();
    return 3;
  }
  const StatusOr<std::uint64_t> checkpoint = CheckpointOf(*plan, options);
  StatusOr<std::unique_ptr<CommitLog>> log =
      checkpoint.ok() ? CommitLog::Open(*plan, options.run_dir, *checkpoint) : checkpoint.status();
  if (!log.ok()) {
    LOG(ERROR) << "scheduler: " << log.status().message();
    return 1;
  }
  StatusOr<SchedulerOptions> scheduler_options =
      OptionsOf(plan->job, context, options, *checkpoint, log->get());
  if (!scheduler_options.ok()) {
    LOG(ERROR) << "scheduler: " << scheduler_options.status().message();
    return 1;
  }
  Scheduler scheduler(plan, *scheduler_options);
  StatusOr<std::unique_ptr<StatusBoard>> board =
      StatusBoard::Start(options, proto::SCHEDULER, plan->job.cluster().lease_ms());
  const bool failed_at_start = !board.ok();
  const Millis linger_until = SteadyMillis() + kLingerMillis;
  NodeOptions bound = options;
  if (failed_at_start) {
    scheduler.Fail(1, board.status().message(), SteadyMillis());
  } else {
    bound.http_address = (*board)->address();
  }
  SchedulerMetrics metrics;
  StatusOr<std::unique_ptr<RunRecord>> record = RunRecord::Open(plan, bound, scheduler);
  if (!record.ok()) {
    LOG(ERROR) << record.status().message();
    return 1;
  }
  while (!scheduler.Done(SteadyMillis()) || (failed_at_start && SteadyMillis() < linger_until)) {
    const Status status = endpoint.Poll(
        kPollMillis,
        [&](const std::string& peer, const Bytes& frame) {
          scheduler.OnMessage(peer, frame, SteadyMillis());
          Flush(endpoint, metrics, **record, log->get(), scheduler);
        },
        [](const std::string&, const Status& bad) {
          LOG_EVERY_N(WARNING, 100) << "scheduler: " << bad.message();
        });
    if (!status.ok()) {
      LOG(ERROR) << "scheduler: " << status.message();
      return 1;
    }
    if (Asked(options)) {
      scheduler.RequestStop(SteadyMillis());
    }
    scheduler.OnTimer(SteadyMillis());
    Flush(endpoint, metrics, **record, log->get(), scheduler);
    (*record)->OnTimer();
    if (!failed_at_start && (*board)->IsDue(SteadyMillis())) {
      metrics.SetRefusedConnections(endpoint.refused());
      (*board)->Publish(
          metrics.Pages(scheduler, (*record)->rank_seconds(), Asked(options), SteadyMillis()));
    }
  }
  if (Status status = (*record)->Finish(); !status.ok()) {
    LOG(ERROR) << status.message();
    return 1;
  }
  if (scheduler.stop()->exit_code() == 0) {
    const Status removed = CommitLog::Remove(options.run_dir);  // There is nothing to recover.
    LOG_IF(WARNING, !removed.ok()) << removed.message();
  }
  return scheduler.stop()->exit_code();
}

}  // namespace plexus
