#include "ps/shard_state.h"

#include <memory>
#include <vector>

#include <gtest/gtest.h>

#include "tests/unit/ps/shard_testing.h"

namespace plexus {
namespace {

// Floats of the blocks that shard `shard` owns, cut out of all blocks' floats.
std::vector<float> DenseOf(const JobPlan& plan, const ShardState& state,
                           const std::vector<float>& all) {
  std::vector<float> mine;
  std::vector<std::size_t> begin = {0};
  for (const DenseBlock& block : plan.dense.blocks()) {
    begin.push_back(begin.back() + block.count);
  }
  for (const std::uint32_t b : state.dense().blocks()) {
    mine.insert(mine.end(), all.begin() + static_cast<std::ptrdiff_t>(begin[b]),
                all.begin() + static_cast<std::ptrdiff_t>(begin[b + 1]));
  }
  return mine;
}

// What of `push` belongs to shard `shard` of `shards`.
OwnedPush PartOf(const JobPlan& plan, const OwnedPush& push, const ShardState& state,
                 std::uint32_t shard, std::uint32_t shards) {
  OwnedPush part;
  part.rank = push.rank;
  part.samples = push.samples;
  part.dense = DenseOf(plan, state, push.dense);
  for (std::size_t g = 0; g < push.keys.size(); ++g) {
    part.keys.emplace_back();
    part.counts.emplace_back();
    part.gradients.emplace_back(push.gradients[g].size());
    for (std::size_t i = 0; i < push.keys[g].size(); ++i) {
      const Key key = push.keys[g][i];
      const std::uint32_t bucket = plan.groups[g].array_rows > 0 ? BucketOfRow(key, plan.buckets())
                                                                 : BucketOfKey(key, plan.buckets());
      if (bucket % shards != shard) {
        continue;
      }
      part.keys[g].push_back(key);
      part.counts[g].push_back(push.counts[g][i]);
      for (std::size_t t = 0; t < push.gradients[g].size(); ++t) {
        const std::uint32_t dim = plan.tables[plan.groups[g].tables[t]].dim;
        const float* from = push.gradients[g][t].data() + i * dim;
        part.gradients[g][t].insert(part.gradients[g][t].end(), from, from + dim);
      }
    }
  }
  return part;
}

struct Norms {
  Digest128 digest;
  std::map<std::uint32_t, double> squares;
};

Norms Train(std::uint32_t shards) {
  const auto plan =
      PlanOf(kSmallJob, {"cluster.servers=" + std::to_string(shards), "model.hidden=8,5"});
  std::uint64_t floats = 0;
  for (const DenseBlock& block : plan->dense.blocks()) {
    floats += block.count;
  }
  std::vector<std::unique_ptr<ShardState>> states;
  for (std::uint32_t s = 0; s < shards; ++s) {
    states.push_back(std::make_unique<ShardState>(plan, s, shards));
  }
  Draws draws(8);
  Norms result;
  for (std::uint64_t step = 1; step <= 6; ++step) {
    std::vector<OwnedPush> pushes;
    for (std::uint32_t rank = 0; rank < 2; ++rank) {
      pushes.push_back(RandomPush(&draws, *plan, rank, floats));
    }
    for (std::uint32_t s = 0; s < shards; ++s) {
      const OwnedPush first = PartOf(*plan, pushes[0], *states[s], s, shards);
      const OwnedPush second = PartOf(*plan, pushes[1], *states[s], s, shards);
      const PushBody bodies[] = {first.Body(), second.Body()};
      const PushBody* parts[] = {&bodies[0], &bodies[1]};
      for (const proto::BlockNorm& norm : states[s]->DenseNorms(parts)) {
        result.squares[norm.block()] += norm.sum_of_squares();
      }
      states[s]->ApplyStep(step, parts, 0.5f, 0.25f);
    }
  }
  for (const auto& state : states) {
    result.digest += state->Digest();
  }
  return result;
}

TEST(ShardStateTest, DigestAndNormsDoNotDependOnTheNumberOfShards) {
  SCOPED_TRACE(SeedNote());
  const Norms one = Train(1);
  for (const std::uint32_t shards : {2u, 3u, 5u}) {
    const Norms several = Train(shards);
    EXPECT_EQ(several.digest, one.digest) << shards << " shards";
    EXPECT_EQ(several.squares, one.squares) << shards << " shards";
  }
}

TEST(ShardStateTest, PullRepliesHoldGroupsTablesThenDense) {
  const auto plan = PlanOf(kSmallJob);
  const ShardState state(plan, 0, 1);
  const std::vector<Key> hashed = {7, 1ULL << 60};
  const std::vector<Key> rows = {39};
  PullBody pull;
  pull.groups.resize(2);
  pull.groups[0].group = 0;
  pull.groups[0].keys = hashed;
  pull.groups[1].group = 1;
  pull.groups[1].keys = rows;
  const std::uint64_t dense = state.dense_extent().values;
  std::vector<float> reply(PullReplyBytes(*plan, pull, dense) / sizeof(float));
  state.WritePullReply(pull, true, reinterpret_cast<std::uint8_t*>(reply.data()));
  std::vector<float> expected(2 * (3 + 1) + 3 + 1 + dense);
  state.table(0).Pull(hashed, expected.data());
  state.table(1).Pull(hashed, expected.data() + 6);
  state.table(2).Pull(rows, expected.data() + 8);
  state.table(3).Pull(rows, expected.data() + 11);
  state.dense().CopyValues(expected.data() + 12);
  EXPECT_EQ(reply, expected);
  EXPECT_EQ(state.Usage()[0].rows(), 0u) << "a pull makes no rows";
}

TEST(ShardStateTest, AStepWithoutSamplesChangesNothing) {
  const auto plan = PlanOf(kSmallJob);
  ShardState state(plan, 0, 1);
  const Digest128 before = state.Digest();
  Draws draws(5);
  OwnedPush push = RandomPush(&draws, *plan, 0, state.dense_extent().values);
  push.samples = 0;
  const PushBody body = push.Body();
  const PushBody* part = &body;
  state.ApplyStep(1, {&part, 1}, 1, 1);
  EXPECT_EQ(state.Digest(), before);
  EXPECT_TRUE(state.DenseNorms({&part, 1}).empty());
}

TEST(ShardStateTest, SummedTablesAreNotDividedBySamples) {
  const std::string job = R"(
    data { train: "none" fields { name: "C1" tables: "counters" } }
    tables { name: "counters" dim: 1 init { kind: CONSTANT scale: 0 }
             optimizer { kind: SGD learning_rate: 1 } reduction: SUM }
    model { name: "counter" } train { ranks: 1 batch_size: 8 } cluster { buckets: 8 })";
  const auto plan = PlanOf(job);
  ShardState state(plan, 0, 1);
  OwnedPush push;
  push.samples = 4;
  push.keys = {{9}};
  push.counts = {{4}};
  push.gradients = {{{5.0f}}};
  const PushBody body = push.Body();
  const PushBody* part = &body;
  state.ApplyStep(1, {&part, 1}, 1, 1);
  float value = 0;
  const Key key = 9;
  state.table(0).Pull({&key, 1}, &value);
  EXPECT_EQ(value, -5.0f);
}

TEST(ShardStateTest, DenseStateReplacesValuesAndState) {
  const auto plan = PlanOf(kSmallJob);
  ShardState trained(plan, 0, 1);
  Draws draws(6);
  const OwnedPush push = RandomPush(&draws, *plan, 0, trained.dense_extent().values);
  const PushBody body = push.Body();
  const PushBody* part = &body;
  trained.ApplyStep(1, {&part, 1}, 1, 1);
  ShardState other(plan, 0, 1);
  PushBody replace;
  replace.dense_state = trained.dense().everything();
  const PushBody* replacement = &replace;
  other.ApplyStep(1, {&replacement, 1}, 1, 1);
  EXPECT_EQ(other.dense().Digest(), trained.dense().Digest());
}

TEST(ShardStateTest, DigestHexHasAllDigits) {
  EXPECT_EQ(DigestHex({.low = 0xab, .high = 1}), "000000000000000100000000000000ab");
}

}  // namespace
}  // namespace plexus
