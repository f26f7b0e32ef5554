// HYBRID tables under random steps, pulls, refusals, saving and restoring against a naive one, and
// the same on any number of shards.  Repeat one run with --gtest_random_seed=N.
#include <cstring>
#include <map>
#include <memory>
#include <string>
#include <tuple>
#include <vector>

#include <gtest/gtest.h>

#include "common/random.h"
#include "ps/table/table.h"
#include "tests/property/ps/naive_hybrid.h"

namespace plexus {
namespace {

constexpr std::uint64_t kTableSeed = 42;
constexpr std::uint32_t kBuckets = 8;

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

  GradientPart View() const { return {keys, counts, gradients.data(), dim}; }
};

std::vector<GradientPart> Views(const std::vector<OwnedPart>& parts) {
  std::vector<GradientPart> views;
  for (const OwnedPart& part : parts) {
    views.push_back(part.View());
  }
  return views;
}

// Some keys that stay, some whose time passes, some never seen again; and all shared rows' keys.
Key RandomKey(Draws* draws, std::uint64_t version) {
  switch (draws->Below(8)) {
    case 0:
      return draws->Below(4);
    case 1:
      return UnmixHash(draws->Below(2) << 63 | draws->Below(3));
    case 2:
      return Mix64(draws->Below(1u << 30) + (1u << 30));
    default:
      return Mix64(1000 + version / 3 + draws->Below(1 + draws->Below(200)));
  }
}

std::vector<Key> RandomKeys(Draws* draws, std::uint64_t version, std::uint64_t most) {
  std::vector<Key> keys;
  std::map<Key, bool> seen;
  for (std::uint64_t n = draws->Below(most); n > 0; --n) {
    const Key key = RandomKey(draws, version);
    if (seen.try_emplace(key, true).second) {
      keys.push_back(key);
    }
  }
  return keys;
}

std::vector<OwnedPart> RandomParts(Draws* draws, std::uint64_t version, std::uint32_t dim) {
  std::vector<OwnedPart> parts(draws->Below(4));
  for (OwnedPart& part : parts) {
    part.keys = RandomKeys(draws, version, 50);
    part.dim = draws->Below(3) == 0 ? 1 + static_cast<std::uint32_t>(draws->Below(dim)) : dim;
    for (std::size_t i = 0; i < part.keys.size(); ++i) {
      part.counts.push_back(1 + static_cast<std::uint32_t>(draws->Below(3)));
      const float size = draws->Below(10) == 0 ? 0.0f : 0.1f + draws->Float();
      for (std::uint32_t e = 0; e < part.dim; ++e) {
        part.gradients.push_back(size * draws->Float());
      }
    }
  }
  return parts;
}

TableSpec SpecOf(Precision precision, HybridSpec::Importance importance) {
  TableSpec spec;
  spec.name = "combined";
  spec.kind = TableSpec::Kind::kHybrid;
  spec.dim = 7;
  spec.init_scale = 0.3f;
  spec.precision = precision;
  spec.state_precision = precision == Precision::kBf16 ? Precision::kBf16 : Precision::kF32;
  spec.learned_scale = precision == Precision::kInt8;
  spec.scale_learning_rate = 1e-3f;
  spec.keep_counts = precision != Precision::kF16;
  spec.optimizer.kind =
      precision == Precision::kInt4 ? OptimizerKind::kAdam : OptimizerKind::kAdagrad;
  spec.optimizer.learning_rate = 0.05f;
  spec.optimizer.initial_accumulator = 0.1f;
  spec.hybrid.exact_rows = 3 * kBuckets + 1;
  spec.hybrid.shared_rows = 5 * kBuckets + 3;
  spec.hybrid.importance = importance;
  spec.hybrid.threshold = 6.5;
  spec.hybrid.decay = 0.5;
  return spec;
}

// One table and its oracle, driven by random operations.
class RandomRun {
 public:
  RandomRun(const TableSpec& spec, std::uint64_t stream)
      : spec_(spec),
        draws_(stream),
        table_(MakeTable(spec, kTableSeed, kBuckets)),
        naive_(spec, kTableSeed, kBuckets) {}

