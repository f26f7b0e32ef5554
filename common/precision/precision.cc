#include "common/precision/precision.h"

#include <bit>
#include <cmath>
#include <cstring>
#include <limits>

#include <glog/logging.h>
#include <immintrin.h>

namespace plexus {
namespace {

// Every kernel does 8 elements; a rest of 1 to 7 goes through a buffer of 8.
constexpr std::size_t kLanes = 8;

constexpr std::int32_t kMagnitudeBits = 0x7fffffff;
constexpr std::int32_t kInfinityBits = 0x7f800000;
constexpr std::int32_t kLargestFiniteBits = 0x7f7fffff;

inline __m256i Set(std::int32_t value) { return _mm256_set1_epi32(value); }

// Lanes where x is an infinity or a NaN.
inline __m256i NotFinite(__m256 x) {
  const __m256i magnitude = _mm256_and_si256(_mm256_castps_si256(x), Set(kMagnitudeBits));
  return _mm256_cmpgt_epi32(magnitude, Set(kInfinityBits - 1));
}

// The draws of elements [element, element + 8), in [0, 2^16).
inline __m256i Draws(const CounterRandom& random, std::uint64_t element) {
  const __m128i bits = _mm_set_epi64x(static_cast<std::int64_t>(random.Bits(element / 4 + 1)),
                                      static_cast<std::int64_t>(random.Bits(element / 4)));
  return _mm256_cvtepu16_epi32(bits);
}

// How 8 numbers become integers and back: Nearest(x, scale) and Stochastic(x, scale, draws) give 8
// i32, of which Store writes the low bits; Load gives 8 floats again.

struct Bf16 {
  static constexpr Precision kPrecision = Precision::kBf16;

  static __m256i Nearest(__m256 x, __m256) {
    const __m256i odd = _mm256_and_si256(_mm256_srli_epi32(_mm256_castps_si256(x), 16), Set(1));
    return Round(x, _mm256_add_epi32(odd, Set(0x7fff)));
  }
  static __m256i Stochastic(__m256 x, __m256, __m256i draws) { return Round(x, draws); }

  static void Store(__m256i v, std::uint8_t* to) {
    _mm_storeu_si128(reinterpret_cast<__m128i*>(to),
                     _mm_packus_epi32(_mm256_castsi256_si128(v), _mm256_extracti128_si256(v, 1)));
  }
  static __m256 Load(const std::uint8_t* from, __m256) {
    const __m128i halves = _mm_loadu_si128(reinterpret_cast<const __m128i*>(from));
    return _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_cvtepu16_epi32(halves), 16));
  }

 private:
  // The magnitude plus `add`, cut off after 16 bits.
  static __m256i Round(__m256 x, __m256i add) {
    const __m256i bits = _mm256_castps_si256(x);
    const __m256i magnitude = _mm256_and_si256(bits, Set(kMagnitudeBits));
    const __m256i sign = _mm256_xor_si256(bits, magnitude);
    const __m256i rounded =
        _mm256_min_epu32(_mm256_add_epi32(magnitude, add), Set(kLargestFiniteBits));
    // A NaN's payload may lie in the lower half alone: its quiet bit is set.
    const __m256i nan = _mm256_cmpgt_epi32(magnitude, Set(kInfinityBits));
    const __m256i special = _mm256_or_si256(magnitude, _mm256_and_si256(nan, Set(0x400000)));
    const __m256i result = _mm256_blendv_epi8(rounded, special, NotFinite(x));
    return _mm256_srli_epi32(_mm256_or_si256(result, sign), 16);
  }
};

struct F16 {
  static constexpr Precision kPrecision = Precision::kF16;

  static __m256i Nearest(__m256 x, __m256) {
    // Clamped from above as integers, so that NaNs and infinities are not touched.
    const __m256i bits = _mm256_castps_si256(x);
    const __m256i magnitude = _mm256_and_si256(bits, Set(kMagnitudeBits));
    const __m256i clamped = _mm256_blendv_epi8(_mm256_min_epi32(magnitude, Set(kLargestAsF32)),
                                               magnitude, NotFinite(x));
    const __m256i sign = _mm256_xor_si256(bits, magnitude);
    return _mm256_cvtepu16_epi32(
        _mm256_cvtps_ph(_mm256_castsi256_ps(_mm256_or_si256(clamped, sign)),
                        _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC));
  }

