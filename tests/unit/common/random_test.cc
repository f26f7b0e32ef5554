#include "common/random.h"

#include <cmath>
#include <set>
#include <vector>

#include <gtest/gtest.h>

namespace plexus {
namespace {

// Initial values and shuffles of every trained model depend on these.
TEST(CounterRandomTest, IsFixedForEver) {
  const CounterRandom zero(0, 0);
  EXPECT_EQ(zero.Bits(0), 0x816e583bfc71cbe5ULL);
  EXPECT_EQ(zero.Bits(1), 0x61cfcadb63c6b301ULL);
  EXPECT_EQ(zero.Bits(2), 0xd3ac71b7c6e657eaULL);
  const CounterRandom random(1, 2, 3, 4);
  EXPECT_EQ(random.Bits(0), 0x093b4993af51b0a6ULL);
  EXPECT_EQ(random.Bits(1), 0x33c232c0f3d66a60ULL);
  EXPECT_EQ(random.Bits(2), 0x66c39a90e46f100cULL);
  EXPECT_EQ(random.Uniform(1), 0.202181935f);
  EXPECT_EQ(random.UniformDouble(1), 0.20218198023561629);
  EXPECT_EQ(random.Below(1, 1000), 202u);
  EXPECT_NEAR(NormalDouble(random, 1), 0.97249915931890307, 1e-15);
}

TEST(CounterRandomTest, IsKnownAtCompileTime) {
  static_assert(CounterRandom(1, 2, 3, 4).Bits(1) == 0x33c232c0f3d66a60ULL);
}

TEST(CounterRandomTest, EveryPartOfTheCounterMatters) {
  std::set<std::uint64_t> seen;
  for (std::uint64_t a = 0; a < 2; ++a) {
    for (std::uint64_t b = 0; b < 2; ++b) {
      for (std::uint64_t c = 0; c < 2; ++c) {
        for (std::uint64_t d = 0; d < 2; ++d) {
          for (std::uint64_t e = 0; e < 2; ++e) {
            seen.insert(CounterRandom(a, b, c, d).Bits(e));
          }
        }
      }
    }
  }
  EXPECT_EQ(seen.size(), 32u);
}

TEST(CounterRandomTest, SymmetricIsOfUniform) {
  for (std::size_t n = 0; n < 40; ++n) {
    const CounterRandom random(7, n);
    std::vector<float> values(n + 1, -9.0f);
    random.Symmetric(0.3f, n, values.data());
    for (std::size_t e = 0; e < n; ++e) {
      ASSERT_EQ(values[e], (2.0f * random.Uniform(e) - 1.0f) * 0.3f) << e << " of " << n;
    }
    ASSERT_EQ(values[n], -9.0f);
  }
}

TEST(CounterRandomTest, UniformIsUniform) {
  constexpr int kDraws = 200000;
  const CounterRandom random(7, 7);
  double sum = 0;
  double squares = 0;
  for (int e = 0; e < kDraws; ++e) {
    const float u = random.Uniform(static_cast<std::uint64_t>(e));
    ASSERT_GE(u, 0.0f);
    ASSERT_LT(u, 1.0f);
    sum += u;
    squares += double{u} * u;
  }
  EXPECT_NEAR(sum / kDraws, 0.5, 0.004);
  EXPECT_NEAR(squares / kDraws, 1.0 / 3, 0.004);
}

TEST(CounterRandomTest, BelowStaysBelow) {
  const CounterRandom random(7, 8);
  for (const std::uint64_t bound : {1ULL, 2ULL, 3ULL, 1000ULL, ~0ULL}) {
    for (std::uint64_t e = 0; e < 1000; ++e) {
      ASSERT_LT(random.Below(e, bound), bound);
    }
  }
}

TEST(CounterRandomTest, NormalHasItsMoments) {
  constexpr int kDraws = 100000;
  double moments[5] = {};
  for (int key = 0; key < kDraws; ++key) {
    const double x = NormalDouble(CounterRandom(7, 9, static_cast<std::uint64_t>(key)), 3);
    for (int power = 1; power <= 4; ++power) {
      moments[power] += std::pow(x, power) / kDraws;
    }
  }
  EXPECT_NEAR(moments[1], 0, 0.02);
  EXPECT_NEAR(moments[2], 1, 0.03);
  EXPECT_NEAR(moments[3], 0, 0.08);
  EXPECT_NEAR(moments[4], 3, 0.25);
}

}  // namespace
}  // namespace plexus
