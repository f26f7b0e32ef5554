#include "worker/nn/elementwise.h"

#include <cmath>

#include "worker/nn/kernels.h"

namespace plexus {
namespace {

template <typename T>
Tensor<T> NewLike(Tape<T>& tape, const Tensor<T>& x) {
  return tape.New(x.rows, x.cols, x.contiguous() ? Tape<T>::Rows::kPacked : Tape<T>::Rows::kPadded);
}

enum class Repeat { kNone, kRow, kColumn };

template <typename T>
Repeat RepeatOf(const Tensor<T>& a, const Tensor<T>& b) {
  if (a.rows == b.rows && a.cols == b.cols) {
    return Repeat::kNone;
  }
  if (b.rows == 1 && a.cols == b.cols) {
    return Repeat::kRow;
  }
  CHECK(b.cols == 1 && a.rows == b.rows)
      << "shapes [" << a.rows << ", " << a.cols << "] and [" << b.rows << ", " << b.cols << "]";
  return Repeat::kColumn;
}

template <typename T>
T RepeatedAt(const Tensor<T>& b, Repeat repeat, std::size_t i, std::size_t j) {
  switch (repeat) {
    case Repeat::kNone:
      return b.row(i)[j];
    case Repeat::kRow:
      return b.value[j];
    case Repeat::kColumn:
      return *b.row(i);
  }
  return T{0};
}

// Writes the gradient of the repeated operand: term(i, j) summed over what it was repeated over.
template <typename T, typename Term>
void WriteRepeatedGradient(const Tensor<T>& b, Repeat repeat, const Tensor<T>& like, Term term) {
  if (b.gradient == nullptr) {
    return;
  }
  if (repeat == Repeat::kNone) {
    WriteGradient(b, term);
    return;
  }
  if (!PrepareGradient(b)) {
    for (std::size_t i = 0; i < b.rows; ++i) {
      std::fill_n(b.gradient_row(i), b.cols, T{0});
    }
  }
  for (std::size_t i = 0; i < like.rows; ++i) {
    if (repeat == Repeat::kRow) {
      for (std::size_t j = 0; j < like.cols; ++j) {
        b.gradient[j] += term(i, j);
      }
    } else {
      *b.gradient_row(i) +=
          internal::ReduceTerms<T>(like.cols, [&term, i](std::size_t j) { return term(i, j); });
    }
  }
}

// y = f(x) with dy/dx = slope(y).
template <typename T, typename Function, typename Slope>
Tensor<T> Map(Tape<T>& tape, const Tensor<T>& x, Function function, Slope slope) {
  const Tensor<T> y = NewLike(tape, x);
  for (std::size_t i = 0; i < x.rows; ++i) {
    for (std::size_t j = 0; j < x.cols; ++j) {
      y.row(i)[j] = function(x.row(i)[j]);
    }
  }
  tape.Record(y, [x, y, slope] {
    WriteGradient(
        x, [&](std::size_t i, std::size_t j) { return y.gradient_row(i)[j] * slope(y.row(i)[j]); });
  });
  return y;
}

}  // namespace

template <typename T>
Tensor<T> Relu(Tape<T>& tape, const Tensor<T>& x) {
  return Map(
      tape, x, [](T v) { return v < T{0} ? T{0} : v; }, [](T y) { return y > T{0} ? T{1} : T{0}; });
}

template <typename T>
Tensor<T> Sigmoid(Tape<T>& tape, const Tensor<T>& x) {
  return Map(
      tape, x, [](T v) { return T{1} / (T{1} + std::exp(-v)); },
      [](T y) { return y * (T{1} - y); });
}

template <typename T>
Tensor<T> Tanh(Tape<T>& tape, const Tensor<T>& x) {
  return Map(
      tape, x, [](T v) { return std::tanh(v); }, [](T y) { return T{1} - y * y; });
}

template <typename T>
Tensor<T> Add(Tape<T>& tape, const Tensor<T>& a, const Tensor<T>& b) {
  const Repeat repeat = RepeatOf(a, b);
  const Tensor<T> y = NewLike(tape, a);
  for (std::size_t i = 0; i < a.rows; ++i) {
    for (std::size_t j = 0; j < a.cols; ++j) {
      y.row(i)[j] = a.row(i)[j] + RepeatedAt(b, repeat, i, j);
    }
  }
  tape.Record(y, [a, b, y, repeat] {
    const auto term = [&](std::size_t i, std::size_t j) { return y.gradient_row(i)[j]; };
    WriteGradient(a, term);
    WriteRepeatedGradient(b, repeat, y, term);
  });
  return y;
}

template <typename T>
Tensor<T> Mul(Tape<T>& tape, const Tensor<T>& a, const Tensor<T>& b) {
  const Repeat repeat = RepeatOf(a, b);
  const Tensor<T> y = NewLike(tape, a);
  for (std::size_t i = 0; i < a.rows; ++i) {
    for (std::size_t j = 0; j < a.cols; ++j) {
      y.row(i)[j] = a.row(i)[j] * RepeatedAt(b, repeat, i, j);
    }
  }
  tape.Record(y, [a, b, y, repeat] {
    WriteGradient(a, [&](std::size_t i, std::size_t j) {
      return y.gradient_row(i)[j] * RepeatedAt(b, repeat, i, j);
    });
    WriteRepeatedGradient(b, repeat, y, [&](std::size_t i, std::size_t j) {
      return y.gradient_row(i)[j] * a.row(i)[j];
    });
  });
  return y;
}

template <typename T>
Tensor<T> MulAdd(Tape<T>& tape, const Tensor<T>& a, const Tensor<T>& b, const Tensor<T>& c) {
  CHECK(a.rows == b.rows && a.cols == b.cols && a.rows == c.rows && a.cols == c.cols);
  const Tensor<T> y = NewLike(tape, a);
  for (std::size_t i = 0; i < a.rows; ++i) {
    const T* const left = a.row(i);
    const T* const right = b.row(i);
    const T* const plus = c.row(i);
    T* __restrict out = y.row(i);
    for (std::size_t j = 0; j < a.cols; ++j) {
      out[j] = left[j] * right[j] + plus[j];
    }
  }
  tape.Record(y, [a, b, c, y] {
    const auto product = [&y](const Tensor<T>& other) {
      return [&y, &other](std::size_t i, std::size_t j) {
        return y.gradient_row(i)[j] * other.row(i)[j];
      };
    };
    WriteGradient(a, product(b));
    WriteGradient(b, product(a));
    WriteGradient(c, [&](std::size_t i, std::size_t j) { return y.gradient_row(i)[j]; });
  });
  return y;
}

template <typename T>
Tensor<T> Scale(Tape<T>& tape, const Tensor<T>& x, T factor) {
  return Map(
      tape, x, [factor](T v) { return factor * v; }, [factor](T) { return factor; });
}

template <typename T>
void CopyInto(Tape<T>& tape, const Tensor<T>& from, const Tensor<T>& to) {
  CHECK(from.rows == to.rows && from.cols == to.cols);
  for (std::size_t i = 0; i < from.rows; ++i) {
    std::copy_n(from.row(i), from.cols, to.row(i));
  }
  if (from.gradient == nullptr) {
    return;
  }
  tape.Record(to, [from, to] {
    WriteGradient(from, [&](std::size_t i, std::size_t j) { return to.gradient_row(i)[j]; });
  });
}

template <typename T>
Tensor<T> Concat(Tape<T>& tape, std::span<const Tensor<T>> parts) {
  CHECK(!parts.empty());
  std::uint32_t cols = 0;
  for (const Tensor<T>& part : parts) {
    cols += part.cols;
  }
  const Tensor<T> y = tape.New(parts[0].rows, cols);
  std::uint32_t first = 0;
  for (const Tensor<T>& part : parts) {
    CopyInto(tape, part, y.Columns(first, part.cols));
    first += part.cols;
  }
  return y;
}

template <typename T>
Tensor<T> SumOfRows(Tape<T>& tape, const Tensor<T>& x) {
  const Tensor<T> y = tape.New(x.rows, 1);
  for (std::size_t i = 0; i < x.rows; ++i) {
    *y.row(i) = Sum(x.row(i), x.cols);
  }
  tape.Record(y, [x, y] {
    WriteGradient(x, [&](std::size_t i, std::size_t) { return *y.gradient_row(i); });
  });
  return y;
}

template <typename T>
Tensor<T> SumOfColumns(Tape<T>& tape, const Tensor<T>& x) {
  const Tensor<T> y = tape.New(1, x.cols);
  std::fill_n(y.value, x.cols, T{0});
  for (std::size_t i = 0; i < x.rows; ++i) {
    AddScaled(T{1}, x.row(i), x.cols, y.value);
  }
  tape.Record(
      y, [x, y] { WriteGradient(x, [&](std::size_t, std::size_t j) { return y.gradient[j]; }); });
  return y;
}

// A type cannot be parenthesised.
// NOLINTBEGIN(bugprone-macro-parentheses)
#define PLEXUS_INSTANTIATE(T)                                                                \
  template Tensor<T> Relu(Tape<T>&, const Tensor<T>&);                                       \
  template Tensor<T> Sigmoid(Tape<T>&, const Tensor<T>&);                                    \
  template Tensor<T> Tanh(Tape<T>&, const Tensor<T>&);                                       \
  template Tensor<T> Add(Tape<T>&, const Tensor<T>&, const Tensor<T>&);                      \
  template Tensor<T> Mul(Tape<T>&, const Tensor<T>&, const Tensor<T>&);                      \
  template Tensor<T> MulAdd(Tape<T>&, const Tensor<T>&, const Tensor<T>&, const Tensor<T>&); \
  template Tensor<T> Scale(Tape<T>&, const Tensor<T>&, T);                                   \
  template void CopyInto(Tape<T>&, const Tensor<T>&, const Tensor<T>&);                      \
  template Tensor<T> Concat(Tape<T>&, std::span<const Tensor<T>>);                           \
  template Tensor<T> SumOfRows(Tape<T>&, const Tensor<T>&);                                  \
  template Tensor<T> SumOfColumns(Tape<T>&, const Tensor<T>&)

PLEXUS_INSTANTIATE(float);
PLEXUS_INSTANTIATE(double);
#undef PLEXUS_INSTANTIATE
// NOLINTEND(bugprone-macro-parentheses)

}  // namespace plexus
