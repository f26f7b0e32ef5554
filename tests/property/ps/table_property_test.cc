// Tables against a naive oracle: random operations, every rule, several parts with overlapping
// keys, any sharding. Repeat one run with --gtest_random_seed=N.
#include <cmath>
#include <cstring>
#include <map>
#include <memory>
#include <vector>

#include <gtest/gtest.h>

#include "common/optimizer/lanes.h"
#include "common/optimizer/optimizer.h"
#include "common/random.h"
#include "ps/table/table.h"

namespace plexus {
namespace {

constexpr std::uint64_t kTableSeed = 42;

std::uint64_t Seed() {
  const int seed = ::testing::UnitTest::GetInstance()->random_seed();
  return seed == 0 ? 1 : static_cast<std::uint64_t>(seed);
}

// Draws in sequence from a CounterRandom.
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

  GradientPart View() const { return {keys, counts, gradients.data()}; }
};

std::vector<GradientPart> Views(const std::vector<OwnedPart>& parts) {
  std::vector<GradientPart> views;
  for (const OwnedPart& part : parts) {
    views.push_back(part.View());
  }
  return views;
}

struct OracleRow {
  std::vector<float> floats;
  std::uint64_t last_step = 0;
  std::uint64_t count = 0;
  bool operator==(const OracleRow&) const = default;
};

class Oracle {
 public:
  explicit Oracle(const TableSpec& spec)
      : spec_(spec), optimizer_(MakeScalarOptimizer(spec.optimizer)) {}

  std::vector<float> Values(Key key) const {
    if (const auto it = rows_.find(key); it != rows_.end()) {
      return {it->second.floats.begin(), it->second.floats.begin() + spec_.dim};
    }
    const CounterRandom random(kTableSeed, HashBytes(spec_.name, 0), key);
    std::vector<float> values;
    for (std::uint32_t e = 0; e < spec_.dim; ++e) {
      switch (spec_.init) {
        case TableSpec::Init::kUniform:
          values.push_back((2 * random.Uniform(e) - 1) * spec_.init_scale);
          break;
        case TableSpec::Init::kNormal:
          values.push_back(static_cast<float>(NormalDouble(random, e) * spec_.init_scale));
          break;
        case TableSpec::Init::kConstant:
          values.push_back(spec_.init_scale);
          break;
      }
    }
    return values;
  }

  void ApplyStep(std::uint64_t version, const std::vector<OwnedPart>& parts, float scale,
                 float rate_factor) {
    std::map<Key, std::vector<float>> sums;
    std::map<Key, std::uint64_t> counts;
    for (const OwnedPart& part : parts) {
      for (std::size_t i = 0; i < part.keys.size(); ++i) {
        const float* gradient = part.gradients.data() + i * spec_.dim;
        const auto [it, first] = sums.try_emplace(part.keys[i], gradient, gradient + spec_.dim);
        for (std::uint32_t e = 0; !first && e < spec_.dim; ++e) {
          it->second[e] += gradient[e];
        }
        counts[part.keys[i]] += part.counts[i];
      }
    }
    for (auto& [key, sum] : sums) {
      Update(version, key, &sum, counts[key], scale, rate_factor);
    }
  }

  const std::map<Key, OracleRow>& rows() const { return rows_; }

 private:
  void Update(std::uint64_t version, Key key, std::vector<float>* sum, std::uint64_t count,
              float scale, float rate_factor) {
    for (float& g : *sum) {
      g *= scale;
    }
    const float norm = std::sqrt(ScalarSumOfSquares(sum->data(), 1.0f, nullptr, 0, spec_.dim));
    if (spec_.clip_row_norm > 0 && norm > spec_.clip_row_norm) {
      const float factor = spec_.clip_row_norm / norm;
      for (float& g : *sum) {
        g *= factor;
      }
    }
    OracleRow& row = rows_[key];
    if (row.floats.empty()) {
      rows_.erase(key);
      std::vector<float> floats = Values(key);
      floats.resize(spec_.dim + optimizer_->state_floats(spec_.dim));
      optimizer_->InitState(spec_.dim, floats.data() + spec_.dim);
      rows_[key].floats = floats;
    }
    OracleRow& made = rows_[key];
    const Optimizer::RowStep step{made.floats.data(), sum->data()};
    optimizer_->Apply({&step, 1}, spec_.dim, spec_.dim, 1.0f, rate_factor);
    made.last_step = version;
    made.count += count;
  }

