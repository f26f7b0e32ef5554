#include "worker/data/row_parser.h"

#include <algorithm>
#include <array>
#include <bit>
#include <charconv>
#include <cmath>
#include <cstring>
#include <utility>

#include <immintrin.h>

#include "worker/data/line_reader.h"
#include "worker/data/number.h"

namespace plexus {
namespace {

// Small integers are most of what is transformed.
constexpr int kLogTableSize = 4096;

// Text of a reason is cut to this.
constexpr std::size_t kQuotedBytesMax = 40;

// `text` as it may be printed in a message.
std::string Quoted(std::string_view text) {
  std::string out = "\"";
  for (const char c : text.substr(0, kQuotedBytesMax)) {
    out += c >= 0x20 && c < 0x7f ? c : '?';
  }
  return out + (text.size() > kQuotedBytesMax ? "...\"" : "\"");
}

float Log1p(double value) {
  static const std::array<float, kLogTableSize> table = [] {
    std::array<float, kLogTableSize> logs;
    for (int i = 0; i < kLogTableSize; ++i) {
      logs[static_cast<std::size_t>(i)] = static_cast<float>(std::log1p(static_cast<double>(i)));
    }
    return logs;
  }();
  if (!(value > 0)) {
    return 0;
  }
  if (value < kLogTableSize) {
    const auto index = static_cast<std::size_t>(value);
    if (static_cast<double>(index) == value) {
      return table[index];
    }
  }
  return static_cast<float>(std::log1p(value));
}

float Transformed(const DenseField& field, double value) {
  switch (field.transform) {
    case proto::Field::LOG1P:
      return Log1p(value);
    case proto::Field::STANDARD:
      return static_cast<float>((value - field.mean) / field.stddev);
    default:
      return static_cast<float>(value);
  }
}

// The key of floor(ln(x)^2) as decimal text, or of the text itself for x <= 2.
Key BucketKey(const SparseField& field, std::string_view text, double value) {
  if (value <= 2) {
    return HashBytes(text, field.hash_seed);
  }
  const double log = std::log(value);
  std::array<char, 24> digits;
  const auto result = std::to_chars(digits.data(), digits.data() + digits.size(),
                                    static_cast<std::int64_t>(log * log));
  return HashBytes({digits.data(), static_cast<std::size_t>(result.ptr - digits.data())},
                   field.hash_seed);
}

// Cuts `line` at each `delimiter` into `cells`, of which there is room for `count`.  The number of
// cells that the line has, which may be more.  Reads up to kLinePaddingBytes behind the line.
std::size_t SplitAtByte(std::string_view line, char delimiter, std::string_view* cells,
                        std::size_t count) {
  const __m256i wanted = _mm256_set1_epi8(delimiter);
  const char* const begin = line.data();
  const std::size_t size = line.size();
  std::size_t found = 0;
  std::size_t cell_begin = 0;
  for (std::size_t base = 0; base < size; base += 32) {
    const __m256i bytes = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(begin + base));
    std::uint32_t hits =
        static_cast<std::uint32_t>(_mm256_movemask_epi8(_mm256_cmpeq_epi8(bytes, wanted)));
    if (size - base < 32) {
      hits &= (std::uint32_t{1} << (size - base)) - 1;
    }
    for (; hits != 0; hits &= hits - 1) {
      const std::size_t at = base + static_cast<std::size_t>(std::countr_zero(hits));
      if (found < count) {
        cells[found] = {begin + cell_begin, at - cell_begin};
      }
      ++found;
      cell_begin = at + 1;
    }
  }
  if (found < count) {
    cells[found] = {begin + cell_begin, size - cell_begin};
  }
  return found + 1;
}

std::size_t SplitAtText(std::string_view line, std::string_view delimiter, std::string_view* cells,
                        std::size_t count) {
  std::size_t found = 0;
  while (true) {
    const std::size_t at = line.find(delimiter);
    if (found < count) {
      cells[found] = line.substr(0, at);
    }
    ++found;
    if (at == std::string_view::npos) {
      return found;
    }
    line.remove_prefix(at + delimiter.size());
  }
}

// Appends one key a non-empty piece, or the missing key.
void AppendPieces(const SparseField& field, std::string_view text, SparseColumn* column) {
  const std::size_t before = column->keys.size();
  while (!text.empty()) {
    const std::size_t at = text.find(field.separator);
    const std::string_view piece = text.substr(0, at);
    if (!piece.empty()) {
      column->keys.push_back(HashBytes(piece, field.hash_seed));
    }
    if (at == std::string_view::npos) {
      break;
    }
    text.remove_prefix(at + field.separator.size());
  }
  if (column->keys.size() == before) {
    column->keys.push_back(field.missing_key);
  }
  column->offsets.push_back(static_cast<std::uint32_t>(column->keys.size()));
}

}  // namespace

