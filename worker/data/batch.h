// Batch: one rank's minibatch as the readers make it and the trainer consumes it: hashed, jagged,
// columnar.
//
// Thread safety: a value; one owner at a time.
#pragma once

#include <cstdint>
#include <vector>

#include "common/hash.h"

namespace plexus {

// The values of one categorical or multi-valued field: sample i has keys[offsets[i]] ..
// keys[offsets[i + 1]).
struct SparseColumn {
  std::vector<Key> keys;
  // samples + 1 entries; empty if each sample has exactly one key (then keys.size() == samples).
  std::vector<std::uint32_t> offsets;
  // One weight a key (LIBSVM values); empty = all 1.
  std::vector<float> weights;
};

struct Batch {
  std::uint32_t samples = 0;
  std::vector<float> labels;          // [samples], 0 or 1.
  std::vector<float> dense;           // [samples x dense fields], row-major.
  std::vector<SparseColumn> sparse;   // One a sparse field, in the job's order.
  std::vector<std::uint64_t> groups;  // [samples] hash of data.group_column, or empty.

  // Empties the batch and keeps the memory.
  void Clear() {
    samples = 0;
    labels.clear();
    dense.clear();
    groups.clear();
    for (SparseColumn& column : sparse) {
      column.keys.clear();
      column.offsets.clear();
      column.weights.clear();
    }
  }
};

}  // namespace plexus