  const TableSpec spec_;
  const std::unique_ptr<Optimizer> optimizer_;
  std::map<Key, OracleRow> rows_;
};

TableSpec RandomSpec(Draws* draws, TableSpec::Kind kind, OptimizerKind optimizer,
                     std::uint32_t dim) {
  TableSpec spec;
  spec.name = std::to_string(dim).append("_floats");
  spec.kind = kind;
  spec.dim = dim;
  spec.rows = kind == TableSpec::Kind::kArray ? 50 + draws->Below(3000) : 0;
  spec.optimizer.kind = optimizer;
  spec.optimizer.learning_rate = 0.05f;
  spec.optimizer.l1 = 0.01f;
  spec.optimizer.l2 = 0.02f;
  spec.optimizer.weight_decay = 0.1f;
  spec.optimizer.initial_accumulator = 0.1f;
  spec.init = static_cast<TableSpec::Init>(draws->Below(3));
  spec.init_scale = 0.3f;
  spec.clip_row_norm = draws->Below(2) == 0 ? 0 : 0.8f;
  return spec;
}

Key RandomKey(Draws* draws, const TableSpec& spec) {
  if (spec.kind == TableSpec::Kind::kArray) {
    return draws->Below(spec.rows);
  }
  switch (draws->Below(8)) {
    case 0:
      return 0;
    case 1:
      return ~Key{0};
    case 2:
      return draws->Below(10);
    default:
      return Mix64(draws->Below(400));
  }
}

std::vector<OwnedPart> RandomParts(Draws* draws, const TableSpec& spec) {
  std::vector<OwnedPart> parts(1 + draws->Below(4));
  for (OwnedPart& part : parts) {
    std::map<Key, bool> seen;
    for (std::uint64_t n = draws->Below(5) == 0 ? 0 : draws->Below(200); n > 0; --n) {
      const Key key = RandomKey(draws, spec);
      if (!seen.try_emplace(key, true).second) {
        continue;
      }
      part.keys.push_back(key);
      part.counts.push_back(static_cast<std::uint32_t>(1 + draws->Below(9)));
      for (std::uint32_t e = 0; e < spec.dim; ++e) {
        part.gradients.push_back(draws->Float());
      }
    }
  }
  return parts;
}

bool SameBits(const std::vector<float>& a, const float* b) {
  return std::memcmp(a.data(), b, a.size() * sizeof(float)) == 0;
}

void ExpectEqual(const Table& table, const Oracle& oracle) {
  ASSERT_EQ(table.row_count(), oracle.rows().size());
  std::size_t visited = 0;
  table.ForEachRow([&](const RowView& row) {
    ++visited;
    const auto it = oracle.rows().find(row.key);
    ASSERT_NE(it, oracle.rows().end());
    ASSERT_EQ(row.last_step, it->second.last_step);
    ASSERT_EQ(row.count, it->second.count);
    ASSERT_EQ(row.floats().size(), it->second.floats.size());
    ASSERT_TRUE(SameBits(it->second.floats, row.floats().data()));
  });
  ASSERT_EQ(visited, oracle.rows().size());
}

void ExpectPullsEqual(Draws* draws, const Table& table, const Oracle& oracle) {
  std::vector<Key> keys(draws->Below(100));
  for (Key& key : keys) {
    key = RandomKey(draws, table.spec());
  }
  const std::uint32_t dim = table.spec().dim;
  std::vector<float> values(keys.size() * dim);
  table.Pull(keys, values.data());
  for (std::size_t i = 0; i < keys.size(); ++i) {
    ASSERT_TRUE(SameBits(oracle.Values(keys[i]), values.data() + i * dim));
  }
}

class TableProperty : public ::testing::TestWithParam<std::tuple<TableSpec::Kind, int>> {
 protected:
  TableSpec::Kind kind() const { return std::get<0>(GetParam()); }
  OptimizerKind optimizer() const { return static_cast<OptimizerKind>(std::get<1>(GetParam())); }
};

TEST_P(TableProperty, MatchesMapOracle) {
  std::vector<std::uint32_t> dims = {512};
  for (std::uint32_t dim = 1; dim <= 67; ++dim) {
    dims.push_back(dim);
  }
  for (const std::uint32_t dim : dims) {
    Draws draws(1000 * dim + static_cast<std::uint64_t>(std::get<1>(GetParam())));
    const TableSpec spec = RandomSpec(&draws, kind(), optimizer(), dim);
    const std::unique_ptr<Table> table_owner =
        MakeTable(spec, kTableSeed, 1 + static_cast<std::uint32_t>(draws.Below(200)));
    Table& table = *table_owner;
    Oracle oracle(spec);
    for (std::uint64_t version = 1; version <= 6; ++version) {
      const std::vector<OwnedPart> parts = RandomParts(&draws, spec);
      const float scale = version % 2 == 0 ? 1.0f : 1.0f / 7;
      ASSERT_NO_FATAL_FAILURE(ExpectPullsEqual(&draws, table, oracle));
      table.ApplyStep(version, Views(parts), scale, version == 3 ? 0.5f : 1.0f);
      oracle.ApplyStep(version, parts, scale, version == 3 ? 0.5f : 1.0f);
      ASSERT_NO_FATAL_FAILURE(ExpectPullsEqual(&draws, table, oracle));
    }
    ASSERT_NO_FATAL_FAILURE(ExpectEqual(table, oracle)) << "dim " << dim << " seed " << Seed();
  }
}

TEST_P(TableProperty, DigestDoesNotDependOnSharding) {
  constexpr std::uint32_t kBuckets = 64;
  Draws draws(77);
  const TableSpec spec = RandomSpec(&draws, kind(), optimizer(), 9);
  std::vector<std::vector<OwnedPart>> steps(5);
  for (auto& step : steps) {
    step = RandomParts(&draws, spec);
  }
  Digest128 expected;
  for (const std::uint32_t shards : {1u, 2u, 3u, 5u}) {
    std::vector<std::unique_ptr<Table>> tables;
    for (std::uint32_t s = 0; s < shards; ++s) {
      std::vector<std::uint32_t> owned;
      for (std::uint32_t bucket = s; bucket < kBuckets; bucket += shards) {
        owned.push_back(bucket);
      }
      tables.push_back(MakeTable(spec, kTableSeed, kBuckets, owned));
    }
    for (std::size_t t = 0; t < steps.size(); ++t) {
      for (std::uint32_t s = 0; s < shards; ++s) {
        std::vector<OwnedPart> mine(steps[t].size());
        for (std::size_t p = 0; p < mine.size(); ++p) {
          const OwnedPart& all = steps[t][p];
          for (std::size_t i = 0; i < all.keys.size(); ++i) {
            const std::uint32_t bucket = spec.kind == TableSpec::Kind::kArray
                                             ? BucketOfRow(all.keys[i], kBuckets)
                                             : BucketOfKey(all.keys[i], kBuckets);
            if (bucket % shards == s) {
              mine[p].keys.push_back(all.keys[i]);
              mine[p].counts.push_back(all.counts[i]);
              mine[p].gradients.insert(mine[p].gradients.end(), &all.gradients[i * spec.dim],
                                       &all.gradients[i * spec.dim] + spec.dim);
            }
          }
        }
        tables[s]->ApplyStep(t + 1, Views(mine), 0.1f, 1.0f);
      }
    }
    Digest128 digest;
    for (const auto& table : tables) {
      digest += table->Digest();
    }
    if (shards == 1) {
      expected = digest;
      EXPECT_FALSE(digest == Digest128());
    }
    EXPECT_EQ(digest, expected) << shards << " shards";
  }
}

TEST_P(TableProperty, RestoredTableGoesOnAsTheOriginal) {
  Draws draws(99);
  const TableSpec spec = RandomSpec(&draws, kind(), optimizer(), 13);
  const std::unique_ptr<Table> original_owner = MakeTable(spec, kTableSeed);
  Table& original = *original_owner;
  for (std::uint64_t version = 1; version <= 4; ++version) {
    original.ApplyStep(version, Views(RandomParts(&draws, spec)), 0.1f, 1.0f);
  }
  const std::unique_ptr<Table> restored_owner = MakeTable(spec, kTableSeed, 7);
  Table& restored = *restored_owner;
  original.ForEachRow([&](const RowView& row) {
    RowView other = row;
    other.last_step = 77;
    restored.Restore(other);
    restored.Restore(row);  // Replaces the row that was there.
  });
  EXPECT_EQ(restored.Digest(), original.Digest());
  EXPECT_EQ(restored.row_count(), original.row_count());
  for (std::uint64_t version = 5; version <= 7; ++version) {
    const std::vector<OwnedPart> parts = RandomParts(&draws, spec);
    original.ApplyStep(version, Views(parts), 0.1f, 1.0f);
    restored.ApplyStep(version, Views(parts), 0.1f, 1.0f);
    EXPECT_EQ(restored.Digest(), original.Digest());
  }
}

INSTANTIATE_TEST_SUITE_P(Kinds, TableProperty,
                         ::testing::Combine(::testing::Values(TableSpec::Kind::kHashed,
                                                              TableSpec::Kind::kArray),
                                            ::testing::Range(0, 8)));

}  // namespace
}  // namespace plexus
