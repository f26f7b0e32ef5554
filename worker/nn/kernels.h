// Reductions with a fixed order: element i always goes to lane i mod kReductionLanes, lanes are
// added as a balanced tree.
//
// The bits therefore depend on the values and their number only - not on the address, as Eigen's
// and the compiler's own vectorised sums may.  Element-wise loops need no such care and are written
// as plain loops.
//
// Thread safety: pure functions.
#pragma once

#include <cstddef>

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

// y += scale * x.
template <typename T>
inline void AddScaled(T scale, const T* __restrict x, std::size_t n, T* __restrict y) {
  for (std::size_t i = 0; i < n; ++i) {
    y[i] += scale * x[i];
  }
}

}  // namespace plexus
