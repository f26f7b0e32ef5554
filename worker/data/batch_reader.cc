#include "worker/data/batch_reader.h"

#include <algorithm>
#include <numeric>
#include <utility>

#include "common/random.h"

namespace plexus {
namespace {

// A window ends early when one of its columns has this many keys, so that offsets fit 32 bits.
constexpr std::size_t kWindowKeysMax = std::size_t{1} << 31;
constexpr std::uint64_t kWindowRowsMax = std::uint64_t{1} << 31;
// Rows parsed at once where they are thrown away.
constexpr std::uint64_t kSkipRows = 4096;

constexpr std::size_t kNoFile = static_cast<std::size_t>(-1);

RankLines::Options LineOptions(const RowParser& parser, const BatchReaderOptions& options) {
  RankLines::Options line_options;
  line_options.rank = options.rank;
  line_options.ranks = options.ranks;
  line_options.has_header = parser.has_header();
  line_options.gzip_block_lines = options.gzip_block_lines;
  line_options.line_bytes_max = options.line_bytes_max;
  return line_options;
}

bool HasManyKeys(const Batch& batch) {
  return std::any_of(batch.sparse.begin(), batch.sparse.end(), [](const SparseColumn& column) {
    return column.keys.size() >= kWindowKeysMax;
  });
}

}  // namespace

StatusOr<std::unique_ptr<BatchReader>> BatchReader::Open(const proto::Data& data,
                                                         const std::vector<std::string>& files,
                                                         const BatchReaderOptions& options) {
  std::vector<InputFile> inputs;
  inputs.reserve(files.size());
  for (const std::string& path : files) {
    ASSIGN_OR_RETURN(InputFile input, InputFile::OfPath(path));
    inputs.push_back(std::move(input));
  }
  return Open(data, std::move(inputs), options);
}

StatusOr<std::unique_ptr<BatchReader>> BatchReader::Open(const proto::Data& data,
                                                         std::vector<InputFile> files,
                                                         const BatchReaderOptions& options) {
  if (options.rank >= options.ranks || options.batch_samples == 0 ||
      options.gzip_block_lines == 0 || options.line_bytes_max == 0) {
    return InvalidArgument("read batches of " + std::to_string(options.batch_samples) +
                           " samples as rank " + std::to_string(options.rank) + " of " +
                           std::to_string(options.ranks) + ": makes no sense");
  }
  ASSIGN_OR_RETURN(FieldPlan plan, PlanFields(data));
  ASSIGN_OR_RETURN(RowParser parser, RowParser::Create(data, std::move(plan)));
  return std::unique_ptr<BatchReader>(
      new BatchReader(data, std::move(files), std::move(parser), options));
}

BatchReader::BatchReader(const proto::Data& data, std::vector<InputFile> files, RowParser parser,
                         const BatchReaderOptions& options)
    : options_(options),
      bad_lines_max_(data.max_bad_lines()),
      window_rows_(options.shuffle ? std::min(data.shuffle_rows(), kWindowRowsMax) : 0),
      parser_(std::move(parser)),
      lines_(std::move(files), LineOptions(parser_, options)),
      file_(kNoFile) {}

Status BatchReader::CountBadLine(const Line& line, const std::string& reason) {
  ++bad_lines_.count;
  const bool too_many = bad_lines_.count > bad_lines_max_;
  if (bad_lines_.first.size() >= kBadLinesNamed && !too_many) {
    return OkStatus();
  }
  const std::string named = lines_.Where(line) + ": " + reason;
  if (bad_lines_.first.size() < kBadLinesNamed) {
    bad_lines_.first.push_back(named);
  }
  if (!too_many) {
    return OkStatus();
  }
  return ResourceExhausted(named + " (malformed lines: " + std::to_string(bad_lines_.count) +
                           ", allowed: " + std::to_string(bad_lines_max_) +
                           "; raise it with --set data.max_bad_lines=N)");
}

Status BatchReader::ReadRows(std::uint64_t samples, Batch* batch) {
  Line line;
  while (batch->samples < samples && lines_.Next(&line)) {
    if (line.file != file_ && parser_.has_header()) {
      RETURN_IF_ERROR(parser_.SetHeader(lines_.header()).Annotate(lines_.FileName(line)));
    }
    file_ = line.file;
    if (line.text.empty()) {
      if (line.too_long) {
        RETURN_IF_ERROR(CountBadLine(
            line, "longer than " + std::to_string(options_.line_bytes_max) + " bytes"));
      }
      continue;
    }
    if (parser_.Parse(line.text, batch) == RowParser::Outcome::kMalformed) {
      RETURN_IF_ERROR(CountBadLine(line, parser_.reason()));
    }
    // Jagged columns are few bytes a key, but many keys a line.
    if ((batch->samples & 0xfff) == 0 && HasManyKeys(*batch)) {
      break;
    }
  }
  return lines_.status();
}

double BatchReader::progress() const {
  if (window_rows_ == 0 || order_.empty()) {
    return lines_.progress();
  }
  // A window is read at once and given bit by bit.
  const double given = static_cast<double>(order_next_) / static_cast<double>(order_.size());
  return window_begin_ + (lines_.progress() - window_begin_) * given;
}

Status BatchReader::ReadWindow() {
  parser_.Shape(&window_);
  window_begin_ = lines_.progress();
  RETURN_IF_ERROR(ReadRows(window_rows_, &window_));
  const CounterRandom random(options_.seed, HashBytes("data.shuffle", window_index_), options_.rank,
                             options_.epoch);
  ++window_index_;
  order_.resize(window_.samples);
  std::iota(order_.begin(), order_.end(), 0U);
  for (std::uint32_t i = window_.samples; i > 1; --i) {
    std::swap(order_[i - 1], order_[random.Below(i, i)]);
  }
  order_next_ = 0;
  return OkStatus();
}

void BatchReader::AppendFromWindow(std::uint32_t row, Batch* batch) const {
  ++batch->samples;
  batch->labels.push_back(window_.labels[row]);
  if (!window_.groups.empty()) {
    batch->groups.push_back(window_.groups[row]);
  }
  const std::size_t width = parser_.plan().dense.size();
  const auto dense = window_.dense.begin() + static_cast<std::ptrdiff_t>(row * width);
  batch->dense.insert(batch->dense.end(), dense, dense + static_cast<std::ptrdiff_t>(width));
  for (std::size_t f = 0; f < window_.sparse.size(); ++f) {
    const SparseColumn& from = window_.sparse[f];
    SparseColumn& to = batch->sparse[f];
    if (from.offsets.empty()) {
      to.keys.push_back(from.keys[row]);
      continue;
    }
    const std::ptrdiff_t begin = from.offsets[row];
    const std::ptrdiff_t end = from.offsets[row + 1];
    to.keys.insert(to.keys.end(), from.keys.begin() + begin, from.keys.begin() + end);
    if (!from.weights.empty()) {
      to.weights.insert(to.weights.end(), from.weights.begin() + begin, from.weights.begin() + end);
    }
    to.offsets.push_back(static_cast<std::uint32_t>(to.keys.size()));
  }
}

Status BatchReader::NextShuffled(Batch* batch) {
  while (batch->samples < options_.batch_samples) {
    if (order_next_ == order_.size()) {
      RETURN_IF_ERROR(ReadWindow());
      if (order_.empty()) {
        break;
      }
    }
    AppendFromWindow(order_[order_next_++], batch);
  }
  return OkStatus();
}

StatusOr<bool> BatchReader::Next(Batch* batch) {
  parser_.Shape(batch);
  if (status_.ok()) {
    status_ = window_rows_ > 0 ? NextShuffled(batch) : ReadRows(options_.batch_samples, batch);
  }
  if (!status_.ok()) {
    parser_.Shape(batch);
    return status_;
  }
  rows_ += batch->samples;
  return batch->samples > 0;
}

Status BatchReader::SkipRows(std::uint64_t samples) {
  while (samples > 0) {
    std::uint64_t taken = 0;
    if (window_rows_ > 0) {
      if (order_next_ == order_.size()) {
        RETURN_IF_ERROR(ReadWindow());
      }
      taken = std::min<std::uint64_t>(samples, order_.size() - order_next_);
      order_next_ += taken;
    } else {
      parser_.Shape(&skipped_);
      RETURN_IF_ERROR(ReadRows(std::min(samples, kSkipRows), &skipped_));
      taken = skipped_.samples;
    }
    if (taken == 0) {
      break;
    }
    samples -= taken;
    rows_ += taken;
  }
  return OkStatus();
}

Status BatchReader::Skip(std::uint64_t count) {
  if (status_.ok() && count > 0) {
    const std::uint64_t all = ~std::uint64_t{0};
    const std::uint64_t samples =
        count > all / options_.batch_samples ? all : count * options_.batch_samples;
    status_ = SkipRows(samples);
  }
  return status_;
}

}  // namespace plexus
