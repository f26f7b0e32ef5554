// Reading pulled rows: pooled embeddings, first-order sums, and the factorization machine's
// second-order term.
//
// Fields are borrowed until Backward().  Gradients are added to the rows in a fixed order: blocks
// of samples ascending, in a block fields in the order given, in a field samples ascending, in a
// sample reads ascending.
//
// Thread safety: functions on one tape, which belongs to one thread.
#pragma once

#include <cstdint>
#include <span>

#include "worker/nn/tape.h"

namespace plexus {

// One field's reads: sample i reads rows[indices[offsets[i]]] .. rows[indices[offsets[i + 1]]).
template <typename T>
struct EmbeddingReads {
  std::uint32_t dim = 0;
  std::uint32_t width = 0;     // Floats of the pooled vector: dim, then zeros; 0: dim.
  const T* rows = nullptr;     // [unique rows, dim]
  T* row_gradients = nullptr;  // Same shape; gradients are added.  Null: nobody wants them.
  std::span<const std::uint32_t> indices{};
  std::span<const std::uint32_t> offsets{};  // samples + 1, or empty: one index a sample.
  std::span<const float> weights{};          // One an index, or empty: all 1.
  bool mean = false;                         // The weighted sum is divided by the number of reads.

  std::uint32_t columns() const { return width > 0 ? width : dim; }
  bool single() const { return offsets.empty() && weights.empty(); }
  std::size_t begin(std::size_t sample) const { return offsets.empty() ? sample : offsets[sample]; }
  std::size_t end(std::size_t sample) const {
    return offsets.empty() ? sample + 1 : offsets[sample + 1];
  }
  T weight(std::size_t read) const { return weights.empty() ? T{1} : T(weights[read]); }
  // What sample's pooled value multiplies each weighted row by; 1 of an empty sample.
  T pooling_factor(std::size_t sample) const {
    const std::size_t count = end(sample) - begin(sample);
    return mean && count > 1 ? T{1} / T(count) : T{1};
  }

  // The reads of samples [first, first + count).
  EmbeddingReads Samples(std::size_t first, std::size_t count) const;
};

// Writes the pooled vectors of all fields side by side into `out` [samples, sum of columns()].
// Gradients of the zeros behind a narrower field's `dim` are dropped.
template <typename T>
void EmbedInto(Tape<T>& tape, std::span<const EmbeddingReads<T>> fields, const Tensor<T>& out);

// [samples, 1]: the sum over fields of their pooled first-order weights (dim 1).
template <typename T>
Tensor<T> FirstOrder(Tape<T>& tape, std::span<const EmbeddingReads<T>> fields,
                     std::uint32_t samples);

// [samples, 1]: 0.5 * sum over dimensions of (sum of vectors)^2 - (sum of squared vectors) over the
// `fields` vectors that lie side by side in x (Rendle, Factorization Machines, ICDM 2010,
// lemma 3.1).
template <typename T>
Tensor<T> SecondOrder(Tape<T>& tape, const Tensor<T>& x, std::uint32_t fields);

// The same over all single reads, each weighted: a multi-valued field's values interact with each
// other too.  REQUIRES: the fields' columns() are equal.
template <typename T>
Tensor<T> SecondOrderOfReads(Tape<T>& tape, std::span<const EmbeddingReads<T>> fields,
                             std::uint32_t samples);

}  // namespace plexus
