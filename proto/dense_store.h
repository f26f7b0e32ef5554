// DenseStore: some blocks of the dense parameters with their optimizer state, and how a step
// changes them.
//
// Shards hold the blocks that they own; under dense_sync MPI each worker process holds all of them.
// Both run this same code on the same sums, so the bits agree.
//
// Thread safety: none.
#pragma once

#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "common/hash.h"
#include "common/optimizer/optimizer.h"
#include "common/status.h"
#include "proto/plan.h"

namespace plexus {

class DenseStore {
 public:
  // `blocks`: ascending indices into the layout's blocks, set to their initial values.
  DenseStore(std::shared_ptr<const JobPlan> plan, std::vector<std::uint32_t> blocks);

  const std::vector<std::uint32_t>& blocks() const { return blocks_; }
  const DenseBlock& block(std::size_t position) const {
    return plan_->dense.blocks()[blocks_[position]];
  }
  // Floats of all values; of all values and state.
  std::uint64_t value_floats() const { return value_floats_; }
  std::uint64_t state_floats() const { return floats_.size(); }

  // Values followed by state of the block at `position`.
  std::span<const float> at(std::size_t position) const;
  // Values of all blocks, one after the other, to `out`.
  void CopyValues(float* out) const;
  // Values and state of all blocks, as they lie.
  std::span<const float> everything() const { return floats_; }
  // REQUIRES: floats.size() == state_floats().
  void Replace(std::span<const float> floats);
  // kInvalidArgument: the block needs another number of floats.
  Status ReplaceBlock(std::size_t position, std::span<const float> floats);

  // One step of the block at `position`; `mean_gradient` is scaled in place by `dense_scale`
  // (weights only).
  void Apply(std::size_t position, float* mean_gradient, float rate_factor, float dense_scale);

  // Whether the block's gradient counts for clipping by the norm of all.
  bool IsWeight(std::size_t position) const;

  std::uint64_t memory_bytes() const { return floats_.size() * sizeof(float); }
  Digest128 Digest() const;

 private:
  const Optimizer& RuleOf(const DenseBlock& block) const;

  const std::shared_ptr<const JobPlan> plan_;
  const std::vector<std::uint32_t> blocks_;
  const std::unique_ptr<Optimizer> weight_rule_;
  const std::unique_ptr<Optimizer> statistic_rule_;
  std::vector<std::uint64_t> offsets_;  // blocks + 1.
  std::vector<float> floats_;
  std::uint64_t value_floats_ = 0;
};

// Sum of squares in one chain of additions: the same wherever it is computed.
double SumOfSquares(std::span<const float> values);

// The scale that clips a norm of sqrt(sum_of_squares) to `clip`; 1 if it is below, or clip is 0.
float ClipScale(double sum_of_squares, double clip);

}  // namespace plexus
