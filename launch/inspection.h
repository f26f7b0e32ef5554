// Inspection: what `plexus inspect` finds out about a run, as one object: the saved model's rows,
// what its servers said of their tables, and on demand the fields that the rows belong to.
//
// Thread safety: none.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include <nlohmann/json.hpp>

#include "common/status.h"

namespace plexus {

struct InspectOptions {
  std::string run_dir;
  std::string which = "best";     // Saved model; best, where there is none, is final.
  std::uint32_t top = 20;         // Hottest keys of each table.
  bool fields = false;            // Read data files, and say whose the rows are.
  std::vector<std::string> data;  // Those files; empty: the job's training data.
  bool progress = false;          // On stderr, while data files are read.
};

// The object of docs/observability.md.  What servers have not said is null, and a note says so.
// kInvalidArgument: the directory holds no run.  kNotFound: no such saved model, or data file.
// kDataLoss, kFailedPrecondition: as VisitModel.
StatusOr<nlohmann::ordered_json> Inspect(const InspectOptions& options);

// One table's reports of several servers: rows, counters and memory added up, "bytes" of memory by
// use (they add up to "together"), "index" over all rows.  REQUIRES: at least one, as TableReport
// makes them; throws nlohmann::json::exception on others.
nlohmann::ordered_json MergeTableReports(const std::vector<nlohmann::ordered_json>& reports);

}  // namespace plexus