  std::uint64_t operations() const { return operations_; }
  const NaiveHybrid& naive() const { return naive_; }

  void Operate() {
    const std::uint64_t choice = draws_.Below(20);
    if (choice < 12) {
      Step();
    } else if (choice < 18) {
      Pull();
    } else if (choice == 18) {
      refused_ = draws_.Below(3) == 0;
      table_->set_refuse_new_rows(refused_);
      naive_.set_refuse_new_rows(refused_);
    } else if (draws_.Below(10) == 0) {
      SaveAndRestore();
    }
  }

  void CheckAll() {
    std::uint64_t visited = 0;
    table_->ForEachRow([&](const RowView& row) {
      ++visited;
      const auto at = naive_.rows().find(row.key);
      ASSERT_NE(at, naive_.rows().end());
      ASSERT_EQ(row.last_step, at->second.last_step);
      ASSERT_EQ(row.count, spec_.keep_counts ? at->second.count : 0);
      ASSERT_EQ(row.record.size(), at->second.record.size());
      ASSERT_EQ(std::memcmp(row.record.data(), at->second.record.data(), row.record.size()), 0);
    });
    ASSERT_EQ(visited, naive_.rows().size());
    ASSERT_EQ(table_->row_count(), visited);
    std::map<std::uint32_t, std::string> filters;
    table_->ForEachFilter([&](std::uint32_t bucket, const std::string& bytes) {
      ASSERT_TRUE(filters.try_emplace(bucket, bytes).second);
    });
    for (std::uint32_t bucket = 0; bucket < kBuckets; ++bucket) {
      ASSERT_EQ(filters[bucket], naive_.FilterBytes(bucket)) << "bucket " << bucket;
    }
    ASSERT_EQ(table_->Digest(), naive_.Digest());
    const TableCounters& counters = table_->counters();
    ASSERT_EQ(promoted_before_ + counters.promoted, naive_.promoted());
    ASSERT_EQ(demoted_before_ + counters.demoted, naive_.demoted());
    ASSERT_EQ(counters.admitted + counters.restored + counters.promoted - counters.demoted,
              table_->row_count());
  }

 private:
  void Step() {
    ++version_;
    const std::vector<OwnedPart> parts = RandomParts(&draws_, version_, spec_.dim);
    table_->ApplyStep(version_, Views(parts), 0.5f, 1.0f);
    table_->EndVersion(version_);
    naive_.ApplyStep(version_, Views(parts), 0.5f);
    for (const OwnedPart& part : parts) {
      operations_ += part.keys.size();
    }
  }

  void Pull() {
    const std::vector<Key> keys = RandomKeys(&draws_, version_, 100);
    const std::uint32_t dim = 1 + static_cast<std::uint32_t>(draws_.Below(spec_.dim));
    std::vector<float> values(keys.size() * dim);
    table_->Pull(keys, dim, Precision::kF32, reinterpret_cast<std::uint8_t*>(values.data()));
    for (std::size_t i = 0; i < keys.size(); ++i) {
      const std::vector<float> expected = naive_.Values(keys[i]);
      ASSERT_EQ(std::memcmp(expected.data(), values.data() + i * dim, dim * sizeof(float)), 0)
          << "key " << keys[i] << " at version " << version_;
    }
    operations_ += keys.size();
  }

  void SaveAndRestore() {
    std::unique_ptr<Table> restored = MakeTable(spec_, kTableSeed, kBuckets);
    const bool rows_first = draws_.Below(2) == 0;
    const auto rows = [&] {
      table_->ForEachRow([&](const RowView& row) {
        RowView other = row;
        other.last_step = 77;
        restored->Restore(other);
        restored->Restore(row);  // Replaces the row that was there.
      });
    };
    if (rows_first) {
      rows();
    }
    table_->ForEachFilter([&](std::uint32_t bucket, const std::string& bytes) {
      ASSERT_TRUE(restored->RestoreFilter(bucket, bytes).ok());
    });
    if (!rows_first) {
      rows();
    }
    ASSERT_EQ(restored->counters().restored, table_->row_count());
    promoted_before_ += table_->counters().promoted;
    demoted_before_ += table_->counters().demoted;
    table_ = std::move(restored);
    table_->set_refuse_new_rows(refused_);
    ASSERT_NO_FATAL_FAILURE(CheckAll());
  }

