#include "ps/table/row_layout.h"

#include <algorithm>
#include <bit>
#include <cmath>
#include <cstring>
#include <limits>
#include <memory>
#include <string>
#include <vector>

#include <gtest/gtest.h>

namespace plexus {
namespace {

constexpr Precision kPrecisions[] = {Precision::kF32, Precision::kBf16, Precision::kF16,
                                     Precision::kInt8, Precision::kInt4};
constexpr OptimizerKind kKinds[] = {OptimizerKind::kSgd,     OptimizerKind::kMomentum,
                                    OptimizerKind::kAdagrad, OptimizerKind::kRowWiseAdagrad,
                                    OptimizerKind::kAdam,    OptimizerKind::kFtrl};

TableSpec Spec(Precision precision, Precision state_precision, OptimizerKind kind,
               std::uint32_t dim) {
  TableSpec spec;
  spec.dim = dim;
  spec.precision = precision;
  spec.state_precision = state_precision;
  spec.optimizer.kind = kind;
  spec.optimizer.learning_rate = 0.1f;
  return spec;
}

// A table's layout, and one record of it.
struct Row {
  std::unique_ptr<Optimizer> optimizer;
  RowLayout layout;
  std::vector<std::byte> record;

  explicit Row(const TableSpec& spec)
      : optimizer(MakeOptimizer(spec.optimizer)),
        layout(spec, *optimizer),
        record(layout.record_bytes() + 1, std::byte{0xee}) {}

