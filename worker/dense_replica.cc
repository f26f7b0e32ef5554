#include "worker/dense_replica.h"

#include <algorithm>
#include <numeric>
#include <utility>

namespace plexus {
namespace {

class LocalReducer final : public DenseReducer {
 public:
  Status Reduce(std::span<const DenseStep> local, std::vector<RankNote>* notes,
                std::span<float> sum) override {
    bool any = false;
    for (std::size_t r = 0; r < local.size(); ++r) {
      (*notes)[r] = {local[r].samples, local[r].last ? 1u : 0u,
                     local[r].gradients != nullptr ? 1u : 0u};
      if (local[r].gradients == nullptr) {
        continue;
      }
      if (!any) {
        std::copy_n(local[r].gradients, sum.size(), sum.data());
        any = true;
        continue;
      }
      for (std::size_t i = 0; i < sum.size(); ++i) {
        sum[i] += local[r].gradients[i];
      }
    }
    return OkStatus();
  }
};

std::vector<std::uint32_t> AllBlocks(const JobPlan& plan) {
  std::vector<std::uint32_t> blocks(plan.dense.blocks().size());
  std::iota(blocks.begin(), blocks.end(), 0u);
  return blocks;
}

}  // namespace

std::unique_ptr<DenseReducer> MakeLocalReducer() { return std::make_unique<LocalReducer>(); }

DenseReplica::DenseReplica(std::shared_ptr<const JobPlan> plan, std::uint32_t local_ranks,
                           std::unique_ptr<DenseReducer> reducer)
    : plan_(plan),
      local_ranks_(local_ranks),
      reducer_(std::move(reducer)),
      store_(plan, AllBlocks(*plan)),
      values_(plan->dense.size(), 0.0f),
      sum_(plan->dense.size(), 0.0f) {
  for (std::size_t b = 0; b < store_.blocks().size(); ++b) {
    const DenseBlock& block = store_.block(b);
    std::copy_n(store_.at(b).data(), block.count, values_.data() + block.offset);
  }
}

StatusOr<DenseExchange::Result> DenseReplica::Step(const DenseStep& step) {
  std::unique_lock lock(mutex_);
  RETURN_IF_ERROR(status_);
  steps_.push_back(step);
  const std::uint64_t round = round_;
  if (steps_.size() == local_ranks_) {
    // Held while reducing: the others wait, and Cancel() reaches the reducer without the lock.
    std::sort(steps_.begin(), steps_.end(),
              [](const DenseStep& a, const DenseStep& b) { return a.rank < b.rank; });
    status_ = ReduceAndApply();
    steps_.clear();
    ++round_;
    done_.notify_all();
  } else {
    done_.wait(lock, [&] { return round_ != round || !status_.ok(); });
  }
  RETURN_IF_ERROR(status_);
  return result_;
}

void DenseReplica::Cancel(Status reason) {
  reducer_->Cancel();
  const std::lock_guard lock(mutex_);
  if (status_.ok()) {
    status_ = std::move(reason);
  }
  done_.notify_all();
}

Status DenseReplica::ReduceAndApply() {
  std::vector<RankNote> notes(plan_->ranks());
  RETURN_IF_ERROR(reducer_->Reduce(steps_, &notes, sum_));
  std::uint64_t samples = 0;
  bool any = false;
  result_.all_last = true;
  for (const RankNote& note : notes) {
    samples += note.samples;
    any = any || note.has_gradients != 0;
    result_.all_last = result_.all_last && note.last != 0;
  }
  if (samples == 0 || !any) {
    return OkStatus();
  }
  const float scale = 1.0f / static_cast<float>(samples);
  for (float& value : sum_) {
    value *= scale;
  }
  const double clip = plan_->job.train().clip_dense_norm();
  double squares = 0;
  for (std::size_t b = 0; clip > 0 && b < store_.blocks().size(); ++b) {
    if (store_.IsWeight(b)) {
      squares += SumOfSquares({sum_.data() + store_.block(b).offset, store_.block(b).count});
    }
  }
  const float dense_scale = ClipScale(squares, clip);
  for (std::size_t b = 0; b < store_.blocks().size(); ++b) {
    const DenseBlock& block = store_.block(b);
    store_.Apply(b, sum_.data() + block.offset, steps_.front().rate_factor, dense_scale);
    std::copy_n(store_.at(b).data(), block.count, values_.data() + block.offset);
  }
  return OkStatus();
}

std::vector<float> DenseReplica::BlockState(const std::vector<std::uint32_t>& blocks) const {
  std::vector<float> floats;
  for (const std::uint32_t b : blocks) {
    const std::span<const float> block = store_.at(b);
    floats.insert(floats.end(), block.begin(), block.end());
  }
  return floats;
}

}  // namespace plexus
