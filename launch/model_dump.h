// ModelDump: the rows of one table of a saved model as lines of text: key, last step, count,
// values, optimizer state, with a tab between any two.
//
// Unsorted and single rows need one block in memory.  Sorted, the keys are cut into ranges whose
// rows fit the memory, by a sample of the keys; the model is read once for the sample and once for
// each range.
//
// Thread safety: pure functions on files.
#pragma once

#include <cstdint>
#include <functional>
#include <optional>
#include <string>

#include "common/status.h"
#include "proto/table_spec.h"

namespace plexus {

struct DumpOptions {
  std::string table;                                      // May be empty if the model has one.
  std::optional<Key> key;                                 // Only this row.
  bool sorted = false;                                    // By key.
  bool header = false;                                    // A first line that names the columns.
  std::uint64_t memory_bytes = std::uint64_t{256} << 20;  // Of rows held to be sorted, about.
};

// Hands out lines, with their ends; false ends the dump without an error.
using WriteLine = std::function<bool(const std::string& line)>;

// kNotFound: no model, job, table or row of that name; kDataLoss as of VisitModel.  After an error
// the lines so far are of no use.
Status DumpTable(const std::string& directory, const DumpOptions& options, const WriteLine& write);

}  // namespace plexus
