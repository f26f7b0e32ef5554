// RankLines: the lines of a list of files that belong to one rank of W.
//
// Plain files: the concatenation of all of them is cut into W byte ranges of equal size, and a line
// belongs to the range in which its first byte lies.  Gzip files: their lines are counted through
// all of them, and block b of `gzip_block_lines` lines belongs to rank b mod W (each rank inflates
// everything and keeps its own).  A header line belongs to nobody.  So every line belongs to
// exactly one rank, whatever W is.
//
// Thread safety: one owner at a time.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "common/status.h"
#include "worker/data/byte_source.h"
#include "worker/data/line_reader.h"

namespace plexus {

class RankLines {
 public:
  struct Options {
    std::uint32_t rank = 0;
    std::uint32_t ranks = 1;
    bool has_header = false;  // Each file's first line is no data.
    std::uint64_t gzip_block_lines = 4096;
    std::size_t line_bytes_max = kLineBytesMax;
  };

  // REQUIRES: rank < ranks, gzip_block_lines > 0, line_bytes_max > 0.
  RankLines(std::vector<InputFile> files, const Options& options);

  // The rank's next line; false at the end and on an error, which status() tells apart.
  bool Next(Line* line);

  // The header of the file of the line that Next() returned last, without its line end and byte
  // order mark.
  const std::string& header() const { return header_; }

  const std::string& FileName(const Line& line) const { return files_[line.file].name(); }

  // "<file>:<line number>", for messages.  May read the file up to the line; "<file>:byte <offset>"
  // where that would take long.  `line` must be the one that Next() returned last.
  std::string Where(const Line& line);

  const Status& status() const { return status_; }

  // Share of the bytes that this rank has to read which it has read, in [0, 1]: of plain files its
  // range, of gzip files all that is stored.  Never falls.
  double progress() const;

 private:
  // The part of a plain file that begins behind `before` bytes of plain files and is this rank's,
  // as offsets in the file.
  struct Range {
    std::uint64_t begin = 0;
    std::uint64_t end = 0;
  };
  Range RangeOf(const InputFile& file, std::uint64_t before) const;
  // Opens files_[file_] at this rank's part; leaves reader_ empty if there is none.
  Status OpenFile();
  // Reads the header line, and leaves in `data_begin` where the lines begin.
  Status ReadHeader(LineReader* reader, std::uint64_t* data_begin);
  Status FinishFile();
  // Whether the line that was just read of a gzip file is in one of this rank's blocks.
  bool TakesGzipLine();

  std::vector<InputFile> files_;
  Options options_;
  std::uint64_t plain_bytes_ = 0;   // Of all plain files.
  std::uint64_t plain_before_ = 0;  // Of those before files_[file_].
  std::uint64_t gzip_lines_ = 0;    // Read so far, of all gzip files.
  std::uint64_t total_bytes_ = 0;   // That this rank has to read.
  std::uint64_t done_bytes_ = 0;    // Of them, those in the files before files_[file_].

  std::size_t file_ = 0;
  std::optional<LineReader> reader_;
  std::string header_;
  std::uint64_t reader_begin_ = 0;  // Offset of the first line that reader_ gives.
  std::uint64_t end_ = 0;           // Lines that begin here or later are others'.
  // Lines of files_[file_] before reader_begin_; counted when first asked for.
  std::optional<std::uint64_t> lines_before_;
  Status status_;
};

}  // namespace plexus
