// LineReader: cuts a ByteSource into lines, in bounded memory.
//
// Thread safety: one owner at a time.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <string_view>

#include "common/status.h"
#include "worker/data/byte_source.h"

namespace plexus {

// Bytes after a line's end that may be read (not: that mean anything), so that vector code needs no
// tail case.
inline constexpr std::size_t kLinePaddingBytes = 64;

// Lines longer than this are malformed.
inline constexpr std::size_t kLineBytesMax = 1 << 20;

struct Line {
  // Without the line end, LF or CRLF.  Borrowed until the reader moves on.  Empty if `too_long`.
  std::string_view text;
  std::uint64_t offset = 0;  // Of the first byte, in the (decompressed) file.
  std::uint64_t index = 0;   // Lines before it, since the reader began.
  std::size_t file = 0;      // Which of several files; set by RankLines.
  bool too_long = false;
};

class LineReader {
 public:
  // `offset` is where in the file `source` begins; `line_bytes_max` > 0.
  LineReader(std::unique_ptr<ByteSource> source, std::uint64_t offset,
             std::size_t line_bytes_max = kLineBytesMax);

  // The next line; false at the end and on an error, which status() tells apart.
  bool Next(Line* line);

  // Passes over everything up to and including the next line end; it does not count as a line.
  void SkipPastLineEnd();

  const Status& status() const { return status_; }
  // Of the next byte.
  std::uint64_t offset() const { return buffer_offset_ + begin_; }
  // Up to a chunk more than the lines given so far.
  std::uint64_t stored_bytes_read() const { return source_->stored_bytes_read(); }

 private:
  // Reads more behind what is there; false at the end or on an error.
  bool Fill();

  std::unique_ptr<ByteSource> source_;
  std::size_t line_bytes_max_;
  std::size_t buffer_bytes_;
  std::unique_ptr<char[]> buffer_;
  std::uint64_t buffer_offset_;  // In the file, of buffer_[0].
  std::size_t begin_ = 0;        // Unread bytes are buffer_[begin_, end_).
  std::size_t end_ = 0;
  std::uint64_t index_ = 0;
  bool at_end_ = false;
  Status status_;
};

}  // namespace plexus
