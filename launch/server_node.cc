#include <optional>

#include <pthread.h>

#include "common/clock.h"
#include "launch/cold_tier.h"
#include "launch/heap_trimmer.h"
#include "launch/node.h"
#include "launch/server_metrics.h"
#include "launch/server_model.h"
#include "launch/server_report.h"
#include "launch/snapshot_writer.h"
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
                  const SnapshotWriter& snapshots, const ZmqEndpoint& endpoint,
                  ServerMetrics& metrics) {
  if (board.IsDue(SteadyMillis())) {
    metrics.SetSnapshots(snapshots.stats());
    if (cold != nullptr) {
      metrics.SetDisk(cold->stats());
    }
    metrics.SetRefusedConnections(endpoint.refused());
    board.Publish(metrics.Pages(shard, plan, endpoint.bytes_sent(), endpoint.bytes_received()));
  }
}

// Measures what this process takes, for heartbeats and the memory limit.
void TellUsage(const JobPlan& plan, const NodeOptions& options, const ZmqEndpoint& endpoint,
               HeapTrimmer& heap, Shard* shard) {
  if (plan.memory_limit_bytes > 0 && !options.local) {
    heap.Trim(shard->memory_use(), SteadyMillis());
  }
  shard->SetUsage(endpoint.bytes_sent() + endpoint.bytes_received(), PeakRssBytes(),
                  options.local ? 0 : RssBytes());
}

// Carries what the shard wants to disk, files and peers.  `idle`: no message waits.
void Flush(const JobPlan& plan, const NodeOptions& options, ColdTier* cold,
           SnapshotWriter& snapshots, ZmqEndpoint& endpoint, bool idle, Shard* shard) {
  if (cold != nullptr) {
    cold->Exchange(*shard, SteadyMillis());
  }
  snapshots.Exchange(*shard, cold, idle);
  if (std::optional<std::string> save = shard->TakeSaveRequest()) {
    SaveModel(plan, *save, options, cold, shard);
    Report(*shard, options, "saved");
  }
  if (std::optional<std::uint64_t> restore = shard->TakeRestoreRequest()) {
    RestoreModel(plan, *restore, options, cold, shard);
  }
  for (const Envelope& envelope : shard->outbox().Take()) {
    // A peer that is gone asks again, or is replaced.
    if (Status status = endpoint.Send(envelope); !status.ok()) {
      VLOG(1) << "server " << options.index << ": " << status.message();
    }
  }
}

}  // namespace

int RunServerNode(std::shared_ptr<const JobPlan> plan, NetContext& context,
                  const NodeOptions& options) {
  pthread_setname_np(pthread_self(), ("shard-" + std::to_string(options.index)).c_str());
  WarnWithoutHugePages(options);
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
  StatusOr<std::unique_ptr<ColdTier>> cold =
      ColdTier::Open(*plan, shard, options, [&endpoint] { endpoint.Wake(); });
  if (!cold.ok()) {
    return GiveUp(options, cold.status(), 1);
  }

  HeapTrimmer heap(plan->memory_limit_bytes);
  SnapshotWriter snapshots(*plan, options, [&endpoint] { endpoint.Wake(); });
  const auto flush = [&](bool idle) {
    Flush(*plan, options, cold->get(), snapshots, endpoint, idle, &shard);
  };
  Millis heard = SteadyMillis();          // From the scheduler.
  Millis silence_max = kFirstWordMillis;  // It may still be starting; then, two leases.
  while (!shard.stop().has_value()) {
    bool idle = true;
    const Status status = endpoint.Poll(
        snapshots.HasWork(shard) ? 0 : kPollMillis,
        [&](const std::string& peer, const Bytes& frame) {
          idle = false;
          const double now = SteadySeconds();
          shard.OnMessage(peer, frame, static_cast<Millis>(now * 1e3));
          if ((*board)->on()) {
            metrics.OnFrame(shard, HeaderOf(frame).type, SteadySeconds() - now);
          }
          flush(false);
          if (peer == kSchedulerPeer) {
            heard = SteadyMillis();
            silence_max = 2 * static_cast<Millis>(plan->job.cluster().lease_ms());
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
    TellUsage(*plan, options, endpoint, heap, &shard);
    shard.OnTimer(SteadyMillis());
    flush(idle);
    PublishIfDue(**board, *plan, shard, cold->get(), snapshots, endpoint, metrics);
  }
  Report(shard, options, "left");
  SendLeaving(options, shard_options.registration.incarnation(), endpoint);
  return shard.stop()->exit_code();
}

}  // namespace plexus
