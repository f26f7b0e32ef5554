// TableSurvey: what `plexus inspect` learns of one table of a saved model, row by row, keeping
// none: its hottest keys and how the norms of its rows are spread.
//
// Thread safety: none.
#pragma once

#include <cstdint>
#include <map>
#include <optional>
#include <vector>

#include <nlohmann/json.hpp>

#include "proto/table_spec.h"
#include "ps/table/count_decay.h"
#include "ps/table/hybrid_addresses.h"
#include "ps/table/row_layout.h"
#include "ps/table/table.h"

namespace plexus {

struct HotKey {
  Key key = 0;
  double count = 0;  // Occurrences; order COUNT: decayed up to the model's version.
  std::uint64_t last_step = 0;
  double norm = 0;
  bool shared = false;  // HYBRID: the row that keys without one of their own share.
};

class TableSurvey {
 public:
  // Of a model of `version`; keeps the `top` hottest keys.  `buckets` is the job's V.
  TableSurvey(const TableSpec& spec, std::uint32_t buckets, std::uint64_t version,
              std::uint32_t top);

  void Add(const RowView& row);

  const TableSpec& spec() const { return spec_; }
  const RowLayout& layout() const { return layout_; }
  std::uint64_t rows() const { return rows_; }
  // Whether rows have counts at all.
  bool has_counts() const { return has_counts_; }
  // Most occurrences first, then the smaller key; empty without counts.
  std::vector<HotKey> Hottest() const;

  // "shared_rows" (HYBRID only), "occurrences" (of all rows, null without counts), "hottest", and
  // "norms": of the rows' L2 norms min, mean, max, the rows whose norm is 0 or whose values are not
  // finite, and "log2": for each exponent e the rows with a norm in [2^e, 2^(e+1)).
  nlohmann::ordered_json ToJson() const;

 private:
  bool IsShared(Key key) const;
  double CountOf(const RowView& row) const;
  void AddNorm(double norm);

  const TableSpec spec_;
  const RowLayout layout_;
  const std::uint64_t version_;
  const std::uint32_t top_;
  const bool decayed_counts_;
  const bool has_counts_;
  const CountDecay decay_;
  const std::optional<HybridAddresses> hybrid_;

  std::uint64_t rows_ = 0;
  std::uint64_t shared_rows_ = 0;
  double occurrences_ = 0;
  std::vector<HotKey> hottest_;  // A heap, the coolest in front.

  std::uint64_t zeros_ = 0;
  std::uint64_t not_finite_ = 0;
  double norm_sum_ = 0;  // Of the finite ones, as are the next two.
  double norm_min_ = 0;
  double norm_max_ = 0;
  std::map<int, std::uint64_t> log2_;  // Exponent -> rows.

  std::vector<float> values_;  // Scratch of Add.
};

}  // namespace plexus
