// Samples of the shape that bench/reference/torch_speed.py trains on: 26 fields with Criteo's
// cardinalities scaled to a given number of rows, values drawn from a bounded Zipf(1.05) and
// scattered over each field, 13 integers; as text, the way a reader finds them.
//
// Thread safety: immutable once made.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "common/status.h"

namespace plexus {

class CriteoShape {
 public:
  explicit CriteoShape(std::uint64_t rows);

  static constexpr std::uint32_t kFields = 26;
  static constexpr std::uint32_t kDense = 13;

  // Over all fields: the rows of the tables.
  std::uint64_t row_count() const { return first_.back(); }
  // Row `row` is a value of which field, and its text.
  std::uint32_t FieldOf(std::uint64_t row) const;
  std::string TextOf(std::uint64_t row) const;

  // Writes `samples` lines in the Criteo format.
  Status WriteText(const std::string& path, std::uint64_t samples) const;

 private:
  std::uint64_t Draw(std::uint32_t field, double uniform) const;

  std::vector<std::uint64_t> first_;  // Of each field; then the total.
};

}  // namespace plexus
