// RowParser: turns one line of text into one row of a Batch: numbers, labels and hashed keys.
//
// A row is appended whole or not at all.  Nothing is allocated per field.
//
// Thread safety: one owner at a time.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "common/status.h"
#include "proto/job.pb.h"
#include "worker/data/batch.h"
#include "worker/data/field_plan.h"

namespace plexus {

class RowParser {
 public:
  enum class Outcome {
    kRow,        // Appended.
    kSkipped,    // Left out because of its label (Label.skip).
    kMalformed,  // reason() says why.
  };

  // `plan` is PlanFields(data).
  static StatusOr<RowParser> Create(const proto::Data& data, FieldPlan plan);

  // Whether each file's first line names the columns.
  bool has_header() const { return has_header_; }

  // Resolves the columns by their names in a file's header line.  kInvalidArgument: one is missing
  // or twice. REQUIRED before a file's first line if has_header().
  Status SetHeader(std::string_view line);

  // Gives an empty batch the plan's shape.
  void Shape(Batch* batch) const;

  // Appends the row of `line` to a batch of the plan's shape.  REQUIRES: kLinePaddingBytes readable
  // bytes after it.
  Outcome Parse(std::string_view line, Batch* batch);

  const std::string& reason() const { return reason_; }
  const FieldPlan& plan() const { return plan_; }

 private:
  RowParser() = default;

  Status ResolveColumns(const std::vector<std::string>& columns);

  // Each leaves a reason and returns false if it cannot.
  bool Malformed(std::string reason);
  // Cuts a line into cells_, as far as there is room; *count is what it has.
  bool Cut(std::string_view line, std::size_t* count);
  bool CutQuoted(std::string_view line, std::size_t* count);
  bool ParseLabel(std::string_view text);
  bool ParseNumbers();
  bool ParsePairs(std::string_view text);

  Outcome ParseColumns(std::string_view line, Batch* batch);
  Outcome ParseLibsvm(std::string_view line, Batch* batch);
  void AppendLabelAndGroup(Batch* batch);
  // Whether Label.skip names label_.
  bool IsSkipped() const;

  FieldPlan plan_;
  bool libsvm_ = false;
  bool has_header_ = false;
  std::string delimiter_;
  bool quotes_ = false;  // RFC 4180's, if the delimiter is ",".
  std::string label_name_;
  double positive_at_least_ = 0.5;
  std::vector<double> skip_;
  std::string group_name_;
  std::uint64_t group_seed_ = 0;

  // Where the columns are in a line; set by ResolveColumns().
  std::size_t column_count_ = 0;
  std::size_t label_column_ = 0;
  std::size_t group_column_ = 0;
  std::vector<std::size_t> dense_columns_;
  std::vector<std::size_t> sparse_columns_;

  // Of the line being parsed.
  std::vector<std::string_view> cells_;
  std::string unquoted_;  // Bytes of the cells that had quotes.
  double label_ = 0;
  std::vector<float> dense_;
  std::vector<Key> bucket_keys_;  // One a sparse field; only those of kBucketed are set.
  std::vector<Key> pair_keys_;    // LIBSVM.
  std::vector<float> pair_weights_;
  std::string reason_;
};

}  // namespace plexus
