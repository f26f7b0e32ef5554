// SplitFile: cuts one file by order into train, valid and test, as `plexus data split` does.
//
// Thread safety: a function without state; two calls must not write to the same folder.
#pragma once

#include <cstdint>
#include <string>

#include "common/status.h"

namespace plexus {

struct SplitOptions {
  std::string in;   // Plain or gzip.
  std::string out;  // Folder; made if it is not there.
  // Lines [0, valid_at) are train, [valid_at, test_at) valid, the rest test.  REQUIRED: valid_at <=
  // test_at.
  std::uint64_t valid_at = 0;
  std::uint64_t test_at = 0;
  // The first line is a header, is not counted, and goes into each file.
  bool header = false;
};

struct SplitCounts {
  std::uint64_t train = 0;
  std::uint64_t valid = 0;
  std::uint64_t test = 0;
};

// Writes train.tsv, valid.tsv and test.tsv, each whole or not at all, with LF line ends; empty
// lines are left out. kInvalidArgument: a line longer than kLineBytesMax, named as file:line.
StatusOr<SplitCounts> SplitFile(const SplitOptions& options);

}  // namespace plexus
