#include "common/precision/precision.h"

#include <algorithm>
#include <bit>
#include <cmath>
#include <limits>
#include <string>
#include <vector>

#include <gtest/gtest.h>

#include "common/random.h"

namespace plexus {
namespace {

constexpr Precision kNarrow[] = {Precision::kBf16, Precision::kF16, Precision::kInt8,
                                 Precision::kInt4};
constexpr float kInfinity = std::numeric_limits<float>::infinity();
constexpr float kNan = std::numeric_limits<float>::quiet_NaN();
constexpr float kMax = std::numeric_limits<float>::max();

std::uint32_t BitsOf(float x) { return std::bit_cast<std::uint32_t>(x); }
float FloatOf(std::uint32_t bits) { return std::bit_cast<float>(bits); }

// The twins: one element after the other, from the definitions.

// Bits of a half or bfloat16 number: `exponent_bits` and `fraction_bits` behind the sign.
struct SmallFloat {
  int exponent_bits;
  int fraction_bits;

  int bias() const { return (1 << (exponent_bits - 1)) - 1; }
  std::uint32_t infinity() const { return ((1u << exponent_bits) - 1) << fraction_bits; }

  double Decode(std::uint32_t bits) const {
    const std::uint32_t magnitude = bits & ((1u << (exponent_bits + fraction_bits)) - 1);
    const double sign = (bits >> (exponent_bits + fraction_bits)) != 0 ? -1 : 1;
    const auto exponent = static_cast<int>(magnitude >> fraction_bits);
    const std::uint32_t fraction = magnitude & ((1u << fraction_bits) - 1);
    if (magnitude >= infinity()) {
      return fraction != 0 ? kNan : sign * kInfinity;
    }
    const double significand = std::ldexp(fraction, -fraction_bits) + (exponent == 0 ? 0.0 : 1.0);
    return sign * std::ldexp(significand, std::max(exponent, 1) - bias());
  }

  // The number below or at the finite |x|, by bisection over all bit patterns.
  std::uint32_t Below(double magnitude) const {
    std::uint32_t low = 0;
    std::uint32_t high = infinity();
    while (high - low > 1) {
      const std::uint32_t middle = (low + high) / 2;
      (Decode(middle) <= magnitude ? low : high) = middle;
    }
    return low;
  }

  std::uint32_t Special(float x) const {
    const std::uint32_t sign = std::signbit(x) ? 1u << (exponent_bits + fraction_bits) : 0;
    const std::uint32_t payload = (BitsOf(x) & 0x7fffff) >> (23 - fraction_bits);
    const std::uint32_t quiet = 1u << (fraction_bits - 1);
    return sign | infinity() | (std::isnan(x) ? payload | quiet : 0);
  }

