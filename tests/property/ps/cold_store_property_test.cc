// A cold store beside a naive shard: rows are made, spilled, read back, forgotten, and made anew,
// while its threads run as they like and its disk fails now and then.  Repeat one run with
// --gtest_random_seed=N.
#include <chrono>
#include <optional>
#include <thread>

#include "tests/unit/proto/draws.h"
#include "tests/unit/ps/store/cold_store_testing.h"
#include "tests/unit/ps/store/faulty_disk.h"

namespace plexus {
namespace {

using Place = std::pair<std::uint32_t, Key>;  // Table, key.
using Kind = ColdEvent::Kind;

// What a shard knows of a row.
struct NaiveRow {
  std::uint64_t round = 0;  // Of its last update.
  bool cold = false;
  bool asked = false;
};

class ColdStorePropertyTest : public ColdStoreTest {
 protected:
  static constexpr std::uint32_t kTables = 2;
  static constexpr Key kKeys = 600;

  ~ColdStorePropertyTest() override {
    disk_->full = false;
    disk_->writing.Open();
  }

  void Run(std::uint64_t seed, std::uint64_t turns) {
    SCOPED_TRACE("seed " + std::to_string(seed));
    ColdStoreOptions options;
    options.cache_bytes = 64 << 10;
    options.layout.file_bytes = 64 << 10;
    options.file_system = disk_;
    Open(options);
    draws_.emplace(seed);
    for (round_ = 1; round_ <= turns && !HasFailure(); ++round_) {
      for (std::uint64_t requests = draws_->Below(6); requests > 0; --requests) {
        Request(static_cast<std::uint32_t>(draws_->Below(kTables)));
      }
      disk_->full = draws_->Below(8) == 0;
      if (draws_->Below(4) == 0) {
        disk_->writing.Close();
      } else {
        disk_->writing.Open();
      }
      for (std::uint64_t events = draws_->Below(8); events > 0; --events) {
        if (const std::optional<ColdEvent> event = store_->TakeEvent()) {
          Act(*event);
        }
      }
    }
    disk_->full = false;
    disk_->writing.Open();
    Settle();
    ReadAllBack();
  }

  void Request(std::uint32_t table) {
    switch (draws_->Below(8)) {
      case 0:
      case 1:
        Update(table);
        break;
      case 2:
      case 3:
        Spill(table);
        break;
      case 4:
      case 5:
        Ask(table, 1 + draws_->Below(6));
        break;
      case 6:
        Forget(table, 1 + draws_->Below(12));
        break;
      default:  // In one turn, with no event between.
        Forget(table, 1);
        Update(table);
        Spill(table);
        Ask(table, 1);
        Forget(table, 3);
    }
  }

  // Makes rows, and updates those in memory.
  void Update(std::uint32_t table) {
    const Key step = 1 + draws_->Below(7);
    for (Key key = draws_->Below(step); key < kKeys; key += step) {
      NaiveRow& row = rows_[{table, key}];
      if (!row.cold) {
        row.round = ++updates_;
      }
    }
  }

  void Spill(std::uint32_t table) {
    ColdBatch batch;
    batch.table = table;
    batch.record_bytes = (table + 1) * kRecordBytes;
    const std::uint64_t share = 1 + draws_->Below(3);
    for (const Key key : Choose(table, share, [](const NaiveRow& row) { return !row.cold; })) {
      NaiveRow& row = rows_[{table, key}];
      const std::vector<std::byte> record = RecordOf(table, key, row.round);
      batch.keys.push_back(key);
      batch.records.insert(batch.records.end(), record.begin(), record.end());
      row.cold = true;
    }
    if (!batch.keys.empty()) {
      ++writes_;
      store_->Write(std::move(batch));
    }
  }

  void Ask(std::uint32_t table, std::uint64_t share) {
    const auto unasked = [](const NaiveRow& row) { return row.cold && !row.asked; };
    const std::vector<Key> keys = Choose(table, share, unasked);
    for (const Key key : keys) {
      rows_[{table, key}].asked = true;
    }
    if (!keys.empty()) {
      ++reads_;
      store_->Read({table, keys});
    }
  }

  // Rows on disk, asked for or not, and rows in memory that may have a copy there.
  void Forget(std::uint32_t table, std::uint64_t share) {
    const std::vector<Key> keys = Choose(table, share, [](const NaiveRow&) { return true; });
    for (const Key key : keys) {
      rows_.erase({table, key});
    }
    if (!keys.empty()) {
      store_->Forget({table, keys});
    }
  }

