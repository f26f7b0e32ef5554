#include "worker/nn/gemm.h"

#include <bit>
#include <cmath>
#include <cstdint>
#include <cstdlib>
#include <memory>
#include <thread>
#include <vector>

#include <gtest/gtest.h>

#include "common/random.h"
#include "worker/nn/gemm_bf16.h"

namespace plexus {
namespace {

struct Free {
  void operator()(float* p) const { std::free(p); }
};
using Floats = std::unique_ptr<float, Free>;

// 64-byte aligned, `shift` cache lines into a buffer.
Floats Random(std::size_t count, std::uint64_t seed) {
  Floats floats(static_cast<float*>(std::aligned_alloc(64, (count * 4 / 64 + 1) * 64)));
  const CounterRandom random(seed, 0);
  for (std::size_t i = 0; i < count; ++i) {
    floats.get()[i] = 2 * random.Uniform(i) - 1;
  }
  return floats;
}

struct Product {
  GemmShape shape;
  bool a_transposed;
  bool b_transposed;
  bool accumulate;
};

// Largest distance of Gemm's result from a plain sum in double.
double ErrorOf(const Product& p, ProductPrecision precision) {
  const auto [m, n, k] = p.shape;
  const std::size_t a_stride = (p.a_transposed ? m : k) + 3;
  const std::size_t b_stride = (p.b_transposed ? k : n) + 5;
  const std::size_t c_stride = n + 1;
  const Floats a = Random((p.a_transposed ? k : m) * a_stride, 1);
  const Floats b = Random((p.b_transposed ? n : k) * b_stride, 2);
  const Floats before = Random(m * c_stride, 3);
  const Floats c = Random(m * c_stride, 3);
  Gemm<float>(p.shape, {a.get(), a_stride, p.a_transposed}, {b.get(), b_stride, p.b_transposed},
              {c.get(), c_stride, p.accumulate}, precision);
  double error = 0;
  for (std::size_t i = 0; i < m; ++i) {
    for (std::size_t j = 0; j < n; ++j) {
      double sum = p.accumulate ? before.get()[i * c_stride + j] : 0;
      for (std::size_t l = 0; l < k; ++l) {
        sum += double{a.get()[p.a_transposed ? l * a_stride + i : i * a_stride + l]} *
               b.get()[p.b_transposed ? j * b_stride + l : l * b_stride + j];
      }
      error = std::max(error, std::abs(sum - c.get()[i * c_stride + j]));
    }
    EXPECT_EQ(c.get()[i * c_stride + n], before.get()[i * c_stride + n]) << "wrote beyond a row";
  }
  return error;
}

std::vector<Product> Products() {
  std::vector<Product> products;
  for (const GemmShape shape : {GemmShape{1, 1, 1}, GemmShape{7, 5, 3}, GemmShape{64, 48, 100},
                                GemmShape{33, 129, 70}, GemmShape{5, 4, 0}, GemmShape{0, 4, 3}}) {
    for (int bits = 0; bits < 8; ++bits) {
      products.push_back({shape, (bits & 1) != 0, (bits & 2) != 0, (bits & 4) != 0});
    }
  }
  return products;
}

TEST(GemmTest, EqualsPlainSums) {
  for (const Product& product : Products()) {
    EXPECT_LT(ErrorOf(product, ProductPrecision::kFull), 1e-4)
        << product.shape.m << " x " << product.shape.n << " x " << product.shape.k;
  }
}

TEST(GemmTest, RoundsOperandsToBfloat16WhenAsked) {
  if (!CpuSupportsBf16()) {
    GTEST_SKIP() << "this CPU has no avx512_bf16";
  }
  for (const Product& product : Products()) {
    // 2^-8 an element, of products below 1, with random signs.
    const double bound = 0.02 * std::sqrt(static_cast<double>(product.shape.k)) + 1e-6;
    const double error = ErrorOf(product, ProductPrecision::kBf16);
    EXPECT_LT(error, bound) << product.shape.m << " x " << product.shape.n << " x "
                            << product.shape.k;
    if (product.shape.m > 1 && product.shape.k > 1) {
      EXPECT_GT(error, 1e-4) << "nothing was rounded";
    }
  }
}

TEST(GemmTest, RoundsToTheNearestEvenBfloat16) {
  const float values[] = {1.0F, -2.5F, 0x1.01p0F, 0x1.03p0F, 0x1.0101p0F};
  const std::uint16_t expected[] = {0x3f80, 0xc020, 0x3f80, 0x3f82, 0x3f81};
  std::uint16_t rounded[5];
  internal::RoundToBfloat16(values, 5, rounded);
  for (std::size_t i = 0; i < 5; ++i) {
    EXPECT_EQ(rounded[i], expected[i]) << i;
  }
  const float specials[] = {std::nanf(""), INFINITY, -INFINITY, std::bit_cast<float>(0x7fffffffU)};
  internal::RoundToBfloat16(specials, 4, rounded);
  EXPECT_GT(rounded[0] & 0x7fff, 0x7f80);
  EXPECT_EQ(rounded[1], 0x7f80);
  EXPECT_EQ(rounded[2], 0xff80);
  EXPECT_GT(rounded[3] & 0x7fff, 0x7f80);
}

TEST(GemmTest, GivesTheSameBitsInEveryThreadAndBuffer) {
  constexpr GemmShape kShape{100, 70, 130};
  const Floats a = Random(kShape.m * kShape.k, 1);
  const Floats b = Random(kShape.k * kShape.n, 2);
  const Floats expected = Random(kShape.m * kShape.n, 3);
  const auto multiply = [&](const float* left, float* result) {
    Gemm<float>(kShape, {left, kShape.k}, {b.get(), kShape.n}, {result, kShape.n});
  };
  multiply(a.get(), expected.get());
  for (std::size_t other = 0; other < 4; ++other) {
    const std::jthread thread([&] {
      const Floats displaced = Random(1 + 1000 * other, 9);
      const Floats copy = Random(kShape.m * kShape.k, 1);
      const Floats result = Random(kShape.m * kShape.n, 4);
      multiply(copy.get(), result.get());
      for (std::size_t e = 0; e < kShape.m * kShape.n; ++e) {
        ASSERT_EQ(std::bit_cast<std::uint32_t>(result.get()[e]),
                  std::bit_cast<std::uint32_t>(expected.get()[e]))
            << e;
      }
    });
  }
}

TEST(GemmTest, BatchOfSmallProductsEqualsSingleOnes) {
  constexpr GemmShape kShape{6, 19, 5};
  constexpr std::size_t kCount = 3;
  const Floats a = Random(kCount * 30, 1);
  const Floats b = Random(kCount * 95, 2);
  const Floats c = Random(kCount * 114, 3);
  GemmBatch<float>(kShape, {kCount, 30, 95, 114}, {a.get(), 5}, {b.get(), 5, true}, {c.get(), 19});
  const Floats expected = Random(114, 4);
  for (std::size_t s = 0; s < kCount; ++s) {
    Gemm<float>(kShape, {a.get() + s * 30, 5}, {b.get() + s * 95, 5, true}, {expected.get(), 19});
    for (std::size_t e = 0; e < 114; ++e) {
      EXPECT_NEAR(c.get()[s * 114 + e], expected.get()[e], 1e-5);
    }
  }
}

TEST(GemmTest, SupportsTheProfileOfThisBuild) {
  EXPECT_TRUE(CpuSupports(NumericProfile::kAvx2));
  EXPECT_TRUE(CpuSupports(NumericProfile::kAvx512) || !CpuSupportsBf16());
}

}  // namespace
}  // namespace plexus
