#include "common/files.h"

#include <filesystem>
#include <fstream>
#include <string>

#include <gtest/gtest.h>

namespace plexus {
namespace {

class FilesTest : public testing::Test {
 protected:
  void SetUp() override {
    directory_ = testing::TempDir() + "files_test_" +
                 testing::UnitTest::GetInstance()->current_test_info()->name();
    std::filesystem::remove_all(directory_);
    ASSERT_TRUE(MakeDirectories(directory_ + "/a/b").ok());
  }
  void TearDown() override { std::filesystem::remove_all(directory_); }

  std::string directory_;
};

TEST_F(FilesTest, ReadsWhatWasWrittenAndReplaces) {
  const std::string path = directory_ + "/a/file";
  const std::string large(200000, 'x');
  for (const std::string& content : {std::string("one"), large, std::string("\0two", 4)}) {
    ASSERT_TRUE(WriteFileAtomically(path, content).ok());
    EXPECT_EQ(ReadWholeFile(path, 1 << 20).value(), content);
  }
  EXPECT_FALSE(std::filesystem::exists(path + ".tmp"));
}

TEST_F(FilesTest, AFailedWriteLeavesTheOldFile) {
  const std::string path = directory_ + "/file";
  ASSERT_TRUE(WriteFileAtomically(path, "old").ok());
  std::filesystem::create_directory(path + ".tmp");
  EXPECT_FALSE(WriteFileAtomically(path, "new").ok());
  EXPECT_EQ(ReadWholeFile(path, 10).value(), "old");
}

TEST_F(FilesTest, RefusesWhatIsTooLong) {
  const std::string path = directory_ + "/file";
  ASSERT_TRUE(WriteFileAtomically(path, "12345").ok());
  EXPECT_TRUE(ReadWholeFile(path, 5).ok());
  EXPECT_EQ(ReadWholeFile(path, 4).status().code(), StatusCode::kResourceExhausted);
}

TEST_F(FilesTest, ErrorsNameThePath) {
  const std::string missing = directory_ + "/missing/file";
  for (const Status& status : {ReadWholeFile(missing, 10).status(), SyncPath(missing),
                               WriteFileAtomically(missing, "x")}) {
    EXPECT_EQ(status.code(), StatusCode::kNotFound) << status.ToString();
    EXPECT_NE(status.message().find(missing), std::string::npos) << status.ToString();
  }
  EXPECT_FALSE(ReadWholeFile(directory_, 10).ok()) << "a directory";
}

TEST_F(FilesTest, MakesDirectoriesOnceOrMoreButNotThroughFiles) {
  EXPECT_TRUE(MakeDirectories(directory_ + "/a/b").ok());
  std::ofstream(directory_ + "/file") << "x";
  const Status status = MakeDirectories(directory_ + "/file/below");
  EXPECT_EQ(status.code(), StatusCode::kFailedPrecondition);
  EXPECT_TRUE(SyncPath(directory_).ok());
}

}  // namespace
}  // namespace plexus
