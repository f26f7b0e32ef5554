#include "worker/nn/kernels.h"

#include <cmath>
#include <cstring>
#include <vector>

#include <gtest/gtest.h>

#include "common/random.h"

namespace plexus {
namespace {

std::vector<float> Random(std::size_t count, std::uint64_t seed) {
  std::vector<float> values(count);
  const CounterRandom random(seed, 0);
  for (std::size_t i = 0; i < count; ++i) {
    values[i] = 2 * random.Uniform(i) - 1;
  }
  return values;
}

TEST(KernelsTest, EqualScalarSumsForAllShortLengths) {
  for (std::size_t n = 0; n <= 67; ++n) {
    const std::vector<float> a = Random(n, 1);
    const std::vector<float> b = Random(n, 2);
    double dot = 0;
    double sum = 0;
    double squares = 0;
    for (std::size_t i = 0; i < n; ++i) {
      dot += double{a[i]} * b[i];
      sum += a[i];
      squares += (a[i] - 0.25) * (a[i] - 0.25);
    }
    EXPECT_NEAR(Dot(a.data(), b.data(), n), dot, 1e-5) << n;
    EXPECT_NEAR(Sum(a.data(), n), sum, 1e-5) << n;
    EXPECT_NEAR(SumOfSquaredDistances(a.data(), 0.25F, n), squares, 1e-5) << n;
  }
}

TEST(KernelsTest, ExpIsNearlyExact) {
  for (float x = -86.9F; x < 88.0F; x += 0.0137F) {
    const double exact = std::exp(static_cast<double>(x));
    ASSERT_NEAR(Exp(x) / exact, 1, 2.5e-7) << x;
  }
  EXPECT_EQ(Exp(0.0F), 1);
  EXPECT_LT(Exp(-INFINITY), 1e-37F);
  EXPECT_TRUE(std::isnan(Exp(std::nanf(""))));
}

TEST(KernelsTest, GiveTheSameBitsAtEveryAddress) {
  constexpr std::size_t kCount = 1003;
  const std::vector<float> a = Random(kCount, 3);
  const float expected = Sum(a.data(), kCount);
  std::vector<float> shifted(kCount + 16);
  for (std::size_t shift = 0; shift < 16; ++shift) {
    std::memcpy(shifted.data() + shift, a.data(), kCount * sizeof(float));
    EXPECT_EQ(Sum(shifted.data() + shift, kCount), expected) << shift;
    EXPECT_EQ(Dot(shifted.data() + shift, shifted.data() + shift, kCount),
              Dot(a.data(), a.data(), kCount))
        << shift;
  }
}

}  // namespace
}  // namespace plexus
