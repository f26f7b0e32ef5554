#include "tests/sim/cluster.h"

#include <algorithm>
#include <cstdio>
#include <sstream>
#include <utility>

#include "launch/plan.h"
#include "scheduler/phase_planner.h"

namespace plexus::sim {
namespace {

constexpr std::uint64_t kClusterStream = 0x636c7573746572;
constexpr std::uint64_t kDiskStream = 0x636c6469736b;
// A job is over in this time after its last fault, whatever the network loses.
constexpr Micros kPatienceMicros = 300'000'000;
// A small job takes some ten thousand events; more than this and it runs in circles.
constexpr std::uint64_t kEventsMax = 3'000'000;

const char* NameOf(RankTrainer::State state) {
  switch (state) {
    case RankTrainer::State::kQuery:
      return "query";
    case RankTrainer::State::kTrain:
      return "train";
    case RankTrainer::State::kEvaluate:
      return "evaluate";
    case RankTrainer::State::kDone:
      return "done";
    case RankTrainer::State::kFenced:
      return "fenced";
    case RankTrainer::State::kFailed:
      return "failed";
  }
  return "?";
}

}  // namespace

Cluster::Cluster(const Scenario& scenario, const ClusterOptions& options)
    : scenario_(scenario),
      plan_(std::make_shared<const JobPlan>(PlanOf(scenario))),
      data_(plan_, scenario.data),
      random_(scenario.seed, kClusterStream),
      checker_(plan_, data_),
      world_(scenario.seed, scenario.network),
      no_dedup_after_restart_(options.no_dedup_after_restart),
      server_logs_(scenario.servers),
      server_lives_(scenario.servers, 0),
      disk_random_(scenario.seed, kDiskStream) {
  options_.plan = plan_;
  options_.open_source = [this](std::uint32_t rank, const proto::Phase& phase,
                                std::uint64_t skip) -> StatusOr<std::unique_ptr<BatchSource>> {
    return data_.Open(rank, phase, skip);
  };
  options_.make_model = [this] { return *MakeModel(*plan_); };
  options_.poisoned_shards = [this](std::uint32_t rank, std::uint64_t step) {
    return data_.PoisonedShards(rank, step);
  };
  options_.observer = &checker_;
  options_.seed = scenario.seed;
  options_.resend_ms = scenario.resend_ms;
  options_.compute_us_max = scenario.compute_us_max;
  options_.save_us_max = scenario.save_us_max;
  options_.apply_duplicates = options.apply_twice;
  options_.commit_early = options.commit_before_complete;
  options_.ack_before_log = options.ack_before_log;
  options_.manifest_before_data = options.manifest_before_data;
  options_.models = &models_;
  checker_.log_reach = [this](std::uint32_t shard) {
    return std::max(VersionsOf(server_logs_[shard]).newest, models_.NewestCheckpoint());
  };
  StartScheduler();
  servers_.resize(scenario.servers);
  for (std::uint32_t server = 0; server < scenario.servers; ++server) {
    StartServer(server);
  }
  places_.resize(scenario.workers, nullptr);
  for (std::uint32_t worker = 0; worker < scenario.workers; ++worker) {
    StartWorker(worker);
  }
  world_.on_act = [this](ProcessId process, bool writes) { OnAct(process, writes); };
  world_.on_send = [this](ProcessId from, const Bytes&) { OnWorkerSends(from); };
  if (options.trace) {
    world_.on_arrive = [this](const std::string& to, const Delivery& delivery) {
      Trace(to, delivery);
    };
  }
}

void Cluster::Trace(const std::string& to, const Delivery& delivery) {
  static const char* const kNames[] = {"?",           "pull",       "pull reply",
                                       "push",        "push reply", "phase query",
                                       "phase reply", "control",    "error"};
  const FrameHeader h = HeaderOf(delivery.frame);
  std::ostringstream text;
  text << world_.now_us() << " us: " << delivery.peer << " -> " << to << ": ";
  if (h.type == FrameType::kControl) {
    StatusOr<proto::Control> control = DecodeControl(delivery.frame);
    text << (control.ok() ? control->ShortDebugString() : "malformed");
  } else {
    text << kNames[static_cast<int>(h.type)] << " code " << static_cast<int>(h.code) << ", rank "
         << h.rank << " epoch " << h.epoch << ", phase " << h.phase << " step " << h.step
         << " version " << h.version << ", sequence " << h.sequence << ", flags " << h.flags;
  }
  std::printf("%s\n", text.str().c_str());
}

void Cluster::StartWorker(std::uint32_t index) {
  workers_.push_back(
      std::make_unique<WorkerProcess>(world_, options_, index, ++incarnations_, DrawClock()));
  WorkerProcess* worker = workers_.back().get();
  places_[index] = worker;
  worker->on_exit = [this, worker](int exit_code) {
    // A supervisor starts it again, unless another program has its place or the job is over.
    if (places_[worker->index()] == worker) {
      LoseWorker(worker->index(), exit_code == 0 ? -1 : 500'000);
    }
    Bury(worker);
  };
}

void Cluster::LoseWorker(std::uint32_t index, Micros back_us) {
  places_[index] = nullptr;
  if (back_us < 0) {
    return;
  }
  Extend(world_.now_us() + back_us);
  world_.At(world_.now_us() + back_us, [this, index] {
    if (places_[index] == nullptr && !Stopped()) {
      StartWorker(index);
    }
  });
}

void Cluster::Bury(WorkerProcess* worker) {
  const auto at = std::find_if(workers_.begin(), workers_.end(),
                               [worker](const auto& other) { return other.get() == worker; });
  world_.Bury(std::shared_ptr<WorkerProcess>(std::move(*at)));
  workers_.erase(at);
}

WorkerProcess* Cluster::FindWorker(ProcessId process) {
  for (const auto& worker : workers_) {
    if (worker->process() == process) {
      return worker.get();
    }
  }
  return nullptr;
}

void Cluster::OnWorkerSends(ProcessId from) {
  WorkerProcess* worker = FindWorker(from);
  if (worker == nullptr) {
    return;
  }
  ++worker_messages_;
  if (scenario_.interrupt_after_messages > 0 &&
      worker_messages_ >= scenario_.interrupt_after_messages && scheduler_ != nullptr &&
      !checker_.resuming() && scheduler_->scheduler().phase().number() > 0) {
    scheduler_->scheduler().RequestStop(world_.now_us() / 1000);
  }
  if (next_fault_ >= scenario_.faults.size() ||
      scenario_.faults[next_fault_].after_messages > worker_messages_ || world_.IsSuspended(from)) {
    return;
  }
  Strike(scenario_.faults[next_fault_++], worker);
}

void Cluster::Strike(const Fault& fault, WorkerProcess* worker) {
  const std::uint32_t index = worker->index();
  const ProcessId process = worker->process();
  const bool in_place = places_[index] == worker;
  // Everybody has to come once, and somebody has to be left: the first place is taken again.
  // A scheduler that returns waits for all.
  const bool needed = index == 0 || !scenario_.disk_faults.empty() || scheduler_ == nullptr ||
                      checker_.resuming() || scheduler_->scheduler().phase().number() == 0;
  const Micros back_us = fault.back_us < 0 && needed ? 1'000'000 : fault.back_us;
  const Micros until_us = world_.now_us() + fault.length_us;
  Extend(world_.now_us());
  switch (fault.kind) {
    case Fault::Kind::kKill:
      ++result_.kills;
      world_.EndProcess(process);
      if (in_place) {
        LoseWorker(index, back_us);
      }
      Bury(worker);
      return;
    case Fault::Kind::kReplace:
      if (in_place) {
        LoseWorker(index, back_us);
      }
      [[fallthrough]];
    case Fault::Kind::kSuspend:
      ++result_.suspensions;
      world_.Suspend(process);
      Extend(until_us);
      world_.At(until_us, [this, process] {
        if (world_.IsAlive(process)) {
          world_.Resume(process);
        }
      });
      return;
    case Fault::Kind::kCut: {
      ++result_.cuts;
      Cut cut = fault.cut;
      cut.until_us = until_us;
      world_.AddCut(cut);
      Extend(until_us);
    }
  }
}

std::string Cluster::States() {
  std::ostringstream text;
  if (scheduler_ == nullptr) {
    return "\n  no scheduler";
  }
  text << "\n  scheduler: version " << scheduler_->scheduler().version() << ", phase "
       << scheduler_->scheduler().phase().ShortDebugString() << "; "
       << scheduler_->scheduler().WaitReport();
  for (std::size_t s = 0; s < servers_.size(); ++s) {
    if (servers_[s] == nullptr) {
      text << "\n  shard " << s << ": gone";
      continue;
    }
    const Shard& shard = servers_[s]->shard();
    text << "\n  shard " << s << ": version " << shard.version() << ", phase "
         << shard.phase().number() << ", " << shard.pending_parts() << " parts, " << shard.parked()
         << " parked";
  }
  for (const auto& worker : workers_) {
    text << "\n  worker " << worker->index()
         << (places_[worker->index()] == worker.get() ? "" : " (replaced)")
         << (world_.IsSuspended(worker->process()) ? " (suspended)" : "") << ":";
    for (const auto& [rank, thread] : worker->ranks()) {
      text << " rank " << rank << " epoch " << thread->epoch() << " "
           << NameOf(thread->trainer().state()) << " step " << thread->trainer().next_step() << ", "
           << thread->trainer().client().unacknowledged() << " unacknowledged;";
    }
  }
  return text.str();
}

RunResult Cluster::Run() {
  while (!Ended() && checker_.failure().empty()) {
    if (!world_.Step()) {
      checker_.Fail("nothing happens any more" + States());
    } else if (world_.now_us() > faults_end_us_ + kPatienceMicros) {
      checker_.Fail("the job has not ended " + std::to_string(kPatienceMicros / 1'000'000) +
                    " s after its last fault" + States());
    } else if (world_.events() > kEventsMax) {
      checker_.Fail("the job has not ended after " + std::to_string(kEventsMax) + " events" +
                    States());
    }
  }
  if (checker_.failure().empty()) {
    checker_.CheckEnd(scheduler_->scheduler());
    if (scenario_.durable() && !models_.IsComplete(kFinalModel)) {
      checker_.Fail("the final model is not complete");
    }
  }
  result_.failure = checker_.failure();
  result_.digest = checker_.digest();
  if (scheduler_ != nullptr) {
    result_.inexact = scheduler_->scheduler().totals().inexact;
    result_.interrupted = scheduler_->scheduler().totals().interrupted;
  }
  result_.traffic = world_.traffic();
  result_.events = world_.events();
  result_.simulated_seconds = static_cast<double>(world_.now_us()) * 1e-6;
  return result_;
}

}  // namespace plexus::sim
