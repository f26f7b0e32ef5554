// MemoryData: the samples of a small job, in memory: a pure function of (data set, rank, epoch,
// index).  Ranks have different numbers of batches; few keys, so that ranks meet on rows.
//
// Thread safety: immutable once it is read.
#pragma once

#include <limits>
#include <memory>
#include <set>
#include <tuple>
#include <utility>
#include <vector>

#include "common/random.h"
#include "worker/batch_source.h"
#include "worker/step_keys.h"

namespace plexus {

class MemoryData {
 public:
  explicit MemoryData(std::shared_ptr<const JobPlan> plan) : plan_(std::move(plan)) {}

  // Rank 2 has none to train on.
  std::uint32_t BatchCount(proto::Phase::DataSet data_set, std::uint32_t rank) const {
    return data_set == proto::Phase::TRAINING ? (rank == 2 ? 0 : 6 - rank) : 1 + rank;
  }

  Batch MakeBatch(proto::Phase::DataSet data_set, std::uint32_t rank, std::uint32_t epoch,
                  std::uint32_t index) const {
    const CounterRandom random(17, rank * 1000 + index, static_cast<std::uint64_t>(data_set),
                               epoch);
    std::uint64_t drawn = 0;
    Batch batch;
    batch.samples = 2 + static_cast<std::uint32_t>(random.Below(drawn++, 3));
    for (std::uint32_t i = 0; i < batch.samples; ++i) {
      batch.labels.push_back(random.Below(drawn++, 3) == 0 ? 1.0f : 0.0f);
      batch.dense.push_back(2 * random.Uniform(drawn++) - 1);
    }
    if (poisoned_.contains({rank, epoch, index}) && data_set == proto::Phase::TRAINING) {
      batch.dense.back() = std::numeric_limits<float>::infinity();
    }
    batch.sparse.resize(plan_->fields.size());
    for (SparseColumn& column : batch.sparse) {
      for (std::uint32_t i = 0; i < batch.samples; ++i) {
        column.keys.push_back(random.Below(drawn++, 60));
      }
    }
    return batch;
  }

  // A dense input of this training batch is infinite.
  void Poison(std::uint32_t rank, std::uint32_t epoch, std::uint32_t index) {
    poisoned_.insert({rank, epoch, index});
  }
  bool IsPoisoned(std::uint32_t rank, std::uint32_t epoch, std::uint32_t index) const {
    return poisoned_.contains({rank, epoch, index});
  }

  OpenSource Opener() const {
    return [this](std::uint32_t rank, const proto::Phase& phase,
                  std::uint64_t skip) -> StatusOr<std::unique_ptr<BatchSource>> {
      return std::unique_ptr<BatchSource>(std::make_unique<Source>(*this, rank, phase, skip));
    };
  }
  const JobPlan& plan() const { return *plan_; }

 private:
  class Source final : public BatchSource {
   public:
    Source(const MemoryData& data, std::uint32_t rank, const proto::Phase& phase,
           std::uint64_t skip)
        : data_(data),
          builder_(data.plan(), InitialBucketMap(data.plan().buckets(), data.plan().shards()),
                   data.plan().shards()),
          data_set_(phase.kind() == proto::Phase::TRAIN ? proto::Phase::TRAINING
                                                        : phase.data_set()),
          rank_(rank),
          epoch_(phase.epoch()),
          next_(static_cast<std::uint32_t>(skip)) {}

    StatusOr<std::unique_ptr<PreparedBatch>> Next() override {
      const std::uint32_t count = data_.BatchCount(data_set_, rank_);
      if (next_ >= count) {
        return std::unique_ptr<PreparedBatch>();
      }
      auto prepared = std::make_unique<PreparedBatch>();
      prepared->batch = data_.MakeBatch(data_set_, rank_, epoch_, next_);
      builder_.Build(prepared->batch, &prepared->keys);
      prepared->last = ++next_ == count;
      return prepared;
    }
    void Recycle(std::unique_ptr<PreparedBatch>) override {}
    std::uint64_t bad_lines() const override { return 0; }

   private:
    const MemoryData& data_;
    StepKeysBuilder builder_;
    const proto::Phase::DataSet data_set_;
    const std::uint32_t rank_;
    const std::uint32_t epoch_;
    std::uint32_t next_;
  };

  const std::shared_ptr<const JobPlan> plan_;
  std::set<std::tuple<std::uint32_t, std::uint32_t, std::uint32_t>> poisoned_;
};

}  // namespace plexus
