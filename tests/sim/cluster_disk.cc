// Cluster: programs that die and come back with what their disks hold.
#include <algorithm>
#include <cstdio>
#include <utility>

#include "tests/sim/cluster.h"

namespace plexus::sim {
namespace {

// As the supervisor does.
constexpr Micros kRestartMicros = 100'000;
// Of all; each goes back once, for a power cut.
constexpr std::uint64_t kRestartsMax = 20;

}  // namespace

void Cluster::StartServer(std::uint32_t index) {
  const std::uint64_t life = ++server_lives_[index];
  servers_[index] = std::make_unique<ServerProcess>(
      world_, options_, index,
      Life{.incarnation = life,
           .log = scenario_.durable() ? &server_logs_[index] : nullptr,
           .clock_offset = DrawClock(),
           .apply_duplicates = no_dedup_after_restart_ && life > 1});
  checker_.SetShard(index, &servers_[index]->shard());
}

void Cluster::StartScheduler() {
  const std::uint64_t life = ++scheduler_lives_;
  if (life > 1) {
    checker_.OnSchedulerReturned();
  }
  scheduler_ = std::make_unique<SchedulerProcess>(
      world_, options_,
      Life{.incarnation = life,
           .log = scenario_.durable() ? &scheduler_log_ : nullptr,
           .clock_offset = life > 1 ? DrawClock() : 0,
           .apply_duplicates = false});
}

void Cluster::OnAct(ProcessId process, bool writes) {
  ++acts_;
  const std::vector<DiskFault>& faults = scenario_.disk_faults;
  while (next_disk_fault_ < faults.size() && faults[next_disk_fault_].after_acts <= acts_ &&
         (writes || faults[next_disk_fault_].target != DiskFault::Target::kWriter) && !Stopped()) {
    StrikeDisk(faults[next_disk_fault_++], process);
  }
}

void Cluster::StrikeDisk(const DiskFault& fault, ProcessId actor) {
  Extend(world_.now_us());
  std::optional<std::uint32_t> server;  // Absent: the scheduler.
  bool scheduler = fault.target == DiskFault::Target::kScheduler;
  if (fault.target == DiskFault::Target::kActor || fault.target == DiskFault::Target::kWriter) {
    scheduler = scheduler_ != nullptr && scheduler_->process() == actor;
    server = fault.server;
    for (std::uint32_t index = 0; index < servers_.size(); ++index) {
      if (servers_[index] != nullptr && servers_[index]->process() == actor) {
        server = index;
      }
    }
  } else if (fault.target == DiskFault::Target::kServer) {
    server = fault.server;
  }
  server = scheduler ? std::nullopt : server;
  if (fault.kind == DiskFault::Kind::kSuspend) {
    if (server.has_value() && servers_[*server] != nullptr) {
      SuspendProgram(servers_[*server]->process(), fault.length_us);
    } else if (!server.has_value() && scheduler_ != nullptr) {
      SuspendProgram(scheduler_->process(), fault.length_us);
    }
    return;
  }
  if (fault.target == DiskFault::Target::kAll) {
    KillAll(fault.back_us);
  } else if (server.has_value()) {
    KillServer(*server, fault.back_us);
  } else {
    KillScheduler(fault.back_us);
  }
  if (fault.kind == DiskFault::Kind::kPower) {
    CutPower(fault, server);
  }
}

void Cluster::CutPower(const DiskFault& fault, std::optional<std::uint32_t> server) {
  ++result_.power_cuts;
  const bool all = fault.target == DiskFault::Target::kAll;
  for (std::uint32_t index = 0; index < servers_.size(); ++index) {
    if (all || server == index) {
      server_logs_[index].LosePower(&disk_random_);
    }
  }
  if (all || !server.has_value()) {
    scheduler_log_.LosePower(&disk_random_);
  }
  if (scenario_.durability == proto::Checkpoint::ASYNC) {
    checker_.AllowLoss();
  }
}

void Cluster::SuspendProgram(ProcessId process, Micros length_us) {
  ++result_.server_suspensions;
  world_.Suspend(process);
  Extend(world_.now_us() + length_us);
  world_.At(world_.now_us() + length_us, [this, process] {
    if (world_.IsAlive(process)) {
      world_.Resume(process);
    }
  });
}

void Cluster::KillServer(std::uint32_t index, Micros back_us) {
  if (servers_[index] == nullptr) {
    return;
  }
  ++result_.server_kills;
  world_.EndProcess(servers_[index]->process());
  checker_.SetShard(index, nullptr);
  world_.Bury(std::shared_ptr<ServerProcess>(std::move(servers_[index])));
  Extend(world_.now_us() + back_us);
  world_.At(world_.now_us() + back_us, [this, index] {
    if (servers_[index] == nullptr) {
      StartServer(index);
    }
  });
}

void Cluster::KillScheduler(Micros back_us) {
  if (scheduler_ == nullptr) {
    return;
  }
  ++result_.scheduler_kills;
  world_.EndProcess(scheduler_->process());
  world_.Bury(std::shared_ptr<SchedulerProcess>(std::move(scheduler_)));
  Extend(world_.now_us() + back_us);
  world_.At(world_.now_us() + back_us, [this] {
    if (scheduler_ == nullptr) {
      StartScheduler();
    }
  });
}

void Cluster::KillWorkers(Micros back_us_max) {
  std::vector<WorkerProcess*> workers;
  for (const auto& worker : workers_) {
    workers.push_back(worker.get());
  }
  for (WorkerProcess* worker : workers) {
    ++result_.kills;
    world_.EndProcess(worker->process());
    if (places_[worker->index()] == worker) {
      LoseWorker(worker->index(), disk_random_.Between(0, back_us_max));
    }
    Bury(worker);
  }
}

void Cluster::KillAll(Micros back_us_max) {
  KillWorkers(back_us_max);
  KillScheduler(disk_random_.Between(0, back_us_max));
  for (std::uint32_t index = 0; index < servers_.size(); ++index) {
    KillServer(index, disk_random_.Between(0, back_us_max));
  }
}

void Cluster::RestartAll() {
  if (++result_.restarts > kRestartsMax) {
    checker_.Fail("started again " + std::to_string(kRestartsMax) + " times, and has not ended");
    return;
  }
  KillAll(kRestartMicros);
  for (std::uint32_t index = 0; index < places_.size(); ++index) {
    if (places_[index] == nullptr) {
      LoseWorker(index, kRestartMicros);
    }
  }
}

bool Cluster::Ended() {
  if (scheduler_ == nullptr || !scheduler_->Done()) {
    return false;
  }
  if (scheduler_->scheduler().stop()->exit_code() != 3 || !scenario_.durable()) {
    return true;
  }
  RestartAll();
  return false;
}

}  // namespace plexus::sim
