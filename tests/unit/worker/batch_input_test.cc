#include "worker/batch_input.h"

#include <gtest/gtest.h>

#include "proto/frame.h"
#include "tests/unit/proto/test_plan.h"
#include "tests/unit/worker/memory_data.h"

namespace plexus {
namespace {

// Value of element e of a key's row of a table, and of a dense float: recognisable.
float RowFloat(std::uint32_t table, Key key, std::uint32_t e) {
  return static_cast<float>(1000 * table + 10 * key + e);
}

struct Problem {
  std::shared_ptr<const JobPlan> plan;
  PreparedBatch batch;
  std::vector<std::vector<std::uint32_t>> shard_blocks;
  std::vector<Bytes> replies;

  explicit Problem(std::uint32_t shards)
      : plan(PlanOf(kSmallJob, {"cluster.servers=" + std::to_string(shards)})),
        shard_blocks(shards) {
    batch.batch = MemoryData(plan).MakeBatch(proto::Phase::TRAINING, 0, 0, 0);
    StepKeysBuilder builder(*plan, InitialBucketMap(plan->buckets(), shards), shards);
    builder.Build(batch.batch, &batch.keys);
    for (std::uint32_t b = 0; b < plan->dense.blocks().size(); ++b) {
      shard_blocks[b % shards].push_back(b);
    }
    for (std::uint32_t s = 0; s < shards; ++s) {
      std::vector<float> floats;
      for (std::size_t g = 0; g < plan->groups.size(); ++g) {
        const GroupKeys& keys = batch.keys.groups[g];
        for (const std::uint32_t table : plan->groups[g].tables) {
          for (std::uint32_t i = keys.shard_begin[s]; i < keys.shard_begin[s + 1]; ++i) {
            for (std::uint32_t e = 0; e < plan->tables[table].dim; ++e) {
              floats.push_back(RowFloat(table, keys.keys[i], e));
            }
          }
        }
      }
      for (const std::uint32_t b : shard_blocks[s]) {
        for (std::uint32_t i = 0; i < plan->dense.blocks()[b].count; ++i) {
          floats.push_back(static_cast<float>(plan->dense.blocks()[b].offset + i));
        }
      }
      replies.push_back(MakeFrame(
          {}, {reinterpret_cast<const char*>(floats.data()), floats.size() * sizeof(float)}));
    }
  }
};

void ExpectReads(const Problem& problem, std::uint32_t field, std::uint32_t table,
                 const Lookup& lookup) {
  const std::uint64_t rows = problem.plan->groups[problem.plan->fields[field].group].array_rows;
  ASSERT_EQ(lookup.dim, problem.plan->tables[table].dim);
  ASSERT_EQ(lookup.indices.size(), problem.batch.batch.samples);
  for (std::uint32_t i = 0; i < problem.batch.batch.samples; ++i) {
    const Key raw = problem.batch.batch.sparse[field].keys[i];
    const Key key = rows > 0 ? raw % rows : raw;
    for (std::uint32_t e = 0; e < lookup.dim; ++e) {
      ASSERT_EQ(lookup.rows[lookup.indices[i] * lookup.dim + e], RowFloat(table, key, e));
    }
  }
}

TEST(BatchInputTest, ModelsReadTheRowsOfAnyNumberOfShards) {
  for (const std::uint32_t shards : {1u, 2u, 3u}) {
    const Problem problem(shards);
    BatchInput input(problem.plan, 0, problem.shard_blocks);
    input.TakeReplies(problem.batch, problem.replies, true);
    const ModelInput& made = input.Make(problem.batch, 9, true);
    EXPECT_EQ(made.step, 9u);
    EXPECT_EQ(made.samples, problem.batch.batch.samples);
    ASSERT_EQ(made.embeddings.size(), 3u);
    ASSERT_EQ(made.linears.size(), 3u);
    for (std::uint32_t f = 0; f < 3; ++f) {
      const FieldTables& field = problem.plan->fields[f];
      ASSERT_NO_FATAL_FAILURE(ExpectReads(problem, f, field.embedding, made.embeddings[f]));
      ASSERT_NO_FATAL_FAILURE(ExpectReads(problem, f, field.linear, made.linears[f]));
    }
    for (const DenseBlock& block : problem.plan->dense.blocks()) {
      for (std::uint32_t i = 0; i < block.count; ++i) {
        ASSERT_EQ(input.dense_values()[block.offset + i], static_cast<float>(block.offset + i));
      }
    }
  }
}

TEST(BatchInputTest, GradientsStartAtZeroAndAreClipped) {
  const Problem problem(2);
  BatchInput input(problem.plan, 0, problem.shard_blocks);
  for (int round = 0; round < 2; ++round) {
    input.TakeReplies(problem.batch, problem.replies, true);
    const ModelInput& made = input.Make(problem.batch, 1, true);
    ASSERT_EQ(made.embeddings[0].row_gradients[0], 0.0f);
    made.embeddings[0].row_gradients[0] = 5;
    made.embeddings[0].row_gradients[1] = -5;
    EXPECT_EQ(made.embeddings[0].row_gradients, made.embeddings[1].row_gradients)
        << "fields that share a table share its gradients";
    input.ClipGradients(2);
    EXPECT_EQ(input.gradients()[0][0][0], 2.0f);
    EXPECT_EQ(input.gradients()[0][0][1], -2.0f);
  }
}

TEST(BatchInputTest, PredictionsHaveNoGradientsAndKeepDenseValues) {
  const Problem problem(1);
  BatchInput input(problem.plan, 0, problem.shard_blocks);
  input.TakeReplies(problem.batch, problem.replies, true);
  const std::vector<float> dense(input.dense_values().begin(), input.dense_values().end());
  input.TakeReplies(problem.batch, problem.replies, false);
  EXPECT_EQ(std::vector<float>(input.dense_values().begin(), input.dense_values().end()), dense);
  EXPECT_EQ(input.Make(problem.batch, 1, false).embeddings[0].row_gradients, nullptr);
}

}  // namespace
}  // namespace plexus
