// HASHED tables under everything that makes rows come, go and move - admission, eviction, limits,
// disk, refusals, saving and restoring, prefixes, precisions - against a naive table that knows no
// disk.  Repeat one run with --gtest_random_seed=N; --gtest_filter names the combination.
#include <cstring>
#include <map>
#include <memory>
#include <string>
#include <unordered_map>
#include <vector>

#include <gtest/gtest.h>

#include "common/random.h"
#include "ps/table/table.h"
#include "tests/property/ps/naive_table.h"

namespace plexus {
namespace {

constexpr std::uint64_t kTableSeed = 42;
constexpr std::uint32_t kBuckets = 16;

std::uint64_t Seed() {
  const int seed = ::testing::UnitTest::GetInstance()->random_seed();
  return seed == 0 ? 1 : static_cast<std::uint64_t>(seed);
}

class Draws {
 public:
  explicit Draws(std::uint64_t stream) : random_(Seed(), stream) {}
  std::uint64_t Below(std::uint64_t bound) { return random_.Below(next_++, bound); }
  float Float() { return 2 * random_.Uniform(next_++) - 1; }

 private:
  CounterRandom random_;
  std::uint64_t next_ = 0;
};

struct OwnedPart {
  std::vector<Key> keys;
  std::vector<std::uint32_t> counts;
  std::vector<float> gradients;
  std::uint32_t dim = 0;
  std::vector<PullHint> hints;  // Empty, or one a key.

  GradientPart View() const { return {keys, counts, gradients.data(), dim, hints}; }
};

// The disk: what was spilled, stale copies included.
using Disk = std::unordered_map<Key, std::vector<std::byte>>;

// One table and its oracle, driven by random operations.
class TableRun {
 public:
  TableRun(const TableSpec& spec, std::uint64_t stream)
      : spec_(spec),
        draws_(stream),
        table_(MakeTable(spec, kTableSeed, kBuckets)),
        naive_(spec, kTableSeed, kBuckets) {}

  std::uint64_t hinted() const { return hinted_before_ + table_->counters().hinted; }
  // Keys that were pulled or pushed.
  std::uint64_t operations() const { return operations_; }

  void Operate() {
    const std::uint64_t choice = draws_.Below(20);
    if (choice < 8) {
      Step();
    } else if (choice < 14) {
      Pull();
    } else if (choice < 18) {
      Spill();
    } else if (choice == 18) {
      refused_ = draws_.Below(3) == 0;
      table_->set_refuse_new_rows(refused_);
      naive_.set_refuse_new_rows(refused_);
    } else if (draws_.Below(20) == 0) {
      SaveAndRestore();
    }
  }

  void CheckAll() {
    Digest128 digest = table_->Digest();
    std::uint64_t cold = 0;
    for (const auto& [key, record] : disk_) {
      RowView row;
      if (table_->ViewCold(key, record.data(), &row)) {
        digest += RowDigest(spec_.name, row);
        ++cold;
      }
    }
    EXPECT_EQ(cold, table_->cold_count());
    EXPECT_EQ(digest, naive_.Digest());
    EXPECT_EQ(table_->row_count(), naive_.rows().size());
    const TableCounters& counters = table_->counters();
    EXPECT_EQ(counters.admitted + counters.restored - counters.evicted(), table_->row_count());
    EXPECT_EQ(admitted_before_ + counters.admitted, naive_.admitted());
    EXPECT_EQ(unseen_before_ + counters.evicted_unseen, naive_.evicted_unseen());
    EXPECT_EQ(limit_before_ + counters.evicted_limit, naive_.evicted_limit());
    const std::uint64_t hot = table_->row_count() - table_->cold_count();
    EXPECT_LE(table_->cold_count(), table_->row_count());
    std::uint64_t visited = 0;
    table_->ForEachRow([&](const RowView& row) {
      ++visited;
      const auto at = naive_.rows().find(row.key);
      ASSERT_NE(at, naive_.rows().end());
      ASSERT_EQ(row.last_step, at->second.last_step);
      if (spec_.keep_counts) {
        ASSERT_EQ(row.count, at->second.count);
      }
    });
    EXPECT_EQ(visited, hot);
  }

