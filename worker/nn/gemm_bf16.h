// The bfloat16 half of gemm.h.
//
// Thread safety: any thread; primitives are cached per thread.
#pragma once

#include <cstdint>

#include "worker/nn/gemm.h"

namespace plexus::internal {

// `from` rounded to nearest even; a NaN stays one.
void RoundToBfloat16(const float* from, std::size_t count, std::uint16_t* to);

// REQUIRES: CpuSupportsBf16(), no extent is 0.
void GemmBf16(const GemmShape& shape, const MatrixOperand<float>& a, const MatrixOperand<float>& b,
              const MatrixResult<float>& c);

}  // namespace plexus::internal
