#include "worker/nn/loss.h"

#include <cmath>

namespace plexus {

template <typename T>
double BinaryCrossEntropy(Tape<T>& tape, const Tensor<T>& logits, std::span<const float> labels) {
  CHECK_EQ(logits.cols, 1U);
  CHECK_EQ(logits.rows, labels.size());
  double loss = 0;
  for (std::size_t i = 0; i < logits.rows; ++i) {
    // log(1 + e^z) - y z, from e^-|z| <= 1.
    const T z = *logits.row(i);
    loss += static_cast<double>(std::max(z, T{0}) - z * T(labels[i]) +
                                std::log1p(std::exp(-std::abs(z))));
  }
  if (tape.training() && logits.gradient != nullptr) {
    WriteGradient(logits, [&](std::size_t i, std::size_t) {
      const T z = *logits.row(i);
      const T small = std::exp(-std::abs(z));
      const T probability = z >= T{0} ? T{1} / (T{1} + small) : small / (T{1} + small);
      return probability - T(labels[i]);
    });
  }
  return loss;
}

template double BinaryCrossEntropy(Tape<float>&, const Tensor<float>&, std::span<const float>);
template double BinaryCrossEntropy(Tape<double>&, const Tensor<double>&, std::span<const float>);

}  // namespace plexus
