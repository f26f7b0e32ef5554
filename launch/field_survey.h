// FieldSurvey: whose rows a saved model's rows are: for each sparse field, how many distinct values
// data files have, how many of them have a row, and the rows' share of each table.
//
// Keys and physical rows come from the code that trains (BatchReader, StepKeysBuilder).  Takes
// about 12 bytes a row and 8 a distinct value of memory.
//
// Use: AddRow for every row; ReadValues; then the rest.
//
// Thread safety: none.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include <nlohmann/json.hpp>

#include "common/status.h"
#include "launch/distinct_keys.h"
#include "proto/plan.h"
#include "ps/table/hybrid_addresses.h"
#include "worker/data/field_plan.h"
#include "worker/step_keys.h"

namespace plexus {

class FieldSurvey {
 public:
  // kInvalidArgument: the job's fields are wrong.
  static StatusOr<std::unique_ptr<FieldSurvey>> Create(std::shared_ptr<const JobPlan> plan);

  void AddRow(std::uint32_t table, Key key) { tables_[table].keys.push_back(key); }

  // Reads all samples of `files`, then looks up each distinct value.  Errors as BatchReader's.
  // `progress` is called now and then with the share of the files that was read, and the samples.
  Status ReadValues(const std::vector<std::string>& files,
                    const std::function<void(double share, std::uint64_t samples)>& progress);

  // The first field that has a value of this row; empty: none, or no such row.
  std::string FieldOf(std::uint32_t table, Key key) const;

  // "samples", "bad_lines"; "fields": for each its distinct "values" and, by table, how many of
  // them have all of their rows (HYBRID: one of their own; "values_with_row"), the "rows" that they
  // read, their "bytes" (records: values and state) and "share" of the table's rows; "tables": rows
  // of several fields are in rows_of_fields several times, so that rows_of_fields -
  // rows_counted_again + rows_of_no_field = rows.
  nlohmann::ordered_json ToJson() const;

 private:
  struct TableRows {
    std::vector<Key> keys;                   // Ascending, from ReadValues on.
    std::vector<std::uint32_t> first_field;  // By position in `keys`: field + 1; 0: none.
    std::vector<bool> in_field;              // Of the field at hand.
    std::uint64_t of_fields = 0;
    std::uint64_t counted_again = 0;
    std::uint32_t record_bytes = 0;
    std::optional<HybridAddresses> hybrid;
  };
  struct FieldRows {
    std::uint32_t table = 0;
    std::uint64_t values_with_row = 0;
    std::uint64_t rows = 0;
  };
  struct Field {
    DistinctKeys keys;
    std::uint64_t values = 0;
    std::vector<FieldRows> rows;  // By table, as the field reads them.
  };

  FieldSurvey(std::shared_ptr<const JobPlan> plan, FieldPlan fields);

  Status ReadFiles(const std::vector<std::string>& files,
                   const std::function<void(double, std::uint64_t)>& progress);
  void LookUp(std::uint32_t field);
  // Marks the rows that a value of these wire keys reads; false: one of the keys has none (HYBRID:
  // none of its own).
  static bool MarkRows(const std::vector<Key>& keys, TableRows* table);

  const std::shared_ptr<const JobPlan> plan_;
  const FieldPlan field_plan_;
  StepKeysBuilder builder_;
  std::vector<TableRows> tables_;  // As in the plan.
  std::vector<Field> fields_;      // As in the plan.
  std::uint64_t samples_ = 0;
  std::uint64_t bad_lines_ = 0;
};

}  // namespace plexus