StatusOr<RowParser> RowParser::Create(const proto::Data& data, FieldPlan plan) {
  RowParser parser;
  parser.libsvm_ = data.format() == proto::Data::LIBSVM;
  parser.label_name_ = data.label().column();
  parser.positive_at_least_ = data.label().positive_at_least();
  parser.skip_.assign(data.label().skip().begin(), data.label().skip().end());
  parser.group_name_ = data.group_column();
  parser.group_seed_ = data.hash_seed();
  parser.dense_.resize(plan.dense.size());
  parser.bucket_keys_.resize(plan.sparse.size());
  parser.plan_ = std::move(plan);
  if (parser.libsvm_) {
    return parser;
  }
  parser.delimiter_ = data.format() == proto::Data::CRITEO ? "\t" : data.delimiter();
  if (parser.delimiter_.empty()) {
    return InvalidArgument("data.delimiter is empty");
  }
  parser.quotes_ = parser.delimiter_ == ",";
  parser.has_header_ = parser.plan_.columns.empty();
  if (!parser.has_header_) {
    RETURN_IF_ERROR(parser.ResolveColumns(parser.plan_.columns));
  }
  return parser;
}

Status RowParser::ResolveColumns(const std::vector<std::string>& columns) {
  const auto resolve = [&columns](const std::string& name, std::size_t* index) {
    const auto found = std::find(columns.begin(), columns.end(), name);
    if (found == columns.end()) {
      return InvalidArgument("there is no column \"" + name + "\"");
    }
    if (std::find(found + 1, columns.end(), name) != columns.end()) {
      return InvalidArgument("column \"" + name + "\" is there twice");
    }
    *index = static_cast<std::size_t>(found - columns.begin());
    return OkStatus();
  };
  RETURN_IF_ERROR(resolve(label_name_, &label_column_));
  if (!group_name_.empty()) {
    RETURN_IF_ERROR(resolve(group_name_, &group_column_));
  }
  dense_columns_.resize(plan_.dense.size());
  for (std::size_t i = 0; i < plan_.dense.size(); ++i) {
    RETURN_IF_ERROR(resolve(plan_.dense[i].column, &dense_columns_[i]));
  }
  sparse_columns_.resize(plan_.sparse.size());
  for (std::size_t i = 0; i < plan_.sparse.size(); ++i) {
    RETURN_IF_ERROR(resolve(plan_.sparse[i].column, &sparse_columns_[i]));
  }
  column_count_ = columns.size();
  cells_.resize(column_count_);
  return OkStatus();
}

Status RowParser::SetHeader(std::string_view line) {
  CHECK(has_header_) << "the job fixes the columns";
  cells_.assign(line.size() + 1, {});  // It cannot have more.
  std::string padded(line);
  padded.append(kLinePaddingBytes, '\0');
  std::size_t count = 0;
  if (!Cut({padded.data(), line.size()}, &count)) {
    return InvalidArgument("the header is malformed: " + reason_);
  }
  return ResolveColumns(std::vector<std::string>(
      cells_.begin(), cells_.begin() + static_cast<std::ptrdiff_t>(count)));
}

