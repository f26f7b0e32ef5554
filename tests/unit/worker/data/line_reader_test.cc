#include "worker/data/line_reader.h"

#include <string>
#include <vector>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "tests/unit/worker/data/data_testing.h"

namespace plexus {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;

LineReader ReaderOf(const InputFile& file, std::size_t line_bytes_max = kLineBytesMax) {
  auto source = file.Open(0);
  EXPECT_TRUE(source.ok()) << source.status().ToString();
  return LineReader(*std::move(source), 0, line_bytes_max);
}

std::vector<std::string> LinesOf(const InputFile& file,
                                 std::size_t line_bytes_max = kLineBytesMax) {
  LineReader reader = ReaderOf(file, line_bytes_max);
  std::vector<std::string> lines;
  Line line;
  while (reader.Next(&line)) {
    lines.push_back(line.too_long ? "<too long>" : std::string(line.text));
  }
  EXPECT_TRUE(reader.status().ok()) << reader.status().ToString();
  return lines;
}

TEST(LineReaderTest, CutsAtLineEndsOfBothKinds) {
  EXPECT_THAT(LinesOf(InputFile::OfMemory("m", "a\r\nb\n\nc")), ElementsAre("a", "b", "", "c"));
  EXPECT_THAT(LinesOf(InputFile::OfMemory("m", "a\n")), ElementsAre("a"));
  EXPECT_THAT(LinesOf(InputFile::OfMemory("m", "\n")), ElementsAre(""));
  EXPECT_TRUE(LinesOf(InputFile::OfMemory("m", "")).empty());
}

TEST(LineReaderTest, KnowsOffsetsAndIndices) {
  LineReader reader = ReaderOf(InputFile::OfMemory("m", "ab\r\nc\nd"));
  Line line;
  ASSERT_TRUE(reader.Next(&line) && reader.Next(&line));
  EXPECT_EQ(line.offset, 4U);
  EXPECT_EQ(line.index, 1U);
  reader.SkipPastLineEnd();
  EXPECT_EQ(reader.offset(), 7U);
  EXPECT_FALSE(reader.Next(&line));
}

TEST(LineReaderTest, LongLinesAreNamedAndPassedOver) {
  const std::string five = "12345";
  const std::string huge(1000000, 'x');
  EXPECT_THAT(LinesOf(InputFile::OfMemory("m", five + "\n" + five + "\r\n" + five), 5),
              ElementsAre(five, five, five));
  const std::string text = five + "6\n" + huge + "\nab\n" + five + "6\r\n" + huge;
  EXPECT_THAT(LinesOf(InputFile::OfMemory("m", text), 5),
              ElementsAre("<too long>", "<too long>", "ab", "<too long>", "<too long>"));
}

TEST(LineReaderTest, LinesLongerThanAChunk) {
  const std::string a(700000, 'a');
  const std::string b(kLineBytesMax, 'b');
  EXPECT_THAT(LinesOf(InputFile::OfMemory("m", a + "\n" + b + "\r\n" + a)), ElementsAre(a, b, a));
}

TEST(LineReaderTest, GzipMembersFollowEachOther) {
  const std::string bytes = Gzip("a\nb") + Gzip("") + Gzip("c\n") + std::string(5, '\0');
  const InputFile file = InputFile::OfMemory("m", bytes);
  EXPECT_TRUE(file.gzip());
  EXPECT_THAT(LinesOf(file), ElementsAre("a", "bc"));
}

TEST(LineReaderTest, DamagedGzipIsAnError) {
  std::string text;
  for (int i = 0; i < 1000; ++i) {
    text += std::to_string(i * 7919) + "\n";
  }
  const std::string whole = Gzip(text);
  std::string flipped = whole;
  flipped[whole.size() / 2] ^= 0x55;
  const std::string cut[] = {whole.substr(0, whole.size() - 1), whole.substr(0, 30), flipped,
                             whole + "trailing"};
  for (const std::string& bytes : cut) {
    LineReader reader = ReaderOf(InputFile::OfMemory("some.gz", bytes));
    Line line;
    while (reader.Next(&line)) {
    }
    EXPECT_EQ(reader.status().code(), StatusCode::kDataLoss);
    EXPECT_THAT(reader.status().message(), HasSubstr("some.gz"));
  }
}

}  // namespace
}  // namespace plexus
