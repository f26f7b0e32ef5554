#include "worker/nn/normalization.h"

#include <cmath>

#include "common/random.h"
#include "worker/nn/elementwise.h"
#include "worker/nn/kernels.h"

namespace plexus {
namespace {

// Zeroes a row parameter's gradient before its first addition.
template <typename T>
void PrepareRow(const Tensor<T>& row) {
  if (!PrepareGradient(row)) {
    std::fill_n(row.gradient, row.cols, T{0});
  }
}

// gamma * x_hat + beta for x_hat = (x - mean) * inverse, with mean and inverse per column; keeps
// x_hat.
template <typename T>
struct ColumnStatistics {
  T* mean;
  T* inverse;  // 1 / sqrt(variance + epsilon)
};

template <typename T>
void Normalize(const Tensor<T>& x, const ColumnStatistics<T>& statistics,
               const BatchNormParameters<T>& p, const Tensor<T>& y) {
  for (std::size_t i = 0; i < x.rows; ++i) {
    for (std::size_t j = 0; j < x.cols; ++j) {
      const T x_hat = (x.row(i)[j] - statistics.mean[j]) * statistics.inverse[j];
      y.row(i)[j] = p.gamma.value[j] * x_hat + p.beta.value[j];
    }
  }
}

// Mean and variance of each column, rows added in order; hands them to the running statistics'
// "gradients".
template <typename T>
void MeasureColumns(const Tensor<T>& x, const BatchNormParameters<T>& p, T* mean, T* variance) {
  const T count = T(std::max(x.rows, 1U));
  std::fill_n(mean, x.cols, T{0});
  std::fill_n(variance, x.cols, T{0});
  for (std::size_t i = 0; i < x.rows; ++i) {
    AddScaled(T{1}, x.row(i), x.cols, mean);
  }
  for (std::size_t j = 0; j < x.cols; ++j) {
    mean[j] /= count;
  }
  for (std::size_t i = 0; i < x.rows; ++i) {
    for (std::size_t j = 0; j < x.cols; ++j) {
      const T distance = x.row(i)[j] - mean[j];
      variance[j] += distance * distance;
    }
  }
  if (p.running_mean.gradient != nullptr) {
    WriteGradient(p.running_mean, [&](std::size_t, std::size_t j) { return T(x.rows) * mean[j]; });
    WriteGradient(p.running_variance, [&](std::size_t, std::size_t j) { return variance[j]; });
  }
  for (std::size_t j = 0; j < x.cols; ++j) {
    variance[j] /= count;
  }
}

template <typename T>
void BackpropagateBatchNorm(const Tensor<T>& x, const ColumnStatistics<T>& statistics,
                            const BatchNormParameters<T>& p, const Tensor<T>& y, T* sums) {
  // Per column: the sums of g and of g * x_hat.
  T* const sum = sums;
  T* const sum_hat = sums + x.cols;
  std::fill_n(sums, 2 * std::size_t{x.cols}, T{0});
  const auto x_hat = [&](std::size_t i, std::size_t j) {
    return (x.row(i)[j] - statistics.mean[j]) * statistics.inverse[j];
  };
  for (std::size_t i = 0; i < x.rows; ++i) {
    for (std::size_t j = 0; j < x.cols; ++j) {
      const T g = y.gradient_row(i)[j];
      sum[j] += g;
      sum_hat[j] += g * x_hat(i, j);
    }
  }
  WriteGradient(p.gamma, [&](std::size_t, std::size_t j) { return sum_hat[j]; });
  WriteGradient(p.beta, [&](std::size_t, std::size_t j) { return sum[j]; });
  const T share = T{1} / T(std::max(x.rows, 1U));
  WriteGradient(x, [&](std::size_t i, std::size_t j) {
    return p.gamma.value[j] * statistics.inverse[j] *
           (y.gradient_row(i)[j] - share * (sum[j] + x_hat(i, j) * sum_hat[j]));
  });
}

}  // namespace

template <typename T>
Tensor<T> Dropout(Tape<T>& tape, const Tensor<T>& x, double rate, const DropoutKey& key) {
  const auto dropped = static_cast<std::uint32_t>(std::lround(rate * 65536));
  CHECK_LT(dropped, 65536U) << "dropout rate " << rate;
  if (!tape.training() || dropped == 0) {
    return x;
  }
  const Tensor<T> factors =
      ConstantTensor(tape.Scratch(std::size_t{x.rows} * x.cols), x.rows, x.cols);
  const T kept = T(65536.0 / (65536.0 - dropped));
  for (std::size_t i = 0; i < x.rows; ++i) {
    const std::uint64_t sample = (std::uint64_t{key.rank} << 32) | (key.first_sample + i);
    const CounterRandom random(key.seed, key.stream, sample, key.step);
    for (std::size_t j = 0; j < x.cols; j += 4) {
      // Four columns share 64 bits.
      std::uint64_t bits = random.Bits(j / 4);
      for (std::size_t e = j; e < std::min<std::size_t>(j + 4, x.cols); ++e, bits >>= 16) {
        factors.row(i)[e] = (bits & 0xffff) < dropped ? T{0} : kept;
      }
    }
  }
  return Mul(tape, x, factors);
}

template <typename T>
Tensor<T> BatchNorm(Tape<T>& tape, const Tensor<T>& x, const BatchNormParameters<T>& p) {
  const Tensor<T> y = tape.New(x.rows, x.cols);
  T* const variance = tape.Scratch(x.cols);
  const ColumnStatistics<T> statistics{tape.Scratch(x.cols), tape.Scratch(x.cols)};
  if (tape.training()) {
    MeasureColumns(x, p, statistics.mean, variance);
  } else {
    std::copy_n(p.running_mean.value, x.cols, statistics.mean);
    std::copy_n(p.running_variance.value, x.cols, variance);
  }
  for (std::size_t j = 0; j < x.cols; ++j) {
    statistics.inverse[j] = T{1} / std::sqrt(variance[j] + T(p.epsilon));
  }
  Normalize(x, statistics, p, y);
  T* const sums = tape.Scratch(2 * std::size_t{x.cols});
  tape.Record(y, [=] { BackpropagateBatchNorm(x, statistics, p, y, sums); });
  return y;
}

template <typename T>
Tensor<T> LayerNorm(Tape<T>& tape, const Tensor<T>& x, const Tensor<T>& gamma,
                    const Tensor<T>& beta, double epsilon) {
  const Tensor<T> y = tape.New(x.rows, x.cols);
  const Tensor<T> hat = ConstantTensor(tape.Scratch(std::size_t{x.rows} * x.cols), x.rows, x.cols);
  T* const inverse = tape.Scratch(x.rows);
  for (std::size_t i = 0; i < x.rows; ++i) {
    const T mean = Sum(x.row(i), x.cols) / T(x.cols);
    const T variance = SumOfSquaredDistances(x.row(i), mean, x.cols) / T(x.cols);
    inverse[i] = T{1} / std::sqrt(variance + T(epsilon));
    for (std::size_t j = 0; j < x.cols; ++j) {
      hat.row(i)[j] = (x.row(i)[j] - mean) * inverse[i];
      y.row(i)[j] = gamma.value[j] * hat.row(i)[j] + beta.value[j];
    }
  }
  T* const scaled = tape.Scratch(x.cols);
  tape.Record(y, [=] {
    PrepareRow(gamma);
    PrepareRow(beta);
    const bool add = x.gradient != nullptr && PrepareGradient(x);
    for (std::size_t i = 0; i < x.rows; ++i) {
      const T* const g = y.gradient_row(i);
      for (std::size_t j = 0; j < x.cols; ++j) {
        gamma.gradient[j] += g[j] * hat.row(i)[j];
        beta.gradient[j] += g[j];
        scaled[j] = g[j] * gamma.value[j];
      }
      if (x.gradient == nullptr) {
        continue;
      }
      const T mean = Sum(scaled, x.cols) / T(x.cols);
      const T mean_hat = Dot(scaled, hat.row(i), x.cols) / T(x.cols);
      T* const to = x.gradient_row(i);
      for (std::size_t j = 0; j < x.cols; ++j) {
        to[j] = (add ? to[j] : T{0}) + inverse[i] * (scaled[j] - mean - hat.row(i)[j] * mean_hat);
      }
    }
  });
  return y;
}

#define PLEXUS_INSTANTIATE(T)                                                                  \
  template Tensor<T> Dropout(Tape<T>&, const Tensor<T>&, double, const DropoutKey&);           \
  template Tensor<T> BatchNorm(Tape<T>&, const Tensor<T>&, const BatchNormParameters<T>&);     \
  template Tensor<T> LayerNorm(Tape<T>&, const Tensor<T>&, const Tensor<T>&, const Tensor<T>&, \
                               double)

PLEXUS_INSTANTIATE(float);
PLEXUS_INSTANTIATE(double);
#undef PLEXUS_INSTANTIATE

}  // namespace plexus