void RowParser::Shape(Batch* batch) const {
  batch->Clear();
  batch->sparse.resize(plan_.sparse.size());
  for (std::size_t i = 0; i < plan_.sparse.size(); ++i) {
    if (plan_.sparse[i].kind == SparseField::Kind::kMultiValued) {
      batch->sparse[i].offsets.push_back(0);
    }
  }
}

bool RowParser::Malformed(std::string reason) {
  reason_ = std::move(reason);
  return false;
}

bool RowParser::Cut(std::string_view line, std::size_t* count) {
  if (quotes_ && std::memchr(line.data(), '"', line.size()) != nullptr) {
    return CutQuoted(line, count);
  }
  *count = delimiter_.size() == 1 ? SplitAtByte(line, delimiter_[0], cells_.data(), cells_.size())
                                  : SplitAtText(line, delimiter_, cells_.data(), cells_.size());
  return true;
}

bool RowParser::CutQuoted(std::string_view line, std::size_t* count) {
  unquoted_.clear();
  unquoted_.reserve(line.size());  // It never grows beyond this, so that cells may point into it.
  const char delimiter = delimiter_[0];
  std::size_t found = 0;
  std::size_t at = 0;
  while (true) {
    std::string_view cell;
    if (at < line.size() && line[at] == '"') {
      const std::size_t cell_begin = unquoted_.size();
      for (++at;; ++at) {
        if (at >= line.size()) {
          return Malformed("a quote is not closed in its line");
        }
        if (line[at] == '"') {
          ++at;
          if (at >= line.size() || line[at] != '"') {
            break;
          }
        }
        unquoted_ += line[at];
      }
      if (at < line.size() && line[at] != delimiter) {
        return Malformed("there is text behind a closing quote");
      }
      cell = std::string_view(unquoted_).substr(cell_begin);
    } else {
      const std::size_t end = std::min(line.find(delimiter, at), line.size());
      cell = line.substr(at, end - at);
      at = end;
    }
    if (found < cells_.size()) {
      cells_[found] = cell;
    }
    ++found;
    if (at >= line.size()) {
      *count = found;
      return true;
    }
    ++at;
  }
}

bool RowParser::ParseLabel(std::string_view text) {
  if (!ParseNumber(text, &label_)) {
    return Malformed("the label is not a number: " + Quoted(text));
  }
  return true;
}

bool RowParser::IsSkipped() const {
  return std::find(skip_.begin(), skip_.end(), label_) != skip_.end();
}

bool RowParser::ParseNumbers() {
  for (std::size_t i = 0; i < dense_.size(); ++i) {
    const std::string_view text = cells_[dense_columns_[i]];
    double value = 0;
    if (text.empty()) {
      dense_[i] = 0;
    } else if (ParseNumber(text, &value)) {
      dense_[i] = Transformed(plan_.dense[i], value);
    } else {
      return Malformed("column " + plan_.dense[i].column + " is not a number: " + Quoted(text));
    }
    if (!std::isfinite(dense_[i])) {
      return Malformed("column " + plan_.dense[i].column + " is out of range: " + Quoted(text));
    }
  }
  for (std::size_t i = 0; i < plan_.sparse.size(); ++i) {
    const SparseField& field = plan_.sparse[i];
    if (field.kind != SparseField::Kind::kBucketed) {
      continue;
    }
    const std::string_view text = cells_[sparse_columns_[i]];
    double value = 0;
    if (text.empty()) {
      bucket_keys_[i] = field.missing_key;
    } else if (ParseNumber(text, &value)) {
      bucket_keys_[i] = BucketKey(field, text, value);
    } else {
      return Malformed("column " + field.column + " is not a number: " + Quoted(text));
    }
  }
  return true;
}

