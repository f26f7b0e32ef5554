#include "worker/nn/linear.h"

#include "worker/nn/kernels.h"

namespace plexus {
namespace {

template <typename T>
void ApplyBias(const Tensor<T>& y, const Tensor<T>* bias, Activation activation) {
  if (bias == nullptr && activation == Activation::kNone) {
    return;
  }
  for (std::size_t i = 0; i < y.rows; ++i) {
    T* __restrict out = y.row(i);
    if (bias != nullptr) {
      const T* __restrict b = bias->value;
      if (activation == Activation::kRelu) {
        for (std::size_t j = 0; j < y.cols; ++j) {
          const T sum = out[j] + b[j];
          out[j] = sum < T{0} ? T{0} : sum;  // A NaN stays one.
        }
      } else {
        for (std::size_t j = 0; j < y.cols; ++j) {
          out[j] += b[j];
        }
      }
    } else {
      for (std::size_t j = 0; j < y.cols; ++j) {
        out[j] = out[j] < T{0} ? T{0} : out[j];
      }
    }
  }
}

// Masks y's gradient by the ReLU and adds its rows into the bias' gradient.
template <typename T>
void BackpropagateBias(const Tensor<T>& y, const Tensor<T>* bias, Activation activation) {
  const bool relu = activation == Activation::kRelu;
  T* __restrict bias_gradient = bias == nullptr ? nullptr : bias->gradient;
  if (bias_gradient != nullptr && !PrepareGradient(*bias)) {
    std::fill_n(bias_gradient, y.cols, T{0});
  }
  if (!relu && bias_gradient == nullptr) {
    return;
  }
  for (std::size_t i = 0; i < y.rows; ++i) {
    T* __restrict g = y.gradient_row(i);
    const T* __restrict out = y.row(i);
    if (relu && bias_gradient != nullptr) {
      for (std::size_t j = 0; j < y.cols; ++j) {
        const T masked = out[j] > T{0} ? g[j] : T{0};
        g[j] = masked;
        bias_gradient[j] += masked;
      }
    } else if (relu) {
      for (std::size_t j = 0; j < y.cols; ++j) {
        g[j] = out[j] > T{0} ? g[j] : T{0};
      }
    } else {
      for (std::size_t j = 0; j < y.cols; ++j) {
        bias_gradient[j] += g[j];
      }
    }
  }
}

template <typename T>
void BackpropagateProduct(const Tensor<T>& x, const Tensor<T>& w, const Tensor<T>& y,
                          ProductPrecision precision) {
  if (w.gradient != nullptr) {
    const bool add = PrepareGradient(w);
    Gemm<T>({x.cols, y.cols, x.rows}, x.operand(true), y.gradient_operand(),
            {w.gradient, w.stride, add}, precision);
  }
  if (x.gradient != nullptr) {
    const bool add = PrepareGradient(x);
    const std::size_t first = x.input_columns;
    Gemm<T>({x.rows, x.cols - first, y.cols}, y.gradient_operand(),
            {w.value + first * w.stride, w.stride, true}, {x.gradient + first, x.stride, add},
            precision);
  }
}

// The output layer of a tower: a matrix product would waste most of its lanes.  w [K, 1] is
// contiguous.
template <typename T>
void MultiplyByColumn(const Tensor<T>& x, const T* w, const Tensor<T>& y) {
  for (std::size_t i = 0; i < x.rows; ++i) {
    *y.row(i) = Dot(x.row(i), w, x.cols);
  }
}

template <typename T>
void BackpropagateColumn(const Tensor<T>& x, const Tensor<T>& w, const Tensor<T>& y) {
  T* const weight_gradient = w.gradient;
  if (weight_gradient != nullptr) {
    if (!PrepareGradient(w)) {
      std::fill_n(weight_gradient, x.cols, T{0});
    }
    for (std::size_t i = 0; i < x.rows; ++i) {
      AddScaled(*y.gradient_row(i), x.row(i), x.cols, weight_gradient);
    }
  }
  WriteGradient(x, [&, weight = static_cast<const T*>(w.value)](std::size_t i, std::size_t j) {
    return *y.gradient_row(i) * weight[j];
  });
}

}  // namespace

template <typename T>
Tensor<T> Linear(Tape<T>& tape, const Tensor<T>& x, const Tensor<T>& w, const Tensor<T>* bias,
                 Activation activation) {
  CHECK_EQ(x.cols, w.rows) << "Linear: x has " << x.cols << " columns, w " << w.rows << " rows";
  const Tensor<T> y = tape.New(x.rows, w.cols);
  const bool column = w.cols == 1 && w.stride == 1;
  const ProductPrecision precision = tape.precision();
  if (column) {
    MultiplyByColumn(x, w.value, y);
  } else {
    Gemm<T>({x.rows, w.cols, x.cols}, x.operand(), w.operand(), {y.value, y.stride}, precision);
  }
  ApplyBias(y, bias, activation);
  const bool has_bias = bias != nullptr;
  const Tensor<T> b = has_bias ? *bias : Tensor<T>{};
  tape.Record(y, [x, w, b, y, has_bias, activation, column, precision] {
    BackpropagateBias(y, has_bias ? &b : nullptr, activation);
    if (column) {
      BackpropagateColumn(x, w, y);
    } else {
      BackpropagateProduct(x, w, y, precision);
    }
  });
  return y;
}

template Tensor<float> Linear(Tape<float>&, const Tensor<float>&, const Tensor<float>&,
                              const Tensor<float>*, Activation);
template Tensor<double> Linear(Tape<double>&, const Tensor<double>&, const Tensor<double>&,
                               const Tensor<double>*, Activation);

}  // namespace plexus
