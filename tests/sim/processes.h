// The processes of a simulated cluster: thin runtimes around the real Scheduler, Shard and
// RankTrainer, which do what launch/*_node.cc do, in simulated time.
//
// Thread safety: none.
#pragma once

#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "ps/shard.h"
#include "scheduler/scheduler.h"
#include "tests/sim/disk.h"
#include "tests/sim/world.h"
#include "worker/rank_trainer.h"

namespace plexus::sim {

// Bits of Cut's masks.
inline constexpr std::uint32_t kSchedulerPlace = 0;
inline std::uint32_t ServerPlace(std::uint32_t server) { return 1 + server; }
inline std::uint32_t WorkerPlace(std::uint32_t servers, std::uint32_t worker) {
  return 1 + servers + worker;
}

// Sees what happens; all of it is optional.
class Observer {
 public:
  virtual ~Observer() = default;
  virtual void BeforeShard(const Shard&, std::uint32_t /*shard*/, const Delivery&) {}
  // What the shard made of the message, and what it sends.
  virtual void AfterShard(const Shard&, std::uint32_t /*shard*/, const Delivery&,
                          std::span<const Envelope>) {}
  // A worker program begins to compute a rank.
  virtual void OnCarrier(const proto::Carrier&, std::uint64_t /*incarnation*/) {}
  // A commit is on disk by now, as far as it will be.
  virtual void AfterScheduler(const Scheduler&, std::span<const SchedulerEvent>) {}
  // The shard has made a state from a checkpoint and its log, or could not.
  virtual void OnRecovered(const Shard&, std::uint32_t /*shard*/) {}
};

struct ProcessOptions {
  std::shared_ptr<const JobPlan> plan;
  OpenSource open_source;
  std::function<std::unique_ptr<Model>()> make_model;
  // SimData::PoisonedShards; null: none.
  std::function<std::uint64_t(std::uint32_t, std::uint64_t)> poisoned_shards;
  Observer* observer = nullptr;
  std::uint64_t seed = 1;
  Millis heartbeat_ms = 500;
  Millis resend_ms = 1000;
  Millis timer_ms = 50;
  Micros compute_us_max = 1000;  // Of one thing that a rank does.
  Micros save_us_max = 100000;
  SavedModels* models = nullptr;  // Null: none are kept.
  bool apply_duplicates = false;
  bool commit_early = false;
  bool ack_before_log = false;
  bool manifest_before_data = false;
};

// What distinguishes the programs that have one place one after the other.
struct Life {
  std::uint64_t incarnation = 1;
  SimLog* log = nullptr;  // Of the place; null: durability NONE.
  Millis clock_offset = 0;
  bool apply_duplicates = false;
};

class SchedulerProcess final : public Actor {
 public:
  SchedulerProcess(World& world, const ProcessOptions& options, const Life& life = {});
  Rest Run(std::vector<Delivery> inbox, Millis now) override;
  Scheduler& scheduler() { return scheduler_; }
  ProcessId process() const { return process_; }
  bool Done() const { return done_; }

 private:
  void Flush();
  // Carries an event to disk; false: this process is gone.
  bool Keep(const SchedulerEvent& event);
  World& world_;
  const ProcessOptions& options_;
  std::optional<SimCommitLog> log_;
  Scheduler scheduler_;
  ProcessId process_;
  EndpointId endpoint_;
  bool done_ = false;
};

class ServerProcess final : public Actor {
 public:
  ServerProcess(World& world, const ProcessOptions& options, std::uint32_t index, const Life& life);
  Rest Run(std::vector<Delivery> inbox, Millis now) override;
  const Shard& shard() const { return shard_; }
  ProcessId process() const { return process_; }
  // It has a state that it may answer from.
  bool Serves() const { return shard_.phase().number() != 0 && !being_recovered_.has_value(); }

 private:
  bool Flush();
  void Send(const std::vector<Envelope>& envelopes);
  void WriteLog();
  void Save();
  void Recover();
  void Leave();
  void WriteSnapshot();
  World& world_;
  const ProcessOptions& options_;
  const std::uint32_t index_;
  SimRandom random_;
  ProcessId process_;
  proto::Register registration_;
  SimLog* const log_;
  Shard shard_;
  EndpointId endpoint_;
  std::vector<Delivery> backlog_;  // Came while a model was written or read.
  std::optional<proto::Saved> being_saved_;
  std::optional<proto::Recover> being_recovered_;
  bool snapshot_ended_ = false;  // And it was not said yet.
};

// One rank's thread.
class RankProcess final : public Actor {
 public:
  RankProcess(World& world, const ProcessOptions& options, ProcessId process,
              const std::string& identity, const proto::Carrier& carrier);
  ~RankProcess() override;
  Rest Run(std::vector<Delivery> inbox, Millis now) override;
  std::uint32_t epoch() const { return epoch_; }
  const RankTrainer& trainer() const { return trainer_; }
  std::string failure() const;
  void OnServerReturned() { returned_ = true; }

 private:
  bool Flush();
  // The frame, or what this rank sends in its place.
  Bytes Poisoned(const Envelope& envelope) const;
  World& world_;
  const ProcessOptions& options_;
  const std::uint32_t rank_;
  const std::uint32_t epoch_;
  SimRandom random_;
  RankTrainer trainer_;
  EndpointId endpoint_;
  bool returned_ = false;  // A server did.
};

// A worker program: its agent, and a thread a rank.
class WorkerProcess final : public Actor {
 public:
  // `incarnation` is unique in the run.
  WorkerProcess(World& world, const ProcessOptions& options, std::uint32_t index,
                std::uint64_t incarnation, Millis clock_offset);
  Rest Run(std::vector<Delivery> inbox, Millis now) override;

  ProcessId process() const { return process_; }
  std::uint32_t index() const { return index_; }
  // Set once the program has ended by itself.
  std::optional<int> exit_code() const { return exit_code_; }
  const std::map<std::uint32_t, std::unique_ptr<RankProcess>>& ranks() const { return ranks_; }
  // Called when the program ends by itself.
  std::function<void(int exit_code)> on_exit;

 private:
  void SayHello();
  void OnFrame(const Bytes& frame);
  void Exit(int code);
  Millis SilenceMax() const;

  World& world_;
  const ProcessOptions& options_;
  const std::uint32_t index_;
  const std::uint64_t incarnation_;
  ProcessId process_;
  EndpointId endpoint_;
  std::uint64_t threads_ = 0;  // Started so far.
  std::optional<Millis> heard_;
  Millis next_hello_ = 0;
  bool registered_ = false;
  std::uint64_t fence_ = 0;
  std::uint32_t generation_ = 0;
  bool leaving_ = false;
  std::optional<proto::Stop> stop_;
  std::optional<int> exit_code_;
  std::map<std::uint32_t, std::unique_ptr<RankProcess>> ranks_;
  std::map<std::uint32_t, std::uint32_t> begun_;  // By rank: the last epoch.
};

}  // namespace plexus::sim
