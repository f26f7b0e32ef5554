#include "worker/data/batch_reader.h"

#include <algorithm>
#include <fstream>
#include <set>
#include <string>
#include <vector>

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <unistd.h>

#include "tests/unit/worker/data/data_testing.h"

namespace plexus {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;

constexpr char kTwoColumns[] = R"(format: DELIMITED columns: "label" columns: "x" columns: "m"
    fields { name: "x" kind: DENSE } fields { name: "m" kind: MULTI_VALUED })";

// `rows` lines "<0 or 1>,<number>,<values>".
std::string Lines(int rows) {
  std::string text;
  for (int i = 0; i < rows; ++i) {
    text +=
        std::to_string(i % 2) + "," + std::to_string(i) + "," + (i % 3 == 0 ? "" : "a|b") + "\n";
  }
  return text;
}

std::unique_ptr<BatchReader> OpenText(const proto::Data& data, std::string_view text,
                                      const BatchReaderOptions& options) {
  auto reader = BatchReader::Open(data, {InputFile::OfMemory("mem", text)}, options);
  EXPECT_TRUE(reader.ok()) << reader.status().ToString();
  return *std::move(reader);
}

BatchReaderOptions OfBatches(std::uint32_t samples, bool shuffle = false) {
  BatchReaderOptions options;
  options.batch_samples = samples;
  options.shuffle = shuffle;
  return options;
}

std::vector<float> NumbersOf(BatchReader* reader) {
  std::vector<float> numbers;
  for (const Row& row : ReadAll(reader)) {
    numbers.push_back(row.dense.at(0));
  }
  return numbers;
}

TEST(BatchReaderTest, BatchesAreFullButTheLast) {
  const std::string text = Lines(10);
  auto reader = OpenText(DataOf(kTwoColumns), text, OfBatches(4));
  Batch batch;
  for (const std::uint32_t samples : {4U, 4U, 2U}) {
    const StatusOr<bool> more = reader->Next(&batch);
    ASSERT_TRUE(more.ok() && *more);
    EXPECT_EQ(batch.samples, samples);
    EXPECT_EQ(batch.labels.size(), samples);
    EXPECT_EQ(batch.dense.size(), samples);
    EXPECT_EQ(batch.sparse[0].offsets.size(), samples + 1);
  }
  for (int i = 0; i < 2; ++i) {
    const StatusOr<bool> more = reader->Next(&batch);
    ASSERT_TRUE(more.ok());
    EXPECT_FALSE(*more);
    EXPECT_EQ(batch.samples, 0U);
  }
  EXPECT_EQ(reader->rows(), 10U);
}

TEST(BatchReaderTest, ShuffleMovesRowsWithinTheirWindow) {
  const std::string text = Lines(100);
  proto::Data data = DataOf(kTwoColumns);
  data.set_shuffle_rows(40);
  auto plain = OpenText(data, text, OfBatches(7));
  auto shuffled = OpenText(data, text, OfBatches(7, true));
  const std::vector<Row> want = ReadAll(plain.get());
  std::vector<Row> got = ReadAll(shuffled.get());
  ASSERT_EQ(got.size(), 100U);
  EXPECT_NE(got, want);
  const auto less = [](const Row& a, const Row& b) { return a.dense < b.dense; };
  for (std::size_t begin = 0; begin < 100; begin += 40) {
    std::sort(got.begin() + static_cast<std::ptrdiff_t>(begin),
              got.begin() + static_cast<std::ptrdiff_t>(std::min<std::size_t>(begin + 40, 100)),
              less);
  }
  EXPECT_EQ(got, want);
}

