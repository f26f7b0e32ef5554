#include <algorithm>
#include <map>
#include <mutex>
#include <thread>
#include <utility>

#include <pthread.h>

#include "common/clock.h"
#include "common/failpoint.h"
#include "launch/node.h"
#include "launch/plan.h"
#include "launch/rank_seconds.h"
#include "worker/prefetch_source.h"
#include "worker/rank_trainer.h"

namespace plexus {
namespace {

constexpr Millis kPollMillis = 20;
constexpr Millis kHeartbeatMillis = 500;
constexpr Millis kResendMillis = 3000;

// One rank's thread: its trainer and its connections.
class RankThread {
 public:
  RankThread(std::shared_ptr<const JobPlan> plan, NetContext& context, const NodeOptions& options,
             const proto::Carrier& carrier, std::vector<std::string> servers)
      : plan_(std::move(plan)),
        context_(context),
        options_(options),
        carrier_(carrier),
        servers_(std::move(servers)),
        times_(options.rank_times != nullptr ? options.rank_times[carrier.rank()] : own_times_),
        times_before_(RankSeconds::Of(times_)),
        began_(SteadySeconds()),
        thread_([this](const std::stop_token& stop) { Run(stop); }) {}

  std::uint32_t epoch() const { return carrier_.epoch(); }
  const std::vector<std::string>& servers() const { return servers_; }
  void OnServerReturned() { returned_.store(true, std::memory_order_relaxed); }
  void RequestStop() { thread_.request_stop(); }
  // Stops and waits; what seconds() says is final.
  void Join() {
    thread_.request_stop();
    thread_.join();
  }

  // Empty while all is well.
  std::string failure() const {
    const std::lock_guard lock(mutex_);
    return failure_;
  }
  // Whether starting the job again may help.
  bool restartable() const {
    const std::lock_guard lock(mutex_);
    return restartable_;
  }
  std::uint64_t bad_lines() const { return bad_lines_.load(std::memory_order_relaxed); }
  double progress() const { return progress_.load(std::memory_order_relaxed); }
  RankSeconds seconds() const {
    RankSeconds seconds = RankSeconds::Of(times_);
    seconds.Add(times_before_, -1);
    const double ended = ended_.load(std::memory_order_relaxed);
    seconds.lived = (ended > 0 ? ended : SteadySeconds()) - began_;
    return seconds;
  }

 private:
  void Run(const std::stop_token& stop) {
    pthread_setname_np(pthread_self(), ("rank-" + std::to_string(carrier_.rank())).c_str());
    Status status = Train(stop);
    if (!status.ok()) {
      if (options_.exchange != nullptr) {
        options_.exchange->Cancel(status);  // Other ranks may be waiting for this one's gradients.
      }
      const std::lock_guard lock(mutex_);
      failure_ = "rank " + std::to_string(carrier_.rank()) + ": " + status.message();
      restartable_ = status.code() == StatusCode::kDeadlineExceeded ||
                     status.code() == StatusCode::kUnavailable;
    }
    ended_.store(SteadySeconds(), std::memory_order_relaxed);
  }

  // Gives the seconds that nothing has counted to `counter`.
  void CountRest(std::atomic<double>& counter) {
    const double counted = RankSeconds::Of(times_).spent() - times_before_.spent();
    counter.store(counter.load(std::memory_order_relaxed) + SteadySeconds() - began_ - counted,
                  std::memory_order_relaxed);  // One writer; statistics only.
  }

  Status Train(const std::stop_token& stop) {
    ZmqEndpoint endpoint(context_, PlexusFrameGuard());
    RETURN_IF_ERROR(endpoint.Connect(kSchedulerPeer, options_.scheduler_address, kSchedulerKey));
    for (std::uint32_t shard = 0; shard < servers_.size(); ++shard) {
      RETURN_IF_ERROR(endpoint.Connect(ShardPeer(shard), servers_[shard], kServerKey));
    }
    RankDeps deps;
    deps.open_source = options_.open_source;
    if (deps.open_source == nullptr) {
      deps.open_source = [this](std::uint32_t rank, const proto::Phase& phase, std::uint64_t skip) {
        return OpenPrefetchSource(plan_, rank, phase, skip);
      };
    }
    ASSIGN_OR_RETURN(deps.model, MakeModel(*plan_));
    deps.exchange = options_.exchange;
    deps.seconds = &SteadySeconds;
    deps.times = &times_;
    RankTrainer trainer(plan_, carrier_.rank(), carrier_.epoch(), std::move(deps), kResendMillis);
    while (!stop.stop_requested()) {
      const bool progressed = trainer.Progress(SteadyMillis());
      for (const Envelope& envelope : trainer.outbox().Take()) {
        Failpoint("rank.sending");
        if (Status sent = endpoint.Send(envelope); !sent.ok()) {
          VLOG(1) << "rank " << carrier_.rank() << ": " << sent.message();
        }
        Failpoint("rank.sent");
      }
      const RankTrainer::State state = trainer.state();
      if (state == RankTrainer::State::kFailed) {
        return trainer.failure();
      }
      if (state == RankTrainer::State::kDone || state == RankTrainer::State::kFenced) {
        return OkStatus();
      }
      CountRest(times_.exchange);
      RETURN_IF_ERROR(endpoint.Poll(
          progressed ? 0 : kPollMillis,
          [&](const std::string& peer, const Bytes& frame) {
            trainer.OnMessage(peer, frame, SteadyMillis());
          },
          [&](const std::string& peer, const Status& bad) {
            LOG_EVERY_N(WARNING, 100) << "a frame from " << peer << ": " << bad.message();
          }));
      if (Status status = endpoint.CheckPeers(kRefusedMillis); !status.ok()) {
        return Unavailable(status.message() + KeysHint(context_));
      }
      CountRest(times_.wait);
      if (returned_.exchange(false, std::memory_order_relaxed)) {
        trainer.OnServerReturned(SteadyMillis());
      }
      trainer.OnTimer(SteadyMillis());
      bad_lines_.store(trainer.bad_lines(), std::memory_order_relaxed);
      progress_.store(trainer.progress(), std::memory_order_relaxed);
    }
    return OkStatus();
  }