  static __m256i Stochastic(__m256 x, __m256 scale, __m256i draws) {
    const __m256i bits = _mm256_castps_si256(x);
    const __m256i magnitude = _mm256_and_si256(bits, Set(kMagnitudeBits));
    // Normal numbers lose 13 bits, and have another exponent bias: 15 instead of 127.
    const __m256i added = _mm256_add_epi32(magnitude, _mm256_srli_epi32(draws, 3));
    const __m256i normal = _mm256_min_epi32(
        _mm256_sub_epi32(_mm256_srli_epi32(added, 13), Set((127 - 15) << 10)), Set(kLargest));
    // Numbers below 2^-14 become multiples of 2^-24: fixed point with 16 bits behind it.
    const __m256i small = _mm256_cmpgt_epi32(Set(kSmallestNormalAsF32), magnitude);
    const __m256i fixed = _mm256_cvttps_epi32(_mm256_mul_ps(
        _mm256_castsi256_ps(_mm256_and_si256(magnitude, small)), _mm256_set1_ps(0x1p40f)));
    const __m256i subnormal = _mm256_srli_epi32(_mm256_add_epi32(fixed, draws), 16);
    const __m256i finite = _mm256_blendv_epi8(normal, subnormal, small);
    const __m256i sign = _mm256_srli_epi32(_mm256_xor_si256(bits, magnitude), 16);
    return _mm256_blendv_epi8(_mm256_or_si256(finite, sign), Nearest(x, scale), NotFinite(x));
  }

  static void Store(__m256i v, std::uint8_t* to) { Bf16::Store(v, to); }
  static __m256 Load(const std::uint8_t* from, __m256) {
    return _mm256_cvtph_ps(_mm_loadu_si128(reinterpret_cast<const __m128i*>(from)));
  }

 private:
  static constexpr std::int32_t kLargest = 0x7bff;  // 65504
  static constexpr std::int32_t kLargestAsF32 = std::bit_cast<std::int32_t>(65504.0f);
  static constexpr std::int32_t kSmallestNormalAsF32 = std::bit_cast<std::int32_t>(0x1p-14f);
};

// The two integers, but for how they lie.
template <std::int32_t kLargest>
struct Integer {
  static __m256i Nearest(__m256 x, __m256 scale) { return _mm256_cvtps_epi32(Scaled(x, scale)); }
  // In fixed point, 16 bits behind it.  What was exact but for the last bit of a division is so
  // after its rounding.
  static __m256i Stochastic(__m256 x, __m256 scale, __m256i draws) {
    const __m256i fixed =
        _mm256_cvtps_epi32(_mm256_mul_ps(Scaled(x, scale), _mm256_set1_ps(0x1p16f)));
    return _mm256_srai_epi32(_mm256_add_epi32(fixed, draws), 16);
  }

 private:
  static __m256 Scaled(__m256 x, __m256 scale) {
    const __m256 largest = _mm256_set1_ps(kLargest);
    const __m256 v = _mm256_div_ps(x, scale);
    const __m256 clamped = _mm256_min_ps(_mm256_max_ps(v, _mm256_set1_ps(-kLargest)), largest);
    return _mm256_andnot_ps(_mm256_castsi256_ps(NotFinite(x)), clamped);
  }
};

struct Int8 : Integer<127> {
  static constexpr Precision kPrecision = Precision::kInt8;

  static void Store(__m256i v, std::uint8_t* to) {
    const __m128i words =
        _mm_packs_epi32(_mm256_castsi256_si128(v), _mm256_extracti128_si256(v, 1));
    _mm_storel_epi64(reinterpret_cast<__m128i*>(to), _mm_packs_epi16(words, words));
  }
  static __m256 Load(const std::uint8_t* from, __m256 scale) {
    const __m128i bytes = _mm_loadl_epi64(reinterpret_cast<const __m128i*>(from));
    return _mm256_mul_ps(_mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(bytes)), scale);
  }
};

struct Int4 : Integer<7> {
  static constexpr Precision kPrecision = Precision::kInt4;

  static void Store(__m256i v, std::uint8_t* to) {
    const __m256i halves = _mm256_and_si256(v, Set(0xf));
    const __m128i words =
        _mm_packs_epi32(_mm256_castsi256_si128(halves), _mm256_extracti128_si256(halves, 1));
    const __m128i bytes = _mm_packs_epi16(words, words);
    const __m128i pairs = _mm_maddubs_epi16(bytes, _mm_set1_epi16(0x1001));  // low + 16 high
    const std::int32_t packed = _mm_cvtsi128_si32(_mm_packus_epi16(pairs, pairs));
    std::memcpy(to, &packed, sizeof(packed));
  }
  static __m256 Load(const std::uint8_t* from, __m256 scale) {
    std::int32_t packed;
    std::memcpy(&packed, from, sizeof(packed));
    // Each lane's half to the top, and down again with its sign.
    const __m256i shifts = _mm256_setr_epi32(28, 24, 20, 16, 12, 8, 4, 0);
    const __m256i q = _mm256_srai_epi32(_mm256_sllv_epi32(Set(packed), shifts), 28);
    return _mm256_mul_ps(_mm256_cvtepi32_ps(q), scale);
  }
};

