// Tape: reverse-mode differentiation over row-major matrices.
//
// An operation (linear.h, elementwise.h, ...) is a function that computes its result at once and
// records a closure which, run by Backward() in reverse order, adds the result's gradient to those
// of its operands.  Tensors, closures and scratch lie in an arena that the next Reset() takes back,
// so a steady loop allocates nothing.
//
//   tape.Reset(Tape<float>::Mode::kTrain);
//   Tensor<float> y = Linear(tape, x, w, b, Activation::kRelu);
//   ...
//   loss = BinaryCrossEntropy(tape, logits, labels);   // Seeds the gradient.
//   tape.Backward();
//
// A gradient buffer is uninitialised until its first writer, which overwrites it: PrepareGradient()
// tells a closure whether to overwrite or to add.
//
// Thread safety: one object per rank, used by one thread.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <new>
#include <type_traits>

#include <glog/logging.h>

#include "worker/nn/arena.h"
#include "worker/nn/gemm.h"

namespace plexus {

// The gradient that all views of one tensor share.
template <typename T>
struct TensorStorage {
  T* gradient = nullptr;  // Null: a constant.
  std::size_t count = 0;  // Floats of the buffer, row paddings included.
  bool gradient_written = false;
};

// A view of a matrix with its gradient.  A small value; the memory belongs to the tape or to the
// caller.
template <typename T>
struct Tensor {
  T* value = nullptr;
  T* gradient = nullptr;  // Null: nobody wants it.
  std::uint32_t rows = 0;
  std::uint32_t cols = 0;
  std::size_t stride = 0;
  TensorStorage<T>* storage = nullptr;
  bool whole = true;  // Covers the storage.
  // So many leading columns are raw inputs whose gradient nobody reads: products may leave it out.
  std::uint32_t input_columns = 0;

  T* row(std::size_t i) const { return value + i * stride; }
  T* gradient_row(std::size_t i) const { return gradient + i * stride; }
  bool contiguous() const { return stride == cols || rows <= 1; }

  // Columns [first, first + count) of the same memory.
  Tensor Columns(std::uint32_t first, std::uint32_t count) const {
    DCHECK_LE(first + count, cols);
    Tensor view = *this;
    view.value += first;
    view.gradient = gradient == nullptr ? nullptr : gradient + first;
    view.cols = count;
    view.whole = whole && count == cols;
    view.input_columns = 0;
    return view;
  }

  // The same memory as another shape.  REQUIRES: contiguous(), as many elements.
  Tensor Reshape(std::uint32_t new_rows, std::uint32_t new_cols) const {
    DCHECK(contiguous());
    DCHECK_EQ(std::size_t{rows} * cols, std::size_t{new_rows} * new_cols);
    Tensor view = *this;
    view.rows = new_rows;
    view.cols = new_cols;
    view.stride = new_cols;
    view.input_columns = 0;
    return view;
  }

  MatrixOperand<T> operand(bool transposed = false) const { return {value, stride, transposed}; }
  MatrixOperand<T> gradient_operand(bool transposed = false) const {
    return {gradient, stride, transposed};
  }
};

// Whether the gradient must be added to what is there (true) or overwrites the view.  Call it once
// before each writing. REQUIRES: x.gradient != nullptr.
template <typename T>
bool PrepareGradient(const Tensor<T>& x) {
  if (x.storage->gradient_written) {
    return true;
  }
  x.storage->gradient_written = true;
  if (x.whole) {
    return false;
  }
  std::fill_n(x.storage->gradient, x.storage->count, T{0});
  return true;
}

// Writes term(i, j) into x's gradient, or adds it; nothing if nobody wants it.
template <typename T, typename Term>
void WriteGradient(const Tensor<T>& x, Term term) {
  if (x.gradient == nullptr) {
    return;
  }
  const bool add = PrepareGradient(x);
  for (std::size_t i = 0; i < x.rows; ++i) {
    T* const gradient = x.gradient_row(i);
    if (add) {
      for (std::size_t j = 0; j < x.cols; ++j) {
        gradient[j] += term(i, j);
      }
    } else {
      for (std::size_t j = 0; j < x.cols; ++j) {
        gradient[j] = term(i, j);
      }
    }
  }
}

template <typename T>
class Tape {
 public:
  enum class Mode { kPredict, kTrain };
  // Padded rows start at 64 bytes; packed ones follow each other, so that the tensor can be
  // reshaped.
  enum class Rows { kPadded, kPacked };