  const std::shared_ptr<const JobPlan> plan_;
  NetContext& context_;
  const NodeOptions& options_;
  const proto::Carrier carrier_;
  const std::vector<std::string> servers_;
  RankTimes own_times_;
  RankTimes& times_;
  const RankSeconds times_before_;
  const double began_;
  std::atomic<double> ended_{0};       // 0: not yet.
  std::atomic<bool> returned_{false};  // A server did.
  std::atomic<std::uint64_t> bad_lines_{0};
  std::atomic<double> progress_{0};
  mutable std::mutex mutex_;
  std::string failure_;       // Guarded by mutex_.
  bool restartable_ = false;  // Guarded by mutex_.
  std::jthread thread_;       // Last: it uses the others.
};

// The process' conversation with the scheduler: which ranks it carries.
class WorkerAgent {
 public:
  WorkerAgent(std::shared_ptr<const JobPlan> plan, NetContext& context, const NodeOptions& options)
      : plan_(std::move(plan)), context_(context), options_(options) {}

  int Run() {
    pthread_setname_np(pthread_self(), ("agent-" + std::to_string(options_.index)).c_str());
    ZmqEndpoint endpoint(context_, PlexusFrameGuard());
    if (Status status = endpoint.Connect(kSchedulerPeer, options_.scheduler_address, kSchedulerKey);
        !status.ok()) {
      LOG(ERROR) << "worker " << options_.index << ": " << status.message();
      return 1;
    }
    registration_ = MakeRegistration(*plan_, proto::WORKER, options_, "", "");
    Millis heard = SteadyMillis();
    while (!stop_.has_value()) {
      if (SteadyMillis() >= next_hello_) {
        next_hello_ = SteadyMillis() + kHeartbeatMillis;
        SayHello(endpoint);
      }
      const Status status = endpoint.Poll(
          kPollMillis,
          [&](const std::string&, const Bytes& frame) {
            heard = SteadyMillis();
            OnFrame(frame);
          },
          [](const std::string&, const Status& bad) {
            LOG_EVERY_N(WARNING, 100) << "a frame from the scheduler: " << bad.message();
          });
      if (!status.ok()) {
        LOG(ERROR) << "worker " << options_.index << ": " << status.message();
        StopRanks();
        return 1;
      }
      const Status reached = CheckScheduler(endpoint, SteadyMillis() - heard);
      if (!reached.ok()) {
        LOG(ERROR) << "worker " << options_.index << ": " << reached.message();
        StopRanks();
        return 3;
      }
    }
    StopRanks();
    leaving_ = true;
    SayHello(endpoint);
    return stop_->exit_code();
  }

 private:
  void StopRanks() {
    if (options_.exchange != nullptr) {
      options_.exchange->Cancel(Aborted("the job stops"));
    }
    for (auto& [rank, thread] : ranks_) {
      thread->RequestStop();
    }
    for (auto& [rank, thread] : ranks_) {
      thread->Join();
      closed_seconds_.Add(thread->seconds());
      closed_bad_lines_ += thread->bad_lines();
    }
    ranks_.clear();
  }

  // Before the first word the scheduler may still be starting.
  Millis SilenceMax() const {
    const Millis lease = plan_->job.cluster().lease_ms();
    const bool returns = plan_->durable();
    return registered_ && !returns ? 2 * lease : std::max<Millis>(2 * lease, kFirstWordMillis);
  }

  Status CheckScheduler(const ZmqEndpoint& endpoint, Millis silence) const {
    if (Status status = endpoint.CheckPeers(kRefusedMillis); !status.ok()) {
      return Unavailable(status.message() + KeysHint(context_));
    }
    return silence <= SilenceMax()
               ? OkStatus()
               : Unavailable("has not heard from the scheduler at " + options_.scheduler_address +
                             " for " + std::to_string(silence) + " ms" +
                             (registered_ ? ": it is lost" : KeysHint(context_)));
  }

