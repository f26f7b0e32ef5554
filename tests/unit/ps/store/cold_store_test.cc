#include "ps/store/cold_store.h"

#include <fstream>
#include <optional>

#include <gmock/gmock.h>

#include "tests/unit/proto/draws.h"
#include "tests/unit/ps/store/cold_store_testing.h"

namespace plexus {
namespace {

using testing::HasSubstr;
using Rows = std::map<Key, std::vector<std::byte>>;

TEST_F(ColdStoreTest, ReadsWhatWasWritten) {
  Open();
  Write(0, KeysFrom(0, 1000), 1);
  Write(1, KeysFrom(500, 600), 2);
  Read(0, {3, 999, 500});
  Read(1, {500, 599});
  std::map<std::uint32_t, Rows> rows;
  for (int written = 0, read = 0; written < 2 || read < 2;) {
    const ColdEvent event = NextEvent();
    if (event.kind == ColdEvent::Kind::kWritten) {
      ++written;
      EXPECT_EQ(event.bytes,
                written == 1 ? 1000 * (kRecordBytes + 8) : 100 * (2 * kRecordBytes + 8));
    } else {
      ASSERT_EQ(event.kind, ColdEvent::Kind::kRead);
      ++read;
      rows[event.batch.table] = RowsOf(event.batch);
    }
  }
  EXPECT_EQ(rows[0], RowsOf(0, {3, 999, 500}, 1));
  EXPECT_EQ(rows[1], RowsOf(1, {500, 599}, 2));
}

// Beside the last row that each key was written as; small enough a cache that most rows go into
// files, and so many rows in them that there are blocks and levels.
TEST_F(ColdStoreTest, AlwaysReadsTheNewestRow) {
  ColdStoreOptions options;
  options.cache_bytes = 64 << 10;
  options.layout.file_bytes = 64 << 10;
  Open(options);
  Draws draws(7);
  std::map<std::pair<std::uint32_t, Key>, std::uint64_t> rounds;
  std::uint64_t reads = 0;
  for (std::uint64_t round = 1; round <= 300; ++round) {
    const auto table = static_cast<std::uint32_t>(draws.Below(2));
    std::vector<Key> keys;
    const Key first = draws.Below(2) == 0 ? 0 : draws.Below(3000);
    for (Key key = first; key < 3000; key += 1 + draws.Below(5)) {
      keys.push_back(key);
    }
    const std::uint64_t what = draws.Below(8);
    if (what < 4) {
      Write(table, keys, round);
      for (const Key key : keys) {
        rounds[{table, key}] = round;
      }
      if (draws.Below(4) > 0) {
        ASSERT_EQ(NextEvent().kind, ColdEvent::Kind::kWritten);
      }
    } else if (what == 4) {
      keys.resize(keys.size() / 4);
      for (const Key key : keys) {
        rounds.erase({table, key});
      }
      store_->Forget({table, ByHash(keys)});
    } else {
      std::erase_if(keys, [&](Key key) { return !rounds.contains({table, key}); });
      if (keys.empty()) {
        continue;
      }
      Read(table, keys);
      Rows expected;
      for (const Key key : keys) {
        expected[key] = RecordOf(table, key, rounds[{table, key}]);
      }
      for (;;) {
        const ColdEvent event = NextEvent();
        if (event.kind != ColdEvent::Kind::kWritten) {
          ASSERT_EQ(event.kind, ColdEvent::Kind::kRead) << event.status.ToString();
          ASSERT_EQ(RowsOf(event.batch), expected) << "round " << round;
          ++reads;
          break;
        }
      }
    }
  }
  EXPECT_GT(reads, 50u);
  EXPECT_GT(store_->stats().files_written, 50u);
  for (std::uint32_t table = 0; table < 2; ++table) {
    Rows scanned;
    std::optional<std::uint64_t> last;
    const Status status = store_->Scan(table, [&](Key key, const std::byte* record) {
      EXPECT_TRUE(!last.has_value() || *last < Mix64(key)) << "out of order";
      last = Mix64(key);
      scanned[key].assign(record, record + (table + 1) * kRecordBytes);
    });
    ASSERT_TRUE(status.ok()) << status.ToString();
    Rows expected;
    for (const auto& [place, round] : rounds) {
      if (place.first == table) {
        expected[place.second] = RecordOf(table, place.second, round);
      }
    }
    std::erase_if(scanned,
                  [&](const auto& row) { return !expected.contains(row.first); });  // Stale.
    EXPECT_EQ(scanned, expected);
  }
}

// Whatever is written or forgotten between the question and the answer.
TEST_F(ColdStoreTest, CopiesAreOfTheMomentAtWhichTheyWereAskedFor) {
  ColdStoreOptions options;
  options.cache_bytes = 64 << 10;
  options.layout.file_bytes = 64 << 10;
  Open(options);
  Draws draws(8);
  std::map<Key, std::uint64_t> rounds;
  const auto change = [&](std::uint64_t round) {
    std::vector<Key> keys;
    for (Key key = draws.Below(2000); key < 2000; key += 1 + draws.Below(4)) {
      keys.push_back(key);
    }
    if (draws.Below(4) > 0) {
      Write(0, keys, round);
      for (const Key key : keys) {
        rounds[key] = round;
      }
    } else {
      keys.resize(keys.size() / 3);
      for (const Key key : keys) {
        rounds.erase(key);
      }
      store_->Forget({0, ByHash(keys)});
    }
  };
  std::uint64_t round = 0;
  std::uint64_t copies = 0;
  while (copies < 100) {
    change(++round);
    std::vector<Key> keys;
    Rows expected;
    for (const auto& [key, written] : rounds) {
      if (draws.Below(3) > 0) {
        keys.push_back(key);
        expected[key] = RecordOf(0, key, written);
      }
    }
    if (keys.empty()) {
      continue;
    }
    store_->Copy({0, ByHash(keys)});
    for (std::uint64_t n = draws.Below(4); n > 0; --n) {
      change(++round);
    }
    ColdEvent event = NextEvent();
    while (event.kind == ColdEvent::Kind::kWritten) {
      event = NextEvent();
    }
    ASSERT_EQ(event.kind, ColdEvent::Kind::kCopied) << event.status.ToString();
    ASSERT_EQ(RowsOf(event.batch), expected) << "round " << round;
    ++copies;
  }
  EXPECT_GT(store_->stats().files_written, 0u);
}

TEST_F(ColdStoreTest, GathersSmallBatchesIntoOneFile) {
  Open();
  for (std::uint64_t i = 0; i < 100; ++i) {
    Write(0, KeysFrom(i * 100, i * 100 + 100), 1);
    ASSERT_EQ(NextEvent().kind, ColdEvent::Kind::kWritten);
  }
  EXPECT_EQ(store_->stats().files_written, 0u);
  WriteIntoFiles(0, KeysFrom(100000, 170000), 1);
  EXPECT_EQ(store_->stats().files_written, 1u);
  EXPECT_EQ(store_->stats().rows_written, 80000u);
  Read(0, {5, 9999, 150000});
  EXPECT_EQ(NextRows(), RowsOf(0, {5, 9999, 150000}, 1));
}

// What waits in memory for a file is bounded by the cache's size.
TEST_F(ColdStoreTest, WritesSmallBatchesBeforeTheyFillTheCache) {
  ColdStoreOptions options;
  options.cache_bytes = 400 << 10;
  Open(options);
  for (std::uint64_t i = 0; i < 200; ++i) {
    Write(0, KeysFrom(i * 100, i * 100 + 100), 1);
    ASSERT_EQ(NextEvent().kind, ColdEvent::Kind::kWritten);
    Write(1, KeysFrom(i * 10, i * 10 + 10), 1);
    ASSERT_EQ(NextEvent().kind, ColdEvent::Kind::kWritten);
    ASSERT_LE(store_->stats().memory_bytes, (600u << 10) + store_->stats().files_written * 4096);
  }
  EXPECT_GT(store_->stats().files_written, 4u);
}

TEST_F(ColdStoreTest, ForgottenRowsLeaveReadsUnderWay) {
  Open();
  WriteIntoFiles(0, KeysFrom(0, 100000), 1);
  Read(0, {1, 2, 3, 4});
  // The event may be in the queue already, or not.
  store_->Forget({0, ByHash({2, 4})});
  EXPECT_EQ(NextRows(), RowsOf(0, {1, 3}, 1));
}

TEST_F(ColdStoreTest, ManyForgottenRowsFreeTheirPlaceOnDisk) {
  Open();
  WriteIntoFiles(0, KeysFrom(0, 200000), 1);
  store_->Forget({0, ByHash(KeysFrom(0, 199000))});
  WriteIntoFiles(0, KeysFrom(300000, 370000), 2);
  Rows scanned;
  ASSERT_TRUE(store_->Scan(0, [&](Key key, const std::byte*) { scanned[key]; }).ok());
  EXPECT_EQ(scanned.size(), 71000u);
}

TEST_F(ColdStoreTest, TheDirectoryIsOneLifesAlone) {
  Open();
  WriteIntoFiles(0, KeysFrom(0, 100000), 1);
  const StatusOr<std::unique_ptr<ColdStore>> second =
      ColdStore::Open(directory_, {{"embedding", kRecordBytes}}, {});
  ASSERT_FALSE(second.ok());
  EXPECT_THAT(second.status().message(), HasSubstr("in use by another server"));
  Read(0, {7});
  EXPECT_EQ(NextRows(), RowsOf(0, {7}, 1));
  store_.reset();
  EXPECT_FALSE(std::filesystem::exists(directory_));
}

TEST_F(ColdStoreTest, EmptiesWhatAnEarlierLifeLeft) {
  std::filesystem::create_directories(directory_ + "/rows");
  std::ofstream(directory_ + "/plexus-cold").flush();
  std::ofstream(directory_ + "/rows/CURRENT") << "of a process that was killed";
  Open();
  Rows scanned;
  ASSERT_TRUE(store_->Scan(0, [&](Key key, const std::byte*) { scanned[key]; }).ok());
  EXPECT_TRUE(scanned.empty());
}

TEST_F(ColdStoreTest, LeavesForeignDirectoriesAlone) {
  std::filesystem::create_directories(directory_);
  std::ofstream(directory_ + "/thesis.tex") << "five years";
  const StatusOr<std::unique_ptr<ColdStore>> store =
      ColdStore::Open(directory_, {{"embedding", kRecordBytes}}, {});
  ASSERT_FALSE(store.ok());
  EXPECT_EQ(store.status().code(), StatusCode::kFailedPrecondition);
  EXPECT_THAT(store.status().message(), HasSubstr("neither empty nor"));
  EXPECT_TRUE(std::filesystem::exists(directory_ + "/thesis.tex"));
}

TEST_F(ColdStoreTest, SaysWhyADirectoryCannotBeMade) {
  const StatusOr<std::unique_ptr<ColdStore>> store =
      ColdStore::Open("/proc/plexus/cold", {{"embedding", kRecordBytes}}, {});
  ASSERT_FALSE(store.ok());
  EXPECT_THAT(store.status().message(), HasSubstr("/proc/plexus"));
}

TEST_F(ColdStoreTest, CanBeDestroyedWithWorkUnderWay) {
  Open();
  for (int i = 0; i < 20; ++i) {
    Write(0, KeysFrom(0, 20000), 1);
    Read(0, KeysFrom(0, 20000));
  }
}

}  // namespace
}  // namespace plexus
