// Arithmetic written once for 8, 4 and 1 floats: kernels are generic lambdas over the width, so
// that a row of any length is done by the same expressions and each element sees the same IEEE
// operations in the same order.
//
// Include only in files compiled with -ffp-contract=off.
//
// Thread safety: pure functions.
#pragma once

#include <cstdint>

#include <immintrin.h>

namespace plexus {

using Float4 = float __attribute__((vector_size(16)));
using Float8 = float __attribute__((vector_size(32)));

template <typename V>
inline V LoadFloats(const float* p) {
  if constexpr (sizeof(V) == 32) {
    return _mm256_loadu_ps(p);
  } else if constexpr (sizeof(V) == 16) {
    return _mm_loadu_ps(p);
  } else {
    return *p;
  }
}

inline void StoreFloats(float* p, Float8 v) { _mm256_storeu_ps(p, v); }
inline void StoreFloats(float* p, Float4 v) { _mm_storeu_ps(p, v); }
inline void StoreFloats(float* p, float v) { *p = v; }

inline Float8 SquareRoot(Float8 v) { return _mm256_sqrt_ps(v); }
inline Float4 SquareRoot(Float4 v) { return _mm_sqrt_ps(v); }
inline float SquareRoot(float v) { return _mm_cvtss_f32(_mm_sqrt_ss(_mm_set_ss(v))); }

// min(max(v, -bound), bound).
inline Float8 Clamp(Float8 v, float bound) {
  return _mm256_min_ps(_mm256_max_ps(v, _mm256_set1_ps(-bound)), _mm256_set1_ps(bound));
}
inline Float4 Clamp(Float4 v, float bound) {
  return _mm_min_ps(_mm_max_ps(v, _mm_set1_ps(-bound)), _mm_set1_ps(bound));
}
inline float Clamp(float v, float bound) {
  const float low = v > -bound ? v : -bound;
  return low < bound ? low : bound;
}

// Calls f.template operator()<V>(first) over [0, n) with the widest V that fits.
template <typename F>
inline void ForEachFloats(std::uint32_t n, F&& f) {
  std::uint32_t i = 0;
  for (; i + 8 <= n; i += 8) {
    f.template operator()<Float8>(i);
  }
  if (i + 4 <= n) {
    f.template operator()<Float4>(i);
    i += 4;
  }
  for (; i < n; ++i) {
    f.template operator()<float>(i);
  }
}

}  // namespace plexus
