// RowLayout: how one row of a table lies in memory and on disk: its record.
//
//   values as `precision`; zeros up to a multiple of 4; f32 scale (kInt8, kInt4); state as
//   `state_precision`; zeros up to a multiple of 4; the state's exact floats (step counts, row-wise
//   accumulators) as f32.
//
// A record whose floats are all f32 is what the optimizer reads, without padding: plain().  Others
// are decoded before an update and encoded after it, with stochastic rounding.
//
// The scale of an integer row is that of its largest value, at each update.  Learned scales (ALPT;
// Li et al., "Adaptive Low-Precision Training for Embeddings in CTR Prediction", AAAI 2023): it
// begins as 0.01, or as that of the largest value if this is more; after the optimizer's step gave
// w, the scale s moves by learning rate / sqrt(dim * largest integer) against ScaleGradient(), by
// half or to the double at most; then w is encoded with the new s.  The gradient is the step's own
// (one pass instead of the paper's two).
//
// Thread safety: immutable after creation.
#pragma once

#include <cstddef>
#include <cstdint>

#include "common/optimizer/optimizer.h"
#include "common/random.h"
#include "proto/table_spec.h"

namespace plexus {

class RowLayout {
 public:
  RowLayout(const TableSpec& spec, const Optimizer& optimizer);

  std::uint32_t dim() const { return dim_; }
  std::uint32_t floats() const { return floats_; }  // dim + state, decoded.
  std::uint32_t record_bytes() const { return record_bytes_; }
  std::uint32_t value_bytes() const { return value_bytes_; }  // Values and scale.
  bool plain() const { return plain_; }

  // The first `dim` values.
  void ReadValues(const std::byte* record, std::uint32_t dim, float* values) const;
  // Values, then state: floats().
  void Read(const std::byte* record, float* floats) const;
  // The record of a new row.  `random` is the row's and version's own, here and below; the layout
  // uses its elements from 2^20 on.
  void Create(const float* floats, const CounterRandom& random, std::byte* record) const;
  // After an update of the first `active` values with the mean gradients `gradients`: only they and
  // their state (and scale, and exact state) change; what lies behind them keeps its bits where the
  // precision has no scale.  With a scale, values behind keep theirs by rounding to nearest.
  void Write(const float* floats, const float* gradients, std::uint32_t active,
             const CounterRandom& random, std::byte* record) const;

 private:
  float ReadScale(const std::byte* record) const;
  float LearnedScale(const float* values, const float* gradients, std::uint32_t active,
                     float scale) const;
  // The first `active` values anew; with a scale, those behind as well.
  void WriteValues(const float* values, float scale, std::uint32_t active,
                   const CounterRandom& random, std::byte* record) const;
  void WriteState(const float* state, std::uint32_t active, const CounterRandom& random,
                  std::byte* record) const;

  std::uint32_t dim_;
  Precision precision_;
  Precision state_precision_;
  float scale_learning_rate_;   // 0: the scale is not learned.
  std::uint32_t state_arrays_;  // Of `dim` floats each,
  std::uint32_t exact_floats_;  // and what lies behind them.
  std::uint32_t floats_;
  std::uint32_t value_bytes_;
  std::uint32_t exact_offset_;  // In the record, bytes.
  std::uint32_t record_bytes_;
  bool plain_;
};

// The gradient of an integer row's scale s: sum over i of gradients[i] d(s q(values[i] / s)) / ds,
// where the derivative is round(v) - v for v = values[i] / s inside the range, and the largest
// (smallest) integer where v reaches it.  The sum's order is that of common/optimizer/lanes.h.
float ScaleGradient(const float* values, const float* gradients, std::uint32_t n, float scale,
                    std::int32_t largest_integer);

}  // namespace plexus
