#include "ps/store/cold_runs.h"

#include <map>
#include <optional>

#include <gtest/gtest.h>

#include "ps/store/cold_key.h"
#include "tests/unit/proto/draws.h"
#include "tests/unit/ps/store/cold_store_testing.h"

namespace plexus {
namespace {

TEST(ColdKeyTest, KeyOfMix64UndoesMix64) {
  Draws draws(3);
  for (const Key key : {Key{0}, Key{1}, ~Key{0}}) {
    EXPECT_EQ(KeyOfMix64(Mix64(key)), key);
  }
  for (int i = 0; i < 1000; ++i) {
    const Key key = draws.Bits();
    EXPECT_EQ(KeyOfMix64(Mix64(key)), key);
  }
}

TEST(ColdKeyTest, EncodedKeysSortAsHashesDo) {
  Draws draws(4);
  for (int i = 0; i < 1000; ++i) {
    const std::uint64_t a = draws.Bits() >> draws.Below(64);
    const std::uint64_t b = draws.Bits() >> draws.Below(64);
    char a_bytes[kColdKeyBytes];
    char b_bytes[kColdKeyBytes];
    EncodeColdKey(a, a_bytes);
    EncodeColdKey(b, b_bytes);
    EXPECT_EQ(std::memcmp(a_bytes, b_bytes, kColdKeyBytes) < 0, a < b);
    EXPECT_EQ(DecodeColdKey(a_bytes), a);
  }
}

TEST(ColdKeyTest, CheckCoversTableKeyAndRecord) {
  const std::vector<std::byte> record = RecordOf(0, 7, 1);
  const std::uint32_t check = ColdCheck(1, 2, record.data(), record.size());
  EXPECT_EQ(ColdCheck(1, 2, record.data(), record.size()), check);
  EXPECT_NE(ColdCheck(3, 2, record.data(), record.size()), check);
  EXPECT_NE(ColdCheck(1, 3, record.data(), record.size()), check);
  std::vector<std::byte> damaged = record;
  damaged[5] ^= std::byte{1};
  EXPECT_NE(ColdCheck(1, 2, damaged.data(), damaged.size()), check);
}

// Some runs of random keys below 60, some of them forgotten ones, and what they amount to.
struct RandomRuns {
  explicit RandomRuns(Draws* draws) {
    for (std::uint64_t round = 0, end = draws->Below(6); round < end; ++round) {
      std::vector<Key> keys;
      for (std::uint64_t n = 1 + draws->Below(40); n > 0; --n) {
        keys.push_back(draws->Below(60));
      }
      ColdBatch run = BatchOf(0, keys, round);
      if (draws->Below(4) == 0) {
        run.records.clear();
      }
      for (const Key key : run.keys) {
        newest[Mix64(key)] =
            IsForgotten(run) ? std::nullopt : std::optional(RecordOf(0, key, round));
      }
      runs.push_back(std::make_shared<const ColdBatch>(std::move(run)));
    }
  }

  std::vector<ColdRun> runs;
  std::map<std::uint64_t, std::optional<std::vector<std::byte>>> newest;  // By hash.
};

TEST(ColdRunMergerTest, GivesTheNewestRowOfEachKeyInOrder) {
  Draws draws(5);
  for (int i = 0; i < 300; ++i) {
    const RandomRuns random(&draws);
    auto expected = random.newest.begin();
    for (ColdRunMerger merger(random.runs); merger.valid(); merger.Next(), ++expected) {
      ASSERT_NE(expected, random.newest.end());
      ASSERT_EQ(merger.hash(), expected->first);
      ASSERT_EQ(merger.record() != nullptr, expected->second.has_value());
      if (merger.record() != nullptr) {
        ASSERT_EQ(std::vector(merger.record(), merger.record() + kRecordBytes), *expected->second);
      }
    }
    ASSERT_EQ(expected, random.newest.end());
  }
}

TEST(ColdRunsTest, TakeFromFillsInWhatTheRunHas) {
  const ColdBatch run = BatchOf(0, {1, 2, 3, 40, 50}, 9);
  const std::vector<Key> wanted = ByHash({2, 4, 50, 60});
  std::vector<std::byte> out(wanted.size() * kRecordBytes);
  std::vector<ColdLookup> lookups;
  for (std::size_t i = 0; i < wanted.size(); ++i) {
    lookups.push_back({Mix64(wanted[i]), out.data() + i * kRecordBytes});
  }
  std::vector<ColdLookup> all = lookups;
  TakeFrom(run, &lookups);
  ASSERT_EQ(lookups.size(), 2u);
  EXPECT_EQ(ByHash({4, 60}),
            std::vector<Key>({KeyOfMix64(lookups[0].hash), KeyOfMix64(lookups[1].hash)}));
  for (const ColdLookup& lookup : all) {
    const Key key = KeyOfMix64(lookup.hash);
    EXPECT_EQ(std::vector(lookup.to, lookup.to + kRecordBytes) == RecordOf(0, key, 9),
              key == 2 || key == 50);
  }
}

TEST(ColdRunsTest, LeaveOutTakesKeysAndTheirRecords) {
  Draws draws(6);
  for (int i = 0; i < 200; ++i) {
    std::vector<Key> keys;
    std::vector<Key> out;
    for (Key key = 0; key < 40; ++key) {
      if (draws.Below(2) == 0) {
        keys.push_back(key);
      }
      if (draws.Below(3) == 0) {
        out.push_back(key);
      }
    }
    ColdBatch batch = BatchOf(0, keys, 1);
    LeaveOut(ByHash(out), &batch);
    std::erase_if(keys, [&](Key key) { return std::count(out.begin(), out.end(), key) > 0; });
    ASSERT_EQ(batch.keys, ByHash(keys));
    ASSERT_EQ(RowsOf(batch), RowsOf(0, keys, 1));
  }
}

}  // namespace
}  // namespace plexus