  std::vector<float> Read() const {
    std::vector<float> floats(layout.floats());
    layout.Read(record.data(), floats.data());
    return floats;
  }
  bool EndIsWhole() const { return record.back() == std::byte{0xee}; }
};

// Values in (-1, 1), positive state, a step count where the rule has one.
std::vector<float> RandomFloats(const Row& row, std::uint32_t dim, std::uint64_t seed) {
  std::vector<float> floats(row.layout.floats());
  const CounterRandom random(17, seed);
  for (std::uint32_t i = 0; i < floats.size(); ++i) {
    floats[i] = i < dim ? 2 * random.Uniform(i) - 1 : random.Uniform(i) + 0.01f;
  }
  if (row.optimizer->exact_state_floats(dim) > 0) {
    floats.back() = std::bit_cast<float>(static_cast<std::uint32_t>(1000 + seed));
  }
  return floats;
}

// How far a decoded float may lie from what was written, by stochastic rounding.
float Step(Precision precision, float x, float largest) {
  switch (precision) {
    case Precision::kF32:
      return 0;
    case Precision::kBf16:
      return std::abs(x) * 0x1p-7f;
    case Precision::kF16:
      return std::max(std::abs(x) * 0x1p-10f, 0x1p-24f);
    default:
      return largest / static_cast<float>(LargestInteger(precision)) * 1.00001f;
  }
}

float LargestMagnitude(const float* values, std::size_t n) {
  float largest = 0;
  for (std::size_t i = 0; i < n; ++i) {
    largest = std::max(largest, std::abs(values[i]));
  }
  return largest;
}

TEST(RowLayoutTest, RecordsHaveTheSizesOfTheDocumentation) {
  const auto bytes = [](Precision precision, Precision state, OptimizerKind kind,
                        std::uint32_t dim) {
    return Row(Spec(precision, state, kind, dim)).layout.record_bytes();
  };
  constexpr auto kAdagrad = OptimizerKind::kAdagrad;
  constexpr auto kF32 = Precision::kF32;
  constexpr auto kBf16 = Precision::kBf16;
  EXPECT_EQ(bytes(kF32, kF32, kAdagrad, 16), 128u);
  EXPECT_EQ(bytes(kBf16, kF32, kAdagrad, 16), 96u);
  EXPECT_EQ(bytes(kBf16, kBf16, kAdagrad, 16), 64u);
  EXPECT_EQ(bytes(Precision::kInt8, kF32, kAdagrad, 16), 84u);
  EXPECT_EQ(bytes(Precision::kInt8, kBf16, kAdagrad, 16), 52u);
  EXPECT_EQ(bytes(Precision::kInt4, kBf16, kAdagrad, 16), 44u);
  EXPECT_EQ(bytes(Precision::kInt8, kBf16, OptimizerKind::kSgd, 16), 20u);
  EXPECT_EQ(bytes(Precision::kInt8, kBf16, OptimizerKind::kRowWiseAdagrad, 16), 24u);
  EXPECT_EQ(bytes(Precision::kInt8, kBf16, OptimizerKind::kAdam, 16), 88u);
  EXPECT_EQ(bytes(kBf16, kBf16, OptimizerKind::kAdam, 3), 8u + 12 + 4);
  EXPECT_EQ(bytes(Precision::kInt4, kF32, OptimizerKind::kSgd, 1), 8u);
}

TEST(RowLayoutTest, OnlyFloatsAreAPlainRecord) {
  for (const std::uint32_t dim : {1u, 2u, 16u}) {  // Padding makes some as long as floats.
    for (const OptimizerKind kind : kKinds) {
      for (const Precision precision : kPrecisions) {
        for (const Precision state : {Precision::kF32, Precision::kBf16}) {
          const Row row(Spec(precision, state, kind, dim));
          const bool stateless =
              kind == OptimizerKind::kSgd || kind == OptimizerKind::kRowWiseAdagrad;
          EXPECT_EQ(row.layout.plain(),
                    precision == Precision::kF32 && (state == Precision::kF32 || stateless));
        }
      }
    }
  }
}

TEST(RowLayoutTest, APlainRecordIsItsFloats) {
  for (const OptimizerKind kind : kKinds) {
    Row row(Spec(Precision::kF32, Precision::kF32, kind, 7));
    const std::vector<float> floats = RandomFloats(row, 7, 1);
    ASSERT_EQ(row.layout.record_bytes(), floats.size() * 4);
    row.layout.Create(floats.data(), CounterRandom(1, 2), row.record.data());
    EXPECT_EQ(std::memcmp(row.record.data(), floats.data(), floats.size() * 4), 0);
    EXPECT_TRUE(row.EndIsWhole());
    const std::vector<float> read = row.Read();
    EXPECT_EQ(std::memcmp(read.data(), floats.data(), floats.size() * 4), 0);
  }
}

TEST(RowLayoutTest, EveryCombinationReadsWhatWasWritten) {
  for (const OptimizerKind kind : kKinds) {
    for (const Precision precision : kPrecisions) {
      for (const Precision state : {Precision::kF32, Precision::kBf16}) {
        for (const std::uint32_t dim : {1u, 2u, 3u, 8u, 16u, 33u}) {
          Row row(Spec(precision, state, kind, dim));
          const std::vector<float> gradients(dim, 0.1f);
          for (std::uint64_t version = 0; version < 3; ++version) {
            const std::vector<float> floats = RandomFloats(row, dim, version);
            const CounterRandom random(1, 2, 3, version);
            if (version == 0) {
              row.layout.Create(floats.data(), random, row.record.data());
            } else {
              row.layout.Write(floats.data(), gradients.data(), dim, random, row.record.data());
            }
            ASSERT_TRUE(row.EndIsWhole());
            const std::vector<float> read = row.Read();
            const float largest = LargestMagnitude(floats.data(), dim);
            const std::uint32_t exact = row.optimizer->exact_state_floats(dim);
            for (std::uint32_t i = 0; i < floats.size(); ++i) {
              const bool rounded = i < floats.size() - exact;
              const Precision of = i < dim ? precision : rounded ? state : Precision::kF32;
              ASSERT_LE(std::abs(read[i] - floats[i]), Step(of, floats[i], largest))
                  << "float " << i << " of dim " << dim << " kind " << static_cast<int>(kind);
            }
            std::vector<float> prefix(dim);
            row.layout.ReadValues(row.record.data(), dim - dim / 2, prefix.data());
            ASSERT_TRUE(std::equal(prefix.begin(), prefix.end() - dim / 2, read.begin()));
          }
        }
      }
    }
  }
}

TEST(RowLayoutTest, WhatLiesBehindAPrefixKeepsItsBits) {
  for (const OptimizerKind kind : kKinds) {
    for (const Precision precision : kPrecisions) {
      for (const Precision state : {Precision::kF32, Precision::kBf16}) {
        for (const std::uint32_t dim : {2u, 5u, 16u}) {
          for (std::uint32_t active = 1; active < dim; ++active) {
            Row row(Spec(precision, state, kind, dim));
            row.layout.Create(RandomFloats(row, dim, 1).data(), CounterRandom(1, 1),
                              row.record.data());
            const std::vector<float> before = row.Read();
            std::vector<float> after = before;
            for (std::uint32_t i = 0; i < after.size(); ++i) {
              after[i] = i % dim < active ? after[i] * 0.77f : after[i];
            }
            // Only with a new largest value do the codes behind change.
            const std::vector<float> gradients(active, 0.0f);
            row.layout.Write(after.data(), gradients.data(), active, CounterRandom(1, 2),
                             row.record.data());
            const std::vector<float> read = row.Read();
            const float largest = LargestMagnitude(after.data(), dim);
            const std::uint32_t arrays = dim + row.layout.floats() / dim * dim - dim;
            for (std::uint32_t i = 0; i < arrays; ++i) {
              if (i % dim < active) {
                continue;
              }
              if (i < dim && HasScale(precision)) {
                ASSERT_LE(std::abs(read[i] - before[i]),
                          0.501f * Step(precision, before[i], largest))
                    << "value " << i << " of " << dim << ", active " << active;
              } else {
                ASSERT_EQ(std::bit_cast<std::uint32_t>(read[i]),
                          std::bit_cast<std::uint32_t>(before[i]))
                    << "float " << i << " of " << dim << ", active " << active;
              }
            }
            if (!HasScale(precision)) {
              ASSERT_NE(std::memcmp(read.data(), before.data(), active * 4), 0);
            }
            ASSERT_TRUE(row.EndIsWhole());
          }
        }
      }
    }
  }
}

TEST(RowLayoutTest, APrefixOfIntegersLeavesTheOthersIfTheScaleStays) {
  for (const Precision precision : {Precision::kInt8, Precision::kInt4}) {
    constexpr std::uint32_t kDim = 9;
    Row row(Spec(precision, Precision::kF32, OptimizerKind::kSgd, kDim));
    std::vector<float> floats = RandomFloats(row, kDim, 4);
    floats.back() = 2;  // The largest stays.
    row.layout.Create(floats.data(), CounterRandom(1, 1), row.record.data());
    for (std::uint64_t version = 2; version < 200; ++version) {
      const std::vector<float> before = row.Read();
      std::vector<float> after = before;
      const auto active = static_cast<std::uint32_t>(1 + version % (kDim - 1));
      for (std::uint32_t i = 0; i < active; ++i) {
        after[i] = 2 * CounterRandom(3, version).Uniform(i) - 1;
      }
      row.layout.Write(after.data(), after.data(), active, CounterRandom(1, 1, 1, version),
                       row.record.data());
      const std::vector<float> read = row.Read();
      for (std::uint32_t i = active; i < kDim; ++i) {
        ASSERT_EQ(read[i], before[i]) << "value " << i << " active " << active;
      }
    }
  }
}

TEST(RowLayoutTest, IsDeterministicAndDrawsByVersionAndElement) {
  const TableSpec spec = Spec(Precision::kInt8, Precision::kBf16, OptimizerKind::kAdagrad, 16);
  Row a(spec);
  Row b(spec);
  const std::vector<float> floats = RandomFloats(a, 16, 1);
  a.layout.Create(floats.data(), CounterRandom(1, 2, 3, 0), a.record.data());
  b.layout.Create(floats.data(), CounterRandom(1, 2, 3, 0), b.record.data());
  EXPECT_EQ(a.record, b.record);
  b.layout.Write(floats.data(), floats.data(), 16, CounterRandom(1, 2, 3, 1), b.record.data());
  EXPECT_NE(a.record, b.record) << "another version, other draws";

  // 16 equal values half way between integers: some go up, some down; state has draws of its own.
  std::vector<float> equal(a.layout.floats(), 0.5f + 0x1p-9f);
  equal[0] = 127;
  a.layout.Write(equal.data(), equal.data(), 16, CounterRandom(1, 2, 3, 2), a.record.data());
  const std::vector<float> read = a.Read();
  const auto ups = std::count(read.begin() + 1, read.begin() + 16, 1.0f);
  EXPECT_TRUE(ups > 1 && ups < 14) << ups;
  std::size_t different = 0;
  for (std::uint32_t i = 1; i < 16; ++i) {
    different += (read[i] == 1.0f) != (read[16 + i] > equal[1]) ? 1 : 0;
  }
  EXPECT_GT(different, 2u);

  Row adam(Spec(Precision::kF32, Precision::kBf16, OptimizerKind::kAdam, 16));
  const std::vector<float> tie(adam.layout.floats(), 1 + 0x1p-8f);
  adam.layout.Create(tie.data(), CounterRandom(1, 2, 3, 0), adam.record.data());
  const std::vector<float> moments = adam.Read();
  EXPECT_FALSE(std::equal(&moments[16], &moments[32], &moments[32])) << "first and second moments";
}

TEST(RowLayoutTest, SumsOfSquaresInBf16GrowByTheSquareOnAverage) {
  // 0.01^2 is far less than the distance of bf16 numbers at 1: nearest rounding would never move.
  constexpr std::uint32_t kDim = 64;
  constexpr std::uint64_t kSteps = 20000;
  TableSpec spec = Spec(Precision::kF32, Precision::kBf16, OptimizerKind::kAdagrad, kDim);
  spec.optimizer.learning_rate = 0;
  spec.optimizer.initial_accumulator = 1;
  Row row(spec);
  std::vector<float> floats(row.layout.floats(), 0.0f);
  row.optimizer->InitState(kDim, floats.data() + kDim);
  row.layout.Create(floats.data(), CounterRandom(2, 1, 1, 0), row.record.data());
  const std::vector<float> gradients(kDim, 0.01f);
  const Optimizer::RowStep step{floats.data(), gradients.data()};
  for (std::uint64_t version = 1; version <= kSteps; ++version) {
    row.layout.Read(row.record.data(), floats.data());
    row.optimizer->Apply({&step, 1}, kDim, kDim, 1.0f, 1.0f);
    row.layout.Write(floats.data(), gradients.data(), kDim, CounterRandom(2, 1, 1, version),
                     row.record.data());
  }
  const std::vector<float> read = row.Read();
  double sum = 0;
  double variance = 0;
  for (std::uint32_t i = 0; i < kDim; ++i) {
    sum += read[kDim + i];
  }
  const double mean = sum / kDim;
  for (std::uint32_t i = 0; i < kDim; ++i) {
    variance += (read[kDim + i] - mean) * (read[kDim + i] - mean) / (kDim - 1);
  }
  EXPECT_NEAR(mean, 1 + 0.0001 * kSteps, 3 * std::sqrt(variance / kDim));
  EXPECT_GT(variance, 0);
  EXPECT_LT(std::sqrt(variance / kDim), 0.05);
}

TEST(RowLayoutTest, SmallUpdatesOfIntegersAreNotLost) {
  constexpr std::uint32_t kDim = 64;
  Row row(Spec(Precision::kInt8, Precision::kF32, OptimizerKind::kSgd, kDim));
  std::vector<float> floats(kDim, 0.0f);
  floats[0] = 1.27f;  // Scale 0.01.
  row.layout.Create(floats.data(), CounterRandom(2, 1), row.record.data());
  for (std::uint64_t version = 1; version <= 1000; ++version) {
    row.layout.Read(row.record.data(), floats.data());
    for (std::uint32_t i = 1; i < kDim; ++i) {
      floats[i] += 0.0005f;  // A twentieth of an integer.
    }
    row.layout.Write(floats.data(), floats.data(), kDim, CounterRandom(2, 1, 1, version),
                     row.record.data());
  }
  const std::vector<float> read = row.Read();
  double sum = 0;
  for (std::uint32_t i = 1; i < kDim; ++i) {
    sum += read[i];
  }
  // One element's standard deviation is 0.01 sqrt(1000 * 0.05 * 0.95) = 0.07.
  EXPECT_NEAR(sum / (kDim - 1), 0.5, 3 * 0.07 / std::sqrt(kDim - 1));
}

TEST(RowLayoutTest, ValuesBeyondALearnedScaleSaturate) {
  for (const Precision precision : {Precision::kInt8, Precision::kInt4}) {
    TableSpec spec = Spec(precision, Precision::kF32, OptimizerKind::kSgd, 4);
    spec.learned_scale = true;
    Row row(spec);
    const std::vector<float> zeros(4, 0.0f);
    row.layout.Create(zeros.data(), CounterRandom(1, 1), row.record.data());
    const std::vector<float> large = {100, -100, std::numeric_limits<float>::max(), 0};
    row.layout.Write(large.data(), zeros.data(), 4, CounterRandom(1, 2), row.record.data());
    const float most = 0.01f * static_cast<float>(LargestInteger(precision));
    EXPECT_EQ(row.Read(), (std::vector<float>{most, -most, most, 0}));
  }
}

// From the definition, one element after the other.
float SlowScaleGradient(const std::vector<float>& values, const std::vector<float>& gradients,
                        float scale, std::int32_t largest_integer) {
  const auto largest = static_cast<float>(largest_integer);
  float lanes[8] = {};
  for (std::size_t i = 0; i < values.size(); ++i) {
    const float v = values[i] / scale;
    const float derivative = v >= largest    ? largest
                             : v <= -largest ? -largest
                                             : std::nearbyint(v) - v;
    const volatile float product = gradients[i] * derivative;  // Not fused with the addition.
    lanes[i % 8] += product;
  }
  return ((lanes[0] + lanes[4]) + (lanes[2] + lanes[6])) +
         ((lanes[1] + lanes[5]) + (lanes[3] + lanes[7]));
}

TEST(ScaleGradientTest, IsThatOfThePaper) {
  const auto of = [](float w, float g, std::int32_t largest) {
    return ScaleGradient(&w, &g, 1, 0.1f, largest);
  };
  EXPECT_NEAR(of(0.234f, 1, 127), -0.34, 1e-6);
  EXPECT_NEAR(of(-0.234f, 2, 127), 0.68, 1e-6);
  EXPECT_EQ(of(50, 0.25f, 127), 127 * 0.25f);
  EXPECT_EQ(of(-50, 0.25f, 127), -127 * 0.25f);
  EXPECT_EQ(of(50, 0.25f, 7), 7 * 0.25f);
}

TEST(ScaleGradientTest, EqualsItsScalarTwinBitForBit) {
  for (std::uint32_t n = 1; n <= 70; ++n) {
    const CounterRandom random(4, n);
    std::vector<float> values(n);
    std::vector<float> gradients(n);
    for (std::uint32_t i = 0; i < n; ++i) {
      values[i] = 6 * random.Uniform(i) - 3;
      gradients[i] = 2 * random.Uniform(1000 + i) - 1;
    }
    for (const std::int32_t largest : {7, 127}) {
      EXPECT_EQ(ScaleGradient(values.data(), gradients.data(), n, 0.017f, largest),
                SlowScaleGradient(values, gradients, 0.017f, largest));
    }
  }
}

TEST(RowLayoutTest, ALearnedScaleMovesAgainstItsGradient) {
  constexpr std::uint32_t kDim = 16;
  TableSpec spec = Spec(Precision::kInt8, Precision::kF32, OptimizerKind::kSgd, kDim);
  spec.learned_scale = true;
  spec.scale_learning_rate = 0.01f;
  const auto scale_of = [](const Row& row) {
    float scale;
    std::memcpy(&scale, row.record.data() + row.layout.value_bytes() - 4, 4);
    return scale;
  };
  Row row(spec);
  const std::vector<float> floats = RandomFloats(row, kDim, 3);  // Below 1: 0.01 stays.
  row.layout.Create(floats.data(), CounterRandom(1, 1), row.record.data());
  EXPECT_EQ(scale_of(row), 0.01f);
  std::vector<float> gradients(kDim);
  for (std::uint32_t i = 0; i < kDim; ++i) {
    gradients[i] = 2 * CounterRandom(5, 5).Uniform(i) - 1;
  }
  row.layout.Write(floats.data(), gradients.data(), kDim, CounterRandom(1, 2), row.record.data());
  const float gradient = SlowScaleGradient(floats, gradients, 0.01f, 127);
  EXPECT_NEAR(scale_of(row), 0.01f - 0.01f * gradient / std::sqrt(16.0f * 127.0f), 1e-8);
  EXPECT_NE(scale_of(row), 0.01f);

  // Never to zero or below, never away.
  for (const float sign : {1.0f, -1.0f}) {
    const float before = scale_of(row);
    const std::vector<float> large(kDim, 1e6f);
    const std::vector<float> steep(kDim, sign * 1e6f);
    row.layout.Write(large.data(), steep.data(), kDim, CounterRandom(1, 3), row.record.data());
    EXPECT_EQ(scale_of(row), sign > 0 ? before * 0.5f : before * 2);
    const float kept = scale_of(row);
    const std::vector<float> nan(kDim, std::numeric_limits<float>::quiet_NaN());
    row.layout.Write(large.data(), nan.data(), kDim, CounterRandom(1, 3), row.record.data());
    EXPECT_EQ(scale_of(row), kept);
  }

  std::vector<float> wide(kDim, 0.0f);
  wide[3] = -254;
  row.layout.Create(wide.data(), CounterRandom(1, 1), row.record.data());
  EXPECT_EQ(scale_of(row), 2.0f) << "the largest value's, if it is more";
}

}  // namespace
}  // namespace plexus
