// The one matrix product: every product of matrices in the house goes through Gemm().
//
// f32 runs on oneDNN's sgemm, on the calling thread alone (Debian's oneDNN would otherwise start an
// OpenMP team) and with the instruction set that the job's numeric profile pins: equal operands
// give equal bits in every process of a job.  bf16 rounds both operands to bfloat16 (to nearest
// even) and accumulates in f32.  f64 is a plain loop, for gradient checks.
//
// Thread safety: Gemm may be called from any thread.  SetNumericProfile once, before the first Gemm
// of the process.
#pragma once

#include <cstddef>

#include "common/status.h"

namespace plexus {

enum class NumericProfile { kAvx2, kAvx512 };

enum class ProductPrecision { kFull, kBf16 };

// Whether this CPU has the profile's instructions.
bool CpuSupports(NumericProfile profile);
// Whether this CPU multiplies bfloat16 (avx512_bf16), and no narrower profile is pinned.
bool CpuSupportsBf16();

// kFailedPrecondition: this CPU lacks the profile, or oneDNN already runs with another one.
Status SetNumericProfile(NumericProfile profile);

// Makes oneDNN single-threaded for the calling thread.  Gemm does it by itself.
void UseOneThread();

// A row-major matrix, or its transpose: element (i, j) is data[i * stride + j], or data[j * stride
// + i].
template <typename T>
struct MatrixOperand {
  const T* data = nullptr;
  std::size_t stride = 0;
  bool transposed = false;
};

struct GemmShape {
  std::size_t m = 0;  // Rows of A and C.
  std::size_t n = 0;  // Columns of B and C.
  std::size_t k = 0;  // Columns of A, rows of B.
};

template <typename T>
struct MatrixResult {
  T* data = nullptr;
  std::size_t stride = 0;
  bool accumulate = false;  // C += A B instead of C = A B.
};

// T is float or double.  k = 0 is a product of zeros.
template <typename T>
void Gemm(const GemmShape& shape, const MatrixOperand<T>& a, const MatrixOperand<T>& b,
          const MatrixResult<T>& c, ProductPrecision precision = ProductPrecision::kFull);

// `count` small products: C_s = A_s B_s, whose operands start `a_step`, `b_step`, `c_step` elements
// after the ones before.  For products of a few dozen rows and columns, one a sample, where a call
// of a library costs more than the product; f32 and f64 alike.
struct BatchSteps {
  std::size_t count = 0;
  std::size_t a_step = 0;
  std::size_t b_step = 0;
  std::size_t c_step = 0;
};
template <typename T>
void GemmBatch(const GemmShape& shape, const BatchSteps& steps, const MatrixOperand<T>& a,
               const MatrixOperand<T>& b, const MatrixResult<T>& c);

}  // namespace plexus
