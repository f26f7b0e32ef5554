#include "ps/table/table.h"

#include <memory>
#include <numeric>
#include <set>
#include <vector>

#include <gtest/gtest.h>

#include "common/random.h"

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
  const std::unique_ptr<Table> table_owner = MakeTable(Spec(), 1);
  const Table& table = *table_owner;
  EXPECT_EQ(Pull(table, {0, ~Key{0}, 7}), std::vector<float>(6, 0.5f));
  EXPECT_EQ(table.row_count(), 0u);
  EXPECT_EQ(table.Digest(), Digest128());
}

TEST(TableTest, InitialValuesAreFixedForEver) {
  TableSpec spec = Spec();
  spec.init = TableSpec::Init::kUniform;
  const CounterRandom random(9, HashBytes("items", 0), 123);
  const std::vector<float> values = Pull(*MakeTable(spec, 9), {123});
  EXPECT_EQ(values[0], (2 * random.Uniform(0) - 1) * 0.5f);
  EXPECT_EQ(values[1], (2 * random.Uniform(1) - 1) * 0.5f);
}

TEST(TableTest, StepUpdatesValuesAndHeader) {
  const std::unique_ptr<Table> table_owner = MakeTable(Spec(), 1);
  Table& table = *table_owner;
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
  const std::unique_ptr<Table> table_owner = MakeTable(spec, 1);
  Table& table = *table_owner;
  Step(&table, 1, {1, 2}, {3, 4, 0.25f, 0});
  const std::vector<float> values = Pull(table, {1, 2});
  EXPECT_FLOAT_EQ(values[0], 0.5f - 0.6f);
  EXPECT_FLOAT_EQ(values[1], 0.5f - 0.8f);
  EXPECT_EQ(values[2], 0.25f);
}

TEST(TableTest, ArrayCountsOnlyRowsThatWereUpdated) {
  const std::unique_ptr<Table> table_owner = MakeTable(Spec(TableSpec::Kind::kArray, 1000000), 1);
  Table& table = *table_owner;
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
  const std::unique_ptr<Table> table_owner = MakeTable(Spec(), 1);
  Table& table = *table_owner;
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
  EXPECT_GE(table.memory_bytes(), kRows * (8 + 16 + 4));
  EXPECT_LE(table.memory_bytes(), kRows * (8 + 24 + 4) + (8 << 20));
}

TEST(TableTest, EmptyTableTakesLittleMemory) {
  EXPECT_LE(MakeTable(Spec(), 1)->memory_bytes(), 16384u);
}

TEST(TableTest, DigestIsFixedForEver) {
  const std::unique_ptr<Table> table_owner = MakeTable(Spec(), 1);
  Table& table = *table_owner;
  Step(&table, 4, {10, 11}, {1, 2, 3, 4});
  Digest128 expected;
  table.ForEachRow([&](const RowView& row) {
    std::string bytes("items\0", 6);
    bytes.append(reinterpret_cast<const char*>(&row.key), 8);
    bytes.append(reinterpret_cast<const char*>(&row.last_step), 8);
    bytes.append(reinterpret_cast<const char*>(row.floats().data()), row.floats().size_bytes());
    expected += HashBytes128(bytes);
  });
  EXPECT_EQ(table.Digest(), expected);
}

TEST(TableTest, ARowEvictedOnDiskIsForgottenThere) {
  TableSpec spec = Spec();
  spec.spills = true;
  spec.eviction.unseen_versions = 2;
  spec.eviction.sweep_versions = 1;
  const std::unique_ptr<Table> table = MakeTable(spec, 1);
  Step(table.get(), 1, {7, 8}, {1, 2, 3, 4});
  table->EndVersion(1);
  ColdBatch batch;
  table->Spill(1 << 20, &batch);
  EXPECT_EQ(batch.keys.size(), 2u);
  EXPECT_EQ(table->cold_count(), 2u);
  EXPECT_TRUE(table->IsCold(7));
  table->EndVersion(4);
  EXPECT_EQ(table->row_count(), 0u);
  EXPECT_EQ(table->counters().evicted_unseen, 2u);
  EXPECT_EQ(table->TakeForgotten().size(), 2u);
  table->Thaw(batch);  // An answer that comes too late.
  EXPECT_EQ(table->row_count(), 0u);
}

