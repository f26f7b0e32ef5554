#include "worker/batch_input.h"

#include <map>
#include <string>
#include <utility>
#include <vector>

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

std::vector<std::string> WithServers(std::uint32_t shards, std::vector<std::string> overrides) {
  overrides.push_back("cluster.servers=" + std::to_string(shards));
  return overrides;
}

struct Problem {
  std::shared_ptr<const JobPlan> plan;
  PreparedBatch batch;
  std::vector<std::vector<std::uint32_t>> shard_blocks;
  std::vector<Bytes> replies;

  explicit Problem(std::uint32_t shards, std::vector<std::string> overrides = {})
      : plan(PlanOf(kSmallJob, WithServers(shards, std::move(overrides)))), shard_blocks(shards) {
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
        for (std::size_t t = 0; t < plan->groups[g].tables.size(); ++t) {
          for (std::uint32_t i = keys.shard_begin[s]; i < keys.shard_begin[s + 1]; ++i) {
            for (std::uint32_t e = 0; e < plan->groups[g].dims[t]; ++e) {
              floats.push_back(RowFloat(plan->groups[g].tables[t], keys.keys[i], e));
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
                 std::uint32_t group, const Lookup& lookup) {
  const std::uint64_t rows = problem.plan->groups[group].array_rows;
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
      ASSERT_NO_FATAL_FAILURE(
          ExpectReads(problem, f, field.embedding, field.embedding_group, made.embeddings[f]));
      ASSERT_NO_FATAL_FAILURE(
          ExpectReads(problem, f, field.linear, field.linear_group, made.linears[f]));
    }
    for (const DenseBlock& block : problem.plan->dense.blocks()) {
      for (std::uint32_t i = 0; i < block.count; ++i) {
        ASSERT_EQ(input.dense_values()[block.offset + i], static_cast<float>(block.offset + i));
      }
    }
  }
}

// Table 2, of field 2, read through an addresser: vectors, and their gradients in rows, element by
// element.
TEST(BatchInputTest, AddressersCombineRowsAndSpreadGradients) {
  constexpr std::uint32_t kTable = 2;
  constexpr std::uint32_t kField = 2;
  for (const std::string kind : {"DOUBLE_HASH", "QUOTIENT_REMAINDER", "ROBE"}) {
    for (const std::uint32_t shards : {1u, 3u}) {
      std::vector<std::string> overrides = {"tables.array.addresser.kind=" + kind};
      if (kind == "ROBE") {
        overrides.emplace_back("tables.array.addresser.piece=1");
      }
      const Problem problem(shards, overrides);
      BatchInput input(problem.plan, 0, problem.shard_blocks);
      input.TakeReplies(problem.batch, problem.replies, true);
      const Lookup lookup = input.Make(problem.batch, 9, true).embeddings[kField];
      const std::uint32_t g = problem.plan->fields[kField].embedding_group;
      ASSERT_TRUE(problem.plan->groups[g].addresser.has_value());
      const Addresser addresser(*problem.plan->groups[g].addresser);
      const GroupKeys& keys = problem.batch.keys.groups[g];
      std::map<std::pair<Key, std::uint32_t>, float> expected;  // (row, element) -> gradient
      const std::vector<Key>& raw = problem.batch.batch.sparse[kField].keys;
      for (std::size_t i = 0; i < raw.size(); ++i) {
        std::vector<Piece> pieces;
        addresser.AppendPieces(raw[i], &pieces);
        std::vector<float> vector(3, 0.0f);
        for (const Piece& piece : pieces) {
          for (std::uint32_t e = 0; e < piece.length; ++e) {
            const std::uint32_t source = piece.source + e;
            vector[piece.target + e] += piece.coefficient * RowFloat(kTable, piece.row, source);
            expected[{piece.row, source}] +=
                piece.coefficient * static_cast<float>(1 + i + piece.target + e);
          }
        }
        for (std::uint32_t e = 0; e < 3; ++e) {
          ASSERT_EQ(lookup.rows[lookup.indices[i] * 3 + e], vector[e]);
          lookup.row_gradients[lookup.indices[i] * 3 + e] += static_cast<float>(1 + i + e);
        }
      }
      input.SpreadGradients(problem.batch);
      const float* gradients = input.gradients()[g][0];
      for (std::size_t k = 0; k < keys.keys.size(); ++k) {
        for (std::uint32_t e = 0; e < 3; ++e) {
          ASSERT_EQ(gradients[k * 3 + e], (expected[{keys.keys[k], e}]));
        }
      }
    }
  }
}

// The replies of `problem` with rows in the pull precision.
std::vector<Bytes> Narrowed(const Problem& problem) {
  std::vector<Bytes> narrowed;
  for (std::uint32_t s = 0; s < problem.replies.size(); ++s) {
    const auto body = BodyOf(problem.replies[s]);
    const auto* floats = reinterpret_cast<const float*>(body.data());
    const auto* end = floats + body.size() / sizeof(float);
    std::string wire;
    for (std::size_t g = 0; g < problem.plan->groups.size(); ++g) {
      const GroupKeys& keys = problem.batch.keys.groups[g];
      for (const std::uint32_t dim : problem.plan->groups[g].dims) {
        for (std::uint32_t i = keys.shard_begin[s]; i < keys.shard_begin[s + 1]; ++i) {
          const Precision precision = PullPrecision(*problem.plan);
          std::vector<std::uint8_t> row(WireRowBytes(precision, dim));
          EncodeWireRow(precision, floats, dim, row.data());
          wire.append(row.begin(), row.end());
          floats += dim;
        }
      }
    }
    wire.append(reinterpret_cast<const char*>(floats), reinterpret_cast<const char*>(end));
    narrowed.push_back(MakeFrame({}, wire));
  }
  return narrowed;
}

TEST(BatchInputTest, RowsInFewerBytesAreReadAsFloats) {
  for (const std::string precision : {"BF16", "F16", "INT8"}) {
    for (const std::uint32_t shards : {1u, 3u}) {
      const Problem problem(shards, {"train.pull_precision=" + precision});
      BatchInput input(problem.plan, 0, problem.shard_blocks);
      input.TakeReplies(problem.batch, Narrowed(problem), true);
      const ModelInput& made = input.Make(problem.batch, 9, true);
      for (std::uint32_t f = 0; f < 3; ++f) {
        const Lookup& lookup = made.embeddings[f];
        const FieldTables& field = problem.plan->fields[f];
        const std::uint64_t rows = problem.plan->groups[field.embedding_group].array_rows;
        for (std::uint32_t i = 0; i < problem.batch.batch.samples; ++i) {
          const Key raw = problem.batch.batch.sparse[f].keys[i];
          const Key key = rows > 0 ? raw % rows : raw;
          std::vector<float> whole(lookup.dim);
          for (std::uint32_t e = 0; e < lookup.dim; ++e) {
            whole[e] = RowFloat(field.embedding, key, e);
          }
          std::vector<std::uint8_t> wire(WireRowBytes(PullPrecision(*problem.plan), whole.size()));
          std::vector<float> expected(lookup.dim);
          EncodeWireRow(PullPrecision(*problem.plan), whole.data(), whole.size(), wire.data());
          DecodeWireRow(PullPrecision(*problem.plan), wire.data(), whole.size(), expected.data());
          const float* read = lookup.rows + std::size_t{lookup.indices[i]} * lookup.dim;
          ASSERT_EQ(std::vector<float>(read, read + lookup.dim), expected) << precision;
        }
      }
      for (const DenseBlock& block : problem.plan->dense.blocks()) {
        ASSERT_EQ(input.dense_values()[block.offset], static_cast<float>(block.offset));
      }
    }
  }
}

TEST(BatchInputTest, NarrowFieldsReadAndWriteTheFirstElements) {
  const Problem problem(2, {"data.fields.C2.dim=2"});
  BatchInput input(problem.plan, 0, problem.shard_blocks);
  input.TakeReplies(problem.batch, problem.replies, true);
  const ModelInput& made = input.Make(problem.batch, 9, true);
  EXPECT_EQ(made.embeddings[0].dim, 3u);
  const Lookup& narrow = made.embeddings[1];
  ASSERT_EQ(narrow.dim, 2u);
  const std::vector<Key>& keys = problem.batch.batch.sparse[1].keys;
  for (std::size_t i = 0; i < keys.size(); ++i) {
    for (std::uint32_t e = 0; e < 2; ++e) {
      ASSERT_EQ(narrow.rows[narrow.indices[i] * 2 + e], RowFloat(0, keys[i], e));
    }
  }
  const std::uint32_t g = problem.plan->fields[1].embedding_group;
  EXPECT_NE(g, problem.plan->fields[0].embedding_group);
  narrow.row_gradients[narrow.indices[0] * 2 + 1] = 7;
  input.SpreadGradients(problem.batch);
  EXPECT_EQ(input.gradients()[g][0][narrow.indices[0] * 2 + 1], 7.0f);
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
