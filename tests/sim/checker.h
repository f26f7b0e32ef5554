// Checker: watches a simulated run and holds it to what the protocol promises
// (docs/simulation.md).  It keeps its own rows of every shard, made of the parts that the shard
// took; replies and the final rows must agree with them.
//
// Thread safety: none.
#pragma once

#include <cstdint>
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
  // REQUIRES: before the first event; one a shard.
  void SetShards(std::vector<const Shard*> shards) { shards_ = std::move(shards); }

  void BeforeShard(const Shard& shard, std::uint32_t index, const Delivery& delivery) override;
  void AfterShard(const Shard& shard, std::uint32_t index, const Delivery& delivery,
                  std::span<const Envelope> sent) override;
  void OnCarrier(const proto::Carrier& carrier, std::uint64_t incarnation) override;
  void AfterScheduler(const Scheduler& scheduler, std::span<const SchedulerEvent> events) override;

  // What must hold of a job that came to its end.
  void CheckEnd(const Scheduler& scheduler);

  void Fail(const std::string& what);
  // The first failure; empty: none.
  const std::string& failure() const { return failure_; }
  // Of the shards together.
  Digest128 digest() const;

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
    std::map<std::uint32_t, std::uint32_t> epochs;  // Of each rank's carrier: the newest heard of.
    std::uint64_t samples = 0;
    RowMap rows;
    std::unordered_map<std::string, Bytes> pulls;  // By peer and sequence.
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
  void CheckEvaluations(const ExpectedRun& expected);

  const std::shared_ptr<const JobPlan> plan_;
  const SimData& data_;
  std::vector<const Shard*> shards_;
  std::vector<Twin> twins_;
  std::string failure_;
  std::uint64_t committed_ = 0;
  proto::Phase phase_;  // The scheduler's.
  std::vector<std::pair<proto::Phase::DataSet, std::uint64_t>> evaluations_;
  std::map<std::pair<std::uint32_t, std::uint32_t>, std::uint64_t> carriers_;  // (rank, epoch).
  Digest128 saved_;  // Of the final model, as the shards told it.
};

}  // namespace plexus::sim
