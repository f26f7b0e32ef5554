#include <algorithm>
#include <cstring>
#include <vector>

#include "worker/nn/gemm.h"

namespace plexus {
namespace {

constexpr std::size_t kWidth = 16;  // Columns of C that are kept in registers.

// Copies x (rows x cols after transposition) into rows of `stride` elements, zero-padded.
template <typename T>
void Pack(const MatrixOperand<T>& x, std::size_t rows, std::size_t cols, std::size_t stride,
          T* to) {
  for (std::size_t i = 0; i < rows; ++i) {
    for (std::size_t j = 0; j < cols; ++j) {
      to[i * stride + j] = x.transposed ? x.data[j * x.stride + i] : x.data[i * x.stride + j];
    }
    std::fill(to + i * stride + cols, to + (i + 1) * stride, T{0});
  }
}

// C = A B for packed A [m, k] and B [k, n rounded up to kWidth]: each element sums over k in order.
template <typename T>
void MultiplyPacked(const GemmShape& shape, const T* a, const T* b, std::size_t b_stride,
                    const MatrixResult<T>& c) {
  for (std::size_t j = 0; j < shape.n; j += kWidth) {
    const std::size_t width = std::min(kWidth, shape.n - j);
    for (std::size_t i = 0; i < shape.m; ++i) {
      T sums[kWidth] = {};
      const T* const left = a + i * shape.k;
      for (std::size_t l = 0; l < shape.k; ++l) {
        const T* __restrict right = b + l * b_stride + j;
        const T factor = left[l];
        for (std::size_t e = 0; e < kWidth; ++e) {
          sums[e] += factor * right[e];
        }
      }
      T* const out = c.data + i * c.stride + j;
      for (std::size_t e = 0; e < width; ++e) {
        out[e] = c.accumulate ? out[e] + sums[e] : sums[e];
      }
    }
  }
}

}  // namespace

template <typename T>
void GemmBatch(const GemmShape& shape, const BatchSteps& steps, const MatrixOperand<T>& a,
               const MatrixOperand<T>& b, const MatrixResult<T>& c) {
  const std::size_t b_stride = (shape.n + kWidth - 1) / kWidth * kWidth;
  thread_local std::vector<T> scratch;  // Grows to the largest product and stays.
  scratch.resize(std::max(scratch.size(), shape.m * shape.k + shape.k * b_stride));
  T* const packed_a = scratch.data();
  T* const packed_b = packed_a + shape.m * shape.k;
  for (std::size_t s = 0; s < steps.count; ++s) {
    Pack<T>({a.data + s * steps.a_step, a.stride, a.transposed}, shape.m, shape.k, shape.k,
            packed_a);
    Pack<T>({b.data + s * steps.b_step, b.stride, b.transposed}, shape.k, shape.n, b_stride,
            packed_b);
    MultiplyPacked<T>(shape, packed_a, packed_b, b_stride,
                      {c.data + s * steps.c_step, c.stride, c.accumulate});
  }
}

template void GemmBatch(const GemmShape&, const BatchSteps&, const MatrixOperand<float>&,
                        const MatrixOperand<float>&, const MatrixResult<float>&);
template void GemmBatch(const GemmShape&, const BatchSteps&, const MatrixOperand<double>&,
                        const MatrixOperand<double>&, const MatrixResult<double>&);

}  // namespace plexus
