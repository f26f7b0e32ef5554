// Reductions over a row in one fixed order, whatever the alignment of the row or the width of the
// machine's vectors.
//
// Element j is added to lane j mod 8; the lanes are then combined as ((0+4)+(2+6)) + ((1+5)+(3+7)).
// Fixed for ever: results are part of the trained model.
//
// Thread safety: pure functions.
#pragma once

#include <cstdint>

namespace plexus {

// Sum of x[j]^2 over [0, n).
float SumOfSquares(const float* x, std::uint32_t n);

// Sum of (scale * x[j] + l2 * w[j])^2 over [0, n).
float SumOfSquares(const float* x, float scale, const float* w, float l2, std::uint32_t n);

// The same, one element after the other; w == nullptr: of x alone.  For tests.
float ScalarSumOfSquares(const float* x, float scale, const float* w, float l2, std::uint32_t n);

}  // namespace plexus