 private:
  Key RandomKey() {
    // A skewed core, a drifting window, and keys that never come again.
    switch (draws_.Below(8)) {
      case 0:
        return draws_.Below(4);
      case 1:
      case 2:
        return Mix64(draws_.Below(60));
      case 3:
        return Mix64(1000000 + next_new_++);
      default:
        return Mix64(1000 + version_ / 4 + draws_.Below(300));
    }
  }

  std::vector<Key> RandomKeys(std::uint64_t most) {
    std::vector<Key> keys;
    std::map<Key, bool> seen;
    for (std::uint64_t n = draws_.Below(most); n > 0; --n) {
      const Key key = RandomKey();
      if (seen.try_emplace(key, true).second) {
        keys.push_back(key);
      }
    }
    operations_ += keys.size();
    return keys;
  }

  // Brings back the rows of `keys` that lie on disk, and a few stale or foreign ones.
  void ThawFor(std::span<const Key> keys) {
    std::vector<Key> cold;
    table_->FindCold(keys, &cold);
    if (!disk_.empty() && draws_.Below(4) == 0) {
      cold.push_back(disk_.begin()->first);
    }
    ColdBatch batch;
    batch.record_bytes = table_->cold_record_bytes();
    for (const Key key : cold) {
      const auto at = disk_.find(key);
      ASSERT_NE(at, disk_.end());
      batch.keys.push_back(key);
      batch.records.insert(batch.records.end(), at->second.begin(), at->second.end());
    }
    if (!stale_.empty() && draws_.Below(2) == 0) {
      // An answer to a question of long ago: the row has been evicted, made anew and spilled since.
      ColdBatch old;
      old.record_bytes = batch.record_bytes;
      const auto& [key, record] = stale_[draws_.Below(stale_.size())];
      old.keys.push_back(key);
      old.records = record;
      table_->Thaw(old);
    }
    table_->Thaw(batch);
    cold.clear();
    table_->FindCold(keys, &cold);
    ASSERT_TRUE(cold.empty());
  }

  void Step() {
    ++version_;
    std::vector<OwnedPart> parts(draws_.Below(4));
    std::vector<GradientPart> views;
    for (OwnedPart& part : parts) {
      part.keys = RandomKeys(40);
      part.dim = draws_.Below(3) == 0 ? 1 + static_cast<std::uint32_t>(draws_.Below(spec_.dim))
                                      : spec_.dim;
      for (std::size_t i = 0; i < part.keys.size(); ++i) {
        part.counts.push_back(1 + static_cast<std::uint32_t>(draws_.Below(3)));
        for (std::uint32_t e = 0; e < part.dim; ++e) {
          part.gradients.push_back(draws_.Float());
        }
      }
      ASSERT_NO_FATAL_FAILURE(ThawFor(part.keys));
      AddHints(&part);
      views.push_back(part.View());
    }
    table_->ApplyStep(version_, views, 0.5f, 1.0f);
    naive_.ApplyStep(version_, views, 0.5f);
    table_->EndVersion(version_);
    naive_.EndVersion(version_);
    for (const Key key : table_->TakeForgotten()) {
      if (draws_.Below(2) == 0) {
        disk_.erase(key);
      }
    }
    ASSERT_EQ(table_->row_count(), naive_.rows().size());
  }