  // Forgets everything recorded; all tensors of this tape become invalid.
  void Reset(Mode mode, ProductPrecision precision = ProductPrecision::kFull) {
    arena_.Reset();
    last_ = nullptr;
    mode_ = mode;
    precision_ = precision;
  }

  bool training() const { return mode_ == Mode::kTrain; }
  ProductPrecision precision() const { return precision_; }

  // An uninitialised result, with a gradient while training.
  Tensor<T> New(std::uint32_t rows, std::uint32_t cols, Rows layout = Rows::kPadded) {
    Tensor<T> x{.rows = rows, .cols = cols, .stride = Stride(cols, layout)};
    const std::size_t count = x.stride * rows;
    x.value = arena_.Array<T>(count);
    x.gradient = training() ? arena_.Array<T>(count) : nullptr;
    x.storage = new (arena_.Allocate(sizeof(TensorStorage<T>))) TensorStorage<T>{x.gradient, count};
    return x;
  }

  T* Scratch(std::size_t count) { return arena_.Array<T>(count); }

  // `backward` runs in Backward() if `result` has got a gradient by then.
  template <typename Backward>
  void Record(const Tensor<T>& result, Backward backward) {
    static_assert(std::is_trivially_destructible_v<Backward>, "the arena runs no destructors");
    if (!training()) {
      return;
    }
    auto* const closure = new (arena_.Allocate(sizeof(Backward))) Backward(backward);
    last_ = new (arena_.Allocate(sizeof(Entry)))
        Entry{[](void* c) { (*static_cast<Backward*>(c))(); }, closure, result.storage, last_};
  }

  void Backward() {
    for (; last_ != nullptr; last_ = last_->previous) {
      if (last_->result->gradient_written) {
        last_->run(last_->closure);
      }
    }
  }

  Arena& arena() { return arena_; }

 private:
  struct Entry {
    void (*run)(void*);
    void* closure;
    const TensorStorage<T>* result;
    Entry* previous;
  };

  static std::size_t Stride(std::uint32_t cols, Rows layout) {
    constexpr std::size_t kLine = Arena::kAlignment / sizeof(T);
    // A column or a narrow matrix is not worth a cache line a row.
    return layout == Rows::kPacked || cols < kLine ? cols : (cols + kLine - 1) / kLine * kLine;
  }

  Arena arena_;
  Entry* last_ = nullptr;
  Mode mode_ = Mode::kPredict;
  ProductPrecision precision_ = ProductPrecision::kFull;
};

// A tensor over memory of the caller's, without a gradient.
template <typename T>
Tensor<T> ConstantTensor(const T* value, std::uint32_t rows, std::uint32_t cols) {
  // Values of constants are only read: operations write results, never operands.
  return {.value = const_cast<T*>(value), .rows = rows, .cols = cols, .stride = cols};
}

// A parameter over memory of the caller's.  `storage` outlives the step and says afterwards whether
// the gradient was written.
template <typename T>
Tensor<T> ParameterTensor(const T* value, TensorStorage<T>& storage, std::uint32_t rows,
                          std::uint32_t cols) {
  return {.value = const_cast<T*>(value),
          .gradient = storage.gradient,
          .rows = rows,
          .cols = cols,
          .stride = cols,
          .storage = &storage};
}

}  // namespace plexus
