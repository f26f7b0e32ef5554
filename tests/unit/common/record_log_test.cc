#include "common/record_log.h"

#include <filesystem>
#include <fstream>
#include <string>
#include <vector>

#include <gtest/gtest.h>

#include "common/files.h"

namespace plexus {
namespace {

Bytes BytesOf(const std::string& text) {
  return Bytes::Copy({reinterpret_cast<const std::uint8_t*>(text.data()), text.size()});
}

// "kind:payload" of every record, and where each ends.
struct Seen {
  std::vector<std::string> records;
  std::vector<RecordLog::Position> ends;
  std::string why;
};

class RecordLogTest : public testing::Test {
 protected:
  void SetUp() override {
    directory_ = testing::TempDir() + "record_log_test_" +
                 testing::UnitTest::GetInstance()->current_test_info()->name();
    std::filesystem::remove_all(directory_);
  }
  void TearDown() override { std::filesystem::remove_all(directory_); }

  std::unique_ptr<RecordLog> Open() {
    StatusOr<std::unique_ptr<RecordLog>> log = RecordLog::Open(directory_, 0);
    EXPECT_TRUE(log.ok()) << log.status().message();
    return *std::move(log);
  }
  static void Append(RecordLog& log, std::uint32_t kind, const std::string& text) {
    const Bytes pieces[] = {BytesOf(text.substr(0, text.size() / 3)),
                            BytesOf(text.substr(text.size() / 3))};
    ASSERT_TRUE(log.Append(kind, pieces).ok());
  }
  static Seen Scan(const RecordLog& log, std::uint64_t first = 0) {
    Seen seen;
    const StatusOr<std::string> why = log.Scan(first, [&](const RecordLog::Record& record) {
      seen.records.push_back(std::to_string(record.kind) + ":" +
                             std::string(record.payload.view()));
      seen.ends.push_back(record.end);
      return OkStatus();
    });
    EXPECT_TRUE(why.ok()) << why.status().message();
    seen.why = why.ok() ? *why : "";
    return seen;
  }
  std::string SegmentPath(const std::string& digits) const {
    return directory_ + "/" + std::string(20 - digits.size(), '0') + digits + ".log";
  }
  // Two segments of three records.
  void Fill() {
    auto log = Open();
    for (const std::uint64_t segment : {5, 9}) {
      ASSERT_TRUE(log->BeginSegment(segment, true).ok());
      Append(*log, 1, "alpha" + std::to_string(segment));
      Append(*log, 2, "");
      Append(*log, 3, std::string(200, 'x'));
    }
    ASSERT_TRUE(log->Sync().ok());
  }

