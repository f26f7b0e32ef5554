#include <algorithm>
#include <cstring>
#include <vector>

#include "worker/nn/gemm.h"

namespace plexus {
namespace {

constexpr std::size_t kWidth = 16;  // Columns of C that are kept in registers,
constexpr std::size_t kHeight = 4;  // and rows.
constexpr std::size_t kVectorBytes = 32;

// Element (i, l) is data[i * row_step + l * col_step].
template <typename T>
struct Strided {
  const T* data;
  std::size_t row_step;
  std::size_t col_step;
};

// Copies x (rows x cols after transposition) into rows of `stride` elements, zero-padded.
template <typename T>
void Pack(const Strided<T>& x, std::size_t rows, std::size_t cols, std::size_t stride, T* to) {
  for (std::size_t i = 0; i < rows; ++i) {
    if (x.col_step == 1) {
      std::copy_n(x.data + i * x.row_step, cols, to + i * stride);
    } else {
      for (std::size_t j = 0; j < cols; ++j) {
        to[i * stride + j] = x.data[i * x.row_step + j * x.col_step];
      }
    }
    std::fill(to + i * stride + cols, to + (i + 1) * stride, T{0});
  }
}

// Rows [i, i + kRows) and columns [j, j + kWidth) of C; each element sums over k in order, so that
// its bits do not depend on kRows.
template <std::size_t kRows, typename T>
void MultiplyBlock(const Strided<T>& a, std::size_t i, std::size_t k, const T* b,
                   std::size_t b_stride, T* sums) {
  constexpr std::size_t kVectors = kWidth * sizeof(T) / kVectorBytes;
  using Vector __attribute__((vector_size(kVectorBytes))) = T;
  using UnalignedVector __attribute__((vector_size(kVectorBytes), aligned(alignof(T)), may_alias)) =
      T;
  Vector totals[kRows][kVectors] = {};
  for (std::size_t l = 0; l < k; ++l) {
    // Loaded as vectors: a memcpy goes through the stack in halves.
    const auto* const right = reinterpret_cast<const UnalignedVector*>(b + l * b_stride);
    for (std::size_t r = 0; r < kRows; ++r) {
      const T left = a.data[(i + r) * a.row_step + l * a.col_step];
      for (std::size_t v = 0; v < kVectors; ++v) {
        totals[r][v] += left * right[v];
      }
    }
  }
  std::memcpy(sums, totals, sizeof(totals));
}

template <typename T>
void Store(const T* sums, std::size_t rows, std::size_t cols, std::size_t i, std::size_t j,
           const MatrixResult<T>& c) {
  for (std::size_t r = 0; r < rows; ++r) {
    T* const out = c.data + (i + r) * c.stride + j;
    for (std::size_t e = 0; e < cols; ++e) {
      out[e] = c.accumulate ? out[e] + sums[r * kWidth + e] : sums[r * kWidth + e];
    }
  }
}

// C = A B for B [k, n rounded up to kWidth].
template <typename T>
void Multiply(const GemmShape& shape, const Strided<T>& a, const T* b, std::size_t b_stride,
              const MatrixResult<T>& c) {
  T sums[kHeight * kWidth];
  for (std::size_t j = 0; j < shape.n; j += kWidth) {
    const std::size_t width = std::min(kWidth, shape.n - j);
    std::size_t i = 0;
    for (; i + kHeight <= shape.m; i += kHeight) {
      MultiplyBlock<kHeight>(a, i, shape.k, b + j, b_stride, sums);
      Store(sums, kHeight, width, i, j, c);
    }
    for (; i < shape.m; ++i) {
      MultiplyBlock<1>(a, i, shape.k, b + j, b_stride, sums);
      Store(sums, 1, width, i, j, c);
    }
  }
}

template <typename T>
Strided<T> StridedOf(const MatrixOperand<T>& x, std::size_t first) {
  return x.transposed ? Strided<T>{x.data + first, 1, x.stride}
                      : Strided<T>{x.data + first, x.stride, 1};
}

}  // namespace

template <typename T>
void GemmBatch(const GemmShape& shape, const BatchSteps& steps, const MatrixOperand<T>& a,
               const MatrixOperand<T>& b, const MatrixResult<T>& c) {
  const std::size_t b_stride = (shape.n + kWidth - 1) / kWidth * kWidth;
  thread_local std::vector<T> packed;  // Grows to the largest operand and stays.
  packed.resize(std::max(packed.size(), shape.k * b_stride));
  for (std::size_t s = 0; s < steps.count; ++s) {
    Pack<T>(StridedOf(b, s * steps.b_step), shape.k, shape.n, b_stride, packed.data());
    Multiply<T>(shape, StridedOf(a, s * steps.a_step), packed.data(), b_stride,
                {c.data + s * steps.c_step, c.stride, c.accumulate});
  }
}

template void GemmBatch(const GemmShape&, const BatchSteps&, const MatrixOperand<float>&,
                        const MatrixOperand<float>&, const MatrixResult<float>&);
template void GemmBatch(const GemmShape&, const BatchSteps&, const MatrixOperand<double>&,
                        const MatrixOperand<double>&, const MatrixResult<double>&);

}  // namespace plexus
