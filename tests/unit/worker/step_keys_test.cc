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

// Groups of 1..3 fields: HASHED, ARRAY, or with an addresser.
JobPlan RandomPlan(Draws* draws) {
  JobPlan plan;
  plan.job.mutable_cluster()->set_buckets(kBuckets);
  std::uint32_t field = 0;
  for (std::uint64_t g = 1 + draws->Below(3); g > 0; --g) {
    KeyGroup& group = plan.groups.emplace_back();
    group.array_rows = draws->OneIn(2) ? 1 + draws->Below(100) : 0;
    for (std::uint64_t f = 1 + draws->Below(3); f > 0; --f) {
      group.fields.push_back(field++);
      plan.fields.emplace_back();
    }
    if (group.array_rows > 1 && draws->OneIn(2)) {
      group.addresser = {.kind = static_cast<proto::Addresser::Kind>(draws->Below(4)),
                         .rows = group.array_rows,
                         .dim = 6,
                         .remainders = 1 + draws->Below(group.array_rows - 1),
                         .piece = 2,
                         .salt = draws->Bits()};
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

// What a value reads: its key, or the pieces of its vector.
void ExpectReads(const KeyGroup& group, const GroupKeys& keys, std::uint32_t index, Key raw,
                 std::map<Key, std::uint32_t>* counts) {
  if (!group.addresser.has_value()) {
    const Key key = group.array_rows > 0 ? raw % group.array_rows : raw;
    ++(*counts)[key];
    ASSERT_LT(index, keys.keys.size());
    ASSERT_EQ(keys.keys[index], key);
    return;
  }
  std::vector<Piece> expected;
  Addresser(*group.addresser).AppendPieces(raw, &expected);
  ASSERT_LT(index, keys.combination.vectors());
  const std::uint32_t begin = keys.combination.begin[index];
  ASSERT_EQ(keys.combination.begin[index + 1] - begin, expected.size());
  for (std::size_t p = 0; p < expected.size(); ++p) {
    const Piece& piece = keys.combination.pieces[begin + p];
    ASSERT_LT(piece.row, keys.keys.size());
    ASSERT_EQ(keys.keys[piece.row], expected[p].row);
    ASSERT_EQ(piece.source, expected[p].source);
    ASSERT_EQ(piece.length, expected[p].length);
    ASSERT_EQ(piece.target, expected[p].target);
    ASSERT_EQ(piece.coefficient, expected[p].coefficient);
    ++(*counts)[expected[p].row];
  }
}

void ExpectRight(const JobPlan& plan, const std::vector<std::uint32_t>& map, std::uint32_t shards,
                 const Batch& batch, const StepKeys& got) {
  ASSERT_EQ(got.groups.size(), plan.groups.size());
  for (std::size_t g = 0; g < plan.groups.size(); ++g) {
    const KeyGroup& group = plan.groups[g];
    const GroupKeys& keys = got.groups[g];
    std::map<Key, std::uint32_t> counts;
    std::set<Key> values;
    ASSERT_EQ(keys.indices.size(), group.fields.size());
    for (std::size_t f = 0; f < group.fields.size(); ++f) {
      const std::vector<Key>& column = batch.sparse[group.fields[f]].keys;
      ASSERT_EQ(keys.indices[f].size(), column.size());
      for (std::size_t i = 0; i < column.size(); ++i) {
        values.insert(column[i]);
        ASSERT_NO_FATAL_FAILURE(ExpectReads(group, keys, keys.indices[f][i], column[i], &counts));
      }
    }
    ASSERT_EQ(keys.combination.vectors(), group.addresser.has_value() ? values.size() : 0u);
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
