// Table: one shard's part of one table: keys -> rows of `dim` values followed by the optimizer's
// state, and a header.
//
// Deterministic: what it holds after a sequence of ApplyStep calls is a pure function of (seed,
// spec, the calls), independent of how keys are spread over shards.  A pull changes nothing; a key
// without a row pulls its initial value, which is a pure function of (seed, table name, key,
// element).  Memory: see docs/store.md.
//
// Thread safety: none; owned by its shard's thread.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <span>

#include "common/hash.h"
#include "proto/table_spec.h"

namespace plexus {

// One rank's gradients of one step: gradients + i * dim is the sum over keys[i]'s samples.
struct GradientPart {
  std::span<const Key> keys;              // Unique within a part.
  std::span<const std::uint32_t> counts;  // Occurrences of each key in the minibatch.
  const float* gradients = nullptr;       // [keys x dim]; need not be aligned.
};

// A row as it is stored and restored; knows no optimizer.
struct RowView {
  Key key = 0;
  std::uint64_t last_step = 0;    // The last version that updated it.
  std::uint64_t count = 0;        // Occurrences so far.
  std::span<const float> floats;  // values, then state.
};

class Table {
 public:
  // `buckets` is the job's V.  It decides only where rows of an ARRAY table lie in memory.
  Table(const TableSpec& spec, std::uint64_t seed, std::uint32_t buckets = 1024);
  ~Table();
  Table(const Table&) = delete;
  Table& operator=(const Table&) = delete;

  const TableSpec& spec() const;

  // values + i * dim receives the values of keys[i].  REQUIRES, here and below: keys of an ARRAY
  // table are less than spec().rows.
  void Pull(std::span<const Key> keys, float* values) const;

  // Step `version`: for each key of any part, the gradients are summed in the order of `parts`,
  // multiplied by `scale` (1 / samples, or 1 for tables that sum), clipped, and the row, made if it
  // was absent, is updated once.
  void ApplyStep(std::uint64_t version, std::span<const GradientPart> parts, float scale,
                 float rate_factor);

  // Every row, in an unspecified order.
  void ForEachRow(const std::function<void(const RowView&)>& visit) const;

  // Puts a row as ForEachRow gave it, replacing one of the same key.  REQUIRES: floats has
  // row_floats() elements.
  void Restore(const RowView& row);

  // Sum modulo 2^128 over the rows of XXH3_128(name, a zero byte, key, last_step, floats), integers
  // as little-endian u64.
  Digest128 Digest() const;

  std::uint64_t row_count() const;
  std::uint32_t row_floats() const;    // dim + state.
  std::uint64_t memory_bytes() const;  // Index, slabs and headers, as allocated.

  class Impl;

 private:
  std::unique_ptr<Impl> impl_;
};

}  // namespace plexus
