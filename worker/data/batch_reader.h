// BatchReader: one rank's minibatches of one epoch, in order.
//
// What Next() gives the n-th time is a pure function of the files' bytes, the data section of the
// job and the options: no clock, no process, no earlier failure changes it.  Memory is bounded by
// the batch, the shuffle's window and the longest line that is allowed (1 MiB), never by the files.
//
// Errors of Next() and Skip() are for ever: the same one comes again.  kResourceExhausted: more
// than data.max_bad_lines malformed lines of this rank; the message names the line and the reason.
//
// Thread safety: one owner at a time.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "common/status.h"
#include "proto/job.pb.h"
#include "worker/data/batch.h"
#include "worker/data/rank_lines.h"
#include "worker/data/row_parser.h"

namespace plexus {

struct BatchReaderOptions {
  std::uint32_t rank = 0;
  std::uint32_t ranks = 1;
  // Samples of a batch of this rank: train.batch_size / train.ranks.
  std::uint32_t batch_samples = 1;
  // What the shuffle is keyed by, with the rank.
  std::uint64_t seed = 1;
  std::uint64_t epoch = 0;
  // Shuffles within windows of data.shuffle_rows rows; false, or 0 rows: file order.
  bool shuffle = false;
  // Lines of a block of a gzip file; one rank takes a whole block.
  std::uint64_t gzip_block_lines = 4096;
  std::size_t line_bytes_max = kLineBytesMax;
};

// The malformed lines so far.
struct BadLines {
  std::uint64_t count = 0;
  std::vector<std::string> first;  // "<file>:<line>: <reason>" of the first kBadLinesNamed.
};

inline constexpr std::size_t kBadLinesNamed = 10;

class BatchReader {
 public:
  // kNotFound: a file does not exist.  kInvalidArgument: wrong fields, or rank, ranks and
  // batch_samples make no sense.
  static StatusOr<std::unique_ptr<BatchReader>> Open(const proto::Data& data,
                                                     const std::vector<std::string>& files,
                                                     const BatchReaderOptions& options);
  // Likewise, of files that are open already.
  static StatusOr<std::unique_ptr<BatchReader>> Open(const proto::Data& data,
                                                     std::vector<InputFile> files,
                                                     const BatchReaderOptions& options);

  // Replaces `batch` by the next batch_samples samples, fewer at the end; false, and no samples, if
  // there are none.
  StatusOr<bool> Next(Batch* batch);

  // As `count` calls of Next(), without making the batches.  Lines are read and checked all the
  // same, since how many rows they give is not known otherwise.
  Status Skip(std::uint64_t count);

  const BadLines& bad_lines() const { return bad_lines_; }
  // Samples given or skipped so far.
  std::uint64_t rows() const { return rows_; }
  // Share of the rank's data that was given or skipped so far, in [0, 1], by bytes.  Never falls.
  double progress() const;
  const FieldPlan& plan() const { return parser_.plan(); }

 private:
  BatchReader(const proto::Data& data, std::vector<InputFile> files, RowParser parser,
              const BatchReaderOptions& options);

  // Appends rows in file order until `batch` has `samples`; fewer only at the end.
  Status ReadRows(std::uint64_t samples, Batch* batch);
  Status CountBadLine(const Line& line, const std::string& reason);
  Status NextShuffled(Batch* batch);
  // Reads the next window and draws its order.
  Status ReadWindow();
  Status SkipRows(std::uint64_t samples);
  void AppendFromWindow(std::uint32_t row, Batch* batch) const;

  const BatchReaderOptions options_;
  const std::uint64_t bad_lines_max_;
  const std::uint64_t window_rows_;  // 0: file order.

  RowParser parser_;
  RankLines lines_;
  std::size_t file_;  // Whose header parser_ knows; files.size() before the first.
  BadLines bad_lines_;
  std::uint64_t rows_ = 0;
  Status status_;

  Batch window_;
  std::vector<std::uint32_t> order_;  // Of the window's rows.
  std::size_t order_next_ = 0;
  double window_begin_ = 0;  // lines_.progress() when the window was read.
  std::uint64_t window_index_ = 0;
  Batch skipped_;
};

}  // namespace plexus