// Its copy on disk is outdated as soon as the row is updated, and would stay there for ever.
TEST(TableTest, ARowEvictedInMemoryIsForgottenOnDiskIfItWasThere) {
  TableSpec spec = Spec();
  spec.spills = true;
  spec.eviction.unseen_versions = 2;
  spec.eviction.sweep_versions = 1;
  const std::unique_ptr<Table> table = MakeTable(spec, 1);
  Step(table.get(), 1, {7}, {1, 2});
  ColdBatch batch;
  table->Spill(1 << 20, &batch);
  Step(table.get(), 1, {8}, {3, 4});  // Never on disk.
  table->Thaw(batch);
  table->EndVersion(1);
  ASSERT_EQ(table->cold_count(), 0u);
  table->EndVersion(4);
  EXPECT_EQ(table->row_count(), 0u);
  EXPECT_EQ(table->TakeForgotten(), std::vector<Key>{7});
  Step(table.get(), 5, {9}, {5, 6});  // In the handle of one of them.
  table->EndVersion(9);
  EXPECT_EQ(table->row_count(), 0u);
  EXPECT_TRUE(table->TakeForgotten().empty());
}

TEST(TableTest, AKeyEvictedBetweenPullAndPushLeavesItsNeighboursAlone) {
  TableSpec spec = Spec();
  spec.eviction.unseen_versions = 1;
  spec.eviction.sweep_versions = 1;
  spec.staleness = 3;
  const std::unique_ptr<Table> table = MakeTable(spec, 1);
  Step(table.get(), 1, {1, 2, 3}, {0, 0, 0, 0, 0, 0});
  table->EndVersion(1);
  Step(table.get(), 3, {1, 3}, {0, 0, 0, 0});
  table->EndVersion(3);  // 2 goes.
  ASSERT_EQ(table->row_count(), 2u);
  Step(table.get(), 4, {1, 2, 3}, {1, 1, 2, 2, 3, 3});
  EXPECT_EQ(Pull(*table, {1, 2, 3}),
            (std::vector<float>{-0.5f, -0.5f, -1.5f, -1.5f, -2.5f, -2.5f}));
  EXPECT_EQ(table->counters().late_pushes, 1u);
  EXPECT_EQ(table->counters().admitted, 4u);
}

TEST(TableTest, TheIndexOfAShardIsEvenlyFull) {
  // Every fourth bucket: a quarter of the hashes, scattered.
  std::vector<std::uint32_t> owned;
  for (std::uint32_t bucket = 1; bucket < 64; bucket += 4) {
    owned.push_back(bucket);
  }
  const std::unique_ptr<Table> table = MakeTable(Spec(), 1, 64, owned);
  std::vector<Key> keys;
  for (Key key = 0; keys.size() < 20000; ++key) {
    if (BucketOfKey(Mix64(key), 64) % 4 == 1) {
      keys.push_back(Mix64(key));
    }
  }
  Step(table.get(), 1, keys, std::vector<float>(2 * keys.size(), 1.0f));
  EXPECT_EQ(table->row_count(), keys.size());
  const std::unique_ptr<Table> alone = MakeTable(Spec(), 1, 64);
  std::iota(keys.begin(), keys.end(), 0);
  Step(alone.get(), 1, keys, std::vector<float>(2 * keys.size(), 1.0f));
  EXPECT_EQ(table->index_shape().load_factor, alone->index_shape().load_factor);
  EXPECT_LT(table->index_shape().probe_mean, 1.2 * alone->index_shape().probe_mean);
}

}  // namespace
}  // namespace plexus
