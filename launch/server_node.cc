#include <algorithm>
#include <iterator>
#include <optional>
#include <utility>
#include <vector>

#include <pthread.h>

#include "common/clock.h"
#include "launch/cold_tier.h"
#include "launch/heap_trimmer.h"
#include "launch/node.h"
#include "launch/push_log.h"
#include "launch/run_lock.h"
#include "launch/server_metrics.h"
#include "launch/server_model.h"
#include "launch/server_report.h"
#include "launch/status_board.h"
#include "ps/shard.h"
#include "ps/table/mapped_memory.h"

namespace plexus {
namespace {

constexpr Millis kPollMillis = 50;
constexpr Millis kHeartbeatMillis = 500;
constexpr Millis kResendMillis = 2000;

// A report that cannot be written stops nothing.
void Report(const Shard& shard, const NodeOptions& options, const std::string& event) {
  const Status status =
      WriteServerReport(options.run_dir, shard.state(), options.index, shard.version(), event);
  LOG_IF(WARNING, !status.ok()) << "server " << options.index << ": " << status.message();
}

ShardOptions OptionsOf(const JobPlan& plan, const NodeOptions& options, const ZmqEndpoint& endpoint,
                       const std::string& http_address) {
  ShardOptions shard;
  shard.shard = options.index;
  shard.registration = MakeRegistration(
      plan, proto::SERVER, options,
      options.advertise_address.empty() ? endpoint.bound_address() : options.advertise_address,
      http_address);
  shard.heartbeat_ms = kHeartbeatMillis;
  shard.resend_ms = kResendMillis;
  return shard;
}

// The last word: this server has seen the stop, and goes.
void SendLeaving(const NodeOptions& options, std::uint64_t incarnation, ZmqEndpoint& endpoint) {
  proto::Control leaving;
  proto::Heartbeat& heartbeat = *leaving.mutable_heartbeat();
  heartbeat.set_role(proto::SERVER);
  heartbeat.set_index(options.index);
  heartbeat.set_incarnation(incarnation);
  heartbeat.set_fence(~0ULL);
  heartbeat.set_wire_bytes(endpoint.bytes_sent() + endpoint.bytes_received());
  heartbeat.set_peak_rss_bytes(PeakRssBytes());
  heartbeat.set_leaving(true);
  (void)endpoint.Send({kSchedulerPeer, ControlFrame(leaving)});
}

Bytes BadRequest(const Status& bad) {
  FrameHeader header;
  header.code = ReplyCode::kBadRequest;
  return MakeFrame(header, bad.message());
}

Status Open(const NodeOptions& options, ZmqEndpoint& endpoint) {
  RETURN_IF_ERROR(endpoint.Bind(options.data_address, options.listen_fd));
  return endpoint.Connect(kSchedulerPeer, options.scheduler_address, kSchedulerKey);
}

// Says why this server will never take part; OK while it may, or does.
Status CheckScheduler(const NodeOptions& options, const NetContext& context,
                      const ZmqEndpoint& endpoint, Millis silence, Millis silence_max) {
  if (Status status = endpoint.CheckPeers(kRefusedMillis); !status.ok()) {
    return Unavailable(status.message() + KeysHint(context));
  }
  return silence <= silence_max
             ? OkStatus()
             : Unavailable("has not heard from the scheduler at " + options.scheduler_address +
                           " for " + std::to_string(silence) + " ms" +
                           (silence_max == kFirstWordMillis ? KeysHint(context) : ": it is lost"));
}

// Once a process, whatever number of servers it has.
void WarnWithoutHugePages(const NodeOptions& options) {
  if (const HugePages pages = LookForHugePages(); !pages.available) {
    LOG_FIRST_N(WARNING, 1) << "server " << options.index << ": no huge pages: " << pages.why
                            << ". Tables are correct without, but random rows take about twice "
                               "the time. What helps: "
                            << pages.remedy;
  }
}

int GiveUp(const NodeOptions& options, const Status& why, int exit_code) {
  LOG(ERROR) << "server " << options.index << ": " << why.message();
  return exit_code;
}

void PublishIfDue(StatusBoard& board, const JobPlan& plan, const Shard& shard, const ColdTier* cold,
                  const ZmqEndpoint& endpoint, ServerMetrics& metrics) {
  if (board.IsDue(SteadyMillis())) {
    if (cold != nullptr) {
      metrics.SetDisk(cold->stats());
    }
    metrics.SetRefusedConnections(endpoint.refused());
    board.Publish(metrics.Pages(shard, plan, endpoint.bytes_sent(), endpoint.bytes_received()));
  }
}

// What the shard wants, carried to disk, files and peers.
class Courier {
 public:
  Courier(const JobPlan& plan, const NodeOptions& options, ZmqEndpoint& endpoint, ColdTier* cold,
          PushLog* log, Shard& shard)
      : plan_(plan),
        options_(options),
        endpoint_(endpoint),
        cold_(cold),
        log_(log),
        shard_(shard) {}