  const TableSpec spec_;
  Draws draws_;
  std::unique_ptr<Table> table_;
  NaiveHybrid naive_;
  std::uint64_t version_ = 0;
  std::uint64_t operations_ = 0;
  bool refused_ = false;
  std::uint64_t promoted_before_ = 0;
  std::uint64_t demoted_before_ = 0;
};

using Combination = std::tuple<Precision, HybridSpec::Importance>;

class HybridProperty : public ::testing::TestWithParam<Combination> {
 protected:
  static TableSpec Spec() { return SpecOf(std::get<0>(GetParam()), std::get<1>(GetParam())); }
};

TEST_P(HybridProperty, MatchesTheNaiveTable) {
  RandomRun run(Spec(),
                HashBytes(::testing::UnitTest::GetInstance()->current_test_info()->name(), 7));
  constexpr std::uint64_t kOperations = 100000;
  std::uint64_t checked = 0;
  while (run.operations() < kOperations) {
    ASSERT_NO_FATAL_FAILURE(run.Operate()) << "seed " << Seed();
    if (run.operations() >= checked + kOperations / 100) {
      ASSERT_NO_FATAL_FAILURE(run.CheckAll()) << "seed " << Seed();
      checked = run.operations();
    }
  }
  EXPECT_GT(run.naive().promoted(), 100u);
  EXPECT_GT(run.naive().demoted(), 100u);
}

TEST_P(HybridProperty, DoesNotDependOnSharding) {
  Draws draws(77);
  const TableSpec spec = Spec();
  std::vector<std::vector<OwnedPart>> steps(150);
  for (std::size_t t = 0; t < steps.size(); ++t) {
    steps[t] = RandomParts(&draws, t, spec.dim);
  }
  Digest128 expected;
  for (const std::uint32_t shards : {1u, 2u, 3u, 5u}) {
    Digest128 digest;
    std::uint64_t promoted = 0;
    for (std::uint32_t s = 0; s < shards; ++s) {
      const std::unique_ptr<Table> table = MakeTable(spec, kTableSeed, kBuckets);
      for (std::size_t t = 0; t < steps.size(); ++t) {
        std::vector<OwnedPart> mine(steps[t].size());
        for (std::size_t p = 0; p < mine.size(); ++p) {
          const OwnedPart& all = steps[t][p];
          mine[p].dim = all.dim;
          for (std::size_t i = 0; i < all.keys.size(); ++i) {
            if (BucketOfKey(all.keys[i], kBuckets) % shards == s) {
              mine[p].keys.push_back(all.keys[i]);
              mine[p].counts.push_back(all.counts[i]);
              mine[p].gradients.insert(mine[p].gradients.end(), &all.gradients[i * all.dim],
                                       &all.gradients[i * all.dim] + all.dim);
            }
          }
        }
        table->ApplyStep(t + 1, Views(mine), 0.1f, 1.0f);
        table->EndVersion(t + 1);
      }
      digest += table->Digest();
      promoted += table->counters().promoted;
    }
    EXPECT_GT(promoted, 10u);
    if (shards == 1) {
      expected = digest;
    }
    EXPECT_EQ(digest, expected) << shards << " shards";
  }
}

std::string NameOf(const ::testing::TestParamInfo<Combination>& info) {
  const auto [precision, importance] = info.param;
  const char* const precisions[] = {"F32", "Bf16", "F16", "Int8", "Int4"};
  return std::string(precisions[static_cast<int>(precision)]) +
         (importance == HybridSpec::Importance::kFrequency ? "Frequency" : "GradientNorm");
}

INSTANTIATE_TEST_SUITE_P(Kinds, HybridProperty,
                         ::testing::Combine(::testing::Values(Precision::kF32, Precision::kBf16,
                                                              Precision::kF16, Precision::kInt8,
                                                              Precision::kInt4),
                                            ::testing::Values(HybridSpec::Importance::kGradientNorm,
                                                              HybridSpec::Importance::kFrequency)),
                         NameOf);

}  // namespace
}  // namespace plexus
