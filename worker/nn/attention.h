// Building blocks of attention: products of one small matrix a sample, row-wise softmax, multi-head
// attention.
//
// A tensor of `batch` matrices [rows, cols] is a tensor [batch * rows, cols].
//
// Thread safety: functions on one tape, which belongs to one thread.
#pragma once

#include "worker/nn/tape.h"

namespace plexus {

enum class TransposeB : bool { kNo, kYes };

// out_s = a_s b_s, or a_s b_s^T, for each of `batch` matrices; `out` may be a view.
template <typename T>
void BatchMatMulInto(Tape<T>& tape, const Tensor<T>& a, const Tensor<T>& b, TransposeB transpose,
                     std::uint32_t batch, const Tensor<T>& out);

template <typename T>
Tensor<T> BatchMatMul(Tape<T>& tape, const Tensor<T>& a, const Tensor<T>& b, TransposeB transpose,
                      std::uint32_t batch);

// Each row exp(x - max) / sum.
template <typename T>
Tensor<T> Softmax(Tape<T>& tape, const Tensor<T>& x);

struct AttentionShape {
  std::uint32_t batch = 0;
  std::uint32_t heads = 1;
  double score_scale = 1;  // Often 1 / sqrt(width of a head).
};

// softmax(scale * Q_h K_h^T) V_h for each head h, heads side by side: query [batch * L, H * d], key
// [batch * M, H * d], value [batch * M, H * e] -> [batch * L, H * e]  (Vaswani et al., NIPS 2017,
// equation 1).
template <typename T>
Tensor<T> MultiHeadAttention(Tape<T>& tape, const Tensor<T>& query, const Tensor<T>& key,
                             const Tensor<T>& value, const AttentionShape& shape);

}  // namespace plexus