void RowParser::AppendLabelAndGroup(Batch* batch) {
  ++batch->samples;
  batch->labels.push_back(label_ >= positive_at_least_ ? 1.0F : 0.0F);
  if (!group_name_.empty()) {
    batch->groups.push_back(HashBytes(cells_[group_column_], group_seed_));
  }
}

RowParser::Outcome RowParser::ParseColumns(std::string_view line, Batch* batch) {
  std::size_t count = 0;
  if (!Cut(line, &count)) {
    return Outcome::kMalformed;
  }
  if (count != column_count_) {
    Malformed(std::to_string(count) + " columns instead of " + std::to_string(column_count_));
    return Outcome::kMalformed;
  }
  if (!ParseLabel(cells_[label_column_])) {
    return Outcome::kMalformed;
  }
  if (IsSkipped()) {
    return Outcome::kSkipped;
  }
  if (!ParseNumbers()) {
    return Outcome::kMalformed;
  }
  AppendLabelAndGroup(batch);
  batch->dense.insert(batch->dense.end(), dense_.begin(), dense_.end());
  for (std::size_t i = 0; i < plan_.sparse.size(); ++i) {
    const SparseField& field = plan_.sparse[i];
    const std::string_view text = cells_[sparse_columns_[i]];
    SparseColumn& column = batch->sparse[i];
    switch (field.kind) {
      case SparseField::Kind::kCategorical:
        column.keys.push_back(text.empty() ? field.missing_key : HashBytes(text, field.hash_seed));
        break;
      case SparseField::Kind::kMultiValued:
        AppendPieces(field, text, &column);
        break;
      case SparseField::Kind::kBucketed:
        column.keys.push_back(bucket_keys_[i]);
        break;
    }
  }
  return Outcome::kRow;
}

bool RowParser::ParsePairs(std::string_view text) {
  const SparseField& field = plan_.sparse[0];
  pair_keys_.clear();
  pair_weights_.clear();
  while (true) {
    const std::size_t begin = std::min(text.find_first_not_of(" \t"), text.size());
    text.remove_prefix(begin);
    if (text.empty()) {
      return true;
    }
    const std::string_view pair = text.substr(0, text.find_first_of(" \t"));
    text.remove_prefix(pair.size());
    std::size_t digits = 0;
    while (digits < pair.size() && pair[digits] >= '0' && pair[digits] <= '9') {
      ++digits;
    }
    double value = 0;
    if (digits == 0 || digits == pair.size() || pair[digits] != ':' ||
        !ParseNumber(pair.substr(digits + 1), &value) ||
        !std::isfinite(static_cast<float>(value))) {
      return Malformed("not index:value: " + Quoted(pair));
    }
    pair_keys_.push_back(HashBytes(pair.substr(0, digits), field.hash_seed));
    pair_weights_.push_back(static_cast<float>(value));
  }
}

RowParser::Outcome RowParser::ParseLibsvm(std::string_view line, Batch* batch) {
  line = line.substr(0, line.find('#'));
  const std::string_view label = line.substr(0, line.find_first_of(" \t"));
  if (!ParseLabel(label)) {
    return Outcome::kMalformed;
  }
  if (IsSkipped()) {
    return Outcome::kSkipped;
  }
  if (!ParsePairs(line.substr(label.size()))) {
    return Outcome::kMalformed;
  }
  if (pair_keys_.empty()) {
    pair_keys_.push_back(plan_.sparse[0].missing_key);
    pair_weights_.push_back(1);
  }
  AppendLabelAndGroup(batch);
  SparseColumn& column = batch->sparse[0];
  column.keys.insert(column.keys.end(), pair_keys_.begin(), pair_keys_.end());
  column.weights.insert(column.weights.end(), pair_weights_.begin(), pair_weights_.end());
  column.offsets.push_back(static_cast<std::uint32_t>(column.keys.size()));
  return Outcome::kRow;
}

RowParser::Outcome RowParser::Parse(std::string_view line, Batch* batch) {
  return libsvm_ ? ParseLibsvm(line, batch) : ParseColumns(line, batch);
}

}  // namespace plexus