  std::string directory_;
};

const std::vector<std::string> kAll = {"1:alpha5", "2:", "3:" + std::string(200, 'x'),
                                       "1:alpha9", "2:", "3:" + std::string(200, 'x')};

TEST_F(RecordLogTest, GivesBackWhatWasAppended) {
  Fill();
  auto log = Open();
  EXPECT_EQ(log->segments(), (std::vector<std::uint64_t>{5, 9}));
  const Seen all = Scan(*log);
  EXPECT_EQ(all.records, kAll);
  EXPECT_EQ(all.why, "");
  EXPECT_EQ(Scan(*log, 9).records, std::vector<std::string>(kAll.begin() + 3, kAll.end()));
  EXPECT_EQ(log->bytes(), std::filesystem::file_size(SegmentPath("5")) +
                              std::filesystem::file_size(SegmentPath("9")));
}

TEST_F(RecordLogTest, GoesOnBehindAnyRecord) {
  for (std::size_t keep = 1; keep <= kAll.size(); ++keep) {
    std::filesystem::remove_all(directory_);
    Fill();
    {
      auto log = Open();
      ASSERT_TRUE(log->Truncate(Scan(*log).ends[keep - 1]).ok());
      Append(*log, 7, "new");
      ASSERT_TRUE(log->BeginSegment(20, false).ok());
      Append(*log, 8, "newer");
    }
    std::vector<std::string> expected(kAll.begin(),
                                      kAll.begin() + static_cast<std::ptrdiff_t>(keep));
    expected.insert(expected.end(), {"7:new", "8:newer"});
    EXPECT_EQ(Scan(*Open()).records, expected) << keep;
  }
}

TEST_F(RecordLogTest, EndsWhereACrashToreIt) {
  Fill();
  const std::string path = SegmentPath("9");
  const auto size = std::filesystem::file_size(path);
  for (std::uint64_t bytes = size; bytes-- > 0;) {
    std::filesystem::resize_file(path, bytes);
    const Seen seen = Scan(*Open());
    ASSERT_GE(seen.records.size(), 3U) << bytes;
    ASSERT_LT(seen.records.size(), 6U) << bytes;
    ASSERT_TRUE(std::equal(seen.records.begin(), seen.records.end(), kAll.begin())) << bytes;
    const bool whole = bytes == 16 || (seen.records.size() > 3 && seen.ends.back().offset == bytes);
    ASSERT_EQ(seen.why.empty(), whole) << bytes << ": " << seen.why;
  }
}

TEST_F(RecordLogTest, TakesNoDamagedRecordAndNothingBehindIt) {
  Fill();
  const std::string path = SegmentPath("5");
  const std::string content = ReadWholeFile(path, 1 << 20).value();
  for (std::size_t at = 0; at < content.size(); ++at) {
    std::string damaged = content;
    damaged[at] = static_cast<char>(damaged[at] ^ (1 << (at % 8)));
    std::ofstream(path, std::ios::binary) << damaged;
    const Seen seen = Scan(*Open());
    // What pads a record is in no check.
    const bool pads = seen.records.size() == kAll.size();
    ASSERT_TRUE(!pads || damaged.substr(at, 1) != std::string(1, '\0')) << at;
    ASSERT_LE(seen.records.size(), pads ? 6U : 2U) << at;
    ASSERT_TRUE(std::equal(seen.records.begin(), seen.records.end(), kAll.begin())) << at;
    ASSERT_EQ(seen.why.empty(), pads) << at;
  }
}

TEST_F(RecordLogTest, ARecordOfAnotherPlaceDoesNotCheck) {
  Fill();
  // The second segment's records under the first one's name: each checks for itself alone.
  std::string content = ReadWholeFile(SegmentPath("9"), 1 << 20).value();
  content[8] = 5;
  std::ofstream(SegmentPath("5"), std::ios::binary) << content;
  const Seen seen = Scan(*Open());
  EXPECT_TRUE(seen.records.empty());
  EXPECT_NE(seen.why, "");
}

TEST_F(RecordLogTest, DropsOldSegmentsButNotTheLast) {
  Fill();
  auto log = Open();
  ASSERT_TRUE(log->DropBefore(9).ok());
  EXPECT_EQ(log->segments(), std::vector<std::uint64_t>{9});
  ASSERT_TRUE(log->DropBefore(100).ok());
  EXPECT_EQ(log->segments(), std::vector<std::uint64_t>{9});
  ASSERT_TRUE(log->Clear().ok());
  EXPECT_EQ(Scan(*log).records.size(), 0U);
  EXPECT_EQ(log->bytes(), 0U);
}

TEST_F(RecordLogTest, OneOwnerAtATime) {
  auto log = Open();
  const StatusOr<std::unique_ptr<RecordLog>> second = RecordLog::Open(directory_, 50);
  EXPECT_EQ(second.status().code(), StatusCode::kUnavailable);
  EXPECT_NE(second.status().message().find(directory_), std::string::npos);
  log.reset();
  EXPECT_TRUE(RecordLog::Open(directory_, 0).ok());
}

// A disk of 1 MiB, where that can be mounted: an append that fails leaves what was there.
TEST_F(RecordLogTest, AFullDiskLosesNothingThatWasThere) {
  ASSERT_TRUE(MakeDirectories(directory_).ok());
  if (std::system(("mount -t tmpfs -o size=1m none " + directory_ + " 2>/dev/null").c_str()) != 0) {
    GTEST_SKIP() << "no tmpfs can be mounted here";
  }
  {
    auto log = Open();
    ASSERT_TRUE(log->BeginSegment(1, true).ok());
    const Bytes large[] = {BytesOf(std::string(300000, 'y'))};
    std::size_t appended = 0;
    Status status;
    while ((status = log->Append(4, large)).ok()) {
      ASSERT_LT(++appended, 10U);
    }
    EXPECT_NE(status.message().find(directory_), std::string::npos);
    Append(*log, 5, "small");  // There is room for this.
    EXPECT_EQ(Scan(*log).records.size(), appended + 1);
    EXPECT_EQ(Scan(*log).why, "");
  }
  (void)!std::system(("umount " + directory_).c_str());
}

}  // namespace
}  // namespace plexus
