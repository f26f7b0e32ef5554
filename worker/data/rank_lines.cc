#include "worker/data/rank_lines.h"

#include <algorithm>
#include <limits>
#include <utility>

namespace plexus {
namespace {

constexpr std::uint64_t kNoEnd = std::numeric_limits<std::uint64_t>::max();
constexpr std::string_view kByteOrderMark = "\xef\xbb\xbf";
// Counting lines for a message reads about 2 GiB/s; beyond this the byte offset must do.
constexpr std::uint64_t kCountedBytesMax = std::uint64_t{1} << 30;

// floor(total * rank / ranks) without overflow.
std::uint64_t RangeBegin(std::uint64_t total, std::uint32_t rank, std::uint32_t ranks) {
  return static_cast<std::uint64_t>(static_cast<unsigned __int128>(total) * rank / ranks);
}

// Line ends in the first `size` bytes; nothing if they cannot be read.
std::optional<std::uint64_t> CountLineEnds(const InputFile& file, std::uint64_t size) {
  auto source = file.Open(0);
  if (!source.ok()) {
    return std::nullopt;
  }
  std::vector<char> buffer(256 << 10);
  std::uint64_t count = 0;
  while (size > 0) {
    const auto got = (*source)->Read(buffer.data(), std::min<std::uint64_t>(size, buffer.size()));
    if (!got.ok() || *got == 0) {
      return std::nullopt;
    }
    count += static_cast<std::uint64_t>(
        std::count(buffer.begin(), buffer.begin() + static_cast<std::ptrdiff_t>(*got), '\n'));
    size -= *got;
  }
  return count;
}

}  // namespace

RankLines::RankLines(std::vector<InputFile> files, const Options& options)
    : files_(std::move(files)), options_(options) {
  CHECK(options.rank < options.ranks) << "rank " << options.rank << " of " << options.ranks;
  CHECK(options.gzip_block_lines > 0 && options.line_bytes_max > 0) << "a bound of zero";
  for (const InputFile& file : files_) {
    plain_bytes_ += file.gzip() ? 0 : file.size_bytes();
    total_bytes_ += file.gzip() ? file.size_bytes() : 0;
  }
  total_bytes_ += RangeBegin(plain_bytes_, options.rank + 1, options.ranks) -
                  RangeBegin(plain_bytes_, options.rank, options.ranks);
}

RankLines::Range RankLines::RangeOf(const InputFile& file, std::uint64_t before) const {
  const std::uint64_t from = RangeBegin(plain_bytes_, options_.rank, options_.ranks);
  const std::uint64_t to = RangeBegin(plain_bytes_, options_.rank + 1, options_.ranks);
  const std::uint64_t end = std::min(std::max(to, before) - before, file.size_bytes());
  return {std::min(std::max(from, before) - before, end), end};
}

double RankLines::progress() const {
  if (file_ == files_.size() || total_bytes_ == 0) {
    return 1;
  }
  std::uint64_t done = done_bytes_;
  if (reader_.has_value() && files_[file_].gzip()) {
    done += std::min(reader_->stored_bytes_read(), files_[file_].size_bytes());
  } else if (reader_.has_value()) {
    // The range's last line may end beyond it.
    const Range range = RangeOf(files_[file_], plain_before_);
    done += std::clamp(reader_->offset(), range.begin, range.end) - range.begin;
  }
  return static_cast<double>(done) / static_cast<double>(total_bytes_);
}

Status RankLines::ReadHeader(LineReader* reader, std::uint64_t* data_begin) {
  header_.clear();
  if (options_.has_header) {
    Line line;
    if (reader->Next(&line)) {
      if (line.too_long) {
        return InvalidArgument("read " + files_[file_].name() + ": the header line is too long");
      }
      header_ = line.text;
      if (header_.starts_with(kByteOrderMark)) {
        header_.erase(0, kByteOrderMark.size());
      }
    }
    RETURN_IF_ERROR(reader->status());
  }
  *data_begin = reader->offset();
  return OkStatus();
}

Status RankLines::OpenFile() {
  const InputFile& file = files_[file_];
  std::uint64_t begin = 0;
  end_ = kNoEnd;
  if (!file.gzip()) {
    const Range range = RangeOf(file, plain_before_);
    if (range.begin >= range.end) {
      return OkStatus();
    }
    begin = range.begin;
    end_ = range.end;
  }
  ASSIGN_OR_RETURN(auto source, file.Open(0));
  LineReader reader(std::move(source), 0, options_.line_bytes_max);
  std::uint64_t data_begin = 0;
  RETURN_IF_ERROR(ReadHeader(&reader, &data_begin));
  if (begin > data_begin) {
    // The line in which byte begin - 1 lies began before this range.
    ASSIGN_OR_RETURN(source, file.Open(begin - 1));
    reader = LineReader(std::move(source), begin - 1, options_.line_bytes_max);
    reader.SkipPastLineEnd();
    RETURN_IF_ERROR(reader.status());
  }
  reader_begin_ = reader.offset();
  lines_before_.reset();
  if (begin <= data_begin) {
    lines_before_ = 0;  // The reader counts the header.
  }
  reader_.emplace(std::move(reader));
  return OkStatus();
}

Status RankLines::FinishFile() {
  if (reader_.has_value()) {
    RETURN_IF_ERROR(reader_->status());
  }
  reader_.reset();
  const InputFile& file = files_[file_];
  const Range range = file.gzip() ? Range{0, file.size_bytes()} : RangeOf(file, plain_before_);
  done_bytes_ += range.end - range.begin;
  plain_before_ += file.gzip() ? 0 : file.size_bytes();
  ++file_;
  return OkStatus();
}

bool RankLines::TakesGzipLine() {
  const std::uint64_t block = gzip_lines_++ / options_.gzip_block_lines;
  return block % options_.ranks == options_.rank;
}

bool RankLines::Next(Line* line) {
  while (status_.ok() && file_ < files_.size()) {
    if (!reader_.has_value()) {
      status_ = OpenFile();
      if (status_.ok() && !reader_.has_value()) {
        status_ = FinishFile();
      }
      continue;
    }
    if (!reader_->Next(line) || line->offset >= end_) {
      status_ = FinishFile();
      continue;
    }
    if (!files_[file_].gzip() || TakesGzipLine()) {
      line->file = file_;
      if (line->offset == 0 && line->text.starts_with(kByteOrderMark)) {
        line->text.remove_prefix(kByteOrderMark.size());
      }
      return true;
    }
  }
  return false;
}

std::string RankLines::Where(const Line& line) {
  const InputFile& file = files_[line.file];
  if (!lines_before_.has_value() && reader_begin_ <= kCountedBytesMax) {
    lines_before_ = CountLineEnds(file, reader_begin_);
  }
  if (!lines_before_.has_value()) {
    return file.name() + ":byte " + std::to_string(line.offset);
  }
  return file.name() + ":" + std::to_string(*lines_before_ + line.index + 1);
}

}  // namespace plexus
