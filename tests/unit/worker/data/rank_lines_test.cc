#include "worker/data/rank_lines.h"

#include <algorithm>
#include <string>
#include <vector>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "common/random.h"
#include "tests/unit/worker/data/data_testing.h"

namespace plexus {
namespace {

using ::testing::ElementsAre;

std::string Numbered(std::size_t file) { return std::string("f").append(std::to_string(file)); }

// The lines of all ranks, rank after rank; `where` gets what Where() calls each.
std::vector<std::string> LinesOfAll(const std::vector<std::string>& files,
                                    RankLines::Options options,
                                    std::vector<std::string>* where = nullptr) {
  std::vector<InputFile> inputs;
  for (std::size_t i = 0; i < files.size(); ++i) {
    inputs.push_back(InputFile::OfMemory(Numbered(i), files[i]));
  }
  std::vector<std::string> lines;
  for (options.rank = 0; options.rank < options.ranks; ++options.rank) {
    RankLines reader(inputs, options);
    Line line;
    while (reader.Next(&line)) {
      lines.emplace_back(line.text);
      if (where != nullptr) {
        where->push_back(reader.Where(line));
      }
    }
    EXPECT_TRUE(reader.status().ok()) << reader.status().ToString();
  }
  return lines;
}

struct RandomFiles {
  std::vector<std::string> files;
  std::vector<std::string> lines;  // Data lines, in file order.
  std::vector<std::string> where;  // "<file>:<number>" of each.
};

RandomFiles MakeFiles(std::uint64_t seed, bool has_header) {
  const CounterRandom random(seed, 1);
  std::uint64_t draw = 0;
  RandomFiles made;
  const std::uint64_t count = random.Below(draw++, 5);
  for (std::uint64_t f = 0; f < count; ++f) {
    const std::uint64_t lines = random.Below(draw++, 12);
    const std::string end = random.Below(draw++, 2) == 0 ? "\n" : "\r\n";
    std::string text(lines > 0 && random.Below(draw++, 4) == 0 ? "\xef\xbb\xbf" : "");
    for (std::uint64_t i = 0; i < lines; ++i) {
      std::string line = std::to_string(f);
      line.append("/").append(std::to_string(i));
      const std::uint64_t width = random.Below(draw++, 9);
      line.append(width * random.Below(draw++, 9), 'x');
      if (random.Below(draw++, 6) == 0) {
        line.clear();
      }
      text += line;
      if (i + 1 < lines || random.Below(draw++, 2) == 0 || line.empty()) {
        text += end;
      }
      if (i > 0 || !has_header) {
        made.lines.push_back(line);
        made.where.push_back(Numbered(f).append(":").append(std::to_string(i + 1)));
      }
    }
    made.files.push_back(text);
  }
  return made;
}

TEST(RankLinesTest, EveryLineBelongsToExactlyOneRank) {
  for (std::uint64_t seed = 0; seed < 200; ++seed) {
    const bool has_header = seed % 2 == 1;
    const RandomFiles made = MakeFiles(seed, has_header);
    for (std::uint32_t ranks = 1; ranks <= 7; ++ranks) {
      RankLines::Options options;
      options.ranks = ranks;
      options.has_header = has_header;
      options.line_bytes_max = 256;
      std::vector<std::string> where;
      // Byte ranges are in order, so rank after rank is file order.
      EXPECT_EQ(LinesOfAll(made.files, options, &where), made.lines)
          << "seed " << seed << " ranks " << ranks;
      EXPECT_EQ(where, made.where) << "seed " << seed << " ranks " << ranks;
    }
  }
}

TEST(RankLinesTest, EveryLineOfGzipFilesBelongsToExactlyOneRank) {
  for (std::uint64_t seed = 0; seed < 100; ++seed) {
    const bool has_header = seed % 2 == 1;
    RandomFiles made = MakeFiles(seed, has_header);
    // One plain file among them, if there are several.
    for (std::size_t f = 0; f + 1 < made.files.size() || f == 0; ++f) {
      if (f < made.files.size()) {
        made.files[f] = Gzip(made.files[f]);
      }
    }
    std::sort(made.where.begin(), made.where.end());
    for (std::uint32_t ranks = 1; ranks <= 7; ++ranks) {
      RankLines::Options options;
      options.ranks = ranks;
      options.has_header = has_header;
      options.line_bytes_max = 256;
      options.gzip_block_lines = 1 + seed % 3;
      std::vector<std::string> where;
      LinesOfAll(made.files, options, &where);
      std::sort(where.begin(), where.end());
      EXPECT_EQ(where, made.where) << "seed " << seed << " ranks " << ranks;
    }
  }
}

TEST(RankLinesTest, GzipBlocksGoRound) {
  RankLines::Options options;
  options.ranks = 2;
  options.gzip_block_lines = 2;
  EXPECT_THAT(LinesOfAll({Gzip("a\nb\nc\n"), Gzip("d\ne\nf")}, options),
              ElementsAre("a", "b", "e", "f", "c", "d"));
}

TEST(RankLinesTest, MoreRanksThanLines) {
  RankLines::Options options;
  options.ranks = 100;
  EXPECT_THAT(LinesOfAll({"a\nb", "", "c\n"}, options), ElementsAre("a", "b", "c"));
}

}  // namespace
}  // namespace plexus
