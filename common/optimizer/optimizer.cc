#include "common/optimizer/optimizer.h"

#include <algorithm>

#include <glog/logging.h>

#include "common/optimizer/lanes.h"
#include "common/optimizer/step_power.h"
#include "common/optimizer/vector_float.h"

namespace plexus {
namespace {

struct MeanGradients {
  template <typename V>
  V At(std::uint32_t i) const {
    return LoadFloats<V>(sums + i) * scale;
  }
  const float* sums;
  const float scale;
};

// What is common to the rules: the loop over rows.  A Rule has kName, kExactState (0 or 1),
// StateFloats(dim), initial_state() and Row(w, dim, active, g, rate).
template <typename Rule>
class VectorOptimizer final : public Optimizer {
 public:
  explicit VectorOptimizer(const OptimizerOptions& options) : rule_(options) {}

  std::string_view name() const override { return Rule::kName; }
  std::uint32_t state_floats(std::uint32_t dim) const override { return Rule::StateFloats(dim); }
  std::uint32_t exact_state_floats(std::uint32_t) const override { return Rule::kExactState; }
  void InitState(std::uint32_t dim, float* state) const override {
    std::fill_n(state, Rule::StateFloats(dim), rule_.initial_state());
  }

  void Apply(std::span<const RowStep> steps, std::uint32_t dim, std::uint32_t active, float scale,
             float rate_factor) const override {
    switch (active == dim ? dim : 0) {  // Lengths that the compiler knows are worth a fifth.
      case 8:
        return ApplyTo(steps, 8, 8, scale, rate_factor);
      case 16:
        return ApplyTo(steps, 16, 16, scale, rate_factor);
      case 32:
        return ApplyTo(steps, 32, 32, scale, rate_factor);
      default:
        return ApplyTo(steps, dim, active, scale, rate_factor);
    }
  }

 private:
  [[gnu::always_inline]] void ApplyTo(std::span<const RowStep> steps, std::uint32_t dim,
                                      std::uint32_t active, float scale, float rate_factor) const {
    for (const RowStep& step : steps) {
      rule_.Row(step.row, dim, active, MeanGradients{step.sums, scale}, rate_factor);
    }
  }

  const Rule rule_;
};

class Sgd {
 public:
  static constexpr std::string_view kName = "sgd";
  static constexpr std::uint32_t kExactState = 0;
  explicit Sgd(const OptimizerOptions& o) : learning_rate_(o.learning_rate), l2_(o.l2) {}
  static constexpr std::uint32_t StateFloats(std::uint32_t) { return 0; }
  float initial_state() const { return 0; }

  void Row(float* w, std::uint32_t, std::uint32_t active, MeanGradients g,
           float rate_factor) const {
    const float rate = learning_rate_ * rate_factor;
    ForEachFloats(active, [&]<typename V>(std::uint32_t i) {
      const V value = LoadFloats<V>(w + i);
      const V gradient = g.template At<V>(i) + l2_ * value;
      StoreFloats(w + i, value - rate * gradient);
    });
  }

 private:
  const float learning_rate_;
  const float l2_;
};

class Momentum {
 public:
  static constexpr std::string_view kName = "momentum";
  static constexpr std::uint32_t kExactState = 0;
  explicit Momentum(const OptimizerOptions& o)
      : learning_rate_(o.learning_rate), momentum_(o.momentum), l2_(o.l2) {}
  static constexpr std::uint32_t StateFloats(std::uint32_t dim) { return dim; }
  float initial_state() const { return 0; }

  void Row(float* w, std::uint32_t dim, std::uint32_t active, MeanGradients g,
           float rate_factor) const {
    const float rate = learning_rate_ * rate_factor;
    float* velocity = w + dim;
    ForEachFloats(active, [&]<typename V>(std::uint32_t i) {
      const V value = LoadFloats<V>(w + i);
      const V gradient = g.template At<V>(i) + l2_ * value;
      const V v = momentum_ * LoadFloats<V>(velocity + i) + gradient;
      StoreFloats(velocity + i, v);
      StoreFloats(w + i, value - rate * v);
    });
  }

