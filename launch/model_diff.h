// ModelDiff: in what two saved models differ: rows by table and key, dense parameters by name and
// element, filters by bucket.  It does not matter how many servers wrote them.
//
// Memory stays bounded: the rows of A are held a share of the keys at a time, and both models are
// read once for each share.
//
// Thread safety: pure functions on files.
#pragma once

#include <cstdint>
#include <map>
#include <string>
#include <vector>

#include "common/status.h"
#include "proto/table_spec.h"

namespace plexus {

struct RowDifference {
  std::string text;  // Which side has it, or what is how far apart.
};

struct TableDifference {
  std::string note;  // Not empty: why rows could not be compared.
  std::uint64_t equal = 0;
  std::uint64_t changed = 0;
  std::uint64_t only_a = 0;
  std::uint64_t only_b = 0;
  std::uint64_t filters = 0;  // Buckets whose filters differ.
  double values_max = 0;      // Largest absolute difference of a value, of the optimizer's state.
  double state_max = 0;
  std::map<Key, RowDifference> first;  // Those of the smallest keys.

  bool any() const { return !note.empty() || changed + only_a + only_b + filters > 0; }
};

struct DenseDifference {
  std::uint64_t elements = 0;  // In both.
  std::uint64_t changed = 0;   // Values or state; all of them if only one model has the block.
  double largest = 0;
  std::string note;

  bool any() const { return changed > 0 || !note.empty(); }
};

struct ModelDifference {
  std::map<std::string, TableDifference> tables;
  std::map<std::string, DenseDifference> dense;

  bool any() const;
};

struct DiffOptions {
  std::uint32_t top = 20;                                 // Keys to name, of each table.
  std::uint64_t memory_bytes = std::uint64_t{256} << 20;  // Of rows held at a time, about.
};

// Errors as of VisitModel, with the directory.
StatusOr<ModelDifference> DiffModels(const std::string& a, const std::string& b,
                                     const DiffOptions& options);

}  // namespace plexus
