// Precision: how a row of floats is written in fewer bytes, in memory, on disk and on the wire.
//
//   kF32    as it is                         kBf16, kF16  2 bytes, no scale
//   kInt8   q = x / scale in [-127, 127]     kInt4        q in [-7, 7], two a byte, low half first
//
// Rounding to nearest is to even: |x - decoded| <= |x| 2^-8 or 2^-134 (kBf16, the larger), |x|
// 2^-11 or 2^-25 (kF16), scale / 2 and a rounding of x (kInt8, kInt4).  Stochastic rounding goes to
// one of the two neighbours, the upper one with a probability that is a multiple of 2^-16: the mean
// is x (kBf16), or off by 2^-16 of the neighbours' distance at most; what is exactly representable
// stays what it is.  A finite x beyond the largest finite number becomes that number: encoding
// never makes an infinity or a NaN.  A NaN or infinity of the input becomes 0 in kInt8 and kInt4,
// and stays what it is in the others.  Subnormal numbers are numbers.
//
// The same bits on every machine: integer operations, and IEEE division and multiplication.
//
// Thread safety: pure functions.
#pragma once

#include <cstddef>
#include <cstdint>

#include "common/random.h"

namespace plexus {

enum class Precision : std::uint8_t { kF32 = 0, kBf16 = 1, kF16 = 2, kInt8 = 3, kInt4 = 4 };

// Bytes of `n` values, without a scale.
constexpr std::size_t EncodedBytes(Precision precision, std::size_t n) {
  switch (precision) {
    case Precision::kF32:
      return n * 4;
    case Precision::kBf16:
    case Precision::kF16:
      return n * 2;
    case Precision::kInt8:
      return n;
    case Precision::kInt4:
      return (n + 1) / 2;
  }
  return 0;
}

constexpr bool HasScale(Precision precision) {
  return precision == Precision::kInt8 || precision == Precision::kInt4;
}

// The largest integer of kInt8 (127) and kInt4 (7); 0 for the others.
constexpr std::int32_t LargestInteger(Precision precision) {
  return precision == Precision::kInt8 ? 127 : precision == Precision::kInt4 ? 7 : 0;
}

// The scale at which the largest finite |x| becomes the largest integer, from 2^-126 up to the
// largest at which that integer decodes to a finite number; 1 if all are 0.
// REQUIRES: HasScale(precision).
float ScaleOf(Precision precision, const float* values, std::size_t n);

// `scale` is ignored by precisions without one.  REQUIRES: scale > 0 and finite.
void Decode(Precision precision, const std::uint8_t* from, float scale, std::size_t n, float* to);
void EncodeNearest(Precision precision, const float* from, float scale, std::size_t n,
                   std::uint8_t* to);
// Element i draws 16 bits of its own: those from bit 16 (i mod 4) on of
// random.Bits((first + i) / 4).  REQUIRES: `first` is a multiple of 4.
void EncodeStochastic(Precision precision, const float* from, float scale, std::size_t n,
                      const CounterRandom& random, std::uint64_t first, std::uint8_t* to);

// A row on the wire: an f32 scale where the precision has one, then the values, zeros up to a
// multiple of 4 bytes.
constexpr std::size_t WireRowBytes(Precision precision, std::size_t n) {
  return (HasScale(precision) ? 4 : 0) + (EncodedBytes(precision, n) + 3) / 4 * 4;
}
void EncodeWireRow(Precision precision, const float* from, std::size_t n, std::uint8_t* to);
void DecodeWireRow(Precision precision, const std::uint8_t* from, std::size_t n, float* to);
// `rows` of them, one after the other; floats are [rows x n].
void EncodeWireRows(Precision precision, const float* from, std::size_t rows, std::size_t n,
                    std::uint8_t* to);
void DecodeWireRows(Precision precision, const std::uint8_t* from, std::size_t rows, std::size_t n,
                    float* to);

}  // namespace plexus