template <typename Format, typename Round>
void EncodeAll(const float* from, std::size_t n, std::uint8_t* to, const Round& round) {
  std::size_t i = 0;
  for (; i + kLanes <= n; i += kLanes) {
    Format::Store(round(_mm256_loadu_ps(from + i), i), to + EncodedBytes(Format::kPrecision, i));
  }
  if (i < n) {
    float rest[kLanes] = {};
    std::uint8_t encoded[2 * kLanes];
    std::memcpy(rest, from + i, (n - i) * sizeof(float));
    Format::Store(round(_mm256_loadu_ps(rest), i), encoded);
    std::memcpy(to + EncodedBytes(Format::kPrecision, i), encoded,
                EncodedBytes(Format::kPrecision, n - i));
  }
}

template <typename Format>
void NearestAll(const float* from, float scale, std::size_t n, std::uint8_t* to) {
  const __m256 scales = _mm256_set1_ps(scale);
  EncodeAll<Format>(from, n, to, [&](__m256 x, std::size_t) { return Format::Nearest(x, scales); });
}

template <typename Format>
void StochasticAll(const float* from, float scale, std::size_t n, const CounterRandom& random,
                   std::uint64_t first, std::uint8_t* to) {
  const __m256 scales = _mm256_set1_ps(scale);
  EncodeAll<Format>(from, n, to, [&](__m256 x, std::size_t i) {
    return Format::Stochastic(x, scales, Draws(random, first + i));
  });
}

template <typename Format>
void DecodeAll(const std::uint8_t* from, float scale, std::size_t n, float* to) {
  const __m256 scales = _mm256_set1_ps(scale);
  std::size_t i = 0;
  for (; i + kLanes <= n; i += kLanes) {
    _mm256_storeu_ps(to + i, Format::Load(from + EncodedBytes(Format::kPrecision, i), scales));
  }
  if (i < n) {
    std::uint8_t rest[2 * kLanes] = {};
    float decoded[kLanes];
    std::memcpy(rest, from + EncodedBytes(Format::kPrecision, i),
                EncodedBytes(Format::kPrecision, n - i));
    _mm256_storeu_ps(decoded, Format::Load(rest, scales));
    std::memcpy(to + i, decoded, (n - i) * sizeof(float));
  }
}

template <typename Format>
void EncodeRows(const float* from, std::size_t rows, std::size_t n, std::uint8_t* to) {
  constexpr Precision kPrecision = Format::kPrecision;
  const std::size_t row_bytes = WireRowBytes(kPrecision, n);
  for (std::size_t row = 0; row < rows; ++row, from += n, to += row_bytes) {
    std::uint8_t* values = to;
    float scale = 1;
    if constexpr (HasScale(kPrecision)) {
      scale = ScaleOf(kPrecision, from, n);
      std::memcpy(to, &scale, sizeof(scale));
      values += sizeof(scale);
    }
    NearestAll<Format>(from, scale, n, values);
    for (std::uint8_t* pad = values + EncodedBytes(kPrecision, n); pad < to + row_bytes; ++pad) {
      *pad = 0;
    }
  }
}

template <typename Format>
void DecodeRows(const std::uint8_t* from, std::size_t rows, std::size_t n, float* to) {
  constexpr bool kScaled = HasScale(Format::kPrecision);
  const std::size_t row_bytes = WireRowBytes(Format::kPrecision, n);
  float scale = 1;
  for (std::size_t row = 0; row < rows; ++row, from += row_bytes, to += n) {
    if constexpr (kScaled) {
      std::memcpy(&scale, from, sizeof(scale));
    }
    DecodeAll<Format>(from + (kScaled ? sizeof(scale) : 0), scale, n, to);
  }
}

}  // namespace

