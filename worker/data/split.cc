#include "worker/data/split.h"

#include <array>
#include <memory>
#include <utility>
#include <vector>

#include "worker/data/rank_lines.h"
#include "worker/data/text_writer.h"

namespace plexus {
namespace {

constexpr std::array<const char*, 3> kNames = {"train.tsv", "valid.tsv", "test.tsv"};

}  // namespace

StatusOr<SplitCounts> SplitFile(const SplitOptions& options) {
  if (options.valid_at > options.test_at) {
    return InvalidArgument("split " + options.in + ": valid begins behind test");
  }
  ASSIGN_OR_RETURN(InputFile input, InputFile::OfPath(options.in));
  std::array<std::unique_ptr<TextWriter>, kNames.size()> writers;
  for (std::size_t i = 0; i < kNames.size(); ++i) {
    ASSIGN_OR_RETURN(writers[i], TextWriter::Create(options.out + "/" + kNames[i]));
  }
  RankLines::Options line_options;
  line_options.has_header = options.header;
  RankLines lines({std::move(input)}, line_options);
  std::array<std::uint64_t, kNames.size()> counts = {};
  std::uint64_t taken = 0;
  bool any = false;
  Line line;
  while (lines.Next(&line)) {
    if (line.too_long) {
      return InvalidArgument("split " + lines.Where(line) + ": longer than " +
                             std::to_string(kLineBytesMax) + " bytes");
    }
    if (!any && options.header) {
      for (const auto& writer : writers) {
        RETURN_IF_ERROR(writer->AppendLine(lines.header()));
      }
    }
    any = true;
    if (line.text.empty()) {
      continue;
    }
    const std::size_t part = taken < options.valid_at ? 0 : taken < options.test_at ? 1 : 2;
    ++taken;
    ++counts[part];
    RETURN_IF_ERROR(writers[part]->AppendLine(line.text));
  }
  RETURN_IF_ERROR(lines.status());
  for (const auto& writer : writers) {
    RETURN_IF_ERROR(writer->Finish());
  }
  return SplitCounts{counts[0], counts[1], counts[2]};
}

}  // namespace plexus
