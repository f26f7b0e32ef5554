// Losses.
//
// Thread safety: functions on one tape, which belongs to one thread.
#pragma once

#include <span>

#include "worker/nn/tape.h"

namespace plexus {

// The *sum* over samples of the binary cross-entropy of sigmoid(logits[i, 0]) with labels[i] in [0,
// 1].  While training, seeds the logits' gradient with sigmoid(logit) - label.
template <typename T>
double BinaryCrossEntropy(Tape<T>& tape, const Tensor<T>& logits, std::span<const float> labels);

}  // namespace plexus