 private:
  const float learning_rate_;
  const float momentum_;
  const float l2_;
};

class Adagrad {
 public:
  static constexpr std::string_view kName = "adagrad";
  static constexpr std::uint32_t kExactState = 0;
  explicit Adagrad(const OptimizerOptions& o)
      : learning_rate_(o.learning_rate),
        epsilon_(o.epsilon),
        l2_(o.l2),
        initial_(o.initial_accumulator) {}
  static constexpr std::uint32_t StateFloats(std::uint32_t dim) { return dim; }
  float initial_state() const { return initial_; }

  void Row(float* w, std::uint32_t dim, std::uint32_t active, MeanGradients g,
           float rate_factor) const {
    const float rate = learning_rate_ * rate_factor;
    float* accumulator = w + dim;
    ForEachFloats(active, [&]<typename V>(std::uint32_t i) {
      const V value = LoadFloats<V>(w + i);
      const V gradient = g.template At<V>(i) + l2_ * value;
      const V a = LoadFloats<V>(accumulator + i) + gradient * gradient;
      StoreFloats(accumulator + i, a);
      StoreFloats(w + i, value - (rate * gradient) / (SquareRoot(a) + epsilon_));
    });
  }

 private:
  const float learning_rate_;
  const float epsilon_;
  const float l2_;
  const float initial_;
};

class RowWiseAdagrad {
 public:
  static constexpr std::string_view kName = "row_wise_adagrad";
  static constexpr std::uint32_t kExactState = 1;
  explicit RowWiseAdagrad(const OptimizerOptions& o)
      : learning_rate_(o.learning_rate),
        epsilon_(o.epsilon),
        l2_(o.l2),
        initial_(o.initial_accumulator) {}
  static constexpr std::uint32_t StateFloats(std::uint32_t) { return 1; }
  float initial_state() const { return initial_; }

  void Row(float* w, std::uint32_t dim, std::uint32_t active, MeanGradients g,
           float rate_factor) const {
    float& accumulator = w[dim];
    accumulator += SumOfSquares(g.sums, g.scale, w, l2_, active) / static_cast<float>(active);
    const float step = (learning_rate_ * rate_factor) / (SquareRoot(accumulator) + epsilon_);
    ForEachFloats(active, [&]<typename V>(std::uint32_t i) {
      const V value = LoadFloats<V>(w + i);
      const V gradient = g.template At<V>(i) + l2_ * value;
      StoreFloats(w + i, value - step * gradient);
    });
  }

 private:
  const float learning_rate_;
  const float epsilon_;
  const float l2_;
  const float initial_;
};

// Adam, and AdamW if kDecoupled.  State: first moments, second moments, the row's step count.
template <bool kDecoupled>
class Adam {
 public:
  static constexpr std::string_view kName = kDecoupled ? "adam_w" : "adam";
  static constexpr std::uint32_t kExactState = 1;
  explicit Adam(const OptimizerOptions& o) : options_(o), power1_(o.beta1), power2_(o.beta2) {}
  static constexpr std::uint32_t StateFloats(std::uint32_t dim) { return 2 * dim + 1; }
  float initial_state() const { return 0; }

  void Row(float* w, std::uint32_t dim, std::uint32_t active, MeanGradients g,
           float rate_factor) const {
    float* first = w + dim;
    float* second = first + dim;
    const std::uint32_t t = NextStep(second + dim);
    const float rate = options_.learning_rate * rate_factor;
    const float step = static_cast<float>(rate / (1.0 - power1_.Of(t)));
    const float correction =
        SquareRoot(static_cast<float>(1.0 / (1.0 - power2_.Of(t))));  // 1 / sqrt(1 - beta2^t)
    const float keep = kDecoupled ? 1.0f - rate * options_.weight_decay : 1.0f;
    const float beta1 = options_.beta1;
    const float beta2 = options_.beta2;
    const float new1 = static_cast<float>(1.0 - static_cast<double>(beta1));
    const float new2 = static_cast<float>(1.0 - static_cast<double>(beta2));
    ForEachFloats(active, [&]<typename V>(std::uint32_t i) {
      const V value = LoadFloats<V>(w + i);
      const V gradient = g.template At<V>(i) + options_.l2 * value;
      const V m = beta1 * LoadFloats<V>(first + i) + new1 * gradient;
      const V v = beta2 * LoadFloats<V>(second + i) + new2 * (gradient * gradient);
      StoreFloats(first + i, m);
      StoreFloats(second + i, v);
      const V denominator = SquareRoot(v) * correction + options_.epsilon;
      StoreFloats(w + i, keep * value - (step * m) / denominator);
    });
  }