TEST(BatchReaderTest, OrderDependsOnSeedEpochAndRankOnly) {
  const std::string text = Lines(64);
  proto::Data data = DataOf(kTwoColumns);
  data.set_shuffle_rows(32);
  const auto order = [&](std::uint64_t seed, std::uint64_t epoch, std::uint32_t batch_samples) {
    BatchReaderOptions options = OfBatches(batch_samples, true);
    options.seed = seed;
    options.epoch = epoch;
    return NumbersOf(OpenText(data, text, options).get());
  };
  EXPECT_EQ(order(1, 0, 5), order(1, 0, 5));
  EXPECT_EQ(order(1, 0, 5), order(1, 0, 64));
  EXPECT_NE(order(1, 0, 5), order(2, 0, 5));
  EXPECT_NE(order(1, 0, 5), order(1, 1, 5));
}

TEST(BatchReaderTest, SkipIsAsMuchAsNext) {
  const std::string text = "junk\n" + Lines(1000);
  for (const bool shuffle : {false, true}) {
    proto::Data data = DataOf(kTwoColumns);
    data.set_shuffle_rows(96);
    data.set_max_bad_lines(1);
    for (const std::uint64_t skip : {0, 1, 3, 12, 142, 143, 1000}) {
      auto skipping = OpenText(data, text, OfBatches(7, shuffle));
      auto reading = OpenText(data, text, OfBatches(7, shuffle));
      ASSERT_TRUE(skipping->Skip(skip).ok());
      Batch batch;
      for (std::uint64_t i = 0; i < skip; ++i) {
        ASSERT_TRUE(reading->Next(&batch).ok());
      }
      EXPECT_EQ(skipping->rows(), reading->rows());
      EXPECT_EQ(ReadAll(skipping.get()), ReadAll(reading.get())) << skip;
      EXPECT_EQ(skipping->bad_lines().count, 1U);
    }
  }
}

TEST(BatchReaderTest, RanksSeeEachRowOnce) {
  const std::string text = Lines(500);
  const std::string gzip = Gzip(text);
  for (const std::string_view bytes : {std::string_view(text), std::string_view(gzip)}) {
    std::multiset<float> numbers;
    for (std::uint32_t rank = 0; rank < 3; ++rank) {
      BatchReaderOptions options = OfBatches(16);
      options.rank = rank;
      options.ranks = 3;
      options.gzip_block_lines = 10;
      for (const float number : NumbersOf(OpenText(DataOf(kTwoColumns), bytes, options).get())) {
        numbers.insert(number);
      }
    }
    EXPECT_EQ(numbers.size(), 500U);
    EXPECT_EQ(std::set<float>(numbers.begin(), numbers.end()).size(), 500U);
  }
}

TEST(BatchReaderTest, BadLinesAreCountedAndNamed) {
  proto::Data data = DataOf(kTwoColumns);
  data.set_max_bad_lines(2);
  const std::string text = "1,1,\r\n\n1,zzz,\n1,2,\nshort\n1,3,\n";
  auto reader = OpenText(data, text, OfBatches(100));
  EXPECT_THAT(NumbersOf(reader.get()), ElementsAre(1, 2, 3));
  EXPECT_EQ(reader->bad_lines().count, 2U);
  ASSERT_EQ(reader->bad_lines().first.size(), 2U);
  EXPECT_EQ(reader->bad_lines().first[0], "mem:3: column x is not a number: \"zzz\"");
  EXPECT_EQ(reader->bad_lines().first[1], "mem:5: 1 columns instead of 3");
}

TEST(BatchReaderTest, TooManyBadLinesStopTheJob) {
  proto::Data data = DataOf(kTwoColumns);
  data.set_max_bad_lines(1);
  const std::string text = "1,1,\nbad\n1,2,\nworse\n";
  auto reader = OpenText(data, text, OfBatches(1));
  Batch batch;
  ASSERT_TRUE(reader->Next(&batch).ok());
  ASSERT_TRUE(reader->Next(&batch).ok());
  for (int i = 0; i < 2; ++i) {
    const StatusOr<bool> more = reader->Next(&batch);
    ASSERT_FALSE(more.ok());
    EXPECT_EQ(more.status().code(), StatusCode::kResourceExhausted);
    EXPECT_THAT(more.status().message(), HasSubstr("mem:4: 1 columns"));
    EXPECT_THAT(more.status().message(), HasSubstr("--set data.max_bad_lines"));
  }
  EXPECT_EQ(reader->Skip(1).code(), StatusCode::kResourceExhausted);
}