  // Of pulls of any time, or none, or nonsense; or of a pull just now.
  void AddHints(OwnedPart* part) {
    const std::uint64_t choice = draws_.Below(3);
    if (choice == 0) {
      return;
    }
    part->hints.resize(part->keys.size(), kNoHint);
    if (choice == 1 && table_->gives_hints()) {
      std::vector<float> values(part->keys.size() * spec_.dim);
      table_->Pull(part->keys, spec_.dim, Precision::kF32,
                   reinterpret_cast<std::uint8_t*>(values.data()), part->hints.data());
      return;
    }
    for (std::size_t i = 0; i < part->keys.size(); ++i) {
      const auto at = pulled_hints_.find(part->keys[i]);
      part->hints[i] = draws_.Below(4) == 0        ? static_cast<PullHint>(draws_.Below(3000))
                       : at != pulled_hints_.end() ? at->second
                                                   : kNoHint;
    }
  }

  void Pull() {
    const std::vector<Key> keys = RandomKeys(60);
    ASSERT_NO_FATAL_FAILURE(ThawFor(keys));
    const std::uint32_t dim = 1 + static_cast<std::uint32_t>(draws_.Below(spec_.dim));
    std::vector<float> values(keys.size() * dim);
    std::vector<PullHint> hints(keys.size(), kNoHint);
    table_->Pull(keys, dim, Precision::kF32, reinterpret_cast<std::uint8_t*>(values.data()),
                 hints.data());
    for (std::size_t i = 0; i < keys.size(); ++i) {
      pulled_hints_[keys[i]] = hints[i];
      const std::vector<float> expected = naive_.Values(keys[i]);
      ASSERT_EQ(std::memcmp(expected.data(), values.data() + i * dim, dim * sizeof(float)), 0)
          << "key " << keys[i] << " at version " << version_;
    }
  }

  void Spill() {
    if (!spec_.spills) {
      return;
    }
    ColdBatch batch;
    table_->Spill(table_->cold_record_bytes() * (1 + draws_.Below(80)), &batch);
    for (std::size_t i = 0; i < batch.keys.size(); ++i) {
      const std::byte* record = batch.records.data() + i * batch.record_bytes;
      std::vector<std::byte>& copy = disk_[batch.keys[i]];
      if (!copy.empty()) {
        stale_.emplace_back(batch.keys[i], copy);
      }
      copy.assign(record, record + batch.record_bytes);
      ASSERT_TRUE(i == 0 || Mix64(batch.keys[i - 1]) < Mix64(batch.keys[i]));
    }
  }

  void SaveAndRestore() {
    std::unique_ptr<Table> restored = MakeTable(spec_, kTableSeed, kBuckets);
    table_->ForEachRow([&](const RowView& row) { restored->Restore(row); });
    for (const auto& [key, record] : disk_) {
      RowView row;
      if (table_->ViewCold(key, record.data(), &row)) {
        restored->Restore(row);
      }
    }
    table_->ForEachFilter([&](std::uint32_t bucket, const std::string& bytes) {
      ASSERT_TRUE(restored->RestoreFilter(bucket, bytes).ok());
    });
    ASSERT_EQ(restored->counters().restored, table_->row_count());
    hinted_before_ += table_->counters().hinted;
    admitted_before_ += table_->counters().admitted;
    unseen_before_ += table_->counters().evicted_unseen;
    limit_before_ += table_->counters().evicted_limit;
    table_ = std::move(restored);
    table_->set_refuse_new_rows(refused_);
    disk_.clear();
  }

