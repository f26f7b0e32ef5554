#include <algorithm>
#include <cmath>
#include <map>
#include <memory>
#include <optional>
#include <set>
#include <string>
#include <vector>

#include <gtest/gtest.h>

#include "common/random.h"
#include "ps/table/hybrid_addresses.h"
#include "ps/table/table.h"

namespace plexus {
namespace {

constexpr std::uint64_t kSeed = 7;
constexpr std::uint32_t kDim = 4;

TableSpec Spec(std::uint64_t exact_rows, std::uint64_t shared_rows) {
  TableSpec spec;
  spec.name = "items";
  spec.kind = TableSpec::Kind::kHybrid;
  spec.dim = kDim;
  spec.init_scale = 0.5f;
  spec.optimizer.kind = OptimizerKind::kAdagrad;
  spec.optimizer.learning_rate = 0.1f;
  spec.optimizer.initial_accumulator = 0.1f;
  spec.hybrid.exact_rows = exact_rows;
  spec.hybrid.shared_rows = shared_rows;
  spec.hybrid.importance = HybridSpec::Importance::kFrequency;
  spec.hybrid.threshold = 10;
  spec.hybrid.decay = 0.5;
  return spec;
}

// Each key `count` times, with gradients that differ by key.
void Step(Table* table, std::uint64_t version, const std::vector<Key>& keys,
          std::uint32_t count = 1) {
  std::vector<float> gradients;
  for (const Key key : keys) {
    for (std::uint32_t e = 0; e < table->spec().dim; ++e) {
      gradients.push_back(0.01f * static_cast<float>(1 + (key + e) % 50));
    }
  }
  const std::vector<std::uint32_t> counts(keys.size(), count);
  const GradientPart part{keys, counts, gradients.data()};
  table->ApplyStep(version, {&part, 1}, 1.0f, 1.0f);
  table->EndVersion(version);
}

std::vector<float> Pull(const Table& table, Key key) {
  std::vector<float> values(table.spec().dim);
  table.Pull({&key, 1}, values.data());
  return values;
}

std::optional<std::vector<std::byte>> RecordOf(const Table& table, Key key) {
  std::optional<std::vector<std::byte>> record;
  table.ForEachRow([&](const RowView& row) {
    if (row.key == key) {
      record.emplace(row.record.begin(), row.record.end());
    }
  });
  return record;
}

TEST(HybridTableTest, KeysOfASharedRowReadTheSame) {
  const std::unique_ptr<Table> table = MakeTable(Spec(1, 1), kSeed, 1);
  const std::vector<float> initial = Pull(*table, 1);
  for (Key key = 0; key < 100; ++key) {
    EXPECT_EQ(Pull(*table, Mix64(key)), initial);
  }
  EXPECT_EQ(table->row_count(), 0u) << "a pull makes no row";
  EXPECT_EQ(table->Digest(), Digest128());
  Step(table.get(), 1, {5, 6});
  const std::vector<float> now = Pull(*table, 5);
  EXPECT_NE(now, initial);
  for (Key key = 0; key < 100; ++key) {
    EXPECT_EQ(Pull(*table, Mix64(key)), now);
  }
  EXPECT_EQ(table->row_count(), 1u);
}

TEST(HybridTableTest, SharedRowsHaveInitialValuesOfTheirOwn) {
  const std::unique_ptr<Table> table = MakeTable(Spec(8, 40), kSeed, 8);
  const HybridAddresses addresses(Spec(8, 40).hybrid, 8);
  std::map<Key, std::vector<float>> of_row;
  for (Key key = 0; key < 2000; ++key) {
    const HybridAddresses::Address address = addresses.Of(Mix64(key));
    const Key row = addresses.SharedKey(address.bucket, address.shared);
    const auto [at, first] = of_row.try_emplace(row, Pull(*table, key));
    ASSERT_EQ(at->second, Pull(*table, key));
    if (first) {
      const CounterRandom random(kSeed, HashBytes("items", 0), row);
      for (std::uint32_t e = 0; e < kDim; ++e) {
        ASSERT_EQ(at->second[e], (2 * random.Uniform(e) - 1) * 0.5f);
      }
    }
  }
  EXPECT_EQ(of_row.size(), 40u);
  std::set<std::vector<float>> distinct;
  for (const auto& [row, values] : of_row) {
    distinct.insert(values);
  }
  EXPECT_EQ(distinct.size(), 40u);
}

// Otherwise Adagrad would see two gradients where the row has one.
TEST(HybridTableTest, GradientsOfASharedRowAreSummedBeforeItsOneUpdate) {
  const std::unique_ptr<Table> table = MakeTable(Spec(1, 1), kSeed, 1);
  TableSpec array = Spec(0, 0);
  array.kind = TableSpec::Kind::kArray;
  array.rows = 1;
  array.init = TableSpec::Init::kConstant;
  const std::unique_ptr<Table> twin = MakeTable(array, kSeed, 1);
  const std::vector<float> before = Pull(*table, 1);
  const std::vector<float> twin_before = Pull(*twin, 0);
  const std::vector<Key> keys = {1, 2, 3};
  const std::vector<std::uint32_t> counts = {1, 1, 1};
  const std::vector<float> gradients = {1, 2, 3, 4, -0.5f, 1, 0, 2, 0.25f, 0.25f, 4, -8};
  std::vector<float> sum(kDim);
  for (std::size_t i = 0; i < gradients.size(); ++i) {
    sum[i % kDim] += gradients[i];
  }
  const Key row = 0;
  const GradientPart part{keys, counts, gradients.data()};
  const GradientPart summed{{&row, 1}, {counts.data(), 1}, sum.data()};
  table->ApplyStep(1, {&part, 1}, 1.0f, 1.0f);
  twin->ApplyStep(1, {&summed, 1}, 1.0f, 1.0f);
  for (std::uint32_t e = 0; e < kDim; ++e) {
    EXPECT_NEAR(Pull(*table, 1)[e] - before[e], Pull(*twin, 0)[e] - twin_before[e], 1e-6);
  }
  table->ForEachRow([](const RowView& view) { EXPECT_EQ(view.count, 3u); });
}

TEST(HybridTableTest, PromotionCopiesTheSharedRowBitForBit) {
  for (const Precision precision : {Precision::kF32, Precision::kBf16, Precision::kInt8}) {
    TableSpec spec = Spec(4, 1);
    spec.precision = precision;
    const std::unique_ptr<Table> table = MakeTable(spec, kSeed, 1);
    const Key shared = HybridAddresses(spec.hybrid, 1).SharedKey(0, 0);
    for (std::uint64_t version = 1; version <= 9; ++version) {
      Step(table.get(), version, {77, 78});
      EXPECT_EQ(RecordOf(*table, 77), std::nullopt);
    }
    EXPECT_EQ(table->counters().promoted, 0u);
    Step(table.get(), 10, {77});
    EXPECT_EQ(table->counters().promoted, 1u);
    EXPECT_EQ(Pull(*table, 77), Pull(*table, 78)) << "the function goes on without a break";
    ASSERT_NE(RecordOf(*table, 77), std::nullopt);
    EXPECT_EQ(RecordOf(*table, 77), RecordOf(*table, shared)) << "values and state";
    Step(table.get(), 11, {77});
    EXPECT_NE(Pull(*table, 77), Pull(*table, 78));
    EXPECT_NE(RecordOf(*table, 77), RecordOf(*table, shared));
    table->ForEachRow([&](const RowView& row) {
      EXPECT_EQ(row.last_step, row.key == 77 ? 11u : 10u);
      EXPECT_EQ(row.count, row.key == 77 ? 1u : 19u) << "counted since its promotion";
    });
  }
}

TEST(HybridTableTest, DecayedKeyReadsTheSharedRowAgainAndItsRowIsFree) {
  TableSpec spec = Spec(1, 1);  // Decay after more than 10 * 1 * 10.
  const std::unique_ptr<Table> table = MakeTable(spec, kSeed, 1);
  Step(table.get(), 1, {77}, 12);
  Step(table.get(), 2, {77});
  ASSERT_EQ(table->row_count(), 2u);
  const std::vector<float> own = Pull(*table, 77);
  EXPECT_NE(own, Pull(*table, 1));
  std::uint64_t version = 3;
  for (; table->counters().demoted == 0 && version < 200; ++version) {
    Step(table.get(), version, {version % 50 + 100});
  }
  EXPECT_EQ(table->counters().demoted, 1u);
  EXPECT_EQ(table->row_count(), 1u);
  EXPECT_EQ(Pull(*table, 77), Pull(*table, 1));
  EXPECT_NE(Pull(*table, 77), own);
  // Another key gets the row, and what 77 had is gone.
  Step(table.get(), version, {5}, 40);
  EXPECT_EQ(table->counters().promoted, 2u);
  EXPECT_EQ(table->row_count(), 2u);
  EXPECT_EQ(Pull(*table, 5), Pull(*table, 77));
}

TEST(HybridTableTest, AKeyOfASharedRowGetsNoRowOfItsOwn) {
  const TableSpec spec = Spec(4, 3);
  const std::unique_ptr<Table> table = MakeTable(spec, kSeed, 1);
  const Key key = HybridAddresses(spec.hybrid, 1).SharedKey(0, 2);
  Step(table.get(), 1, {key}, 1000);
  EXPECT_EQ(table->counters().promoted, 0u);
  EXPECT_EQ(table->row_count(), 1u);
}

TEST(HybridTableTest, GradientNormsChooseTheKeysOfLargeGradients) {
  TableSpec spec = Spec(16, 16);
  spec.hybrid.importance = HybridSpec::Importance::kGradientNorm;
  spec.hybrid.threshold = 30;
  const std::unique_ptr<Table> table = MakeTable(spec, kSeed, 1);
  // 8 keys of gradients ten times those of 800 others, whose gradients come as often.
  std::vector<Key> keys;
  std::vector<float> gradients;
  for (Key key = 0; key < 808; ++key) {
    keys.push_back(Mix64(key));
    gradients.insert(gradients.end(), kDim, key < 8 ? 1e-3f : 1e-4f);
  }
  const std::vector<std::uint32_t> counts(keys.size(), 1);
  for (std::uint64_t version = 1; version <= 6; ++version) {
    const GradientPart part{keys, counts, gradients.data()};
    table->ApplyStep(version, {&part, 1}, 1.0f, 1.0f);
  }
  std::uint64_t large = 0;
  std::uint64_t small = 0;
  table->ForEachRow([&](const RowView& row) {
    const auto at = std::find(keys.begin(), keys.end(), row.key);
    if (at != keys.end()) {
      ++(at - keys.begin() < 8 ? large : small);
    }
  });
  EXPECT_GE(large, 6u);
  EXPECT_LE(small, 10u);
}

TEST(HybridTableTest, MemoryIsBoundedUnderAMillionKeys) {
  TableSpec spec = Spec(2000, 10000);
  const std::unique_ptr<Table> table = MakeTable(spec, kSeed, 64);
  const std::uint64_t empty = table->memory_bytes();
  EXPECT_LE(empty, 64u * 64 + 4096);
  for (std::uint64_t version = 1; version <= 200; ++version) {
    std::vector<Key> keys;
    for (Key i = 0; i < 5000; ++i) {
      keys.push_back(Mix64(i < 2500 ? i : version * 5000 + i));
    }
    Step(table.get(), version, keys);
    ASSERT_LE(table->row_count(), 12000u);
  }
  EXPECT_GT(table->row_count(), 11500u);
  const TableCounters& counters = table->counters();
  EXPECT_GT(counters.promoted, 1900u);
  EXPECT_EQ(counters.admitted + counters.promoted - counters.demoted, table->row_count());
  const TableMemory memory = table->memory();
  const std::uint64_t record = table->layout().record_bytes();
  EXPECT_EQ(memory.filter_bytes, 2000u * 64 + 64 * 56) << "a cache line an exact row";
  EXPECT_EQ(memory.index_bytes, 10000u * 8);
  EXPECT_LE(memory.row_bytes, 12000 * record + 3 * 4096);
  EXPECT_LE(memory.header_bytes, 12000u * 4 + 2000 * 5 + 20000);
  EXPECT_EQ(memory.total(), table->memory_bytes());
}

TEST(HybridTableTest, RefusesExactRowsWhenMemoryIsShort) {
  const std::unique_ptr<Table> table = MakeTable(Spec(4, 1), kSeed, 1);
  table->set_refuse_new_rows(true);
  Step(table.get(), 1, {7}, 20);
  EXPECT_EQ(table->counters().promoted, 0u);
  EXPECT_EQ(table->counters().refused_memory, 1u);
  table->set_refuse_new_rows(false);
  Step(table.get(), 2, {7});
  EXPECT_EQ(table->counters().promoted, 1u);
}

class HybridFileTest : public ::testing::Test {
 protected:
  static constexpr std::uint32_t kBuckets = 4;

