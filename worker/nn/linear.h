// Linear layers: y = act(x W + b), and products of two tensors.
//
// W is [in, out] (PyTorch's Linear holds the transpose): a row of W then starts at a cache line for
// the usual widths. Bias and ReLU are applied while the product is still in the cache; so is their
// part of the backward pass.
//
// Thread safety: functions on one tape, which belongs to one thread.
#pragma once

#include "worker/nn/tape.h"

namespace plexus {

enum class Activation { kNone, kRelu };

// x [B, in], w [in, out], bias [1, out] or null -> [B, out].  One output column is computed by dot
// products.
template <typename T>
Tensor<T> Linear(Tape<T>& tape, const Tensor<T>& x, const Tensor<T>& w, const Tensor<T>* bias,
                 Activation activation = Activation::kNone);

// a [M, K] b [K, N].
template <typename T>
Tensor<T> MatMul(Tape<T>& tape, const Tensor<T>& a, const Tensor<T>& b) {
  return Linear<T>(tape, a, b, nullptr);
}

}  // namespace plexus