  void SayHello(ZmqEndpoint& endpoint) {
    proto::Control control;
    if (!registered_) {
      *control.mutable_register_member() = registration_;
    } else {
      proto::Heartbeat& heartbeat = *control.mutable_heartbeat();
      heartbeat.set_role(proto::WORKER);
      heartbeat.set_index(options_.index);
      heartbeat.set_incarnation(registration_.incarnation());
      heartbeat.set_peak_rss_bytes(PeakRssBytes());
      heartbeat.set_leaving(leaving_);
      heartbeat.set_interrupted(options_.signals != nullptr &&
                                options_.signals->load(std::memory_order_relaxed) > 0);
      std::uint64_t bad_lines = closed_bad_lines_;
      RankSeconds seconds = closed_seconds_;
      double progress = 0;
      for (const auto& [rank, thread] : ranks_) {
        proto::Carrier& carrier = *heartbeat.add_carried();
        carrier.set_rank(rank);
        carrier.set_epoch(thread->epoch());
        bad_lines += thread->bad_lines();
        seconds.Add(thread->seconds());
        progress += thread->progress() / static_cast<double>(ranks_.size());
        if (heartbeat.failure().empty()) {
          heartbeat.set_failure(thread->failure());
          heartbeat.set_restartable(thread->restartable());
        }
      }
      heartbeat.set_bad_lines(bad_lines);
      heartbeat.set_progress(progress);
      heartbeat.set_read_seconds(seconds.read);
      heartbeat.set_exchange_seconds(seconds.exchange);
      heartbeat.set_compute_seconds(seconds.compute);
      heartbeat.set_wait_seconds(seconds.wait);
      heartbeat.set_rank_seconds(seconds.lived);
    }
    (void)endpoint.Send({kSchedulerPeer, ControlFrame(control)});
  }

  void OnFrame(const Bytes& frame) {
    StatusOr<proto::Control> control = DecodeControl(frame);
    if (!control.ok() || !control->has_view() ||
        control->view().incarnation() != registration_.incarnation()) {
      return;
    }
    const proto::View& view = control->view();
    registered_ = !view.register_again();
    if (view.register_again()) {
      next_hello_ = 0;
      return;
    }
    if (view.has_stop()) {
      stop_ = view.stop();
      return;
    }
    if (view.fence() < fence_) {
      return;  // Overtaken by a newer one.
    }
    // Under one fence ranks only come, as servers hear of it; an older word must not take them
    // away.
    const bool newer = view.fence() > fence_;
    fence_ = view.fence();
    const std::vector<std::string> servers(view.servers().begin(), view.servers().end());
    std::map<std::uint32_t, proto::Carrier> wanted;
    for (const proto::Carrier& carrier : view.carry()) {
      wanted[carrier.rank()] = carrier;
    }
    std::erase_if(ranks_, [&](auto& entry) {
      const auto at = wanted.find(entry.first);
      const bool moved = at != wanted.end() && servers != entry.second->servers();
      begun_.erase(moved ? entry.first : ~0U);
      const bool gone =
          moved || (newer && (at == wanted.end() || at->second.epoch() != entry.second->epoch()));
      if (gone) {
        entry.second->Join();
        closed_seconds_.Add(entry.second->seconds());
      }
      return gone;
    });
    for (const auto& [rank, carrier] : wanted) {
      // An epoch that was here is over: a late word must not bring it back.
      if (!ranks_.contains(rank) && carrier.epoch() > begun_[rank]) {
        begun_[rank] = carrier.epoch();
        ranks_[rank] = std::make_unique<RankThread>(plan_, context_, options_, carrier, servers);
      }
    }
    if (std::exchange(generation_, view.generation()) != view.generation()) {
      for (auto& [rank, thread] : ranks_) {
        thread->OnServerReturned();
      }
    }
  }

  const std::shared_ptr<const JobPlan> plan_;
  NetContext& context_;
  const NodeOptions& options_;
  proto::Register registration_;
  bool registered_ = false;
  Millis next_hello_ = 0;
  std::uint64_t fence_ = 0;       // Of the last View.
  std::uint32_t generation_ = 0;  // Of the servers.
  bool leaving_ = false;
  std::optional<proto::Stop> stop_;
  std::map<std::uint32_t, std::unique_ptr<RankThread>> ranks_;
  std::map<std::uint32_t, std::uint32_t> begun_;  // By rank: the last epoch.
  RankSeconds closed_seconds_;                    // Of ranks that this process carries no more.
  std::uint64_t closed_bad_lines_ = 0;            // Of ranks that were carried to the end.
};

}  // namespace

int RunWorkerNode(std::shared_ptr<const JobPlan> plan, NetContext& context,
                  const NodeOptions& options) {
  return WorkerAgent(std::move(plan), context, options).Run();
}

}  // namespace plexus
