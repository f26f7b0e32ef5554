// Cluster: one job on one simulated cluster, with its faults, from start to end.
//
// Thread safety: none.
#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "tests/sim/checker.h"
#include "tests/sim/disk.h"
#include "tests/sim/processes.h"
#include "tests/sim/scenario.h"

namespace plexus::sim {

struct RunResult {
  std::string failure;  // Empty: the job came to its end and everything held.
  Digest128 digest;
  bool inexact = false;
  bool interrupted = false;
  Traffic traffic;
  std::uint64_t events = 0;
  std::uint64_t kills = 0;
  std::uint64_t suspensions = 0;
  std::uint64_t cuts = 0;
  std::uint64_t server_kills = 0;
  std::uint64_t scheduler_kills = 0;
  std::uint64_t power_cuts = 0;
  std::uint64_t server_suspensions = 0;  // And the scheduler's.
  std::uint64_t restarts = 0;            // Of all, since the scheduler asked for it.
  double simulated_seconds = 0;
};

struct ClusterOptions {
  bool apply_twice = false;             // Canary.
  bool commit_before_complete = false;  // Canary.
  bool ack_before_log = false;          // Canary.
  bool no_dedup_after_restart = false;  // Canary.
  bool manifest_before_data = false;    // Canary.
  bool trace = false;                   // Print each message that arrives.
};

class Cluster {
 public:
  Cluster(const Scenario& scenario, const ClusterOptions& options);
  RunResult Run();

 private:
  void StartWorker(std::uint32_t index);
  // cluster_disk.cc
  void StartServer(std::uint32_t index);
  void StartScheduler();
  void StrikeDisk(const DiskFault& fault, ProcessId actor);
  // Who is there no more comes back after `back_us`.
  void KillServer(std::uint32_t index, Micros back_us);
  void KillScheduler(Micros back_us);
  void KillWorkers(Micros back_us_max);
  void KillAll(Micros back_us_max);
  void CutPower(const DiskFault& fault, std::optional<std::uint32_t> server);
  void SuspendProgram(ProcessId process, Micros length_us);
  void OnAct(ProcessId process, bool writes);
  // The job's supervisor starts all again.
  void RestartAll();
  bool Stopped() const {
    return scheduler_ != nullptr && scheduler_->scheduler().stop().has_value();
  }
  bool Ended();
  // The program in the place is gone; the next one comes after `back_us`, or never (-1).
  void LoseWorker(std::uint32_t index, Micros back_us);
  void OnWorkerSends(ProcessId from);
  void Strike(const Fault& fault, WorkerProcess* worker);
  WorkerProcess* FindWorker(ProcessId process);
  void Bury(WorkerProcess* worker);
  // Something that a fault began ends then.
  void Trace(const std::string& to, const Delivery& delivery);
  void Extend(Micros until_us) { faults_end_us_ = std::max(faults_end_us_, until_us); }
  std::string States();
  Millis DrawClock() { return random_.Between(0, 1LL << 40); }

  const Scenario scenario_;
  const std::shared_ptr<const JobPlan> plan_;
  const SimData data_;
  SimRandom random_;
  Checker checker_;
  ProcessOptions options_;
  World world_;
  std::unique_ptr<SchedulerProcess> scheduler_;
  std::vector<std::unique_ptr<ServerProcess>> servers_;
  std::vector<std::unique_ptr<WorkerProcess>> workers_;  // All that live.
  std::vector<WorkerProcess*> places_;                   // Who is in each place, or null.
  const bool no_dedup_after_restart_;
  std::vector<SimLog> server_logs_;
  SimLog scheduler_log_;
  SavedModels models_;
  std::vector<std::uint64_t> server_lives_;
  std::uint64_t scheduler_lives_ = 0;
  SimRandom disk_random_;
  std::uint64_t acts_ = 0;
  std::size_t next_disk_fault_ = 0;
  std::uint64_t incarnations_ = 0;
  std::uint64_t worker_messages_ = 0;
  std::size_t next_fault_ = 0;
  Micros faults_end_us_ = 0;
  RunResult result_;
};

}  // namespace plexus::sim
