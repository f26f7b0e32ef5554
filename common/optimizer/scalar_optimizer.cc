// The rules once more, one element after the other and as close to their formulas as can be.
#include <algorithm>
#include <cmath>
#include <vector>

#include "common/optimizer/lanes.h"
#include "common/optimizer/optimizer.h"
#include "common/optimizer/step_power.h"

namespace plexus {
namespace {

class ScalarOptimizer final : public Optimizer {
 public:
  explicit ScalarOptimizer(const OptimizerOptions& options)
      : o_(options), name_(MakeOptimizer(options)->name()) {}

  std::string_view name() const override { return name_; }

  std::uint32_t state_floats(std::uint32_t dim) const override {
    switch (o_.kind) {
      case OptimizerKind::kSgd:
      case OptimizerKind::kAverage:
        return 0;
      case OptimizerKind::kMomentum:
      case OptimizerKind::kAdagrad:
        return dim;
      case OptimizerKind::kRowWiseAdagrad:
        return 1;
      case OptimizerKind::kAdam:
      case OptimizerKind::kAdamW:
        return 2 * dim + 1;
      case OptimizerKind::kFtrl:
        return 2 * dim;
    }
    return 0;
  }

  std::uint32_t exact_state_floats(std::uint32_t) const override {
    return o_.kind == OptimizerKind::kRowWiseAdagrad || CountsSteps() ? 1 : 0;
  }

  void InitState(std::uint32_t dim, float* state) const override {
    const bool accumulates =
        o_.kind == OptimizerKind::kAdagrad || o_.kind == OptimizerKind::kRowWiseAdagrad;
    std::fill_n(state, state_floats(dim), accumulates ? o_.initial_accumulator : 0.0f);
  }

  void Apply(std::span<const RowStep> steps, std::uint32_t dim, std::uint32_t active, float scale,
             float rate_factor) const override {
    std::vector<float> gradients(active);
    for (const RowStep& step : steps) {
      for (std::uint32_t i = 0; i < active; ++i) {
        gradients[i] = step.sums[i] * scale;
      }
      Row(step.row, dim, active, gradients.data(), o_.learning_rate * rate_factor);
    }
  }

 private:
  bool CountsSteps() const {
    return o_.kind == OptimizerKind::kAdam || o_.kind == OptimizerKind::kAdamW;
  }

  void Row(float* w, std::uint32_t dim, std::uint32_t active, const float* g, float rate) const {
    if (o_.kind == OptimizerKind::kRowWiseAdagrad) {
      RowWise(w, w[dim], active, g, rate);
      return;
    }
    const std::uint32_t t = CountsSteps() ? NextStep(w + 3 * dim) : 0;
    for (std::uint32_t i = 0; i < active; ++i) {
      Element(w[i], w + dim + i, w + 2 * dim + i, g[i], rate, t);
    }
  }

  // `s` and `s2` are this element's first and second state, where the rule has them.
  void Element(float& w, float* s, float* s2, float gradient, float rate, std::uint32_t t) const {
    const float g = gradient + o_.l2 * w;
    switch (o_.kind) {
      case OptimizerKind::kSgd:
        w = w - rate * g;
        break;
      case OptimizerKind::kMomentum:
        *s = o_.momentum * *s + g;
        w = w - rate * *s;
        break;
      case OptimizerKind::kAdagrad:
        *s = *s + g * g;
        w = w - (rate * g) / (std::sqrt(*s) + o_.epsilon);
        break;
      case OptimizerKind::kAdam:
      case OptimizerKind::kAdamW:
        AdamElement(w, *s, *s2, g, rate, t);
        break;
      case OptimizerKind::kFtrl:
        FtrlElement(w, *s, *s2, gradient, rate);
        break;
      case OptimizerKind::kAverage:
        w = w + o_.momentum * (gradient - w);
        break;
      case OptimizerKind::kRowWiseAdagrad:
        break;
    }
  }

  void RowWise(float* w, float& accumulator, std::uint32_t active, const float* g,
               float rate) const {
    accumulator =
        accumulator + ScalarSumOfSquares(g, 1.0f, w, o_.l2, active) / static_cast<float>(active);
    const float step = rate / (std::sqrt(accumulator) + o_.epsilon);
    for (std::uint32_t i = 0; i < active; ++i) {
      w[i] = w[i] - step * (g[i] + o_.l2 * w[i]);
    }
  }

  void AdamElement(float& w, float& m, float& v, float g, float rate, std::uint32_t t) const {
    m = o_.beta1 * m + static_cast<float>(1.0 - static_cast<double>(o_.beta1)) * g;
    v = o_.beta2 * v + static_cast<float>(1.0 - static_cast<double>(o_.beta2)) * (g * g);
    const float step = static_cast<float>(rate / (1.0 - StepPower(o_.beta1).Of(t)));
    const float correction = std::sqrt(static_cast<float>(1.0 / (1.0 - StepPower(o_.beta2).Of(t))));
    const float keep = o_.kind == OptimizerKind::kAdamW ? 1.0f - rate * o_.weight_decay : 1.0f;
    w = keep * w - (step * m) / (std::sqrt(v) * correction + o_.epsilon);
  }

  void FtrlElement(float& w, float& z, float& n, float g, float alpha) const {
    if (!(alpha > 0)) {
      return;
    }
    const float sigma = (std::sqrt(n + g * g) - std::sqrt(n)) / alpha;
    n = n + g * g;
    z = z + g - sigma * w;
    const float shrunk = std::min(std::max(z, -o_.l1), o_.l1) - z;  // sign(z) l1 - z, or 0
    w = shrunk / ((o_.beta + std::sqrt(n)) / alpha + o_.l2);
  }

  const OptimizerOptions o_;
  const std::string_view name_;
};

}  // namespace

std::unique_ptr<Optimizer> MakeScalarOptimizer(const OptimizerOptions& options) {
  return std::make_unique<ScalarOptimizer>(options);
}

}  // namespace plexus
