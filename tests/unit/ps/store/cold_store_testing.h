// What tests of the cold store share: a store in a directory of its own, its events in order, and
// batches of rows that say what they are.
//
// Thread safety: none.
#pragma once

#include <algorithm>
#include <condition_variable>
#include <cstring>
#include <filesystem>
#include <map>
#include <memory>
#include <mutex>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include <gtest/gtest.h>

#include "common/hash.h"
#include "ps/store/cold_store.h"

namespace plexus {

inline constexpr std::uint32_t kRecordBytes = 24;  // Of table 0; table 1: twice as much.

inline std::vector<Key> ByHash(std::vector<Key> keys) {
  std::sort(keys.begin(), keys.end(), [](Key a, Key b) { return Mix64(a) < Mix64(b); });
  keys.erase(std::unique(keys.begin(), keys.end()), keys.end());
  return keys;
}

// The record of `key` as written in round `round`.
inline std::vector<std::byte> RecordOf(std::uint32_t table, Key key, std::uint64_t round) {
  std::vector<std::byte> record((table + 1) * kRecordBytes);
  for (std::size_t i = 0; i < record.size(); i += 8) {
    const std::uint64_t word = Mix64(key ^ Mix64(round * 64 + i / 8));
    std::memcpy(record.data() + i, &word, 8);
  }
  return record;
}

inline ColdBatch BatchOf(std::uint32_t table, const std::vector<Key>& keys, std::uint64_t round) {
  ColdBatch batch;
  batch.table = table;
  batch.record_bytes = (table + 1) * kRecordBytes;
  batch.keys = ByHash(keys);
  for (const Key key : batch.keys) {
    const std::vector<std::byte> record = RecordOf(table, key, round);
    batch.records.insert(batch.records.end(), record.begin(), record.end());
  }
  return batch;
}

inline std::vector<Key> KeysFrom(Key first, Key end) {
  std::vector<Key> keys;
  for (Key key = first; key < end; ++key) {
    keys.push_back(key);
  }
  return keys;
}

// The batch's rows by key.
inline std::map<Key, std::vector<std::byte>> RowsOf(const ColdBatch& batch) {
  std::map<Key, std::vector<std::byte>> rows;
  for (std::size_t i = 0; i < batch.keys.size(); ++i) {
    const std::byte* record = batch.records.data() + i * batch.record_bytes;
    rows[batch.keys[i]].assign(record, record + batch.record_bytes);
  }
  return rows;
}

inline std::map<Key, std::vector<std::byte>> RowsOf(std::uint32_t table,
                                                    const std::vector<Key>& keys,
                                                    std::uint64_t round) {
  return RowsOf(BatchOf(table, keys, round));
}

// A store of two tables.
class ColdStoreTest : public testing::Test {
 protected:
  ColdStoreTest()
      : directory_(testing::TempDir() + "cold_store_test_" +
                   testing::UnitTest::GetInstance()->current_test_info()->name()) {
    std::filesystem::remove_all(directory_);
  }
  ~ColdStoreTest() override {
    store_.reset();
    std::filesystem::remove_all(directory_);
  }

  void Open(ColdStoreOptions options = {}) {
    options.wake = [this] {
      const std::lock_guard lock(mutex_);
      ++wakes_;
      woken_.notify_one();
    };
    StatusOr<std::unique_ptr<ColdStore>> store = ColdStore::Open(
        directory_, {{"embedding", kRecordBytes}, {"linear", 2 * kRecordBytes}}, options);
    ASSERT_TRUE(store.ok()) << store.status().ToString();
    store_ = *std::move(store);
  }

  ColdEvent NextEvent() {
    for (;;) {
      if (std::optional<ColdEvent> event = store_->TakeEvent()) {
        return *std::move(event);
      }
      AwaitWake();
    }
  }
  // Until that many batches could not be written, taken or not.
  void AwaitWriteFailures(std::uint64_t count) {
    while (store_->stats().write_failures < count) {
      AwaitWake();
    }
  }
  void AwaitWake() {
    std::unique_lock lock(mutex_);
    woken_.wait(lock, [this] { return wakes_ > 0; });
    wakes_ = 0;
  }

  void Write(std::uint32_t table, const std::vector<Key>& keys, std::uint64_t round) {
    store_->Write(BatchOf(table, keys, round));
  }
  // Enough rows for a file.
  void WriteIntoFiles(std::uint32_t table, const std::vector<Key>& keys, std::uint64_t round) {
    Write(table, keys, round);
    const ColdEvent event = NextEvent();
    ASSERT_EQ(event.kind, ColdEvent::Kind::kWritten) << event.status.ToString();
    ASSERT_GT(store_->stats().files_written, 0u);
  }
  void Read(std::uint32_t table, const std::vector<Key>& keys) {
    store_->Read({table, ByHash(keys)});
  }
  // The next event, which is a read's.
  std::map<Key, std::vector<std::byte>> NextRows() {
    const ColdEvent event = NextEvent();
    EXPECT_EQ(event.kind, ColdEvent::Kind::kRead) << event.status.ToString();
    return RowsOf(event.batch);
  }

  const std::string directory_;
  std::mutex mutex_;
  std::condition_variable woken_;
  int wakes_ = 0;
  std::unique_ptr<ColdStore> store_;
};

}  // namespace plexus