TEST(BatchReaderTest, LongLinesAreBadLines) {
  proto::Data data = DataOf(kTwoColumns);
  data.set_max_bad_lines(1);
  BatchReaderOptions options = OfBatches(10);
  options.line_bytes_max = 10;
  const std::string text = "1,1,\n1,2,aaaaaaaaaaaaaaaaa\n1,3,\n";
  auto reader = OpenText(data, text, options);
  EXPECT_THAT(NumbersOf(reader.get()), ElementsAre(1, 3));
  EXPECT_THAT(reader->bad_lines().first, ElementsAre("mem:2: longer than 10 bytes"));
}

TEST(BatchReaderTest, HeadersMayOrderColumnsByFile) {
  const proto::Data data = DataOf(R"(format: DELIMITED fields { name: "x" kind: DENSE })");
  auto reader = BatchReader::Open(
      data,
      {InputFile::OfMemory("a", "label,x\n1,5\n"), InputFile::OfMemory("empty", ""),
       InputFile::OfMemory("h", "x,label"), InputFile::OfMemory("b", "x,y,label\n6,9,0\n")},
      OfBatches(10));
  ASSERT_TRUE(reader.ok());
  EXPECT_THAT(NumbersOf(reader->get()), ElementsAre(5, 6));
}

TEST(BatchReaderTest, MissingColumnNamesFileAndColumn) {
  const proto::Data data = DataOf(R"(format: DELIMITED fields { name: "x" kind: DENSE })");
  auto reader = OpenText(data, "label,y\n1,5\n", OfBatches(10));
  Batch batch;
  const StatusOr<bool> more = reader->Next(&batch);
  ASSERT_FALSE(more.ok());
  EXPECT_EQ(more.status().code(), StatusCode::kInvalidArgument);
  EXPECT_THAT(more.status().message(), HasSubstr("mem"));
  EXPECT_THAT(more.status().message(), HasSubstr("\"x\""));
}

TEST(BatchReaderTest, FilesOfEachKindOnDisk) {
  const std::string base = ::testing::TempDir() + "batch_reader_" + std::to_string(::getpid());
  const std::vector<std::string> paths = {base + ".csv", base + ".csv.gz", base + ".none"};
  std::ofstream(paths[0], std::ios::binary) << Lines(30);
  std::ofstream(paths[1], std::ios::binary) << Gzip(Lines(20));
  std::ofstream(paths[2], std::ios::binary) << "";
  auto reader = BatchReader::Open(DataOf(kTwoColumns), paths, OfBatches(8));
  ASSERT_TRUE(reader.ok()) << reader.status().ToString();
  EXPECT_EQ(ReadAll(reader->get()).size(), 50U);
  const auto none =
      BatchReader::Open(DataOf(kTwoColumns), std::vector<std::string>{base + ".no"}, OfBatches(8));
  ASSERT_FALSE(none.ok());
  EXPECT_EQ(none.status().code(), StatusCode::kNotFound);
  EXPECT_THAT(none.status().message(), HasSubstr(base + ".no"));
  const auto folder = BatchReader::Open(
      DataOf(kTwoColumns), std::vector<std::string>{::testing::TempDir()}, OfBatches(8));
  EXPECT_FALSE(folder.ok());
  for (const std::string& path : paths) {
    ::unlink(path.c_str());
  }
}

TEST(BatchReaderTest, RefusesOptionsThatMakeNoSense) {
  BatchReaderOptions options = OfBatches(0);
  EXPECT_FALSE(BatchReader::Open(DataOf(kTwoColumns), std::vector<InputFile>(), options).ok());
  options = OfBatches(1);
  options.rank = 1;
  EXPECT_FALSE(BatchReader::Open(DataOf(kTwoColumns), std::vector<InputFile>(), options).ok());
}

}  // namespace
}  // namespace plexus
