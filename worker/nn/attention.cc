#include "worker/nn/attention.h"

#include <algorithm>

#include "worker/nn/elementwise.h"
#include "worker/nn/kernels.h"

namespace plexus {

template <typename T>
void BatchMatMulInto(Tape<T>& tape, const Tensor<T>& a, const Tensor<T>& b, TransposeB transpose,
                     std::uint32_t batch, const Tensor<T>& out) {
  if (batch == 0) {
    return;
  }
  const bool transposed = transpose == TransposeB::kYes;
  const std::size_t m = a.rows / batch;
  const std::size_t k = a.cols;
  const std::size_t b_rows = b.rows / batch;
  const std::size_t n = transposed ? b_rows : b.cols;
  CHECK(a.rows % batch == 0 && b.rows % batch == 0 && (transposed ? b.cols : b_rows) == k);
  CHECK(out.rows == a.rows && out.cols == n);
  const std::size_t a_step = m * a.stride;
  const std::size_t b_step = b_rows * b.stride;
  const std::size_t c_step = m * out.stride;
  GemmBatch<T>({m, n, k}, {batch, a_step, b_step, c_step}, a.operand(), b.operand(transposed),
               {out.value, out.stride});
  tape.Record(out, [=] {
    const MatrixOperand<T> g = out.gradient_operand();
    const MatrixOperand<T> g_transposed = out.gradient_operand(true);
    if (a.gradient != nullptr) {
      GemmBatch<T>({m, k, n}, {batch, c_step, b_step, a_step}, g, b.operand(!transposed),
                   {a.gradient, a.stride, PrepareGradient(a)});
    }
    if (b.gradient == nullptr) {
      return;
    }
    const MatrixResult<T> result{b.gradient, b.stride, PrepareGradient(b)};
    if (transposed) {
      GemmBatch<T>({n, k, m}, {batch, c_step, a_step, b_step}, g_transposed, a.operand(), result);
    } else {
      GemmBatch<T>({k, n, m}, {batch, a_step, c_step, b_step}, a.operand(true), g, result);
    }
  });
}

template <typename T>
Tensor<T> BatchMatMul(Tape<T>& tape, const Tensor<T>& a, const Tensor<T>& b, TransposeB transpose,
                      std::uint32_t batch) {
  const std::uint32_t cols =
      transpose == TransposeB::kNo ? b.cols : (batch == 0 ? 0 : b.rows / batch);
  const Tensor<T> out = tape.New(a.rows, cols);
  BatchMatMulInto(tape, a, b, transpose, batch, out);
  return out;
}

template <typename T>
Tensor<T> Softmax(Tape<T>& tape, const Tensor<T>& x) {
  const Tensor<T> y = tape.New(x.rows, x.cols);
  for (std::size_t i = 0; i < x.rows && x.cols > 0; ++i) {
    const T* const in = x.row(i);
    T* const out = y.row(i);
    const T top = *std::max_element(in, in + x.cols);
    for (std::size_t j = 0; j < x.cols; ++j) {
      out[j] = Exp(in[j] - top);
    }
    const T scale = T{1} / Sum(out, x.cols);
    for (std::size_t j = 0; j < x.cols; ++j) {
      out[j] *= scale;
    }
  }
  tape.Record(y, [x, y] {
    if (x.gradient == nullptr) {
      return;
    }
    const bool add = PrepareGradient(x);
    for (std::size_t i = 0; i < x.rows; ++i) {
      const T* const out = y.row(i);
      const T* const g = y.gradient_row(i);
      const T mean = Dot(out, g, x.cols);
      T* const to = x.gradient_row(i);
      for (std::size_t j = 0; j < x.cols; ++j) {
        to[j] = (add ? to[j] : T{0}) + out[j] * (g[j] - mean);
      }
    }
  });
  return y;
}

template <typename T>
Tensor<T> MultiHeadAttention(Tape<T>& tape, const Tensor<T>& query, const Tensor<T>& key,
                             const Tensor<T>& value, const AttentionShape& shape) {
  CHECK(query.cols == key.cols && key.rows == value.rows && query.cols % shape.heads == 0 &&
        value.cols % shape.heads == 0);
  const std::uint32_t width = query.cols / shape.heads;
  const std::uint32_t value_width = value.cols / shape.heads;
  const Tensor<T> out = tape.New(query.rows, value.cols, Tape<T>::Rows::kPacked);
  for (std::uint32_t head = 0; head < shape.heads; ++head) {
    Tensor<T> scores = BatchMatMul(tape, query.Columns(head * width, width),
                                   key.Columns(head * width, width), TransposeB::kYes, shape.batch);
    if (shape.score_scale != 1) {
      scores = Scale(tape, scores, T(shape.score_scale));
    }
    BatchMatMulInto(tape, Softmax(tape, scores), value.Columns(head * value_width, value_width),
                    TransposeB::kNo, shape.batch, out.Columns(head * value_width, value_width));
  }
  return out;
}

#define PLEXUS_INSTANTIATE(T)                                                              \
  template void BatchMatMulInto(Tape<T>&, const Tensor<T>&, const Tensor<T>&, TransposeB,  \
                                std::uint32_t, const Tensor<T>&);                          \
  template Tensor<T> BatchMatMul(Tape<T>&, const Tensor<T>&, const Tensor<T>&, TransposeB, \
                                 std::uint32_t);                                           \
  template Tensor<T> Softmax(Tape<T>&, const Tensor<T>&);                                  \
  template Tensor<T> MultiHeadAttention(Tape<T>&, const Tensor<T>&, const Tensor<T>&,      \
                                        const Tensor<T>&, const AttentionShape&)

PLEXUS_INSTANTIATE(float);
PLEXUS_INSTANTIATE(double);
#undef PLEXUS_INSTANTIATE

}  // namespace plexus
