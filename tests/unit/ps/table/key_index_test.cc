// What random operations do to it: tests/property/ps/key_index_property_test.cc.
#include "ps/table/key_index.h"

#include <algorithm>
#include <numeric>
#include <vector>

#include <gtest/gtest.h>

#include "common/random.h"

namespace plexus {
namespace {

Key KeyOf(std::uint64_t i) { return Mix64(i + 0x9e3779b97f4a7c15ULL); }

void Insert(KeyIndex* index, Key key, std::uint32_t place) {
  bool inserted = false;
  index->FindOrInsert(key, index->Prefetch(key), &inserted)->place = place;
}

const Slot* Find(const KeyIndex& index, Key key) { return index.Find(key, index.Prefetch(key)); }

TEST(KeyIndexTest, BeginsWithOnePage) {
  const KeyIndex index;
  EXPECT_EQ(index.memory_bytes(), 4096u);
  EXPECT_EQ(index.row_count(), 0u);
  EXPECT_EQ(Find(index, 1), nullptr);
}

// Zeroed slots hold key 0, and erased ones what was there.
TEST(KeyIndexTest, ReservedItTakesKeysInTheOrderOfTheirHomes) {
  std::vector<Key> keys(100000);
  std::iota(keys.begin(), keys.end(), Key{1});
  KeyIndex grown;
  const auto insert = [](KeyIndex* index, Key key) {
    bool inserted = false;
    index->FindOrInsert(key, index->HomeOf(key), &inserted)->place = 1;
  };
  for (const Key key : keys) {
    insert(&grown, key);
  }
  while (grown.migrating()) {
    grown.Maintain();
  }
  std::sort(keys.begin(), keys.end(),
            [&](Key a, Key b) { return grown.HomeOf(a) < grown.HomeOf(b); });
  KeyIndex reserved;
  reserved.Reserve(keys.size());
  const std::uint64_t slots = reserved.slot_count();
  EXPECT_EQ(slots, grown.slot_count());
  for (const Key key : keys) {
    insert(&reserved, key);
    EXPECT_FALSE(reserved.migrating());
  }
  EXPECT_EQ(reserved.slot_count(), slots);
  EXPECT_EQ(reserved.MeasureProbes().sum, grown.MeasureProbes().sum);
}

TEST(KeyIndexTest, EveryKeyIsAKey) {
  KeyIndex index;
  EXPECT_EQ(Find(index, 0), nullptr);
  for (const Key key : {Key{0}, ~Key{0}}) {
    Insert(&index, key, 7);
    ASSERT_NE(Find(index, key), nullptr);
    EXPECT_EQ(Find(index, key)->place, 7u);
    index.Erase(index.Find(key, Mix64(key)));
    EXPECT_EQ(Find(index, key), nullptr);
    EXPECT_EQ(index.row_count(), 0u);
  }
}

TEST(KeyIndexTest, ANewSlotIsBlank) {
  KeyIndex index;
  bool inserted = false;
  Slot* slot = index.FindOrInsert(5, Mix64(5), &inserted);
  ASSERT_TRUE(inserted);
  EXPECT_EQ(slot->last_step, 0u);
  EXPECT_EQ(slot->place, 0u);
  slot->last_step = 3;
  slot->place = 4;
  EXPECT_EQ(index.FindOrInsert(5, Mix64(5), &inserted), slot);
  EXPECT_FALSE(inserted);
  index.Erase(slot);
  slot = index.FindOrInsert(5, Mix64(5), &inserted);
  EXPECT_TRUE(inserted);
  EXPECT_EQ(slot->last_step, 0u);
}

// Load, bytes a key and probes while it grows to many sizes, in the middle of migrations too.
TEST(KeyIndexTest, KeepsItsLoadWithinBounds) {
  KeyIndex index;
  double least_load = 1;
  double most_load = 0;
  for (std::uint64_t i = 0; i < 400000; ++i) {
    Insert(&index, KeyOf(i), static_cast<std::uint32_t>(i + 1));
    if (i > 20000 && i % 1000 == 0) {
      const double load =
          static_cast<double>(index.row_count()) / static_cast<double>(index.slot_count());
      least_load = std::min(least_load, load);
      most_load = std::max(most_load, load);
    }
  }
  EXPECT_GT(least_load, 0.64);
  EXPECT_LT(most_load, 0.89);
  const KeyIndex::ProbeLengths probes = index.MeasureProbes();
  EXPECT_LT(static_cast<double>(probes.sum) / 400000, 1.3);
  EXPECT_GE(probes.sum, 400000u);
  EXPECT_LT(probes.max, 200u);
}

TEST(KeyIndexTest, GivesMemoryBackWhenKeysGo) {
  KeyIndex index;
  constexpr std::uint64_t kCount = 300000;
  for (std::uint64_t i = 0; i < kCount; ++i) {
    Insert(&index, KeyOf(i), 1);
  }
  while (index.migrating()) {
    index.Maintain();
  }
  const std::uint64_t full = index.memory_bytes();
  for (std::uint64_t i = 0; i < kCount; ++i) {
    if (i % 10 != 0) {
      index.Erase(index.Find(KeyOf(i), Mix64(KeyOf(i))));
    }
  }
  for (int i = 0; i < 100; ++i) {
    index.Maintain();
  }
  EXPECT_FALSE(index.migrating());
  EXPECT_LT(index.memory_bytes(), full / 4);
  for (std::uint64_t i = 0; i < kCount; ++i) {
    ASSERT_EQ(Find(index, KeyOf(i)) != nullptr, i % 10 == 0);
  }
}

// Growing may not begin again right after shrinking, nor the other way round.
TEST(KeyIndexTest, DoesNotFlutter) {
  KeyIndex index;
  constexpr std::uint64_t kCount = 100000;
  for (std::uint64_t i = 0; i < kCount; ++i) {
    Insert(&index, KeyOf(i), 1);
  }
  std::uint64_t count = kCount;
  std::uint64_t least = index.memory_bytes();
  while (index.memory_bytes() >= least && count > 0) {
    --count;
    index.Erase(index.Find(KeyOf(count), Mix64(KeyOf(count))));
  }
  least = index.memory_bytes();
  for (int round = 0; round < 20; ++round) {
    for (std::uint64_t i = count; i < count + count / 10; ++i) {
      Insert(&index, KeyOf(i), 1);
    }
    EXPECT_FALSE(index.migrating());
    EXPECT_EQ(index.memory_bytes(), least);
    for (std::uint64_t i = count; i < count + count / 10; ++i) {
      index.Erase(index.Find(KeyOf(i), Mix64(KeyOf(i))));
    }
    EXPECT_FALSE(index.migrating());
    EXPECT_EQ(index.memory_bytes(), least);
  }
}

// A bucket's slots are those that BucketOfKey says, also while the index grows.
TEST(KeyIndexTest, BucketsAreRanges) {
  constexpr std::uint32_t kBuckets = 64;
  KeyIndex index;
  bool migrating = false;
  for (std::uint64_t i = 0; i < 60000 || !migrating; ++i) {
    Insert(&index, KeyOf(i), 1);
    migrating = index.migrating();
  }
  std::uint64_t visited = 0;
  for (std::uint32_t bucket = 0; bucket < kBuckets; ++bucket) {
    const std::uint64_t first = std::uint64_t{bucket} << 58;
    index.ForEachBetween(first, first + ((std::uint64_t{1} << 58) - 1), [&](const Slot& slot) {
      EXPECT_EQ(BucketOfKey(slot.key, kBuckets), bucket);
      ++visited;
    });
  }
  EXPECT_EQ(visited, index.row_count());
}

}  // namespace
}  // namespace plexus