  // `up(where)`: is a number that lies at `where` (0 to 1) between its neighbours rounded up?
  template <typename Up>
  std::uint32_t Encode(float x, const Up& up) const {
    if (!std::isfinite(x)) {
      return Special(x);
    }
    const double magnitude = std::abs(static_cast<double>(x));
    std::uint32_t result = Below(magnitude);
    if (result + 1 < infinity()) {
      const double lower = Decode(result);
      const double where = (magnitude - lower) / (Decode(result + 1) - lower);
      result += up(where, result % 2 == 1) ? 1 : 0;
    }
    return result | (std::signbit(x) ? 1u << (exponent_bits + fraction_bits) : 0);
  }
};

SmallFloat FormatOf(Precision precision) {
  return precision == Precision::kBf16 ? SmallFloat{8, 7} : SmallFloat{5, 10};
}

bool UpIfNearer(double where, bool lower_is_odd) {
  return where > 0.5 || (where == 0.5 && lower_is_odd);
}

// x in units of `scale`, as the float nearest to it within range.
float InScale(Precision precision, float x, float scale) {
  const auto largest = static_cast<float>(LargestInteger(precision));
  return std::isfinite(x) ? std::clamp(x / scale, -largest, largest) : 0.0f;
}

std::int32_t NearestCode(Precision precision, float x, float scale) {
  if (HasScale(precision)) {
    return static_cast<std::int32_t>(std::nearbyint(InScale(precision, x, scale)));
  }
  return static_cast<std::int32_t>(FormatOf(precision).Encode(x, UpIfNearer));
}

std::uint32_t DrawOf(const CounterRandom& random, std::uint64_t element) {
  return (random.Bits(element / 4) >> (16 * (element % 4))) & 0xffff;
}

std::int32_t StochasticCode(Precision precision, float x, float scale, std::uint32_t draw) {
  if (HasScale(precision)) {
    const double fixed = std::nearbyint(InScale(precision, x, scale) * 65536.0);
    return static_cast<std::int32_t>(std::floor((fixed + draw) / 65536.0));
  }
  const auto up = [draw](double where, bool) {
    return std::floor(where * 65536.0) + draw >= 65536.0;
  };
  return static_cast<std::int32_t>(FormatOf(precision).Encode(x, up));
}

std::vector<std::uint8_t> Packed(Precision precision, const std::vector<std::int32_t>& codes) {
  std::vector<std::uint8_t> bytes(EncodedBytes(precision, codes.size()));
  for (std::size_t i = 0; i < codes.size(); ++i) {
    const auto code = static_cast<std::uint32_t>(codes[i]);
    if (precision == Precision::kInt4) {
      bytes[i / 2] = static_cast<std::uint8_t>(bytes[i / 2] | ((code & 0xf) << (4 * (i % 2))));
    } else if (precision == Precision::kInt8) {
      bytes[i] = static_cast<std::uint8_t>(code);
    } else {
      bytes[2 * i] = static_cast<std::uint8_t>(code);
      bytes[2 * i + 1] = static_cast<std::uint8_t>(code >> 8);
    }
  }
  return bytes;
}

float DecodedElement(Precision precision, const std::vector<std::uint8_t>& bytes, float scale,
                     std::size_t i) {
  switch (precision) {
    case Precision::kInt8:
      return static_cast<float>(static_cast<std::int8_t>(bytes[i])) * scale;
    case Precision::kInt4: {
      const int half = (bytes[i / 2] >> (4 * (i % 2))) & 0xf;
      return static_cast<float>(half < 8 ? half : half - 16) * scale;
    }
    default:
      return static_cast<float>(
          FormatOf(precision).Decode(bytes[2 * i] | std::uint32_t{bytes[2 * i + 1]} << 8));
  }
}

// Numbers at which something begins or ends, of every precision.
std::vector<float> SpecialValues() {
  std::vector<float> values = {0.0f,
                               -0.0f,
                               1.0f,
                               kMax,
                               -kMax,
                               kInfinity,
                               -kInfinity,
                               kNan,
                               -kNan,
                               FloatOf(0x7f800001),  // A NaN whose payload is in the last bit.
                               FloatOf(0xff80ffff),
                               65504.0f,
                               65519.0f,
                               65520.0f,
                               -1e6f,
                               FloatOf(0x7f7f7fff),  // Around the largest bf16 number.
                               FloatOf(0x7f7f8000),
                               FloatOf(0x7f7f0000)};
  for (const float around : {0x1p-14f, 0x1p-24f, 0x1p-25f, 0x1p-26f, 0x1p-126f, 0x1p-133f,
                             0x1p-134f, 0x1p-149f, 1.5f, 127.0f, 63.5f, 7.0f, 3.5f}) {
    for (const std::int32_t step : {-1, 0, 1}) {
      values.push_back(FloatOf(BitsOf(around) + static_cast<std::uint32_t>(step)));
      values.push_back(-values.back());
    }
  }
  for (std::uint32_t k = 0; k < 6; ++k) {
    values.push_back(FloatOf(0x3f800000 + 0x8000 + (k << 16)));   // Ties of bf16,
    values.push_back(FloatOf(0x3f800000 + 0x1000 + (k << 13)));   // of f16,
    values.push_back((static_cast<float>(k) + 0.5f) * 0x1p-24f);  // of f16's smallest numbers,
    values.push_back(static_cast<float>(k) + 0.5f);               // of integers.
  }
  return values;
}

// n values: special ones, then random ones over many orders of magnitude.
std::vector<float> Values(std::size_t n, std::uint64_t seed) {
  const std::vector<float> special = SpecialValues();
  const CounterRandom random(5, seed);
  std::vector<float> values(n);
  for (std::size_t i = 0; i < n; ++i) {
    if (random.Below(3 * i, 3) == 0) {
      values[i] = special[random.Below(3 * i + 1, special.size())];
    } else {
      values[i] = std::ldexp(2 * random.Uniform(3 * i + 1) - 1,
                             static_cast<int>(random.Below(3 * i + 2, 60)) - 40);
    }
  }
  return values;
}

TEST(PrecisionTest, SizesAreAsTheHeaderSays) {
  EXPECT_EQ(EncodedBytes(Precision::kF32, 5), 20u);
  EXPECT_EQ(EncodedBytes(Precision::kBf16, 5), 10u);
  EXPECT_EQ(EncodedBytes(Precision::kF16, 5), 10u);
  EXPECT_EQ(EncodedBytes(Precision::kInt8, 5), 5u);
  EXPECT_EQ(EncodedBytes(Precision::kInt4, 5), 3u);
  EXPECT_EQ(WireRowBytes(Precision::kF32, 5), 20u);
  EXPECT_EQ(WireRowBytes(Precision::kBf16, 5), 12u);
  EXPECT_EQ(WireRowBytes(Precision::kInt8, 5), 12u);
  EXPECT_EQ(WireRowBytes(Precision::kInt4, 5), 8u);
}

TEST(PrecisionTest, EncodingEqualsItsScalarTwinBitForBit) {
  const CounterRandom random(1, 2, 3, 4);
  for (const Precision precision : kNarrow) {
    for (std::size_t n = 1; n <= 70; ++n) {
      for (std::uint64_t seed = 0; seed < 12; ++seed) {
        const std::vector<float> values = Values(n, 100 * n + seed);
        const float scale =
            std::ldexp(1.0f + 0.3f * static_cast<float>(seed % 3), static_cast<int>(seed) * 3 - 20);
        const std::uint64_t first = 4 * (seed % 5);
        std::vector<std::int32_t> nearest;
        std::vector<std::int32_t> stochastic;
        for (std::size_t i = 0; i < n; ++i) {
          nearest.push_back(NearestCode(precision, values[i], scale));
          stochastic.push_back(
              StochasticCode(precision, values[i], scale, DrawOf(random, first + i)));
        }
        std::vector<std::uint8_t> bytes(EncodedBytes(precision, n) + 1, 0xee);
        EncodeNearest(precision, values.data(), scale, n, bytes.data());
        ASSERT_EQ(bytes.back(), 0xee) << "a byte behind the end";
        bytes.pop_back();
        ASSERT_EQ(bytes, Packed(precision, nearest))
            << "precision " << static_cast<int>(precision) << " n " << n << " seed " << seed;
        bytes.push_back(0xee);
        EncodeStochastic(precision, values.data(), scale, n, random, first, bytes.data());
        ASSERT_EQ(bytes.back(), 0xee) << "a byte behind the end";
        bytes.pop_back();
        ASSERT_EQ(bytes, Packed(precision, stochastic))
            << "precision " << static_cast<int>(precision) << " n " << n << " seed " << seed;
      }
    }
  }
}

TEST(PrecisionTest, DecodingEqualsItsScalarTwinBitForBit) {
  for (const Precision precision : kNarrow) {
    for (std::size_t n = 1; n <= 70; ++n) {
      const CounterRandom random(8, n);
      std::vector<std::uint8_t> bytes(EncodedBytes(precision, n));
      for (std::size_t i = 0; i < bytes.size(); ++i) {
        bytes[i] = static_cast<std::uint8_t>(random.Bits(i));
      }
      std::vector<float> floats(n + 1, 7.0f);
      Decode(precision, bytes.data(), 0.37f, n, floats.data());
      ASSERT_EQ(floats[n], 7.0f) << "a float behind the end";
      for (std::size_t i = 0; i < n; ++i) {
        const float expected = DecodedElement(precision, bytes, 0.37f, i);
        if (std::isnan(expected)) {
          ASSERT_TRUE(std::isnan(floats[i]));
        } else {
          ASSERT_EQ(BitsOf(floats[i]), BitsOf(expected))
              << "precision " << static_cast<int>(precision) << " n " << n << " element " << i;
        }
      }
    }
  }
}

TEST(PrecisionTest, EveryNumberDecodesAndEncodesToItself) {
  const CounterRandom random(3, 3);
  for (const Precision precision : {Precision::kBf16, Precision::kF16}) {
    for (std::uint32_t bits = 0; bits < 65536; ++bits) {
      const std::uint8_t code[2] = {static_cast<std::uint8_t>(bits),
                                    static_cast<std::uint8_t>(bits >> 8)};
      float value;
      Decode(precision, code, 1, 1, &value);
      if (std::isnan(value)) {
        continue;
      }
      std::uint8_t again[2];
      EncodeNearest(precision, &value, 1, 1, again);
      ASSERT_TRUE(std::equal(code, code + 2, again)) << bits;
      EncodeStochastic(precision, &value, 1, 1, random, 4 * std::uint64_t{bits}, again);
      ASSERT_TRUE(std::equal(code, code + 2, again)) << bits;
    }
  }
  for (int q = -127; q <= 127; ++q) {
    for (std::uint64_t i = 0; i < 500; ++i) {
      const float scale = std::ldexp(1 + random.Uniform(i), static_cast<int>(i % 40) - 20);
      const float value = static_cast<float>(q) * scale;
      std::uint8_t code;
      EncodeNearest(Precision::kInt8, &value, scale, 1, &code);
      ASSERT_EQ(static_cast<std::int8_t>(code), q) << scale;
      EncodeStochastic(Precision::kInt8, &value, scale, 1, random, 4 * i, &code);
      ASSERT_EQ(static_cast<std::int8_t>(code), q) << scale;
    }
  }
}

float RoundTrip(Precision precision, float x, float scale) {
  std::uint8_t code[2];
  float decoded;
  EncodeNearest(precision, &x, scale, 1, code);
  Decode(precision, code, scale, 1, &decoded);
  return decoded;
}

TEST(PrecisionTest, NearestIsWithinItsBound) {
  const CounterRandom random(4, 4);
  for (std::uint64_t i = 0; i < 200000; ++i) {
    const float x = std::ldexp(2 * random.Uniform(2 * i) - 1,
                               static_cast<int>(random.Below(2 * i + 1, 40)) - 25);
    const float magnitude = std::abs(x);
    ASSERT_LE(std::abs(RoundTrip(Precision::kBf16, x, 1) - x), magnitude * 0x1p-8f) << x;
    ASSERT_LE(std::abs(RoundTrip(Precision::kF16, x, 1) - x),
              std::max(magnitude * 0x1p-11f, 0x1p-25f))
        << x;
    const float scale = magnitude / (1 + 126 * random.Uniform(7 * i));
    ASSERT_LE(std::abs(RoundTrip(Precision::kInt8, x, scale) - x), scale * (0.5f + 0x1p-15f)) << x;
  }
  EXPECT_GT(std::abs(RoundTrip(Precision::kBf16, 1 + 0x1p-8f, 1) - (1 + 0x1p-8f)), 0x1p-9f)
      << "the bound is no smaller";
}

TEST(PrecisionTest, FiniteNumbersStayFiniteAndOthersStayWhatTheyAre) {
  for (const Precision precision : {Precision::kBf16, Precision::kF16}) {
    const float largest = precision == Precision::kF16 ? 65504.0f : FloatOf(0x7f7f0000);
    EXPECT_EQ(RoundTrip(precision, kMax, 1), largest);
    EXPECT_EQ(RoundTrip(precision, -kMax, 1), -largest);
    EXPECT_EQ(RoundTrip(precision, kInfinity, 1), kInfinity);
    EXPECT_EQ(RoundTrip(precision, -kInfinity, 1), -kInfinity);
    EXPECT_TRUE(std::isnan(RoundTrip(precision, kNan, 1)));
    EXPECT_TRUE(std::isnan(RoundTrip(precision, FloatOf(0x7f800001), 1)));
    EXPECT_EQ(BitsOf(RoundTrip(precision, -0.0f, 1)), BitsOf(-0.0f));
    std::uint8_t code[2];
    float decoded;
    for (std::uint64_t i = 0; i < 100; ++i) {
      EncodeStochastic(precision, &kMax, 1, 1, CounterRandom(1, 1), 4 * i, code);
      Decode(precision, code, 1, 1, &decoded);
      EXPECT_EQ(decoded, largest);
    }
  }
  for (const Precision precision : {Precision::kInt8, Precision::kInt4}) {
    const auto largest = static_cast<float>(LargestInteger(precision));
    EXPECT_EQ(RoundTrip(precision, 1000, 0.5f), largest * 0.5f);
    EXPECT_EQ(RoundTrip(precision, -kMax, 1e-30f), -largest * 1e-30f);
    EXPECT_EQ(RoundTrip(precision, kInfinity, 1), 0.0f);
    EXPECT_EQ(RoundTrip(precision, -kInfinity, 1), 0.0f);
    EXPECT_EQ(RoundTrip(precision, kNan, 1), 0.0f);
  }
}

TEST(PrecisionTest, ScaleIsThatOfTheLargestFiniteMagnitude) {
  for (const Precision precision : {Precision::kInt8, Precision::kInt4}) {
    const auto integer = static_cast<float>(LargestInteger(precision));
    for (std::size_t n = 1; n <= 70; ++n) {
      std::vector<float> values = Values(n, n);
      float largest = 0;
      for (const float value : values) {
        largest = std::isfinite(value) ? std::max(largest, std::abs(value)) : largest;
      }
      const float scale = ScaleOf(precision, values.data(), n);
      ASSERT_TRUE(std::isfinite(scale * integer) && scale >= 0x1p-126f);
      if (largest == 0) {
        ASSERT_EQ(scale, 1.0f);
      } else if (largest < kMax) {
        ASSERT_EQ(scale, std::max(largest / integer, 0x1p-126f));
      }
    }
    EXPECT_NEAR(ScaleOf(precision, &kMax, 1), kMax / integer, kMax / integer * 1e-6f);
    EXPECT_EQ(ScaleOf(precision, &kNan, 1), 1.0f);
    EXPECT_EQ(ScaleOf(precision, nullptr, 0), 1.0f);
  }
}

struct Format {
  Precision precision;
  float scale;
  float x;
};

TEST(PrecisionTest, StochasticRoundingHasTheMeanX) {
  constexpr std::size_t kRounds = 100000;
  for (const auto& [precision, scale, x] :
       {Format{Precision::kBf16, 1, 1.2345f}, Format{Precision::kBf16, 1, -3e-5f},
        Format{Precision::kF16, 1, 0.12345f}, Format{Precision::kF16, 1, -1.7f * 0x1p-24f},
        Format{Precision::kInt8, 0.01f, 0.003f}, Format{Precision::kInt8, 0.01f, -1.2567f},
        Format{Precision::kInt4, 0.1f, 0.667f}}) {
    float lower = kInfinity;
    float upper = -kInfinity;
    double sum = 0;
    std::vector<float> row(16, x);
    std::uint8_t code[32];
    std::vector<float> decoded(16);
    for (std::size_t round = 0; round < kRounds / 16; ++round) {
      const CounterRandom random(6, 0, 1, round);
      EncodeStochastic(precision, row.data(), scale, 16, random, 0, code);
      Decode(precision, code, scale, 16, decoded.data());
      for (const float value : decoded) {
        sum += value;
        lower = std::min(lower, value);
        upper = std::max(upper, value);
      }
    }
    const double n = static_cast<double>(kRounds / 16 * 16);
    const double up = (x - lower) / (upper - lower);
    const double sigma = (upper - lower) * std::sqrt(up * (1 - up) / n);
    EXPECT_LE(lower, x);
    EXPECT_GE(upper, x);
    EXPECT_NEAR(sum / n, x, 3 * sigma) << static_cast<int>(precision) << " of " << x;
  }
}

TEST(PrecisionTest, ElementsOfARowAreRoundedIndependently) {
  // The number of rounded-up elements of a row is binomial: with one draw a row it were 0 or 16.
  constexpr int kRows = 20000;
  const std::vector<float> row(16, 0.5f);
  double sum = 0;
  double squares = 0;
  for (int r = 0; r < kRows; ++r) {
    std::uint8_t codes[16];
    EncodeStochastic(Precision::kInt8, row.data(), 1, 16, CounterRandom(1, 2, 3, r), 0, codes);
    double up = 0;
    for (const std::uint8_t code : codes) {
      up += code;
    }
    sum += up;
    squares += up * up;
  }
  const double mean = sum / kRows;
  EXPECT_NEAR(mean, 8, 0.05);
  EXPECT_NEAR(squares / kRows - mean * mean, 4, 0.15);
}

TEST(PrecisionTest, WireRowsRoundTripAndArePaddedWithZeros) {
  for (const Precision precision :
       {Precision::kF32, Precision::kBf16, Precision::kF16, Precision::kInt8, Precision::kInt4}) {
    for (std::size_t n = 1; n <= 70; ++n) {
      constexpr std::size_t kRows = 3;
      const std::size_t row_bytes = WireRowBytes(precision, n);
      std::vector<float> rows(kRows * n);
      for (std::size_t i = 0; i < rows.size(); ++i) {
        rows[i] = 2 * CounterRandom(2, n).Uniform(i) - 1;
      }
      std::vector<std::uint8_t> wire(kRows * row_bytes, 0xee);
      for (std::size_t r = 0; r < kRows; ++r) {
        EncodeWireRow(precision, rows.data() + r * n, n, wire.data() + r * row_bytes);
      }
      const std::size_t used = (HasScale(precision) ? 4 : 0) + EncodedBytes(precision, n);
      EXPECT_EQ(std::count(wire.begin() + static_cast<std::ptrdiff_t>(used),
                           wire.begin() + static_cast<std::ptrdiff_t>(row_bytes), 0),
                static_cast<std::ptrdiff_t>(row_bytes - used));
      std::vector<std::uint8_t> wire_of_all(wire.size());
      EncodeWireRows(precision, rows.data(), kRows, n, wire_of_all.data());
      ASSERT_EQ(wire, wire_of_all);
      std::vector<float> all(kRows * n);
      DecodeWireRows(precision, wire.data(), kRows, n, all.data());
      for (std::size_t r = 0; r < kRows; ++r) {
        std::vector<float> one(n);
        DecodeWireRow(precision, wire.data() + r * row_bytes, n, one.data());
        float largest = 0;
        for (std::size_t i = 0; i < n; ++i) {
          largest = std::max(largest, std::abs(rows[r * n + i]));
        }
        const float integer =
            HasScale(precision) ? static_cast<float>(LargestInteger(precision)) : 256;
        const float bound = precision == Precision::kF32 ? 0 : largest / integer * 0.5001f;
        for (std::size_t i = 0; i < n; ++i) {
          ASSERT_EQ(one[i], all[r * n + i]);
          ASSERT_LE(std::abs(one[i] - rows[r * n + i]), HasScale(precision) ? bound : 2 * bound);
        }
      }
    }
  }
}

}  // namespace
}  // namespace plexus
