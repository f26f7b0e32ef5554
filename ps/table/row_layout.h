// RowLayout: how one row of a table lies in memory and on disk: its record.
//
//   values as `precision`; zeros up to a multiple of 4; f32 scale (kInt8, kInt4); state as
//   `state_precision`; zeros up to a multiple of 4; the state's exact floats (step counts, row-wise
//   accumulators) as f32.
//
// A record of f32 values and f32 state is the floats as the optimizer reads them, without padding:
// plain().  Others are decoded before an update and encoded after it, with stochastic rounding.
//
// Learned scales (ALPT; Li et al., "Adaptive Low-Precision Training for Embeddings in CTR
// Prediction", AAAI 2023): after the optimizer's step gave w, the scale s moves against
// sum_i g_i d(s round(w_i / s)) / ds, where the derivative is round(v) - v inside the range (v = w
// / s) and the largest (smallest) integer where v is saturated, times 1 / sqrt(dim * largest
// integer); then w is encoded with the new s.  The gradient is the step's own (one pass instead of
// the paper's two).
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
  // Values, then state.
  void Read(const std::byte* record, float* floats) const;
  // The record of a new row.
  void Create(const float* floats, const CounterRandom& random, std::byte* record) const;
  // After an update of the first `active` values with the mean gradients `gradients`: only they and
  // their state (and scale, and exact state) change; what lies behind them keeps its bits where the
  // precision has no scale.  With a scale, values behind keep theirs by rounding to nearest.
  void Write(const float* floats, const float* gradients, std::uint32_t active,
             const CounterRandom& random, std::byte* record) const;

 private:
  std::uint32_t dim_;
  std::uint32_t floats_;
  std::uint32_t record_bytes_;
  std::uint32_t value_bytes_;
  bool plain_;
};

}  // namespace plexus