  // One in `share` of the table's rows that are fit for it, ascending by Mix64.
  template <typename Fit>
  std::vector<Key> Choose(std::uint32_t table, std::uint64_t share, const Fit& fit) {
    std::vector<Key> keys;
    for (const auto& [place, row] : rows_) {
      if (place.first == table && fit(row) && draws_->Below(share) == 0) {
        keys.push_back(place.second);
      }
    }
    return ByHash(std::move(keys));
  }

  void Act(const ColdEvent& event) {
    ASSERT_NE(event.kind, Kind::kReadFailed) << event.status.ToString();
    if (event.kind == Kind::kRead) {
      --reads_;
    } else {
      --writes_;
    }
    failures_ += event.kind == Kind::kWriteFailed ? 1 : 0;
    for (const auto& [key, record] : RowsOf(event.batch)) {
      const auto at = rows_.find({event.batch.table, key});
      if (event.kind == Kind::kRead) {
        ASSERT_TRUE(at != rows_.end() && at->second.asked) << "key " << key << " was not asked for";
      } else if (at == rows_.end() || !at->second.cold) {
        continue;  // Evicted, or in memory.
      }
      NaiveRow& row = at->second;
      ASSERT_EQ(record, RecordOf(event.batch.table, key, row.round)) << "not the newest row";
      row.cold = false;
      row.asked = false;
      ++returned_;
    }
  }

  // Every request is answered, and every row that was asked for is there.
  void Settle() {
    while (!HasFailure() && reads_ + writes_ > 0) {
      if (const std::optional<ColdEvent> event = store_->TakeEvent()) {
        Act(*event);
      } else {
        AwaitWake();
      }
    }
    for (const auto& [place, row] : rows_) {
      ASSERT_FALSE(row.asked) << "key " << place.second << " of table " << place.first
                              << " never came";
    }
  }

  void ReadAllBack() {
    for (std::uint32_t table = 0; table < kTables; ++table) {
      Ask(table, 1);
    }
    Settle();
    for (const auto& [place, row] : rows_) {
      ASSERT_FALSE(row.cold) << "key " << place.second;
    }
  }

  // Until no compaction is under way or due.
  void AwaitCompactions() {
    const auto deadline = std::chrono::steady_clock::now() + std::chrono::seconds(60);
    while (store_->stats().compactions > 0) {
      ASSERT_LT(std::chrono::steady_clock::now(), deadline);
      std::this_thread::yield();
    }
  }

  std::shared_ptr<FaultyDisk> disk_ = std::make_shared<FaultyDisk>();
  std::optional<Draws> draws_;
  std::map<Place, NaiveRow> rows_;
  std::uint64_t round_ = 0;
  std::uint64_t updates_ = 0;
  std::uint64_t reads_ = 0;  // Under way,
  std::uint64_t writes_ = 0;
  std::uint64_t failures_ = 0;  // of writes.
  std::uint64_t returned_ = 0;  // Rows.
};

TEST_F(ColdStorePropertyTest, EveryRowComesBackAsItWasLastWritten) {
  const auto seed = static_cast<std::uint64_t>(testing::UnitTest::GetInstance()->random_seed());
  for (std::uint64_t i = 0; i < 6 && !HasFailure(); ++i) {
    rows_.clear();
    store_.reset();
    Run(seed * 6 + i, 400);
  }
  EXPECT_GT(failures_, 20u);
  EXPECT_GT(returned_, 10000u);
}

// Keys that come once and go: the disk holds what lives, and little beside.
TEST_F(ColdStorePropertyTest, ForgottenRowsDoNotPileUp) {
  constexpr Key kRows = 20000;
  constexpr std::uint64_t kRounds = 100;
  constexpr std::uint64_t kRowBytes = kRecordBytes + 12;  // With key and check.
  ColdStoreOptions options;
  options.layout.file_bytes = 1 << 20;
  Open(options);
  std::uint64_t disk_max = 0;
  for (std::uint64_t round = 1; round <= kRounds; ++round) {
    Write(0, KeysFrom(round * kRows, (round + 1) * kRows), round);
    ASSERT_EQ(NextEvent().kind, Kind::kWritten);
    store_->Forget({0, ByHash(KeysFrom((round - 1) * kRows, round * kRows))});
    if (round % 10 == 0) {
      ASSERT_NO_FATAL_FAILURE(AwaitCompactions());
      disk_max = std::max(disk_max, store_->stats().disk_bytes);
    }
  }
  EXPECT_LT(disk_max, 6 * kRows * kRowBytes) << "of " << kRounds * kRows * kRowBytes << " bytes";
  std::uint64_t rows = 0;
  ASSERT_TRUE(store_->Scan(0, [&](Key, const std::byte*) { ++rows; }).ok());
  EXPECT_EQ(rows, kRows);
}

}  // namespace
}  // namespace plexus