 private:
  const OptimizerOptions options_;
  const StepPower power1_;
  const StepPower power2_;
};

// FTRL-proximal (McMahan et al. 2013, algorithm 1).  State: z, then n.  A rate of 0 leaves the row
// as it is.
class Ftrl {
 public:
  static constexpr std::string_view kName = "ftrl";
  static constexpr std::uint32_t kExactState = 0;
  explicit Ftrl(const OptimizerOptions& o) : options_(o) {}
  static constexpr std::uint32_t StateFloats(std::uint32_t dim) { return 2 * dim; }
  float initial_state() const { return 0; }

  void Row(float* w, std::uint32_t dim, std::uint32_t active, MeanGradients g,
           float rate_factor) const {
    const float alpha = options_.learning_rate * rate_factor;
    if (!(alpha > 0)) {
      return;
    }
    float* linear = w + dim;
    float* squares = linear + dim;
    ForEachFloats(active, [&]<typename V>(std::uint32_t i) {
      const V gradient = g.template At<V>(i);
      const V old_n = LoadFloats<V>(squares + i);
      const V n = old_n + gradient * gradient;
      const V root = SquareRoot(n);
      const V sigma = (root - SquareRoot(old_n)) / alpha;
      const V z = LoadFloats<V>(linear + i) + gradient - sigma * LoadFloats<V>(w + i);
      StoreFloats(squares + i, n);
      StoreFloats(linear + i, z);
      StoreFloats(w + i,
                  (Clamp(z, options_.l1) - z) / ((options_.beta + root) / alpha + options_.l2));
    });
  }

 private:
  const OptimizerOptions options_;
};

class Average {
 public:
  static constexpr std::string_view kName = "average";
  static constexpr std::uint32_t kExactState = 0;
  explicit Average(const OptimizerOptions& o) : momentum_(o.momentum) {}
  static constexpr std::uint32_t StateFloats(std::uint32_t) { return 0; }
  float initial_state() const { return 0; }

  void Row(float* w, std::uint32_t, std::uint32_t active, MeanGradients g, float) const {
    ForEachFloats(active, [&]<typename V>(std::uint32_t i) {
      const V value = LoadFloats<V>(w + i);
      StoreFloats(w + i, value + momentum_ * (g.template At<V>(i) - value));
    });
  }

 private:
  const float momentum_;
};

}  // namespace

std::unique_ptr<Optimizer> MakeOptimizer(const OptimizerOptions& options) {
  switch (options.kind) {
    case OptimizerKind::kSgd:
      return std::make_unique<VectorOptimizer<Sgd>>(options);
    case OptimizerKind::kMomentum:
      return std::make_unique<VectorOptimizer<Momentum>>(options);
    case OptimizerKind::kAdagrad:
      return std::make_unique<VectorOptimizer<Adagrad>>(options);
    case OptimizerKind::kRowWiseAdagrad:
      return std::make_unique<VectorOptimizer<RowWiseAdagrad>>(options);
    case OptimizerKind::kAdam:
      return std::make_unique<VectorOptimizer<Adam<false>>>(options);
    case OptimizerKind::kAdamW:
      return std::make_unique<VectorOptimizer<Adam<true>>>(options);
    case OptimizerKind::kFtrl:
      return std::make_unique<VectorOptimizer<Ftrl>>(options);
    case OptimizerKind::kAverage:
      return std::make_unique<VectorOptimizer<Average>>(options);
  }
  LOG(FATAL) << "unknown optimizer kind " << static_cast<int>(options.kind);
}

}  // namespace plexus