float ScaleOf(Precision precision, const float* values, std::size_t n) {
  // Magnitudes of floats are in the order of their bits; the largest of integers has no order.
  __m256i largest = _mm256_setzero_si256();
  const auto add = [&largest](__m256 x) {
    const __m256i magnitude = _mm256_and_si256(_mm256_castps_si256(x), Set(kMagnitudeBits));
    largest = _mm256_max_epi32(largest, _mm256_andnot_si256(NotFinite(x), magnitude));
  };
  std::size_t i = 0;
  for (; i + kLanes <= n; i += kLanes) {
    add(_mm256_loadu_ps(values + i));
  }
  if (i < n) {
    float rest[kLanes] = {};
    std::memcpy(rest, values + i, (n - i) * sizeof(float));
    add(_mm256_loadu_ps(rest));
  }
  __m128i four =
      _mm_max_epi32(_mm256_castsi256_si128(largest), _mm256_extracti128_si256(largest, 1));
  four = _mm_max_epi32(four, _mm_shuffle_epi32(four, _MM_SHUFFLE(1, 0, 3, 2)));
  four = _mm_max_epi32(four, _mm_shuffle_epi32(four, _MM_SHUFFLE(2, 3, 0, 1)));
  const float magnitude = std::bit_cast<float>(_mm_cvtsi128_si32(four));
  if (magnitude == 0) {
    return 1;
  }
  const auto integer = static_cast<float>(LargestInteger(precision));
  const float scale = std::max(magnitude / integer, std::numeric_limits<float>::min());
  // The division may have rounded up.
  return std::isfinite(scale * integer)
             ? scale
             : std::bit_cast<float>(std::bit_cast<std::uint32_t>(scale) - 1);
}

void Decode(Precision precision, const std::uint8_t* from, float scale, std::size_t n, float* to) {
  switch (precision) {
    case Precision::kF32:
      std::memcpy(to, from, n * sizeof(float));
      return;
    case Precision::kBf16:
      return DecodeAll<Bf16>(from, scale, n, to);
    case Precision::kF16:
      return DecodeAll<F16>(from, scale, n, to);
    case Precision::kInt8:
      return DecodeAll<Int8>(from, scale, n, to);
    case Precision::kInt4:
      return DecodeAll<Int4>(from, scale, n, to);
  }
}

void EncodeNearest(Precision precision, const float* from, float scale, std::size_t n,
                   std::uint8_t* to) {
  switch (precision) {
    case Precision::kF32:
      std::memcpy(to, from, n * sizeof(float));
      return;
    case Precision::kBf16:
      return NearestAll<Bf16>(from, scale, n, to);
    case Precision::kF16:
      return NearestAll<F16>(from, scale, n, to);
    case Precision::kInt8:
      return NearestAll<Int8>(from, scale, n, to);
    case Precision::kInt4:
      return NearestAll<Int4>(from, scale, n, to);
  }
}

void EncodeStochastic(Precision precision, const float* from, float scale, std::size_t n,
                      const CounterRandom& random, std::uint64_t first, std::uint8_t* to) {
  DCHECK_EQ(first % 4, 0u);
  switch (precision) {
    case Precision::kF32:
      std::memcpy(to, from, n * sizeof(float));
      return;
    case Precision::kBf16:
      return StochasticAll<Bf16>(from, scale, n, random, first, to);
    case Precision::kF16:
      return StochasticAll<F16>(from, scale, n, random, first, to);
    case Precision::kInt8:
      return StochasticAll<Int8>(from, scale, n, random, first, to);
    case Precision::kInt4:
      return StochasticAll<Int4>(from, scale, n, random, first, to);
  }
}

void EncodeWireRow(Precision precision, const float* from, std::size_t n, std::uint8_t* to) {
  EncodeWireRows(precision, from, 1, n, to);
}

void EncodeWireRows(Precision precision, const float* from, std::size_t rows, std::size_t n,
                    std::uint8_t* to) {
  switch (precision) {
    case Precision::kF32:
      std::memcpy(to, from, rows * n * sizeof(float));
      return;
    case Precision::kBf16:
      return EncodeRows<Bf16>(from, rows, n, to);
    case Precision::kF16:
      return EncodeRows<F16>(from, rows, n, to);
    case Precision::kInt8:
      return EncodeRows<Int8>(from, rows, n, to);
    case Precision::kInt4:
      return EncodeRows<Int4>(from, rows, n, to);
  }
}

void DecodeWireRow(Precision precision, const std::uint8_t* from, std::size_t n, float* to) {
  DecodeWireRows(precision, from, 1, n, to);
}

void DecodeWireRows(Precision precision, const std::uint8_t* from, std::size_t rows, std::size_t n,
                    float* to) {
  switch (precision) {
    case Precision::kF32:
      std::memcpy(to, from, rows * n * sizeof(float));
      return;
    case Precision::kBf16:
      return DecodeRows<Bf16>(from, rows, n, to);
    case Precision::kF16:
      return DecodeRows<F16>(from, rows, n, to);
    case Precision::kInt8:
      return DecodeRows<Int8>(from, rows, n, to);
    case Precision::kInt4:
      return DecodeRows<Int4>(from, rows, n, to);
  }
}

}  // namespace plexus
