#include "common/precision/finite.h"

#include <cmath>
#include <cstring>
#include <limits>
#include <vector>

#include <gtest/gtest.h>

namespace plexus {
namespace {

constexpr float kInfinity = std::numeric_limits<float>::infinity();
constexpr float kBad[] = {kInfinity, -kInfinity, std::numeric_limits<float>::quiet_NaN(),
                          -std::numeric_limits<float>::quiet_NaN(),
                          std::numeric_limits<float>::signaling_NaN()};

TEST(FiniteTest, FindsEachBadValueAtEachPlaceAndAddress) {
  for (const std::size_t n : {1u, 2u, 15u, 16u, 17u, 33u, 100u}) {
    for (std::size_t offset = 0; offset < 3; ++offset) {
      std::vector<float> floats(n + offset, std::numeric_limits<float>::max());
      EXPECT_TRUE(AllFinite(floats.data() + offset, n));
      for (std::size_t i = 0; i < n; ++i) {
        for (const float bad : kBad) {
          floats[offset + i] = bad;
          EXPECT_FALSE(AllFinite(floats.data() + offset, n)) << i << " of " << n;
        }
        floats[offset + i] = -std::numeric_limits<float>::max();
      }
      EXPECT_TRUE(AllFinite(floats.data() + offset, n));
    }
  }
  EXPECT_TRUE(AllFinite(nullptr, 0));
}

TEST(FiniteTest, LooksOnlyAtItsOwnValues) {
  const float floats[] = {kInfinity, 1, 2, kInfinity};
  EXPECT_TRUE(AllFinite(floats + 1, 2));
}

TEST(FiniteTest, EveryBf16AndF16IsJudgedAsItDecodes) {
  for (const Precision precision : {Precision::kBf16, Precision::kF16}) {
    for (std::uint32_t bits = 0; bits < 65536; ++bits) {
      const auto half = static_cast<std::uint16_t>(bits);
      std::uint8_t row[4] = {};
      std::memcpy(row, &half, sizeof(half));
      float value = 0;
      DecodeWireRow(precision, row, 1, &value);
      ASSERT_EQ(WireRowsAreFinite(precision, row, 1, 1), std::isfinite(value)) << bits;
    }
  }
}

TEST(FiniteTest, WhatIsEncodedFromFiniteValuesIsFinite) {
  for (const Precision precision :
       {Precision::kF32, Precision::kBf16, Precision::kF16, Precision::kInt8, Precision::kInt4}) {
    std::vector<float> floats = {std::numeric_limits<float>::max(),  -1, 0,    1e-45f,
                                 -std::numeric_limits<float>::max(), 3,  1e38f};
    std::vector<std::uint8_t> wire(WireRowBytes(precision, 7) * 2);
    EncodeWireRow(precision, floats.data(), 7, wire.data());
    EncodeWireRow(precision, floats.data(), 7, wire.data() + wire.size() / 2);
    EXPECT_TRUE(WireRowsAreFinite(precision, wire.data(), 2, 7));
  }
}

TEST(FiniteTest, AScaleDecidesForItsRow) {
  for (const float bad : {kInfinity, std::numeric_limits<float>::quiet_NaN(), 3e36f}) {
    std::vector<std::uint8_t> wire(WireRowBytes(Precision::kInt8, 5) * 3, 0xff);
    for (std::size_t row = 0; row < 3; ++row) {
      const float scale = row == 1 ? bad : 1.0f;
      std::memcpy(wire.data() + row * wire.size() / 3, &scale, sizeof(scale));
    }
    EXPECT_FALSE(WireRowsAreFinite(Precision::kInt8, wire.data(), 3, 5)) << bad;
    EXPECT_TRUE(WireRowsAreFinite(Precision::kInt8, wire.data(), 1, 5));
  }
}

}  // namespace
}  // namespace plexus
