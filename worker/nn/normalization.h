// Layers that behave differently while training: dropout and batch normalisation; and layer
// normalisation.
//
// Thread safety: functions on one tape, which belongs to one thread.
#pragma once

#include <cstdint>

#include "worker/nn/tape.h"

namespace plexus {

// What a dropout mask is a pure function of, besides the element's column.
struct DropoutKey {
  std::uint64_t seed = 0;
  std::uint64_t stream = 0;  // One a layer.
  std::uint64_t step = 0;
  std::uint32_t rank = 0;
  std::uint32_t first_sample = 0;  // Row 0's position in the rank's minibatch.
};

// Training: each element is dropped with probability `rate` (rounded to a multiple of 2^-16), the
// others are scaled by 1 / (1 - rate). Predicting: x.  (Srivastava et al., JMLR 15, 2014.)
template <typename T>
Tensor<T> Dropout(Tape<T>& tape, const Tensor<T>& x, double rate, const DropoutKey& key);

// All [1, cols].
template <typename T>
struct BatchNormParameters {
  Tensor<T> gamma;
  Tensor<T> beta;
  Tensor<T> running_mean;
  Tensor<T> running_variance;
  double epsilon = 1e-5;
};

// gamma * (x - mean) / sqrt(variance + epsilon) + beta (Ioffe and Szegedy, ICML 2015, algorithm 1).
// Training: x's own mean and (biased) variance; the running statistics' "gradients" become these
// times the number of rows, and their values stay.  Predicting: the running statistics.
template <typename T>
Tensor<T> BatchNorm(Tape<T>& tape, const Tensor<T>& x, const BatchNormParameters<T>& parameters);

// The same over each row, with gamma and beta [1, cols] (Ba et al., arXiv 1607.06450, equation 4).
template <typename T>
Tensor<T> LayerNorm(Tape<T>& tape, const Tensor<T>& x, const Tensor<T>& gamma,
                    const Tensor<T>& beta, double epsilon = 1e-5);

}  // namespace plexus
