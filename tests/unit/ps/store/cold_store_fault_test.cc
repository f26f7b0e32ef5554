// A disk that is full, that cannot be read, whose files were damaged; and rows that come and go
// while it fails.
#include <fstream>
#include <iterator>

#include <gmock/gmock.h>
#include <sys/mount.h>

#include "ps/store/cold_key.h"
#include "tests/unit/ps/store/cold_store_testing.h"
#include "tests/unit/ps/store/faulty_disk.h"

namespace plexus {
namespace {

using testing::AllOf;
using testing::HasSubstr;
using testing::IsEmpty;
using Kind = ColdEvent::Kind;

class ColdStoreFaultTest : public ColdStoreTest {
 protected:
  // Every batch goes into a file at once, unless `cache_bytes` says otherwise.
  void OpenFaulty(std::uint64_t cache_bytes = 0) {
    ColdStoreOptions options;
    options.cache_bytes = cache_bytes;
    options.file_system = disk_;
    Open(options);
  }
  ~ColdStoreFaultTest() override {
    disk_->writing.Open();
    disk_->reading.Open();
    if (mounted_) {
      store_.reset();
      (void)::umount2(directory_.c_str(), MNT_DETACH);
    }
  }

  std::vector<std::string> FilesOfRows() const {
    std::vector<std::string> files;
    for (const auto& entry : std::filesystem::directory_iterator(directory_ + "/rows")) {
      if (entry.path().extension() == ".sst") {
        files.push_back(entry.path());
      }
    }
    return files;
  }

