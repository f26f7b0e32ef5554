#include "worker/data/line_reader.h"

#include <cstring>
#include <utility>

namespace plexus {
namespace {

// Read at once: fits the second-level cache together with what is made of it.
constexpr std::size_t kChunkBytes = 256 << 10;

}  // namespace

// Room for the longest line that is allowed, with CRLF and one byte that shows that it is longer,
// and a chunk.
LineReader::LineReader(std::unique_ptr<ByteSource> source, std::uint64_t offset,
                       std::size_t line_bytes_max)
    : source_(std::move(source)),
      line_bytes_max_(line_bytes_max),
      buffer_bytes_(line_bytes_max + 3 + kChunkBytes + kLinePaddingBytes),
      buffer_(std::make_unique_for_overwrite<char[]>(buffer_bytes_)),
      buffer_offset_(offset) {}

bool LineReader::Fill() {
  if (at_end_ || !status_.ok()) {
    return false;
  }
  if (begin_ > 0) {
    std::memmove(buffer_.get(), buffer_.get() + begin_, end_ - begin_);
    buffer_offset_ += begin_;
    end_ -= begin_;
    begin_ = 0;
  }
  CHECK_LE(end_ + kChunkBytes + kLinePaddingBytes, buffer_bytes_) << "a line outgrew its bound";
  StatusOr<std::size_t> got = source_->Read(buffer_.get() + end_, kChunkBytes);
  if (!got.ok()) {
    status_ = got.status();
    return false;
  }
  end_ += *got;
  at_end_ = *got == 0;
  return !at_end_;
}

void LineReader::SkipPastLineEnd() {
  while (true) {
    const void* found =
        begin_ < end_ ? std::memchr(buffer_.get() + begin_, '\n', end_ - begin_) : nullptr;
    if (found != nullptr) {
      begin_ = static_cast<std::size_t>(static_cast<const char*>(found) - buffer_.get()) + 1;
      return;
    }
    begin_ = end_;
    if (!Fill()) {
      return;
    }
  }
}

bool LineReader::Next(Line* line) {
  std::size_t searched = 0;  // Bytes from begin_ on that hold no line end.
  const char* found = nullptr;
  bool too_long = false;
  while (true) {
    const std::size_t unsearched = end_ - begin_ - searched;
    const char* from = buffer_.get() + begin_ + searched;
    found =
        unsearched > 0 ? static_cast<const char*>(std::memchr(from, '\n', unsearched)) : nullptr;
    if (found != nullptr) {
      break;
    }
    searched = end_ - begin_;
    too_long = searched > line_bytes_max_ + 1;
    if (too_long || !Fill()) {
      break;
    }
  }
  if (!status_.ok() || (found == nullptr && searched == 0)) {
    return false;
  }
  const std::size_t size =
      found != nullptr ? static_cast<std::size_t>(found - (buffer_.get() + begin_)) : searched;
  line->text = {buffer_.get() + begin_, size};
  line->offset = offset();
  line->index = index_++;
  if (!line->text.empty() && line->text.back() == '\r') {
    line->text.remove_suffix(1);
  }
  line->too_long = too_long || line->text.size() > line_bytes_max_;
  if (too_long) {
    SkipPastLineEnd();
  } else {
    begin_ += size + (found != nullptr ? 1 : 0);
  }
  if (line->too_long) {
    line->text = {};
  }
  return status_.ok();
}

}  // namespace plexus
