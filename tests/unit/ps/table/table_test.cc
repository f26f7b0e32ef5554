#include "ps/table/table.h"

#include <set>
#include <vector>

#include <gtest/gtest.h>

#include "common/random.h"
#include "ps/table/array_index.h"
#include "ps/table/hash_index.h"
#include "ps/table/row_slabs.h"

namespace plexus {
namespace {

TableSpec Spec(TableSpec::Kind kind = TableSpec::Kind::kHashed, std::uint64_t rows = 0) {
  TableSpec spec;
  spec.name = "items";
  spec.kind = kind;
  spec.rows = rows;
  spec.dim = 2;
  spec.optimizer.learning_rate = 1.0f;
  spec.init = TableSpec::Init::kConstant;
  spec.init_scale = 0.5f;
  return spec;
}

void Step(Table* table, std::uint64_t version, const std::vector<Key>& keys,
          const std::vector<float>& gradients, float scale = 1.0f) {
  const std::vector<std::uint32_t> counts(keys.size(), 3);
  const GradientPart part{keys, counts, gradients.data()};
  table->ApplyStep(version, {&part, 1}, scale, 1.0f);
}

std::vector<float> Pull(const Table& table, const std::vector<Key>& keys) {
  std::vector<float> values(keys.size() * table.spec().dim);
  table.Pull(keys, values.data());
  return values;
}

TEST(TableTest, PullOfAnAbsentKeyGivesItsInitialValueAndMakesNoRow) {
  const Table table(Spec(), 1);
  EXPECT_EQ(Pull(table, {0, ~Key{0}, 7}), std::vector<float>(6, 0.5f));
  EXPECT_EQ(table.row_count(), 0u);
  EXPECT_EQ(table.Digest(), Digest128());
}

TEST(TableTest, InitialValuesAreFixedForEver) {
  TableSpec spec = Spec();
  spec.init = TableSpec::Init::kUniform;
  const CounterRandom random(9, HashBytes("items", 0), 123);
  const std::vector<float> values = Pull(Table(spec, 9), {123});
  EXPECT_EQ(values[0], (2 * random.Uniform(0) - 1) * 0.5f);
  EXPECT_EQ(values[1], (2 * random.Uniform(1) - 1) * 0.5f);
}

TEST(TableTest, StepUpdatesValuesAndHeader) {
  Table table(Spec(), 1);
  Step(&table, 4, {0, ~Key{0}}, {1, 2, 3, 4}, 0.5f);
  Step(&table, 6, {0}, {1, 1});
  EXPECT_EQ(Pull(table, {0, ~Key{0}, 1}), (std::vector<float>{-1, -1.5f, -1, -1.5f, 0.5f, 0.5f}));
  std::size_t rows = 0;
  table.ForEachRow([&](const RowView& row) {
    ++rows;
    EXPECT_EQ(row.last_step, row.key == 0 ? 6u : 4u);
    EXPECT_EQ(row.count, row.key == 0 ? 6u : 3u);
  });
  EXPECT_EQ(rows, 2u);
}

TEST(TableTest, ClipsTheNormOfARow) {
  TableSpec spec = Spec();
  spec.clip_row_norm = 1;
  Table table(spec, 1);
  Step(&table, 1, {1, 2}, {3, 4, 0.25f, 0});
  const std::vector<float> values = Pull(table, {1, 2});
  EXPECT_FLOAT_EQ(values[0], 0.5f - 0.6f);
  EXPECT_FLOAT_EQ(values[1], 0.5f - 0.8f);
  EXPECT_EQ(values[2], 0.25f);
}

TEST(TableTest, ArrayCountsOnlyRowsThatWereUpdated) {
  Table table(Spec(TableSpec::Kind::kArray, 1000000), 1);
  EXPECT_EQ(Pull(table, {0, 999999}), std::vector<float>(4, 0.5f));
  EXPECT_EQ(table.row_count(), 0u);
  Step(&table, 1, {999999, 0}, {1, 1, 2, 2});
  EXPECT_EQ(table.row_count(), 2u);
  std::set<Key> keys;
  table.ForEachRow([&](const RowView& row) { keys.insert(row.key); });
  EXPECT_EQ(keys, (std::set<Key>{0, 999999}));
  EXPECT_EQ(Pull(table, {999999, 0}), (std::vector<float>{-0.5f, -0.5f, -1.5f, -1.5f}));
}

TEST(TableTest, GrowsWithoutLosingRows) {
  Table table(Spec(), 1);
  constexpr std::uint64_t kRows = 200000;
  for (std::uint64_t first = 0; first < kRows; first += 1000) {
    std::vector<Key> keys;
    std::vector<float> gradients;
    for (std::uint64_t key = first; key < first + 1000; ++key) {
      keys.push_back(Mix64(key));
      gradients.push_back(static_cast<float>(key));
      gradients.push_back(1);
    }
    Step(&table, 1, keys, gradients);
  }
  EXPECT_EQ(table.row_count(), kRows);
  for (std::uint64_t key = 0; key < kRows; key += 997) {
    EXPECT_EQ(Pull(table, {Mix64(key)})[0], 0.5f - static_cast<float>(key));
  }
  EXPECT_GE(table.memory_bytes(), kRows * (8 + 16 + 16));
  EXPECT_LE(table.memory_bytes(), kRows * (8 + 16 + 32) + (16 << 20));
}

TEST(TableTest, EmptyTableTakesLittleMemory) { EXPECT_LE(Table(Spec(), 1).memory_bytes(), 4096u); }

TEST(TableTest, DigestIsFixedForEver) {
  Table table(Spec(), 1);
  Step(&table, 4, {10, 11}, {1, 2, 3, 4});
  Digest128 expected;
  table.ForEachRow([&](const RowView& row) {
    std::string bytes("items\0", 6);
    bytes.append(reinterpret_cast<const char*>(&row.key), 8);
    bytes.append(reinterpret_cast<const char*>(&row.last_step), 8);
    bytes.append(reinterpret_cast<const char*>(row.floats.data()), row.floats.size_bytes());
    expected += HashBytes128(bytes);
  });
  EXPECT_EQ(table.Digest(), expected);
}

TEST(HashIndexTest, SlotsAreInTheOrderOfBuckets) {
  HashIndex index;
  for (Key key = 0; key < 5000; ++key) {
    index.FindOrInsert(key, index.Prefetch(key));
  }
  std::uint64_t descents = 0;
  std::uint32_t last = 0;
  index.ForEach([&](Key key, std::uint32_t) {
    const std::uint32_t bucket = BucketOfKey(key, 16);
    descents += bucket < last ? 1 : 0;
    last = bucket;
  });
  // Only rows pushed across a border by probing are out of order.
  EXPECT_LE(descents, 40u);
}

TEST(HashIndexTest, FindsKeysThatWrapAroundTheEnd) {
  HashIndex index;
  std::vector<Key> keys;  // With homes in the last slots of 256.
  for (Key key = 0; keys.size() < 20; ++key) {
    if (Mix64(key) >> 56 >= 252) {
      keys.push_back(key);
    }
  }
  for (std::uint32_t i = 0; i < keys.size(); ++i) {
    EXPECT_EQ(index.FindOrInsert(keys[i], index.Prefetch(keys[i])), i);
  }
  for (std::uint32_t i = 0; i < keys.size(); ++i) {
    EXPECT_EQ(index.Find(keys[i], index.Prefetch(keys[i])), i);
  }
}

TEST(ArrayIndexTest, PlacesEachRowOnceAndBucketsTogether) {
  for (const std::uint64_t rows : {1u, 5u, 16u, 1000u, 1037u}) {
    ArrayIndex index(rows, 16);
    std::set<std::uint32_t> handles;
    for (Key key = 0; key < rows; ++key) {
      EXPECT_EQ(index.Find(key, index.Prefetch(key)), kNoRow);
      handles.insert(index.FindOrInsert(key, index.Prefetch(key)));
    }
    EXPECT_EQ(handles.size(), rows);
    std::uint32_t last = 0;
    std::uint64_t visited = 0;
    index.ForEach([&](Key key, std::uint32_t handle) {
      EXPECT_EQ(index.Find(key, index.Prefetch(key)), handle);
      EXPECT_GE(key % 16, last);
      last = static_cast<std::uint32_t>(key % 16);
      ++visited;
    });
    EXPECT_EQ(visited, rows);
  }
}

TEST(RowSlabsTest, RecordsDoNotOverlapAndStayWhereTheyAre) {
  for (const std::size_t bytes : {4u, 16u, 132u, 6148u, 70000u}) {
    RowSlabs slabs(bytes);
    std::vector<std::byte*> places;
    for (std::uint32_t handle = 0; handle < 300; ++handle) {
      slabs.Touch(handle);
      places.push_back(slabs.At(handle));
      *places.back() = static_cast<std::byte>(handle);
      places.back()[bytes - 1] = static_cast<std::byte>(handle);
    }
    for (std::uint32_t handle = 0; handle < 300; ++handle) {
      EXPECT_EQ(slabs.At(handle), places[handle]);
      EXPECT_EQ(*places[handle], static_cast<std::byte>(handle));
      EXPECT_EQ(places[handle][bytes - 1], static_cast<std::byte>(handle));
    }
    EXPECT_GE(slabs.memory_bytes(), 300 * bytes);
  }
}

TEST(RowSlabsTest, UntouchedMemoryIsNotCounted) {
  RowSlabs slabs(128);
  slabs.Touch(50000000);
  EXPECT_LE(slabs.memory_bytes(), 2 * kHugePageBytes);
}

}  // namespace
}  // namespace plexus