  std::shared_ptr<FaultyDisk> disk_ = std::make_shared<FaultyDisk>();
  bool mounted_ = false;  // A file system of its own at directory_.
};

TEST_F(ColdStoreFaultTest, ReadsFindWhatIsNotInFilesYet) {
  OpenFaulty();
  WriteIntoFiles(0, {1, 2, 3}, 1);
  disk_->writing.Close();
  Write(0, {2, 3, 4}, 2);
  disk_->writing.AwaitVisitor();
  Write(0, {3, 5}, 3);
  Read(0, {1, 2, 3, 4, 5});
  auto expected = RowsOf(0, {1}, 1);
  expected.merge(RowsOf(0, {2, 4}, 2));
  expected.merge(RowsOf(0, {3, 5}, 3));
  EXPECT_EQ(NextRows(), expected);
  std::map<Key, std::vector<std::byte>> scanned;
  ASSERT_TRUE(store_
                  ->Scan(0,
                         [&](Key key, const std::byte* record) {
                           scanned[key].assign(record, record + kRecordBytes);
                         })
                  .ok());
  EXPECT_EQ(scanned, expected);
  disk_->writing.Open();
  EXPECT_EQ(NextEvent().kind, Kind::kWritten);
  EXPECT_EQ(NextEvent().kind, Kind::kWritten);
}

TEST_F(ColdStoreFaultTest, GivesBackWhatAFullDiskDoesNotTake) {
  OpenFaulty();
  WriteIntoFiles(0, {1, 2}, 1);
  disk_->full = true;
  for (int i = 0; i < 3; ++i) {
    Write(0, {2, 3}, 2);
    const ColdEvent event = NextEvent();
    ASSERT_EQ(event.kind, Kind::kWriteFailed);
    EXPECT_EQ(event.status.code(), StatusCode::kResourceExhausted);
    EXPECT_THAT(event.status.message(), AllOf(HasSubstr("embedding"), HasSubstr("No space left")));
    EXPECT_EQ(RowsOf(event.batch), RowsOf(0, {2, 3}, 2));
    EXPECT_EQ(event.bytes, 2 * (kRecordBytes + 8));
  }
  Read(0, {1});
  EXPECT_EQ(NextRows(), RowsOf(0, {1}, 1));
  disk_->full = false;
  WriteIntoFiles(0, {2, 3}, 3);
  Read(0, {1, 2, 3});
  auto expected = RowsOf(0, {1}, 1);
  expected.merge(RowsOf(0, {2, 3}, 3));
  EXPECT_EQ(NextRows(), expected);
  EXPECT_EQ(store_->stats().write_failures, 3u);
  EXPECT_THAT(FilesOfRows(), testing::SizeIs(testing::Ge(1u)));
  EXPECT_TRUE(std::filesystem::is_empty(directory_ + "/new"));
}

// RocksDB stops for good when it cannot note a file in its list: it has to be opened anew, and has
// to go on reading before that succeeds.
TEST_F(ColdStoreFaultTest, GoesOnAfterItsListOfFilesWasFull) {
  OpenFaulty();
  WriteIntoFiles(0, {1, 2}, 1);
  for (std::uint64_t round = 2; round < 5; ++round) {
    disk_->full_for_lists = true;
    for (int i = 0; i < 3; ++i) {
      Write(0, {2, 3}, round);
      const ColdEvent event = NextEvent();
      ASSERT_EQ(event.kind, Kind::kWriteFailed);
      EXPECT_EQ(event.status.code(), StatusCode::kResourceExhausted) << event.status.ToString();
      EXPECT_EQ(RowsOf(event.batch), RowsOf(0, {2, 3}, round));
      Read(0, {1});
      EXPECT_EQ(NextRows(), RowsOf(0, {1}, 1));
    }
    disk_->full_for_lists = false;
    WriteIntoFiles(0, {2, 3}, round);
    Read(0, {1, 2, 3});
    auto expected = RowsOf(0, {1}, 1);
    expected.merge(RowsOf(0, {2, 3}, round));
    EXPECT_EQ(NextRows(), expected);
  }
}

TEST_F(ColdStoreFaultTest, KeepsWhatItHasTakenOver) {
  OpenFaulty(1 << 20);
  Write(0, {1, 2}, 1);
  ASSERT_EQ(NextEvent().kind, Kind::kWritten);
  disk_->full = true;
  Write(0, KeysFrom(10, 100010), 2);
  const ColdEvent event = NextEvent();
  ASSERT_EQ(event.kind, Kind::kWriteFailed);
  EXPECT_EQ(event.batch.keys.size(), 100000u);
  Read(0, {1, 2});
  EXPECT_EQ(NextRows(), RowsOf(0, {1, 2}, 1));
  disk_->full = false;
  WriteIntoFiles(0, KeysFrom(10, 100010), 3);
  Read(0, {1, 2});
  EXPECT_EQ(NextRows(), RowsOf(0, {1, 2}, 1));
}

// Row 2 was read back while its first write was under way, and written again: the failed first
// write must not bring the old row back.
TEST_F(ColdStoreFaultTest, GivesNoRowBackThatWasWrittenAgain) {
  OpenFaulty();
  disk_->writing.Close();
  Write(0, {1, 2}, 1);
  disk_->writing.AwaitVisitor();
  Read(0, {2});
  EXPECT_EQ(NextRows(), RowsOf(0, {2}, 1));
  Write(0, {2, 3}, 2);
  disk_->full = true;
  disk_->writing.Open();
  ColdEvent event = NextEvent();
  ASSERT_EQ(event.kind, Kind::kWriteFailed);
  EXPECT_EQ(RowsOf(event.batch), RowsOf(0, {1}, 1));
  EXPECT_EQ(event.bytes, 2 * (kRecordBytes + 8));
  event = NextEvent();
  ASSERT_EQ(event.kind, Kind::kWriteFailed);
  EXPECT_EQ(RowsOf(event.batch), RowsOf(0, {2, 3}, 2));
}

// The same, with the second write after the first one failed, before the shard knows.
TEST_F(ColdStoreFaultTest, GivesNoRowBackThatWasWrittenAgainAfterTheFailure) {
  OpenFaulty();
  disk_->full = true;
  disk_->writing.Close();
  Write(0, {1, 2}, 1);
  disk_->writing.AwaitVisitor();
  Read(0, {2});
  EXPECT_EQ(NextRows(), RowsOf(0, {2}, 1));
  disk_->writing.Open();
  AwaitWriteFailures(1);
  disk_->full = false;
  Write(0, {2, 3}, 2);
  const ColdEvent event = NextEvent();
  ASSERT_EQ(event.kind, Kind::kWriteFailed);
  EXPECT_EQ(RowsOf(event.batch), RowsOf(0, {1}, 1));
  EXPECT_EQ(NextEvent().kind, Kind::kWritten);
  Read(0, {2, 3});
  EXPECT_EQ(NextRows(), RowsOf(0, {2, 3}, 2));
}

// Rows that come back because they could not be written leave the reads that asked for them.
TEST_F(ColdStoreFaultTest, ReadsUnderWayLeaveOutWhatCameBack) {
  OpenFaulty();
  WriteIntoFiles(0, {7}, 1);
  disk_->writing.Close();
  Write(0, {1, 2}, 2);
  disk_->writing.AwaitVisitor();
  disk_->reading.Close();
  Read(0, {1, 7});
  disk_->reading.AwaitVisitor();
  disk_->full = true;
  disk_->writing.Open();
  const ColdEvent event = NextEvent();
  ASSERT_EQ(event.kind, Kind::kWriteFailed);
  EXPECT_EQ(RowsOf(event.batch), RowsOf(0, {1, 2}, 2));
  disk_->reading.Open();
  EXPECT_EQ(NextRows(), RowsOf(0, {7}, 1));
}

// Asked for after the write failed and before the shard knows: it comes with the failure.
TEST_F(ColdStoreFaultTest, RowsOnTheirWayBackAreNotMissing) {
  OpenFaulty();
  WriteIntoFiles(0, {7}, 1);
  disk_->full = true;
  Write(0, {1, 2}, 2);
  AwaitWriteFailures(1);
  Read(0, {1, 7});
  std::map<Key, std::vector<std::byte>> scanned;
  ASSERT_TRUE(store_->Scan(0, [&](Key key, const std::byte*) { scanned[key]; }).ok());
  EXPECT_EQ(scanned.size(), 3u) << "rows that only a failed write holds belong to the scan";
  EXPECT_EQ(NextEvent().kind, Kind::kWriteFailed);
  EXPECT_EQ(NextRows(), RowsOf(0, {7}, 1));
}

// What came back by a read, and was written again because the shard acted on it, does not come back
// by the failure of its first write, which lies behind the read in the queue.
TEST_F(ColdStoreFaultTest, EventsAreTakenOneByOne) {
  OpenFaulty();
  disk_->writing.Close();
  Write(0, {1, 4}, 1);
  disk_->writing.AwaitVisitor();
  Read(0, {1});
  while (store_->stats().rows_read == 0) {
    AwaitWake();
  }
  disk_->full = true;
  disk_->writing.Open();
  AwaitWriteFailures(1);
  EXPECT_EQ(NextRows(), RowsOf(0, {1}, 1));
  disk_->full = false;
  Write(0, {1}, 2);
  const ColdEvent event = NextEvent();
  ASSERT_EQ(event.kind, Kind::kWriteFailed);
  EXPECT_EQ(RowsOf(event.batch), RowsOf(0, {4}, 1));
  EXPECT_EQ(NextEvent().kind, Kind::kWritten);
  Read(0, {1});
  EXPECT_EQ(NextRows(), RowsOf(0, {1}, 2));
}

TEST_F(ColdStoreFaultTest, NamesWhatCannotBeRead) {
  OpenFaulty(1 << 20);
  WriteIntoFiles(0, KeysFrom(0, 100000), 1);
  disk_->unreadable = true;
  Read(0, {1, 2, 3});
  const ColdEvent event = NextEvent();
  ASSERT_EQ(event.kind, Kind::kReadFailed);
  EXPECT_EQ(event.keys.keys, ByHash({1, 2, 3}));
  EXPECT_THAT(event.status.message(),
              AllOf(HasSubstr("embedding"), HasSubstr(".sst"), HasSubstr("Input/output error")));
  disk_->unreadable = false;
  Read(0, {1, 2, 3});
  EXPECT_EQ(NextRows(), RowsOf(0, {1, 2, 3}, 1));
}

TEST_F(ColdStoreFaultTest, ARowThatIsNotThereIsDataLoss) {
  OpenFaulty();
  WriteIntoFiles(0, {1, 2}, 1);
  Read(0, {1, 99});
  const ColdEvent event = NextEvent();
  ASSERT_EQ(event.kind, Kind::kReadFailed);
  EXPECT_EQ(event.keys.keys, std::vector<Key>({99}));
  EXPECT_EQ(event.status.code(), StatusCode::kDataLoss);
  EXPECT_THAT(event.status.message(), AllOf(HasSubstr("key 99"), HasSubstr(directory_)));
}

void FlipBit(const std::string& path, std::streamoff at) {
  std::fstream file(path, std::ios::in | std::ios::out | std::ios::binary);
  file.seekg(at);
  const int byte = file.get();
  file.seekp(at);
  file.put(static_cast<char>(byte ^ 16));
}

// Every file, at many places in turn: a read gives the row as it was written or says that it
// cannot.
TEST_F(ColdStoreFaultTest, RefusesDamagedRows) {
  OpenFaulty();
  // Neighbours, so that they stay in one file.
  const auto keys_of = [](std::uint64_t first, std::uint64_t end) {
    std::vector<Key> keys;
    for (std::uint64_t i = first; i < end; ++i) {
      keys.push_back(KeyOfMix64(i << 40));
    }
    return keys;
  };
  constexpr std::uint64_t kRows = 100;
  for (std::uint64_t first = 0; first < 3 * kRows; first += kRows) {
    WriteIntoFiles(0, keys_of(first, first + kRows), 1);
  }
  const std::vector<Key> keys = keys_of(0, 3 * kRows);
  const auto rows = RowsOf(0, keys, 1);
  const std::vector<std::string> files = FilesOfRows();
  ASSERT_EQ(files.size(), 3u);
  std::size_t refused = 0;
  for (const std::string& file : files) {
    const auto size = static_cast<std::streamoff>(std::filesystem::file_size(file));
    for (std::streamoff at = 0; at < size; at += 1 + size / 60) {
      FlipBit(file, at);
      Read(0, keys);
      const ColdEvent event = NextEvent();
      if (event.kind == Kind::kRead) {
        ASSERT_EQ(RowsOf(event.batch), rows) << file << " " << at;
      } else {
        ASSERT_EQ(event.kind, Kind::kReadFailed);
        ++refused;
        ASSERT_EQ(event.status.code(), StatusCode::kDataLoss);
        ASSERT_THAT(event.status.message(),
                    AllOf(HasSubstr("embedding"),
                          HasSubstr(std::filesystem::path(file).filename().string())));
      }
      FlipBit(file, at);
    }
    FlipBit(file, size / 4);  // Among rows.
    Read(0, keys);
    const ColdEvent event = NextEvent();
    ASSERT_EQ(event.kind, Kind::kReadFailed) << file;
    EXPECT_GT(event.keys.keys.size(), kRows / 2);  // Of one block.
    std::map<Key, std::vector<std::byte>> scanned;
    const Status status = store_->Scan(0, [&](Key key, const std::byte* record) {
      scanned[key].assign(record, record + kRecordBytes);
      ASSERT_EQ(scanned[key], rows.at(key));
    });
    ASSERT_TRUE(!status.ok() || scanned.size() < 3 * kRows) << file;
    FlipBit(file, size / 4);
  }
  EXPECT_GT(refused, 3u * 30);
  Read(0, keys);
  EXPECT_EQ(NextRows(), rows);
}

// A file system of 12 MiB that fills up and is made room in.
TEST_F(ColdStoreFaultTest, GoesOnWhenAFullFileSystemHasRoomAgain) {
  std::filesystem::create_directories(directory_);
  if (::mount("tmpfs", directory_.c_str(), "tmpfs", 0, "size=12m") != 0) {
    GTEST_SKIP() << "no right to mount a file system here";
  }
  mounted_ = true;
  const std::string place = directory_ + "/server-0";
  ColdStoreOptions options;
  options.layout.file_bytes = 1 << 20;
  options.cache_bytes = 256 << 10;
  options.wake = [this] {
    const std::lock_guard lock(mutex_);
    ++wakes_;
    woken_.notify_one();
  };
  auto store = ColdStore::Open(place, {{"embedding", kRecordBytes}}, options);
  ASSERT_TRUE(store.ok()) << store.status().ToString();
  store_ = *std::move(store);
  std::ofstream(directory_ + "/ballast") << std::string(6 << 20, 'x');
  constexpr Key kRows = 20000;           // 1 MiB with keys and checks.
  std::map<Key, std::uint64_t> batches;  // That were written: first key, round.
  std::uint64_t failures = 0;
  for (std::uint64_t round = 1; failures < 3; ++round) {
    ASSERT_LT(round, 50u);
    const Key first = round * kRows;
    Write(0, KeysFrom(first, first + kRows), round);
    const ColdEvent event = NextEvent();
    if (event.kind == Kind::kWritten) {
      batches[first] = round;
    } else {
      ASSERT_EQ(event.kind, Kind::kWriteFailed);
      EXPECT_EQ(event.status.code(), StatusCode::kResourceExhausted) << event.status.ToString();
      EXPECT_EQ(event.batch.keys.size(), kRows);
      ++failures;
    }
  }
  EXPECT_GT(batches.size(), 1u);
  std::filesystem::remove(directory_ + "/ballast");
  const std::size_t before = batches.size();
  for (std::uint64_t round = 100; round < 103; ++round) {
    Write(0, KeysFrom(round * kRows, round * kRows + kRows), round);
    const ColdEvent event = NextEvent();
    ASSERT_EQ(event.kind, Kind::kWritten) << event.status.ToString();
    batches[round * kRows] = round;
  }
  EXPECT_EQ(batches.size(), before + 3);
  for (const auto& [first, round] : batches) {
    Read(0, KeysFrom(first, first + kRows));
    EXPECT_EQ(NextRows(), RowsOf(0, KeysFrom(first, first + kRows), round));
  }
}

}  // namespace
}  // namespace plexus
