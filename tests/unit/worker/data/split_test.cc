#include "worker/data/split.h"

#include <filesystem>
#include <fstream>
#include <iterator>
#include <string>

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <unistd.h>

#include "tests/unit/worker/data/data_testing.h"

namespace plexus {
namespace {

using ::testing::HasSubstr;

class SplitTest : public ::testing::Test {
 protected:
  void SetUp() override {
    base_ = ::testing::TempDir() + "split_" + std::to_string(::getpid());
    std::filesystem::create_directories(base_);
    options_.in = base_ + "/in";
    options_.out = base_ + "/out";
  }
  void TearDown() override { std::filesystem::remove_all(base_); }

  void Write(const std::string& text) { std::ofstream(options_.in, std::ios::binary) << text; }
  std::string Read(const std::string& name) {
    std::ifstream file(options_.out + "/" + name, std::ios::binary);
    return {std::istreambuf_iterator<char>(file), std::istreambuf_iterator<char>()};
  }

  std::string base_;
  SplitOptions options_;
};

TEST_F(SplitTest, CutsByOrder) {
  Write("a\nb\r\n\nc\nd\ne");
  options_.valid_at = 2;
  options_.test_at = 3;
  const auto counts = SplitFile(options_);
  ASSERT_TRUE(counts.ok()) << counts.status().ToString();
  EXPECT_EQ(counts->train, 2U);
  EXPECT_EQ(counts->valid, 1U);
  EXPECT_EQ(counts->test, 2U);
  EXPECT_EQ(Read("train.tsv"), "a\nb\n");
  EXPECT_EQ(Read("valid.tsv"), "c\n");
  EXPECT_EQ(Read("test.tsv"), "d\ne\n");
}

TEST_F(SplitTest, RepeatsTheHeader) {
  Write(Gzip("x,y\n1\n2\n"));
  options_.header = true;
  options_.valid_at = 1;
  options_.test_at = 9;
  ASSERT_TRUE(SplitFile(options_).ok());
  EXPECT_EQ(Read("train.tsv"), "x,y\n1\n");
  EXPECT_EQ(Read("valid.tsv"), "x,y\n2\n");
  EXPECT_EQ(Read("test.tsv"), "x,y\n");
}

TEST_F(SplitTest, FailsWithoutLeavingHalfFiles) {
  Write("a\n" + std::string(kLineBytesMax + 1, 'x') + "\n");
  options_.valid_at = 1;
  options_.test_at = 1;
  const auto counts = SplitFile(options_);
  ASSERT_FALSE(counts.ok());
  EXPECT_THAT(counts.status().message(), HasSubstr("in:2"));
  EXPECT_TRUE(std::filesystem::is_empty(options_.out));
  options_.in = base_ + "/none";
  EXPECT_EQ(SplitFile(options_).status().code(), StatusCode::kNotFound);
  options_.valid_at = 2;
  EXPECT_EQ(SplitFile(options_).status().code(), StatusCode::kInvalidArgument);
}

}  // namespace
}  // namespace plexus