  const TableSpec spec_;
  Draws draws_;
  std::unique_ptr<Table> table_;
  NaiveTable naive_;
  Disk disk_;
  std::vector<std::pair<Key, std::vector<std::byte>>> stale_;  // Overwritten copies.
  std::unordered_map<Key, PullHint> pulled_hints_;
  std::uint64_t version_ = 0;
  std::uint64_t next_new_ = 0;
  std::uint64_t operations_ = 0;
  bool refused_ = false;
  std::uint64_t hinted_before_ = 0;
  std::uint64_t admitted_before_ = 0;
  std::uint64_t unseen_before_ = 0;
  std::uint64_t limit_before_ = 0;
};

// Every pair of {precision, admission, eviction, disk}; prefixes are in every run.
using Combination = std::tuple<Precision, AdmissionSpec::Kind, int, bool>;

TableSpec SpecOf(const Combination& combination) {
  const auto [precision, admission, eviction, spills] = combination;
  TableSpec spec;
  spec.name = "combined";
  spec.dim = 7;
  spec.init_scale = 0.3f;
  spec.precision = precision;
  spec.state_precision = precision == Precision::kBf16 ? Precision::kBf16 : Precision::kF32;
  spec.learned_scale = precision == Precision::kInt8;
  spec.scale_learning_rate = 1e-3f;
  spec.optimizer.kind = precision == Precision::kInt4  ? OptimizerKind::kAdam
                        : precision == Precision::kF16 ? OptimizerKind::kRowWiseAdagrad
                                                       : OptimizerKind::kAdagrad;
  spec.optimizer.learning_rate = 0.05f;
  spec.optimizer.initial_accumulator = 0.1f;
  spec.clip_row_norm = precision == Precision::kF32 ? 0.8f : 0.0f;
  spec.admission.kind = admission;
  spec.admission.threshold = 3;
  spec.admission.probability = 0.4;
  spec.admission.filter_keys = 200;
  spec.admission.sketch_width = 1024;
  spec.admission.window_versions = 50;
  spec.spills = spills;
  if (eviction == 1) {
    spec.eviction.unseen_versions = 20;
    spec.eviction.sweep_versions = 5;
  } else if (eviction >= 2) {
    spec.max_rows = 160;
    spec.eviction.order = static_cast<EvictionSpec::Order>(eviction - 2);
    spec.eviction.half_life_versions = eviction == 3 ? 30 : 0;
  }
  return spec;
}

class StoreProperty : public ::testing::TestWithParam<Combination> {};

TEST_P(StoreProperty, MatchesTheNaiveTable) {
  const TableSpec spec = SpecOf(GetParam());
  TableRun run(spec, HashBytes(::testing::UnitTest::GetInstance()->current_test_info()->name(), 7));
  constexpr std::uint64_t kOperations = 12000;  // Times 200 combinations.
  std::uint64_t checked = 0;
  while (run.operations() < kOperations) {
    ASSERT_NO_FATAL_FAILURE(run.Operate()) << "seed " << Seed();
    if (run.operations() >= checked + kOperations / 4) {
      ASSERT_NO_FATAL_FAILURE(run.CheckAll());
      ASSERT_FALSE(HasFailure()) << "seed " << Seed() << " after " << run.operations();
      checked = run.operations();
    }
  }
  EXPECT_GT(run.hinted(), 0u);
}

std::string NameOf(const ::testing::TestParamInfo<Combination>& info) {
  const auto [precision, admission, eviction, spills] = info.param;
  const char* const precisions[] = {"F32", "Bf16", "F16", "Int8", "Int4"};
  const char* const admissions[] = {"All", "Count", "Sketch", "Probability", "CountProbability"};
  const char* const evictions[] = {"Never", "Unseen", "Oldest", "Count", "Norm"};
  return std::string(precisions[static_cast<int>(precision)]) +
         admissions[static_cast<int>(admission)] + evictions[eviction] +
         (spills ? "Disk" : "Memory");
}

INSTANTIATE_TEST_SUITE_P(
    Pairs, StoreProperty,
    ::testing::Combine(::testing::Values(Precision::kF32, Precision::kBf16, Precision::kF16,
                                         Precision::kInt8, Precision::kInt4),
                       ::testing::Values(AdmissionSpec::Kind::kAll, AdmissionSpec::Kind::kCount,
                                         AdmissionSpec::Kind::kSketch,
                                         AdmissionSpec::Kind::kProbability,
                                         AdmissionSpec::Kind::kCountProbability),
                       ::testing::Range(0, 5), ::testing::Bool()),
    NameOf);

}  // namespace
}  // namespace plexus
