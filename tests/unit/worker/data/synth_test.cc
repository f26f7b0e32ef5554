#include "worker/data/synth.h"

#include <cmath>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <string>
#include <vector>

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <unistd.h>

#include "tests/unit/worker/data/data_testing.h"

namespace plexus {
namespace {

using ::testing::HasSubstr;

std::string TextOf(const std::string& path) {
  std::ifstream file(path, std::ios::binary);
  return {std::istreambuf_iterator<char>(file), std::istreambuf_iterator<char>()};
}

// The number behind "name": in one line of JSON.
double NumberOf(const std::string& json, const std::string& name) {
  const std::size_t at = json.find("\"" + name + "\":");
  EXPECT_NE(at, std::string::npos) << name << " in " << json;
  return std::strtod(json.c_str() + at + name.size() + 3, nullptr);
}

class SynthTest : public ::testing::Test {
 protected:
  void SetUp() override {
    base_ = ::testing::TempDir() + "synth_" + std::to_string(::getpid());
    options_.out = base_ + "/a";
    options_.rows = 20000;
    options_.valid_rows = 1000;
    options_.test_rows = 20000;
    options_.model.cardinality_total = 50000;
  }
  void TearDown() override { std::filesystem::remove_all(base_); }

  std::string base_;
  SynthOptions options_;
};

TEST_F(SynthTest, SameSeedSameBytes) {
  const auto first = SynthesizeCriteo(options_);
  ASSERT_TRUE(first.ok()) << first.status().ToString();
  options_.out = base_ + "/b";
  const auto second = SynthesizeCriteo(options_);
  ASSERT_TRUE(second.ok());
  EXPECT_EQ(*first, *second);
  for (const char* name : {"/train.tsv", "/valid.tsv", "/test.tsv", "/synth.json"}) {
    EXPECT_EQ(TextOf(base_ + "/a" + name), TextOf(base_ + "/b" + name)) << name;
    EXPECT_FALSE(std::filesystem::exists(base_ + "/b" + name + ".tmp"));
  }
  options_.model.seed = 2;
  ASSERT_TRUE(SynthesizeCriteo(options_).ok());
  EXPECT_NE(TextOf(base_ + "/a/train.tsv"), TextOf(base_ + "/b/train.tsv"));
}

TEST_F(SynthTest, FiguresAreAsAsked) {
  const auto json = SynthesizeCriteo(options_);
  ASSERT_TRUE(json.ok()) << json.status().ToString();
  EXPECT_EQ(TextOf(options_.out + "/synth.json"), *json + "\n");
  EXPECT_NEAR(NumberOf(*json, "expected_auc"), 0.80, 1e-3);
  EXPECT_NEAR(NumberOf(*json, "best_auc"), 0.80, 0.015);
  EXPECT_NEAR(NumberOf(*json, "best_logloss"), 0.445, 0.02);
  EXPECT_NEAR(NumberOf(*json, "label_rate"), 0.25, 0.015);
  EXPECT_GT(NumberOf(*json, "distinct_values"), 10000);
  EXPECT_LE(NumberOf(*json, "distinct_values"), 50000);
}

TEST_F(SynthTest, EveryRowIsACriteoRow) {
  ASSERT_TRUE(SynthesizeCriteo(options_).ok());
  const proto::Data data =
      DataOf(R"(fields { name: "I*" kind: DENSE transform: LOG1P } fields { name: "C*" })");
  BatchReaderOptions read;
  read.batch_samples = 1000;
  auto reader =
      BatchReader::Open(data, std::vector<std::string>{options_.out + "/train.tsv"}, read);
  ASSERT_TRUE(reader.ok());
  EXPECT_EQ(ReadAll(reader->get()).size(), 20000U);
  EXPECT_EQ((*reader)->bad_lines().count, 0U);
}

TEST_F(SynthTest, FrequenciesFollowThePowerLaw) {
  SynthModelOptions options;
  options.cardinality_total = 100000;
  const auto model = SynthModel::Create(options);
  ASSERT_TRUE(model.ok());
  std::uint64_t total = 0;
  for (std::size_t f = 0; f < options.fields; ++f) {
    total += model->cardinality(f);
  }
  EXPECT_EQ(total, 100000U);
  // Field 2 is the largest.
  std::vector<double> counts(model->cardinality(2));
  SynthRow row;
  for (std::uint64_t i = 0; i < 100000; ++i) {
    model->Draw(i, &row);
    if (row.has_value[2]) {
      ASSERT_LT(row.values[2], counts.size());
      ++counts[row.values[2]];
    }
  }
  EXPECT_NEAR(counts[1] / counts[0], std::pow(2, -1.05), 0.05);
  EXPECT_NEAR(counts[9] / counts[0], std::pow(10, -1.05), 0.02);
}

TEST_F(SynthTest, RefusesOptionsOutOfRange) {
  const auto refused = [this](auto change) {
    SynthOptions options = options_;
    change(&options.model);
    return SynthesizeCriteo(options).status().code() == StatusCode::kInvalidArgument;
  };
  EXPECT_TRUE(refused([](SynthModelOptions* o) { o->fields = 27; }));
  EXPECT_TRUE(refused([](SynthModelOptions* o) { o->fields = 0; }));
  EXPECT_TRUE(refused([](SynthModelOptions* o) { o->cardinality_total = 51; }));
  EXPECT_TRUE(refused([](SynthModelOptions* o) { o->zipf = 0; }));
  EXPECT_TRUE(refused([](SynthModelOptions* o) { o->rank = 17; }));
  EXPECT_TRUE(refused([](SynthModelOptions* o) { o->target_auc = 1; }));
}

TEST_F(SynthTest, UnwritableFolderIsNamed) {
  options_.out = "/dev/null/x";
  const auto json = SynthesizeCriteo(options_);
  ASSERT_FALSE(json.ok());
  EXPECT_THAT(json.status().message(), HasSubstr("/dev/null/x"));
}

}  // namespace
}  // namespace plexus
