// StepKeysBuilder against maps: random batches, shards, groups.
#include "worker/step_keys.h"

#include <map>
#include <set>
#include <vector>

#include <gtest/gtest.h>

#include "tests/unit/proto/draws.h"

namespace plexus {
namespace {

constexpr std::uint32_t kBuckets = 24;

// Groups of 1..3 fields, HASHED or ARRAY.
JobPlan RandomPlan(Draws* draws) {
  JobPlan plan;
  plan.job.mutable_cluster()->set_buckets(kBuckets);
  std::uint32_t field = 0;
  for (std::uint64_t g = 1 + draws->Below(3); g > 0; --g) {
    KeyGroup& group = plan.groups.emplace_back();
    group.array_rows = draws->OneIn(2) ? 1 + draws->Below(100) : 0;
    for (std::uint64_t f = 1 + draws->Below(3); f > 0; --f) {
      group.fields.push_back(field++);
      plan.fields.emplace_back().group = static_cast<std::uint32_t>(plan.groups.size() - 1);
    }
  }
  return plan;
}

Batch RandomBatch(Draws* draws, const JobPlan& plan, std::uint64_t values_max) {
  Batch batch;
  batch.sparse.resize(plan.fields.size());
  for (SparseColumn& column : batch.sparse) {
    for (std::uint64_t n = draws->Below(values_max + 1); n > 0; --n) {
      const std::uint64_t small = draws->Below(40);
      column.keys.push_back(draws->OneIn(3) ? small : draws->OneIn(2) ? ~small : Mix64(small));
    }
  }
  return batch;
}

void ExpectRight(const JobPlan& plan, const std::vector<std::uint32_t>& map, std::uint32_t shards,
                 const Batch& batch, const StepKeys& got) {
  ASSERT_EQ(got.groups.size(), plan.groups.size());
  ASSERT_EQ(got.indices.size(), plan.fields.size());
  for (std::size_t g = 0; g < plan.groups.size(); ++g) {
    const KeyGroup& group = plan.groups[g];
    const GroupKeys& keys = got.groups[g];
    std::map<Key, std::uint32_t> counts;
    for (const std::uint32_t field : group.fields) {
      ASSERT_EQ(got.indices[field].size(), batch.sparse[field].keys.size());
      for (std::size_t i = 0; i < batch.sparse[field].keys.size(); ++i) {
        const Key raw = batch.sparse[field].keys[i];
        const Key key = group.array_rows > 0 ? raw % group.array_rows : raw;
        ++counts[key];
        ASSERT_LT(got.indices[field][i], keys.keys.size());
        ASSERT_EQ(keys.keys[got.indices[field][i]], key);
      }
    }
    ASSERT_EQ(keys.keys.size(), counts.size()) << "each once";
    ASSERT_EQ(keys.counts.size(), counts.size());
    ASSERT_EQ(keys.shard_begin.size(), shards + 1);
    ASSERT_EQ(keys.shard_begin.front(), 0u);
    ASSERT_EQ(keys.shard_begin.back(), keys.keys.size());
    for (std::uint32_t s = 0; s < shards; ++s) {
      ASSERT_LE(keys.shard_begin[s], keys.shard_begin[s + 1]);
      for (std::uint32_t i = keys.shard_begin[s]; i < keys.shard_begin[s + 1]; ++i) {
        const Key key = keys.keys[i];
        const std::uint32_t bucket =
            group.array_rows > 0 ? BucketOfRow(key, kBuckets) : BucketOfKey(key, kBuckets);
        ASSERT_EQ(map[bucket], s);
        ASSERT_EQ(keys.counts[i], counts.at(key));
      }
    }
  }
}

TEST(StepKeysProperty, MatchesMaps) {
  SCOPED_TRACE(SeedNote());
  for (std::uint64_t i = 0; i < 60; ++i) {
    Draws draws(i);
    const JobPlan plan = RandomPlan(&draws);
    for (std::uint32_t shards = 1; shards <= 5; ++shards) {
      std::vector<std::uint32_t> map = InitialBucketMap(kBuckets, shards);
      if (draws.OneIn(2)) {
        for (std::uint32_t& owner : map) {
          owner = static_cast<std::uint32_t>(draws.Below(shards));
        }
      }
      StepKeysBuilder builder(plan, map, shards);
      StepKeys keys;  // Its memory is used again.
      for (const std::uint64_t values_max : {3, 300, 0, 20}) {
        const Batch batch = RandomBatch(&draws, plan, values_max);
        builder.Build(batch, &keys);
        ASSERT_NO_FATAL_FAILURE(ExpectRight(plan, map, shards, batch, keys));
      }
    }
  }
}

}  // namespace
}  // namespace plexus
