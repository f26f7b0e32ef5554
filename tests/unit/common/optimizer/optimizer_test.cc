#include "common/optimizer/optimizer.h"

#include <bit>
#include <cmath>
#include <cstring>
#include <span>
#include <string>
#include <vector>

#include <gtest/gtest.h>

#include "common/optimizer/lanes.h"
#include "common/optimizer/step_power.h"
#include "common/random.h"

namespace plexus {
namespace {

constexpr OptimizerKind kKinds[] = {OptimizerKind::kSgd,     OptimizerKind::kMomentum,
                                    OptimizerKind::kAdagrad, OptimizerKind::kAdam,
                                    OptimizerKind::kAdamW,   OptimizerKind::kRowWiseAdagrad,
                                    OptimizerKind::kFtrl,    OptimizerKind::kAverage};

OptimizerOptions Options(OptimizerKind kind) {
  OptimizerOptions options;
  options.kind = kind;
  options.learning_rate = 0.07f;
  options.momentum = 0.83f;
  options.initial_accumulator = 0.1f;
  options.l1 = 0.02f;
  options.l2 = 0.003f;
  options.weight_decay = 0.01f;
  return options;
}

// rows[i] with `active` gradients from gradients[i * active] on.
void ApplyTo(const Optimizer& rule, std::span<float* const> rows, std::uint32_t dim,
             std::uint32_t active, const float* gradients, float rate_factor, float scale = 1) {
  std::vector<Optimizer::RowStep> steps;
  for (std::size_t i = 0; i < rows.size(); ++i) {
    steps.push_back({rows[i], gradients + i * active});
  }
  rule.Apply(steps, dim, active, scale, rate_factor);
}

float Draw(const CounterRandom& random, std::uint64_t element) {
  return 2 * random.Uniform(element) - 1;
}

// Random weights and a state as the rule may hold it: sums of squares are positive, step counts are
// counts.
std::vector<float> RandomRow(OptimizerKind kind, std::uint32_t dim, std::uint32_t state,
                             const CounterRandom& random) {
  std::vector<float> row(dim + state);
  for (std::size_t i = 0; i < row.size(); ++i) {
    row[i] = Draw(random, i);
  }
  const auto positive = [&row](std::size_t first, std::size_t last) {
    for (std::size_t i = first; i < last; ++i) {
      row[i] = std::abs(row[i]) + 1e-6f;
    }
  };
  switch (kind) {
    case OptimizerKind::kAdagrad:
    case OptimizerKind::kRowWiseAdagrad:
      positive(dim, row.size());
      break;
    case OptimizerKind::kAdam:
    case OptimizerKind::kAdamW:
      positive(2 * dim, 3 * dim);
      row[3 * dim] = std::bit_cast<float>(static_cast<std::uint32_t>(random.Below(999, 5000)));
      break;
    case OptimizerKind::kFtrl:
      positive(2 * dim, 3 * dim);
      break;
    default:
      break;
  }
  return row;
}

bool SameBits(const std::vector<float>& a, const std::vector<float>& b) {
  return a.size() == b.size() && std::memcmp(a.data(), b.data(), a.size() * sizeof(float)) == 0;
}

TEST(OptimizerTest, FastRuleEqualsItsScalarTwinBitForBit) {
  for (const OptimizerKind kind : kKinds) {
    const auto fast = MakeOptimizer(Options(kind));
    const auto scalar = MakeScalarOptimizer(Options(kind));
    ASSERT_EQ(fast->name(), scalar->name());
    for (std::uint32_t dim = 1; dim <= 67; ++dim) {
      const std::uint32_t state = fast->state_floats(dim);
      ASSERT_EQ(state, scalar->state_floats(dim));
      constexpr std::size_t kRows = 11;
      std::vector<std::vector<float>> rows;
      std::vector<float*> pointers;
      std::vector<float> gradients;
      for (std::size_t r = 0; r < kRows; ++r) {
        const CounterRandom random(7, static_cast<std::uint64_t>(kind), dim, r);
        rows.push_back(RandomRow(kind, dim, state, random));
        for (std::uint32_t i = 0; i < dim; ++i) {
          gradients.push_back(Draw(random, 1000 + i));
        }
      }
      std::vector<std::vector<float>> twins = rows;
      std::vector<float*> twin_pointers;
      for (std::size_t r = 0; r < kRows; ++r) {
        pointers.push_back(rows[r].data());
        twin_pointers.push_back(twins[r].data());
      }
      for (const float factor : {1.0f, 0.37f, 0.0f, 2.5f}) {
        ApplyTo(*fast, pointers, dim, dim, gradients.data(), factor, 0.3f);
        ApplyTo(*scalar, twin_pointers, dim, dim, gradients.data(), factor, 0.3f);
      }
      for (std::size_t r = 0; r < kRows; ++r) {
        ASSERT_TRUE(SameBits(rows[r], twins[r])) << fast->name() << " dim " << dim;
        for (const float value : rows[r]) {
          ASSERT_TRUE(std::isfinite(value)) << fast->name() << " dim " << dim;
        }
      }
    }
  }
}

// Where the row of `dim` values may change in a step of the first `active`.
std::vector<bool> MayChange(const Optimizer& rule, std::uint32_t dim, std::uint32_t active) {
  const std::uint32_t exact = rule.exact_state_floats(dim);
  const std::uint32_t floats = dim + rule.state_floats(dim);
  std::vector<bool> may(floats);
  for (std::uint32_t i = 0; i < floats; ++i) {
    may[i] = i >= floats - exact || i % dim < active;
  }
  return may;
}

TEST(OptimizerTest, APrefixChangesNothingBehindItAndEqualsItsScalarTwin) {
  for (const OptimizerKind kind : kKinds) {
    const auto fast = MakeOptimizer(Options(kind));
    const auto scalar = MakeScalarOptimizer(Options(kind));
    for (const std::uint32_t dim : {2u, 5u, 8u, 16u, 31u, 64u}) {
      ASSERT_EQ(fast->exact_state_floats(dim), scalar->exact_state_floats(dim));
      const std::uint32_t state = fast->state_floats(dim);
      ASSERT_EQ((state - fast->exact_state_floats(dim)) % dim, 0u) << "arrays, then exact floats";
      for (std::uint32_t active = 1; active < dim; ++active) {
        const CounterRandom random(9, static_cast<std::uint64_t>(kind), dim, active);
        std::vector<float> gradients(2 * active);
        for (std::uint32_t i = 0; i < gradients.size(); ++i) {
          gradients[i] = Draw(random, 1000 + i);
        }
        const std::vector<float> start = RandomRow(kind, dim, state, random);
        std::vector<std::vector<float>> rows(4, start);  // Two fast, two twins.
        float* fast_rows[] = {rows[0].data(), rows[1].data()};
        float* scalar_rows[] = {rows[2].data(), rows[3].data()};
        for (const float factor : {1.0f, 0.4f}) {
          ApplyTo(*fast, fast_rows, dim, active, gradients.data(), factor, 1.9f);
          ApplyTo(*scalar, scalar_rows, dim, active, gradients.data(), factor, 1.9f);
        }
        ASSERT_TRUE(SameBits(rows[0], rows[2]) && SameBits(rows[1], rows[3]))
            << fast->name() << " dim " << dim << " active " << active;
        ASSERT_FALSE(SameBits(rows[0], rows[1])) << "each row has its gradients";
        const std::vector<bool> may = MayChange(*fast, dim, active);
        for (std::size_t i = 0; i < start.size(); ++i) {
          ASSERT_EQ(
              std::bit_cast<std::uint32_t>(rows[0][i]) != std::bit_cast<std::uint32_t>(start[i]),
              may[i])
              << fast->name() << " dim " << dim << " active " << active << " float " << i;
        }
      }
    }
  }
}

TEST(OptimizerTest, APrefixIsUpdatedAsARowOfItsOwn) {
  constexpr std::uint32_t kDim = 12;
  constexpr std::uint32_t kActive = 5;
  for (const OptimizerKind kind : kKinds) {
    const auto rule = MakeOptimizer(Options(kind));
    std::vector<float> row(kDim + rule->state_floats(kDim));
    std::vector<float> narrow(kActive + rule->state_floats(kActive));
    std::vector<float> gradients(kActive);
    for (std::uint32_t i = 0; i < kDim; ++i) {
      row[i] = Draw(CounterRandom(1, 1), i);
    }
    std::copy_n(row.begin(), kActive, narrow.begin());
    rule->InitState(kDim, row.data() + kDim);
    rule->InitState(kActive, narrow.data() + kActive);
    float* row_pointer = row.data();
    float* narrow_pointer = narrow.data();
    for (std::uint32_t step = 0; step < 10; ++step) {
      for (std::uint32_t i = 0; i < kActive; ++i) {
        gradients[i] = Draw(CounterRandom(2, step), i);
      }
      ApplyTo(*rule, {&row_pointer, 1}, kDim, kActive, gradients.data(), 0.9f);
      ApplyTo(*rule, {&narrow_pointer, 1}, kActive, kActive, gradients.data(), 0.9f);
    }
    for (std::uint32_t i = 0; i < kActive; ++i) {
      EXPECT_EQ(row[i], narrow[i]) << rule->name();
    }
    if (rule->exact_state_floats(kDim) > 0) {
      EXPECT_EQ(std::bit_cast<std::uint32_t>(row.back()),
                std::bit_cast<std::uint32_t>(narrow.back()))
          << rule->name();
    }
  }
}

TEST(OptimizerTest, ResultDoesNotDependOnAlignment) {
  for (const OptimizerKind kind : kKinds) {
    const auto optimizer = MakeOptimizer(Options(kind));
    constexpr std::uint32_t kDim = 29;
    const std::uint32_t state = optimizer->state_floats(kDim);
    const CounterRandom random(3, static_cast<std::uint64_t>(kind));
    const std::vector<float> start = RandomRow(kind, kDim, state, random);
    std::vector<float> expected;
    for (std::size_t shift = 0; shift < 16; ++shift) {
      std::vector<float> memory(start.size() + 16);
      std::vector<float> gradients(kDim + 16);
      std::copy(start.begin(), start.end(), memory.begin() + static_cast<std::ptrdiff_t>(shift));
      for (std::uint32_t i = 0; i < kDim; ++i) {
        gradients[15 - shift + i] = Draw(random, 500 + i);
      }
      float* row = memory.data() + shift;
      ApplyTo(*optimizer, {&row, 1}, kDim, kDim, gradients.data() + 15 - shift, 1.0f);
      const std::vector<float> result(row, row + start.size());
      if (shift == 0) {
        expected = result;
      }
      ASSERT_TRUE(SameBits(result, expected)) << optimizer->name() << " shift " << shift;
    }
  }
}

TEST(OptimizerTest, InitialStateIsTheAccumulatorOrZero) {
  for (const OptimizerKind kind : kKinds) {
    for (const auto& optimizer :
         {MakeOptimizer(Options(kind)), MakeScalarOptimizer(Options(kind))}) {
      std::vector<float> state(optimizer->state_floats(5), 99.0f);
      optimizer->InitState(5, state.data());
      const bool accumulates =
          kind == OptimizerKind::kAdagrad || kind == OptimizerKind::kRowWiseAdagrad;
      for (const float value : state) {
        EXPECT_EQ(value, accumulates ? 0.1f : 0.0f) << optimizer->name();
      }
    }
  }
}

TEST(OptimizerTest, NamesArePersistent) {
  std::string names;
  for (const OptimizerKind kind : kKinds) {
    names += std::string(MakeOptimizer(Options(kind))->name()) + " ";
  }
  EXPECT_EQ(names, "sgd momentum adagrad adam adam_w row_wise_adagrad ftrl average ");
}

// Runs `steps` steps of one row of three elements next to `reference(w, gradient, i, t)` in double.
template <typename Reference>
void ExpectFollows(const OptimizerOptions& options, int steps, double tolerance,
                   const Reference& reference) {
  const auto optimizer = MakeOptimizer(options);
  constexpr std::uint32_t kDim = 3;
  std::vector<float> row(kDim + optimizer->state_floats(kDim));
  double expected[kDim];
  for (std::uint32_t i = 0; i < kDim; ++i) {
    row[i] = 0.5f - 0.25f * static_cast<float>(i);
    expected[i] = row[i];
  }
  optimizer->InitState(kDim, row.data() + kDim);
  const CounterRandom random(11, 0);
  float* pointer = row.data();
  for (int t = 1; t <= steps; ++t) {
    float gradients[kDim];
    for (std::uint32_t i = 0; i < kDim; ++i) {
      gradients[i] = Draw(random, static_cast<std::uint64_t>(t) * 8 + i) + 0.1f;
      reference(&expected[i], static_cast<double>(gradients[i]), i, t);
    }
    ApplyTo(*optimizer, {&pointer, 1}, kDim, kDim, gradients, 1.0f);
  }
  for (std::uint32_t i = 0; i < kDim; ++i) {
    EXPECT_NEAR(row[i], expected[i], tolerance) << optimizer->name() << " element " << i;
  }
}

TEST(OptimizerTest, AdagradFollowsTorch) {
  OptimizerOptions options;
  options.kind = OptimizerKind::kAdagrad;
  options.learning_rate = 0.05f;
  options.epsilon = 1e-10f;
  double sum[3] = {};
  ExpectFollows(options, 1000, 1e-5, [&](double* w, double g, std::uint32_t i, int) {
    sum[i] += g * g;
    *w -= 0.05 * g / (std::sqrt(sum[i]) + 1e-10);
  });
}

TEST(OptimizerTest, AdamFollowsTorch) {
  OptimizerOptions options;
  options.kind = OptimizerKind::kAdam;
  options.learning_rate = 0.01f;
  double m[3] = {};
  double v[3] = {};
  ExpectFollows(options, 1000, 5e-5, [&](double* w, double g, std::uint32_t i, int t) {
    m[i] = 0.9 * m[i] + 0.1 * g;
    v[i] = 0.999 * v[i] + 0.001 * g * g;
    const double correction1 = 1 - std::pow(0.9, t);
    const double correction2 = 1 - std::pow(0.999, t);
    *w -= 0.01 / correction1 * m[i] / (std::sqrt(v[i]) / std::sqrt(correction2) + 1e-8);
  });
}

TEST(OptimizerTest, AdamWFollowsTorch) {
  OptimizerOptions options;
  options.kind = OptimizerKind::kAdamW;
  options.learning_rate = 0.01f;
  options.weight_decay = 0.05f;
  double m[3] = {};
  double v[3] = {};
  ExpectFollows(options, 1000, 5e-5, [&](double* w, double g, std::uint32_t i, int t) {
    *w *= 1 - 0.01 * 0.05;
    m[i] = 0.9 * m[i] + 0.1 * g;
    v[i] = 0.999 * v[i] + 0.001 * g * g;
    const double correction1 = 1 - std::pow(0.9, t);
    const double correction2 = 1 - std::pow(0.999, t);
    *w -= 0.01 / correction1 * m[i] / (std::sqrt(v[i]) / std::sqrt(correction2) + 1e-8);
  });
}

TEST(OptimizerTest, MomentumFollowsItsFormula) {
  OptimizerOptions options;
  options.kind = OptimizerKind::kMomentum;
  options.learning_rate = 0.01f;
  options.l2 = 0.02f;
  double v[3] = {};
  ExpectFollows(options, 1000, 2e-5, [&](double* w, double g, std::uint32_t i, int) {
    v[i] = 0.9 * v[i] + g + 0.02 * *w;
    *w -= 0.01 * v[i];
  });
}

TEST(OptimizerTest, FtrlFollowsItsPaper) {
  OptimizerOptions options;
  options.kind = OptimizerKind::kFtrl;
  options.learning_rate = 0.1f;
  options.l1 = 0.5f;
  options.l2 = 0.25f;
  double z[3] = {};
  double n[3] = {};
  ExpectFollows(options, 1000, 1e-4, [&](double* w, double g, std::uint32_t i, int) {
    const double sigma = (std::sqrt(n[i] + g * g) - std::sqrt(n[i])) / 0.1;
    z[i] += g - sigma * *w;
    n[i] += g * g;
    const double sign = z[i] < 0 ? -1 : 1;
    *w = std::abs(z[i]) <= 0.5 ? 0 : -(z[i] - sign * 0.5) / ((1.0 + std::sqrt(n[i])) / 0.1 + 0.25);
  });
}

TEST(OptimizerTest, FtrlMakesSmallWeightsExactlyZero) {
  OptimizerOptions options;
  options.kind = OptimizerKind::kFtrl;
  options.learning_rate = 0.5f;
  options.l1 = 10;
  const auto optimizer = MakeOptimizer(options);
  std::vector<float> row = {0.5f, 0, 0};
  const float gradient = 0.25f;
  float* pointer = row.data();
  ApplyTo(*optimizer, {&pointer, 1}, 1, 1, &gradient, 1.0f);
  EXPECT_EQ(std::bit_cast<std::uint32_t>(row[0]), 0u);
}

TEST(OptimizerTest, RowWiseAdagradKeepsOneAccumulator) {
  OptimizerOptions options;
  options.kind = OptimizerKind::kRowWiseAdagrad;
  options.learning_rate = 0.5f;
  options.epsilon = 0;
  const auto optimizer = MakeOptimizer(options);
  std::vector<float> row = {1, 1, 0};
  const float gradients[] = {1, 7};  // mean of squares 25
  float* pointer = row.data();
  ApplyTo(*optimizer, {&pointer, 1}, 2, 2, gradients, 1.0f);
  EXPECT_FLOAT_EQ(row[2], 25.0f);
  EXPECT_FLOAT_EQ(row[0], 0.9f);
  EXPECT_FLOAT_EQ(row[1], 0.3f);
}

TEST(OptimizerTest, AverageMovesTowardsTheStatistic) {
  OptimizerOptions options;
  options.kind = OptimizerKind::kAverage;
  options.momentum = 0.25f;
  const auto optimizer = MakeOptimizer(options);
  float value = 2;
  const float statistic = 6;
  float* pointer = &value;
  ApplyTo(*optimizer, {&pointer, 1}, 1, 1, &statistic, 0.0f);
  EXPECT_EQ(value, 3.0f);
}

TEST(StepPowerTest, AgreesWithPow) {
  for (const double beta : {0.9, 0.999, 0.99999, 0.0}) {
    const StepPower power(beta);
    for (const std::uint32_t t : {0u, 1u, 2u, 15u, 16u, 17u, 255u, 256u, 4095u, 70000u, 1u << 24,
                                  (1u << 24) + 1, 0x7f7fffffu}) {
      const double expected = std::pow(beta, t);
      EXPECT_NEAR(power.Of(t), expected, 1e-9 * expected + 1e-300) << beta << "^" << t;
    }
  }
}

TEST(StepPowerTest, CountsBeyondTheIntegersOfAFloatAndStopsAtTheLargest) {
  float slot = std::bit_cast<float>(1u << 24);
  EXPECT_EQ(NextStep(&slot), (1u << 24) + 1);
  EXPECT_EQ(NextStep(&slot), (1u << 24) + 2);
  slot = std::bit_cast<float>(kStepMax - 1);
  EXPECT_EQ(NextStep(&slot), kStepMax);
  EXPECT_EQ(NextStep(&slot), kStepMax);
  EXPECT_TRUE(std::isfinite(slot));
}

TEST(LanesTest, SumOfSquaresEqualsItsScalarTwinBitForBit) {
  const CounterRandom random(5, 5);
  std::vector<float> x(600);
  std::vector<float> w(600);
  for (std::size_t i = 0; i < x.size(); ++i) {
    x[i] = Draw(random, i);
    w[i] = Draw(random, 10000 + i);
  }
  for (std::uint32_t n = 0; n <= 512; ++n) {
    EXPECT_EQ(SumOfSquares(x.data() + n % 7, n),
              ScalarSumOfSquares(x.data() + n % 7, 1.0f, nullptr, 0, n));
    EXPECT_EQ(SumOfSquares(x.data(), 0.7f, w.data(), 0.3f, n),
              ScalarSumOfSquares(x.data(), 0.7f, w.data(), 0.3f, n));
  }
}

}  // namespace
}  // namespace plexus
