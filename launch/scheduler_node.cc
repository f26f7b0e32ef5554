#include <pthread.h>

#include "common/clock.h"
#include "launch/checkpoints.h"
#include "launch/node.h"
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

StatusOr<SchedulerOptions> OptionsOf(const proto::Job& job, const NetContext& context,
                                     const NodeOptions& node) {
  SchedulerOptions options;
  options.absence_hint = context.has_keys() ? KeysHint(context) : "";
  options.job_hash = JobHash(job);
  options.lease_ms = job.cluster().lease_ms();
  if (node.resume_version > 0) {
    ASSIGN_OR_RETURN(const proto::Manifest manifest,
                     ReadManifest(SavedDirectory(node.run_dir, kCheckpoint, node.resume_version)));
    options.resume = manifest.scheduler();
  }
  return options;
}

// To end the job.
bool Asked(const NodeOptions& options) {
  return options.signals != nullptr && options.signals->load(std::memory_order_relaxed) > 0;
}

// Carries what the scheduler wants to peers, metrics and files.
void Flush(ZmqEndpoint& endpoint, SchedulerMetrics& metrics, RunRecord& record,
           Scheduler& scheduler) {
  for (const Envelope& envelope : scheduler.outbox().Take()) {
    if (Status status = endpoint.Send(envelope); !status.ok()) {
      VLOG(1) << "scheduler: " << status.message();
    }
  }
  for (const SchedulerEvent& event : scheduler.TakeEvents()) {
    metrics.OnEvent(event, SteadySeconds());
    if (Status status = record.OnEvent(event); !status.ok()) {
      scheduler.Fail(1, status.message(), SteadyMillis());
    }
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
  StatusOr<SchedulerOptions> scheduler_options = OptionsOf(plan->job, context, options);
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
          Flush(endpoint, metrics, **record, scheduler);
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
    Flush(endpoint, metrics, **record, scheduler);
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
  return scheduler.stop()->exit_code();
}

}  // namespace plexus
