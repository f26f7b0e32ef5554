// Element-wise operations, and those that change a matrix' shape.  A result is packed if the first
// operand is.
//
// Thread safety: functions on one tape, which belongs to one thread.
#pragma once

#include <span>

#include "worker/nn/tape.h"

namespace plexus {

template <typename T>
Tensor<T> Relu(Tape<T>& tape, const Tensor<T>& x);
template <typename T>
Tensor<T> Sigmoid(Tape<T>& tape, const Tensor<T>& x);
template <typename T>
Tensor<T> Tanh(Tape<T>& tape, const Tensor<T>& x);

// b has a's shape, or is a row [1, cols] or a column [rows, 1] that is repeated.
template <typename T>
Tensor<T> Add(Tape<T>& tape, const Tensor<T>& a, const Tensor<T>& b);
template <typename T>
Tensor<T> Mul(Tape<T>& tape, const Tensor<T>& a, const Tensor<T>& b);

// a * b + c, all of one shape.
template <typename T>
Tensor<T> MulAdd(Tape<T>& tape, const Tensor<T>& a, const Tensor<T>& b, const Tensor<T>& c);

template <typename T>
Tensor<T> Scale(Tape<T>& tape, const Tensor<T>& x, T factor);

// [a | b | ...].  To build a tower's input without copies, write its parts into Columns() of one
// tensor.
template <typename T>
Tensor<T> Concat(Tape<T>& tape, std::span<const Tensor<T>> parts);

// A copy of `from` in the view `to`, which takes part in the gradient.
template <typename T>
void CopyInto(Tape<T>& tape, const Tensor<T>& from, const Tensor<T>& to);

// [rows, 1]: the sum of each row.
template <typename T>
Tensor<T> SumOfRows(Tape<T>& tape, const Tensor<T>& x);
// [1, cols]: the sum of each column.
template <typename T>
Tensor<T> SumOfColumns(Tape<T>& tape, const Tensor<T>& x);

}  // namespace plexus
