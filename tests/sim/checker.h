// Checker: watches a simulated run and holds it to what the protocol promises
// (docs/simulation.md).  It keeps its own rows of every shard, made of the parts that the shard
// took; replies and the final rows must agree with them.
//
// Thread safety: none.
#pragma once

#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <set>
#include <string>
#include <unordered_map>
#include <vector>

#include "tests/sim/oracle.h"
#include "tests/sim/processes.h"

namespace plexus::sim {

class Checker final : public Observer {
 public:
  Checker(std::shared_ptr<const JobPlan> plan, const SimData& data);
  // A server's program has begun, or (null) is gone.
  void SetShard(std::uint32_t index, const Shard* shard);
  // A scheduler after the first has begun.
  void OnSchedulerReturned() { resuming_ = true; }
  // Power was cut where not everything is synced: the job may go back.
  void AllowLoss() { loss_allowed_ = true; }
  // A scheduler has not begun its phase yet.
  bool resuming() const { return resuming_; }
  // What a shard's log reaches that has no state at the moment.
  std::function<std::uint64_t(std::uint32_t shard)> log_reach;

  void BeforeShard(const Shard& shard, std::uint32_t index, const Delivery& delivery) override;
  void AfterShard(const Shard& shard, std::uint32_t index, const Delivery& delivery,
                  std::span<const Envelope> sent) override;
  void OnCarrier(const proto::Carrier& carrier, std::uint64_t incarnation) override;
  void AfterScheduler(const Scheduler& scheduler, std::span<const SchedulerEvent> events) override;
  void OnRecovered(const Shard& shard, std::uint32_t index) override;

  // What must hold of a job that came to its end.
  void CheckEnd(const Scheduler& scheduler);

  void Fail(const std::string& what);
  // The first failure; empty: none.
  const std::string& failure() const { return failure_; }
  // Of the final model.
  Digest128 digest() const { return saved_; }

 private:
  struct PartRow {
    std::uint32_t table;
    Key key;
    std::uint32_t count;
    std::int64_t gradient;
  };
  struct Part {
    std::uint32_t samples = 0;
    std::vector<PartRow> rows;
  };
  using StepRank = std::pair<std::uint64_t, std::uint32_t>;
  struct Twin {
    ShardCounters before;
    std::uint64_t version_before = 0;
    proto::Phase phase_before;
    std::map<StepRank, Part> waiting;
    std::set<StepRank> taken;
    // Of each rank's carrier: the newest heard of, in this life of the shard, and in any.
    std::map<std::uint32_t, std::uint32_t> epochs;
    std::map<std::uint32_t, std::uint32_t> epochs_ever;
    std::uint64_t samples = 0;
    RowMap rows;
    std::unordered_map<std::string, Bytes> pulls;  // By peer and sequence.
    // Durable jobs: what was taken in any life, and what each version was.
    struct Version {
      std::uint64_t samples = 0;
      RowMap rows;
    };
    std::map<StepRank, Part> parts;
    std::map<std::uint64_t, Version> versions;
  };

  void HearEpochs(const FrameHeader& header, const Bytes& frame, Twin* twin);
  void CheckEpoch(const FrameHeader& header, std::uint32_t index);
  void TakePart(const Shard& shard, std::uint32_t index, const Bytes& frame);
  bool DecodePart(const PushBody& body, std::uint32_t rank, Part* part);
  void ApplyPart(Twin* twin, const Part& part, std::uint32_t rank, std::uint64_t version);
  void ApplyCommitted(const Shard& shard, std::uint32_t index);
  void CheckCounters(const Shard& shard, std::uint32_t index);
  void CheckReply(const Shard& shard, std::uint32_t index, const Envelope& reply);
  void CheckStaleness(const Shard& shard, std::uint32_t index, const FrameHeader& header);
  void CheckCommit(const Scheduler& scheduler);
  void CheckShardHas(std::uint64_t step, std::uint32_t index);
  // checker_recovery.cc
  void RememberVersion(std::uint64_t version, Twin* twin);
  void OnResumed(const Scheduler& scheduler);
  void CheckRows(const ExpectedRun& expected);
  void CheckEvaluations(const ExpectedRun& expected);

  const std::shared_ptr<const JobPlan> plan_;
  const SimData& data_;
  std::vector<const Shard*> shards_;
  std::vector<Twin> twins_;
  std::string failure_;
  std::uint64_t committed_ = 0;
  proto::Phase phase_;  // The scheduler's.
  struct Evaluated {
    std::uint64_t version = 0;
    std::pair<proto::Phase::DataSet, std::uint64_t> counted;
  };
  std::vector<Evaluated> evaluations_;
  std::map<std::pair<std::uint32_t, std::uint32_t>, std::uint64_t> carriers_;  // (rank, epoch).
  bool resuming_ = false;
  bool loss_allowed_ = false;
  Digest128 saved_;  // Of the final model, as the shards told it.
};

}  // namespace plexus::sim