  HybridFileTest() : original_(MakeTable(Spec(20, 12), kSeed, kBuckets)) {
    for (std::uint64_t version = 1; version <= 60; ++version) {
      Step(original_.get(), version, {version % 7, 100 + version % 11, Mix64(version), 3, 4}, 2);
    }
    original_->ForEachFilter(
        [this](std::uint32_t bucket, const std::string& bytes) { filters_[bucket] = bytes; });
  }

  std::unique_ptr<Table> original_;
  std::map<std::uint32_t, std::string> filters_;
};

TEST_F(HybridFileTest, RestoresRowsAndSketchesInAnyOrder) {
  ASSERT_GT(original_->counters().promoted, 4u);
  ASSERT_EQ(filters_.size(), kBuckets);
  for (const bool rows_first : {false, true}) {
    const std::unique_ptr<Table> restored = MakeTable(Spec(20, 12), kSeed, kBuckets);
    const auto rows = [&] {
      original_->ForEachRow([&](const RowView& row) { restored->Restore(row); });
    };
    if (rows_first) {
      rows();
    }
    for (const auto& [bucket, bytes] : filters_) {
      ASSERT_TRUE(restored->RestoreFilter(bucket, bytes).ok());
    }
    if (!rows_first) {
      rows();
    }
    EXPECT_EQ(restored->Digest(), original_->Digest());
    EXPECT_EQ(restored->row_count(), original_->row_count());
    EXPECT_EQ(restored->counters().restored, restored->row_count());
  }
}

TEST_F(HybridFileTest, RefusesSketchesOfAnotherJob) {
  const auto code = [&](std::uint64_t exact, std::uint64_t shared, bool rows_first,
                        const std::string& bytes) {
    const std::unique_ptr<Table> other = MakeTable(Spec(exact, shared), kSeed, kBuckets);
    if (rows_first) {
      original_->ForEachRow([&](const RowView& row) { other->Restore(row); });
    }
    return other->RestoreFilter(2, bytes).code();
  };
  for (const bool rows_first : {false, true}) {
    EXPECT_EQ(code(20, 12, rows_first, filters_[2]), StatusCode::kOk);
    EXPECT_EQ(code(4, 12, rows_first, filters_[2]), StatusCode::kFailedPrecondition);
    EXPECT_EQ(code(20, 40, rows_first, filters_[2]), StatusCode::kFailedPrecondition);
    EXPECT_EQ(code(20, 12, rows_first, filters_[1]), StatusCode::kDataLoss);
    EXPECT_EQ(code(20, 12, rows_first, ""), StatusCode::kDataLoss);
    EXPECT_EQ(code(20, 12, rows_first, "x" + filters_[2]), StatusCode::kDataLoss);
  }
}

TEST(HybridTableTest, DigestIsFixedForEver) {
  TableSpec spec = Spec(6, 5);
  spec.hybrid.importance = HybridSpec::Importance::kGradientNorm;
  const std::unique_ptr<Table> table = MakeTable(spec, kSeed, 3);
  for (std::uint64_t version = 1; version <= 40; ++version) {
    Step(table.get(), version, {1, 2, 3, 4, 100 + version % 9, Mix64(version)});
  }
  EXPECT_GT(table->counters().promoted, 2u);
  const Digest128 digest = table->Digest();
  EXPECT_EQ(digest.high, 9703446176518039396u);
  EXPECT_EQ(digest.low, 6620786294549235283u);
}

}  // namespace
}  // namespace plexus
