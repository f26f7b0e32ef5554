// Reductions with a fixed order: element i always goes to lane i mod kReductionLanes, lanes are
// added as a balanced tree.
//
// The bits therefore depend on the values and their number only - not on the address, as Eigen's
// and the compiler's own vectorised sums may.  Element-wise loops need no such care and are written
// as plain loops.
//
// Thread safety: pure functions.
#pragma once

#include <bit>
#include <cmath>
#include <cstddef>
#include <cstdint>

namespace plexus {

inline constexpr std::size_t kReductionLanes = 16;

namespace internal {

template <typename T>
T AddLanes(T* lanes) {
  for (std::size_t half = kReductionLanes / 2; half > 0; half /= 2) {
    for (std::size_t lane = 0; lane < half; ++lane) {
      lanes[lane] += lanes[lane + half];
    }
  }
  return lanes[0];
}

// Sum of term(i) over i < n.
template <typename T, typename Term>
inline T ReduceTerms(std::size_t n, Term term) {
  T lanes[kReductionLanes] = {};
  std::size_t i = 0;
  for (; i + kReductionLanes <= n; i += kReductionLanes) {
    for (std::size_t lane = 0; lane < kReductionLanes; ++lane) {
      lanes[lane] += term(i + lane);
    }
  }
  for (std::size_t lane = 0; i < n; ++i, ++lane) {
    lanes[lane] += term(i);
  }
  return AddLanes(lanes);
}

}  // namespace internal

template <typename T>
inline T Sum(const T* a, std::size_t n) {
  return internal::ReduceTerms<T>(n, [a](std::size_t i) { return a[i]; });
}

template <typename T>
inline T Dot(const T* a, const T* b, std::size_t n) {
  return internal::ReduceTerms<T>(n, [a, b](std::size_t i) { return a[i] * b[i]; });
}

// Sum of (a[i] - center)^2.
template <typename T>
inline T SumOfSquaredDistances(const T* a, T center, std::size_t n) {
  return internal::ReduceTerms<T>(
      n, [a, center](std::size_t i) { return (a[i] - center) * (a[i] - center); });
}

// e^x.  In float a polynomial (Cephes' expf, error below 2 units in the last place) that compilers
// vectorise in loops and that has the same bits whichever C library runs; x below -87 counts as
// -87.
inline double Exp(double x) { return std::exp(x); }
inline float Exp(float x) {
  constexpr float kShift = 12582912.0F;  // 1.5 * 2^23: the sum's low bits are the rounded integer.
  x = x < -87.0F ? -87.0F : x;
  x = x > 88.0F ? 88.0F : x;
  const float shifted = x * 1.44269504F + kShift;
  const float n = shifted - kShift;
  const float r = (x - n * 0.693359375F) + n * 2.12194440e-4F;
  float p = 1.9875691500e-4F;
  p = p * r + 1.3981999507e-3F;
  p = p * r + 8.3334519073e-3F;
  p = p * r + 4.1665795894e-2F;
  p = p * r + 1.6666665459e-1F;
  p = p * r + 5.0000001201e-1F;
  p = p * r * r + r + 1.0F;
  return p * std::bit_cast<float>((std::bit_cast<std::uint32_t>(shifted) << 23) + 0x3f800000U);
}

// y += scale * x.
template <typename T>
inline void AddScaled(T scale, const T* __restrict x, std::size_t n, T* __restrict y) {
  for (std::size_t i = 0; i < n; ++i) {
    y[i] += scale * x[i];
  }
}

}  // namespace plexus
