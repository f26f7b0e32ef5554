// SimData: the samples of a simulated job, in memory.  The batch of (data set, rank, epoch, index)
// is a pure function of the seed; ranks have different numbers of batches, some none, and read few
// keys, so that rows collide between ranks.
//
// Thread safety: immutable.
#pragma once

#include <cstdint>
#include <memory>

#include "worker/batch_source.h"

namespace plexus::sim {

struct DataShape {
  std::uint64_t seed = 1;
  std::uint32_t fields = 1;
  std::uint32_t batches_max = 4;  // Per rank and epoch; 0 is drawn as well.
  std::uint32_t samples_max = 3;  // Per batch, at least 1.
  std::uint64_t keys = 16;        // Distinct keys a field.
  bool jagged = false;            // 0..3 keys a sample and field, not 1.
  double poison = 0;              // Pushes that are not finite at some shard; not ASP.
};

class SimData {
 public:
  SimData(std::shared_ptr<const JobPlan> plan, const DataShape& shape)
      : plan_(std::move(plan)), shape_(shape) {}

  std::uint32_t BatchCount(proto::Phase::DataSet data_set, std::uint32_t rank) const;
  Batch MakeBatch(proto::Phase::DataSet data_set, std::uint32_t rank, std::uint32_t epoch,
                  std::uint32_t index) const;
  // The shards that are sent a push of (rank, step) that is not finite, as a mask; 0: none.  No
  // shard may apply its part then.
  std::uint64_t PoisonedShards(std::uint32_t rank, std::uint64_t step) const;
  // Samples of one pass over all ranks.
  std::uint64_t Samples(proto::Phase::DataSet data_set, std::uint32_t epoch) const;
  // Batches of the rank that has most.
  std::uint32_t LongestRank(proto::Phase::DataSet data_set) const;

  std::unique_ptr<BatchSource> Open(std::uint32_t rank, const proto::Phase& phase,
                                    std::uint64_t skip) const;

 private:
  const std::shared_ptr<const JobPlan> plan_;
  const DataShape shape_;
};

}  // namespace plexus::sim
