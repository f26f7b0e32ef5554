// How far a rank's reading is: what the progress bar shows.
#include <string>
#include <vector>

#include <gtest/gtest.h>

#include "tests/unit/worker/data/data_testing.h"
#include "worker/data/batch_reader.h"

namespace plexus {
namespace {

constexpr char kColumns[] =
    R"(format: DELIMITED columns: "label" columns: "x" fields { name: "x" kind: DENSE })";

std::string Lines(int rows) {
  std::string text;
  for (int i = 0; i < rows; ++i) {
    text += std::to_string(i % 2) + "," + std::to_string(100000 + i * 7 % 900000) + "\n";
  }
  return text;
}

std::string Gzipped(const std::string& text) {
  std::string out(compressBound(text.size()) + 64, '\0');
  z_stream stream = {};
  EXPECT_EQ(deflateInit2(&stream, 1, Z_DEFLATED, 15 + 16, 8, Z_DEFAULT_STRATEGY), Z_OK);
  stream.next_in = reinterpret_cast<Bytef*>(const_cast<char*>(text.data()));
  stream.avail_in = static_cast<uInt>(text.size());
  stream.next_out = reinterpret_cast<Bytef*>(out.data());
  stream.avail_out = static_cast<uInt>(out.size());
  EXPECT_EQ(deflate(&stream, Z_FINISH), Z_STREAM_END);
  out.resize(out.size() - stream.avail_out);
  deflateEnd(&stream);
  return out;
}

// progress() after each batch.
std::vector<double> ProgressOf(const std::vector<std::string>& files, std::uint32_t rank,
                               std::uint32_t ranks, bool shuffle = false) {
  proto::Data data = DataOf(kColumns);
  data.set_shuffle_rows(4000);
  std::vector<InputFile> inputs;
  for (const std::string& file : files) {
    inputs.push_back(InputFile::OfMemory("mem", file));
  }
  BatchReaderOptions options;
  options.rank = rank;
  options.ranks = ranks;
  options.batch_samples = 100;
  options.shuffle = shuffle;
  auto reader = BatchReader::Open(data, std::move(inputs), options);
  EXPECT_TRUE(reader.ok()) << reader.status().ToString();
  Batch batch;
  std::vector<double> progress = {(*reader)->progress()};
  while ((*reader)->Next(&batch).value()) {
    progress.push_back((*reader)->progress());
  }
  progress.push_back((*reader)->progress());
  return progress;
}

void ExpectProportional(const std::vector<double>& progress, double tolerance) {
  ASSERT_GT(progress.size(), 10u);
  EXPECT_EQ(progress.front(), 0);
  EXPECT_EQ(progress.back(), 1);
  const auto batches = static_cast<double>(progress.size() - 2);
  for (std::size_t i = 1; i + 1 < progress.size(); ++i) {
    EXPECT_GE(progress[i], progress[i - 1]);
    EXPECT_NEAR(progress[i], static_cast<double>(i) / batches, tolerance) << "batch " << i;
  }
}

TEST(ProgressTest, IsTheShareOfARanksBytes) {
  const std::vector<std::string> files = {Lines(3000), Lines(5000), Lines(100)};
  for (std::uint32_t rank = 0; rank < 3; ++rank) {
    ExpectProportional(ProgressOf(files, rank, 3), 0.02);
  }
}

TEST(ProgressTest, GrowsThroughAShufflesWindow) {
  ExpectProportional(ProgressOf({Lines(10000)}, 0, 1, /*shuffle=*/true), 0.02);
}

TEST(ProgressTest, OfGzipIsTheShareOfCompressedBytes) {
  // Inflated in chunks of 256 KiB.
  ExpectProportional(ProgressOf({Gzipped(Lines(500000))}, 0, 1), 0.15);
  ExpectProportional(ProgressOf({Gzipped(Lines(500000))}, 1, 2), 0.15);
}

TEST(ProgressTest, OfNothingIsAllOfIt) {
  EXPECT_EQ(ProgressOf({}, 0, 1).back(), 1);
  EXPECT_EQ(ProgressOf({""}, 0, 1).back(), 1);
  EXPECT_EQ(ProgressOf({Lines(1)}, 3, 4).back(), 1);
}

}  // namespace
}  // namespace plexus
