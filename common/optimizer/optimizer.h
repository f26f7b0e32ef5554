// Optimizer: an update rule over rows.  Used by the shards (rows of tables, blocks of dense
// parameters) and, under dense_sync MPI, by the workers.
//
// All that a rule remembers lies in the row, as `state_floats(dim)` floats beside the `dim` values;
// save, restore and spill therefore know no optimizer.  The state's first content is InitState().
// A rule is elementwise but for row-wise accumulators and step counts, which lie in the row as
// well.  Every kernel has a scalar twin (tests/unit/common/optimizer/optimizer_test.cc compares
// them from random values and states).
//
// Thread safety: immutable after creation.
#pragma once

#include <cstdint>
#include <memory>
#include <span>
#include <string_view>

namespace plexus {

enum class OptimizerKind {
  kSgd,
  kMomentum,
  kAdagrad,
  kRowWiseAdagrad,
  kAdam,
  kAdamW,
  kFtrl,
  kAverage
};

struct OptimizerOptions {
  OptimizerKind kind = OptimizerKind::kSgd;
  float learning_rate = 0.001f;
  float momentum = 0.9f;  // kAverage: value += momentum * (gradient - value), for batch-norm's
                          // running statistics.
  float beta1 = 0.9f;
  float beta2 = 0.999f;
  float epsilon = 1e-8f;
  float initial_accumulator = 0.0f;
  float l1 = 0.0f;
  float l2 = 0.0f;
  float beta = 1.0f;
  float weight_decay = 0.0f;
};

class Optimizer {
 public:
  virtual ~Optimizer() = default;

  // Persistent: part of the saved model's format.
  virtual std::string_view name() const = 0;
  virtual std::uint32_t state_floats(std::uint32_t dim) const = 0;
  virtual void InitState(std::uint32_t dim, float* state) const = 0;

  // How many floats at the state's end are one a row and need all their bits: a step count (the
  // pattern of an integer), a row-wise accumulator.  Before them lie arrays of `dim` floats.
  virtual std::uint32_t exact_state_floats(std::uint32_t dim) const = 0;

  // One step of each row, `dim` values followed by state, with the mean gradients of its first
  // `active` values: `scale` times its sums.  Values and state behind them stay as they are; what a
  // rule keeps one a row is of the active values alone.  `rate_factor` multiplies the learning rate
  // (warm-up, decay).  REQUIRES: no row twice; 1 <= active <= dim.
  struct RowStep {
    float* row;
    const float* sums;
  };
  virtual void Apply(std::span<const RowStep> steps, std::uint32_t dim, std::uint32_t active,
                     float scale, float rate_factor) const = 0;
};

// The vectorised rules.
std::unique_ptr<Optimizer> MakeOptimizer(const OptimizerOptions& options);

// The slow, obvious twins, for tests.  Results agree bit for bit.
std::unique_ptr<Optimizer> MakeScalarOptimizer(const OptimizerOptions& options);

}  // namespace plexus