  void Flush() {
    if (cold_ != nullptr) {
      cold_->Exchange(shard_, SteadyMillis());
    }
    if (std::optional<std::string> save = shard_.TakeSaveRequest()) {
      SaveModel(plan_, *save, options_, cold_, &shard_);
      Report(shard_, options_, "saved");
    }
    if (std::optional<proto::Recover> recover = shard_.TakeRecoverRequest()) {
      RecoverModel(plan_, *recover, options_, cold_, log_, &shard_);
    }
    std::vector<Envelope> envelopes = shard_.outbox().Take();
    if (log_ == nullptr || (log_->Write(shard_, SteadyMillis()) && waiting_.empty())) {
      Send(envelopes);
      return;
    }
    // What is not in the log yet must not be said.
    std::move(envelopes.begin(), envelopes.end(), std::back_inserter(waiting_));
    if (!log_->failing()) {
      Send(std::exchange(waiting_, {}));
    }
  }

  // What a timer sends depends on no record that waits for the log.
  void OnTimer() {
    shard_.OnTimer(SteadyMillis());
    Send(shard_.outbox().Take());
    Flush();
  }

 private:
  void Send(const std::vector<Envelope>& envelopes) {
    for (const Envelope& envelope : envelopes) {
      // A peer that is gone asks again, or is replaced.
      if (Status status = endpoint_.Send(envelope); !status.ok()) {
        VLOG(1) << "server " << options_.index << ": " << status.message();
      }
    }
  }

  const JobPlan& plan_;
  const NodeOptions& options_;
  ZmqEndpoint& endpoint_;
  ColdTier* const cold_;
  PushLog* const log_;
  Shard& shard_;
  std::vector<Envelope> waiting_;  // For the log.
};

// Of the scheduler, before this server gives up: where it may be restarted, that takes a while.
Millis SilenceMax(const JobPlan& plan) {
  const Millis leases = 2 * static_cast<Millis>(plan.job.cluster().lease_ms());
  return !plan.durable() ? leases : std::max(leases, kFirstWordMillis);
}

}  // namespace

int RunServerNode(std::shared_ptr<const JobPlan> plan, NetContext& context,
                  const NodeOptions& options) {
  pthread_setname_np(pthread_self(), ("shard-" + std::to_string(options.index)).c_str());
  WarnWithoutHugePages(options);
  StatusOr<FileLock> lock =
      LockRun(options.run_dir, "server-" + std::to_string(options.index), kFormerLifeMillis);
  if (!lock.ok()) {
    return GiveUp(options, lock.status(), 3);
  }
  ZmqEndpoint endpoint(context, PlexusFrameGuard());
  if (Status status = Open(options, endpoint); !status.ok()) {
    return GiveUp(options, status, 1);
  }
  StatusOr<std::unique_ptr<StatusBoard>> board =
      StatusBoard::Start(options, proto::SERVER, plan->job.cluster().lease_ms());
  if (!board.ok()) {
    return GiveUp(options, board.status(), 1);
  }
  ServerMetrics metrics(options.index);
  const ShardOptions shard_options = OptionsOf(*plan, options, endpoint, (*board)->address());
  Shard shard(plan, shard_options);
  StatusOr<std::unique_ptr<PushLog>> log = PushLog::Open(*plan, options);
  if (!log.ok()) {
    return GiveUp(options, log.status(), 1);
  }
  if (*log != nullptr) {
    shard.SetLogVersions((*log)->first_version(), (*log)->newest_version());
  }
  StatusOr<std::unique_ptr<ColdTier>> cold =
      ColdTier::Open(*plan, shard, options, [&endpoint] { endpoint.Wake(); });
  if (!cold.ok()) {
    return GiveUp(options, cold.status(), 1);
  }

  HeapTrimmer heap(plan->memory_limit_bytes);
  Courier courier(*plan, options, endpoint, cold->get(), log->get(), shard);
  Millis heard = SteadyMillis();          // From the scheduler.
  Millis silence_max = kFirstWordMillis;  // It may still be starting; then, two leases.
  while (!shard.stop().has_value()) {
    const Status status = endpoint.Poll(
        kPollMillis,
        [&](const std::string& peer, const Bytes& frame) {
          const double now = SteadySeconds();
          shard.OnMessage(peer, frame, static_cast<Millis>(now * 1e3));
          if ((*board)->on()) {
            metrics.OnFrame(shard, HeaderOf(frame).type, SteadySeconds() - now);
          }
          courier.Flush();
          if (peer == kSchedulerPeer) {
            heard = SteadyMillis();
            silence_max = SilenceMax(*plan);
          }
        },
        [&](const std::string& peer, const Status& bad) {
          metrics.OnDamagedFrame();
          (void)endpoint.Send({peer, BadRequest(bad)});
        });
    if (!status.ok()) {
      return GiveUp(options, status, 1);
    }
    const Millis silence = SteadyMillis() - heard;
    if (Status reached = CheckScheduler(options, context, endpoint, silence, silence_max);
        !reached.ok()) {
      return GiveUp(options, reached, 3);
    }
    if (options.signals != nullptr && options.signals->load(std::memory_order_relaxed) > 0) {
      shard.Interrupt();
    }
    if (plan->memory_limit_bytes > 0 && !options.local) {
      heap.Trim(shard.memory_use(), SteadyMillis());
    }
    shard.SetUsage(endpoint.bytes_sent() + endpoint.bytes_received(), PeakRssBytes(),
                   options.local ? 0 : RssBytes());
    courier.OnTimer();
    PublishIfDue(**board, *plan, shard, cold->get(), endpoint, metrics);
  }
  Report(shard, options, "left");
  SendLeaving(options, shard_options.registration.incarnation(), endpoint);
  return shard.stop()->exit_code();
}

}  // namespace plexus
