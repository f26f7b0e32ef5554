#include "tests/sim/sim_data.h"

#include <algorithm>
#include <utility>

#include "tests/sim/sim_random.h"

namespace plexus::sim {
namespace {

std::uint64_t StreamOf(std::uint64_t what, proto::Phase::DataSet data_set, std::uint32_t rank,
                       std::uint32_t epoch, std::uint32_t index) {
  return Mix64(what + Mix64((std::uint64_t{epoch} << 48) | (std::uint64_t{rank} << 32) |
                            (std::uint64_t{index} << 8) | static_cast<std::uint64_t>(data_set)));
}

class SimSource final : public BatchSource {
 public:
  SimSource(std::shared_ptr<const JobPlan> plan, const SimData& data, std::uint32_t rank,
            const proto::Phase& phase, std::uint64_t skip)
      : plan_(std::move(plan)),
        data_(data),
        builder_(*plan_, InitialBucketMap(plan_->buckets(), plan_->shards()), plan_->shards()),
        data_set_(phase.kind() == proto::Phase::TRAIN ? proto::Phase::TRAINING : phase.data_set()),
        rank_(rank),
        epoch_(phase.epoch()),
        next_(static_cast<std::uint32_t>(skip)),
        count_(data.BatchCount(data_set_, rank)) {}

  StatusOr<std::unique_ptr<PreparedBatch>> Next() override {
    if (next_ >= count_) {
      return std::unique_ptr<PreparedBatch>();
    }
    auto prepared = std::make_unique<PreparedBatch>();
    prepared->batch = data_.MakeBatch(data_set_, rank_, epoch_, next_);
    builder_.Build(prepared->batch, &prepared->keys);
    prepared->last = ++next_ == count_;
    return prepared;
  }

  void Recycle(std::unique_ptr<PreparedBatch>) override {}
  std::uint64_t bad_lines() const override { return 0; }

 private:
  const std::shared_ptr<const JobPlan> plan_;
  const SimData& data_;
  StepKeysBuilder builder_;
  const proto::Phase::DataSet data_set_;
  const std::uint32_t rank_;
  const std::uint32_t epoch_;
  std::uint32_t next_;
  const std::uint32_t count_;
};

}  // namespace

std::uint32_t SimData::BatchCount(proto::Phase::DataSet data_set, std::uint32_t rank) const {
  SimRandom random(shape_.seed, StreamOf(1, data_set, rank, 0, 0));
  return random.Chance(0.15) ? 0 : static_cast<std::uint32_t>(random.Below(shape_.batches_max + 1));
}

Batch SimData::MakeBatch(proto::Phase::DataSet data_set, std::uint32_t rank, std::uint32_t epoch,
                         std::uint32_t index) const {
  SimRandom random(shape_.seed, StreamOf(2, data_set, rank, epoch, index));
  Batch batch;
  batch.samples = 1 + static_cast<std::uint32_t>(random.Below(shape_.samples_max));
  for (std::uint32_t i = 0; i < batch.samples; ++i) {
    batch.labels.push_back(random.Chance(0.5) ? 1.0F : 0.0F);
  }
  batch.sparse.resize(shape_.fields);
  for (SparseColumn& column : batch.sparse) {
    if (shape_.jagged) {
      column.offsets.push_back(0);
    }
    for (std::uint32_t i = 0; i < batch.samples; ++i) {
      const std::uint64_t values = shape_.jagged ? random.Below(4) : 1;
      for (std::uint64_t v = 0; v < values; ++v) {
        column.keys.push_back(random.Below(shape_.keys));
      }
      if (shape_.jagged) {
        column.offsets.push_back(static_cast<std::uint32_t>(column.keys.size()));
      }
    }
  }
  return batch;
}

std::uint64_t SimData::PoisonedShards(std::uint32_t rank, std::uint64_t step) const {
  SimRandom random(shape_.seed, Mix64(3 + Mix64(step * 64 + rank)));
  if (plan_->asp() || !random.Chance(shape_.poison)) {
    return 0;
  }
  std::uint64_t mask = 1ULL << random.Below(plan_->shards());
  for (std::uint32_t shard = 0; shard < plan_->shards(); ++shard) {
    mask |= random.Chance(0.3) ? 1ULL << shard : 0;
  }
  return mask;
}

std::uint64_t SimData::Samples(proto::Phase::DataSet data_set, std::uint32_t epoch) const {
  std::uint64_t samples = 0;
  for (std::uint32_t rank = 0; rank < plan_->ranks(); ++rank) {
    for (std::uint32_t i = 0; i < BatchCount(data_set, rank); ++i) {
      samples += MakeBatch(data_set, rank, epoch, i).samples;
    }
  }
  return samples;
}

std::uint32_t SimData::LongestRank(proto::Phase::DataSet data_set) const {
  std::uint32_t longest = 0;
  for (std::uint32_t rank = 0; rank < plan_->ranks(); ++rank) {
    longest = std::max(longest, BatchCount(data_set, rank));
  }
  return longest;
}

std::unique_ptr<BatchSource> SimData::Open(std::uint32_t rank, const proto::Phase& phase,
                                           std::uint64_t skip) const {
  return std::make_unique<SimSource>(plan_, *this, rank, phase, skip);
}

}  // namespace plexus::sim
