// Whole small jobs: scheduler, shards and ranks in one thread.
#include "worker/rank_trainer.h"

#include <algorithm>
#include <cmath>
#include <map>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "tests/unit/ps/shard_testing.h"
#include "tests/unit/worker/loopback.h"
#include "worker/dense_replica.h"

namespace plexus {
namespace {

using testing::HasSubstr;

using Overrides = std::vector<std::string>;

std::shared_ptr<const JobPlan> Plan(std::uint32_t shards, std::uint32_t workers,
                                    const Overrides& more) {
  Overrides overrides = {"train.ranks=3", "train.batch_size=12", "train.epochs=2",
                         "cluster.servers=" + std::to_string(shards),
                         "cluster.workers=" + std::to_string(workers)};
  overrides.insert(overrides.end(), more.begin(), more.end());
  return PlanOf(kSmallJob, overrides);
}

// What the model computes on a batch with the oracle's values.
struct NaiveStep {
  OwnedPush push;
  std::vector<float> logits;
};

// The oracle's dense values as a model reads them.
std::vector<float> FlatDense(const JobPlan& plan, const StepOracle& oracle) {
  std::vector<float> flat(plan.dense.size(), 0.0f);
  const std::vector<float> packed = oracle.DenseValues();
  std::size_t first = 0;
  for (const DenseBlock& block : plan.dense.blocks()) {
    std::copy_n(packed.data() + first, block.count, flat.data() + block.offset);
    first += block.count;
  }
  return flat;
}

// What the fields of one group read: pulled rows, or vectors made of them.
struct NaiveGroup {
  std::vector<Key> keys;  // Of what is read, in the order in which they first occur.
  std::vector<std::uint32_t> counts;
  std::map<std::uint32_t, std::vector<std::uint32_t>> indices;  // By field.
  std::vector<std::vector<Piece>> pieces;                       // Of each vector.
  std::vector<std::vector<float>> values;                       // [table] -> [keys x dim]
  std::vector<std::vector<float>> gradients;
};

std::uint32_t PositionOf(Key key, std::uint32_t count, std::vector<Key>* keys,
                         std::vector<std::uint32_t>* counts) {
  const auto at =
      static_cast<std::size_t>(std::find(keys->begin(), keys->end(), key) - keys->begin());
  if (at == keys->size()) {
    keys->push_back(key);
    counts->push_back(0);
  }
  (*counts)[at] += count;
  return static_cast<std::uint32_t>(at);
}

NaiveGroup ReadGroup(const KeyGroup& group, const StepOracle& oracle, const Batch& batch) {
  NaiveGroup read;
  for (const std::uint32_t field : group.fields) {
    for (const Key raw : batch.sparse[field].keys) {
      const bool modulo = group.array_rows > 0 && !group.addresser.has_value();
      const Key key = modulo ? raw % group.array_rows : raw;
      read.indices[field].push_back(PositionOf(key, 1, &read.keys, &read.counts));
    }
  }
  for (std::size_t v = 0; v < read.keys.size() && group.addresser.has_value(); ++v) {
    Addresser(*group.addresser).AppendPieces(read.keys[v], &read.pieces.emplace_back());
  }
  for (std::size_t t = 0; t < group.tables.size(); ++t) {
    const std::uint32_t dim = group.dims[t];
    std::vector<float>& values = read.values.emplace_back(read.keys.size() * dim, 0.0f);
    for (std::size_t i = 0; i < read.keys.size(); ++i) {
      if (!group.addresser.has_value()) {
        std::copy_n(oracle.Values(group.tables[t], read.keys[i]).begin(), dim, &values[i * dim]);
        continue;
      }
      for (const Piece& piece : read.pieces[i]) {
        const std::vector<float> row = oracle.Values(group.tables[t], piece.row);
        for (std::size_t e = 0; e < piece.length; ++e) {
          values[i * dim + piece.target + e] += piece.coefficient * row[piece.source + e];
        }
      }
    }
    read.gradients.emplace_back(values.size(), 0.0f);
  }
  return read;
}

// The group's part of the push: gradients of rows.
void PushGroup(const KeyGroup& group, const NaiveGroup& read, OwnedPush* push) {
  if (!group.addresser.has_value()) {
    push->keys.push_back(read.keys);
    push->counts.push_back(read.counts);
    push->gradients.push_back(read.gradients);
    return;
  }
  std::vector<Key>& rows = push->keys.emplace_back();
  std::vector<std::uint32_t>& counts = push->counts.emplace_back();
  const std::uint32_t dim = group.dims[0];
  std::vector<float> gradients;
  for (std::size_t i = 0; i < read.keys.size(); ++i) {
    for (const Piece& piece : read.pieces[i]) {
      const std::size_t at = PositionOf(piece.row, read.counts[i], &rows, &counts);
      gradients.resize(rows.size() * dim, 0.0f);
      for (std::size_t e = 0; e < piece.length; ++e) {
        gradients[at * dim + piece.source + e] +=
            piece.coefficient * read.gradients[0][i * dim + piece.target + e];
      }
    }
  }
  push->gradients.push_back({gradients});
}

Lookup LookupOf(const KeyGroup& group, std::uint32_t table, std::uint32_t field, bool train,
                NaiveGroup* read) {
  const auto t = static_cast<std::size_t>(
      std::find(group.tables.begin(), group.tables.end(), table) - group.tables.begin());
  Lookup lookup;
  lookup.dim = group.dims[t];
  lookup.rows = read->values[t].data();
  lookup.row_gradients = train ? read->gradients[t].data() : nullptr;
  lookup.indices = read->indices[field];
  return lookup;
}

NaiveStep Compute(const JobPlan& plan, Model* model, const StepOracle& oracle, const Batch& batch,
                  std::uint32_t rank, std::uint64_t step, bool train) {
  NaiveStep result;
  OwnedPush& push = result.push;
  push.rank = rank;
  push.samples = batch.samples;
  std::vector<NaiveGroup> groups;
  for (const KeyGroup& group : plan.groups) {
    groups.push_back(ReadGroup(group, oracle, batch));
  }
  ModelInput input;
  input.samples = batch.samples;
  input.labels = batch.labels;
  input.dense = batch.dense;
  input.seed = plan.seed();
  input.step = step;
  input.rank = rank;
  for (std::uint32_t f = 0; f < plan.fields.size(); ++f) {
    const FieldTables& field = plan.fields[f];
    if (field.embedding != kNoTable) {
      const std::uint32_t g = field.embedding_group;
      input.embeddings.push_back(LookupOf(plan.groups[g], field.embedding, f, train, &groups[g]));
    }
    if (field.linear != kNoTable) {
      const std::uint32_t g = field.linear_group;
      input.linears.push_back(LookupOf(plan.groups[g], field.linear, f, train, &groups[g]));
    }
  }
  const std::vector<float> values = FlatDense(plan, oracle);
  std::vector<float> gradients(plan.dense.size(), 0.0f);
  result.logits.resize(batch.samples);
  push.loss_sum = model->Step(input, values, train ? gradients.data() : nullptr, result.logits);
  for (std::size_t g = 0; g < plan.groups.size(); ++g) {
    PushGroup(plan.groups[g], groups[g], &push);
  }
  for (const DenseBlock& block : plan.dense.blocks()) {
    push.dense.insert(push.dense.end(), gradients.data() + block.offset,
                      gradients.data() + block.offset + block.count);
  }
  return result;
}

void Clip(float bound, OwnedPush* push) {
  const auto clip = [bound](std::vector<float>& floats) {
    for (float& value : floats) {
      value = std::clamp(value, -bound, bound);
    }
  };
  clip(push->dense);
  for (auto& group : push->gradients) {
    std::for_each(group.begin(), group.end(), clip);
  }
}

// Trains as BSP says, one batch after the other; returns the loss of the last epoch.
double TrainNaively(const JobPlan& plan, const MemoryData& data, StepOracle* oracle) {
  const std::unique_ptr<Model> model = MakeModel(plan).value();
  std::uint64_t step = 0;
  double loss = 0;
  for (std::uint32_t epoch = 0; epoch < plan.job.train().epochs(); ++epoch) {
    loss = 0;
    for (std::uint32_t index = 0; index < 6; ++index) {
      ++step;
      std::vector<OwnedPush> pushes;
      for (std::uint32_t rank = 0; rank < plan.ranks(); ++rank) {
        if (index >= data.BatchCount(proto::Phase::TRAINING, rank) ||
            data.IsPoisoned(rank, epoch, index)) {
          continue;
        }
        const Batch batch = data.MakeBatch(proto::Phase::TRAINING, rank, epoch, index);
        pushes.push_back(Compute(plan, model.get(), *oracle, batch, rank, step, true).push);
        loss += pushes.back().loss_sum;
        if (const double clip = plan.job.train().clip_value(); clip > 0) {
          Clip(static_cast<float>(clip * batch.samples), &pushes.back());
        }
      }
      oracle->ApplyStep(pushes, RateFactor(plan.job.train().schedule(), step));
    }
  }
  return loss;
}

void ExpectSameModel(const JobPlan& plan, const Shard& shard, const StepOracle& oracle) {
  for (std::uint32_t t = 0; t < plan.tables.size(); ++t) {
    EXPECT_EQ(shard.state().table(t).row_count(), oracle.row_count(t));
    shard.state().table(t).ForEachRow([&](const RowView& row) {
      const std::vector<float> values = oracle.Values(t, row.key);
      EXPECT_TRUE(std::equal(values.begin(), values.end(), row.floats().begin()))
          << "table " << t << " key " << row.key;
    });
  }
  std::vector<float> values(shard.state().dense_extent().values);
  shard.state().dense().CopyValues(values.data());
  EXPECT_EQ(values, oracle.DenseValues());
}

TEST(RankTrainerTest, BspIsASequentialTrainerBitForBit) {
  for (const Overrides& more : {Overrides{}, Overrides{"train.clip_value=0.01"},
                                Overrides{"model.name=lr", "train.schedule.warmup_steps=4"},
                                Overrides{"model.dropout=0.5", "train.schedule.decay=COSINE",
                                          "train.schedule.decay_steps=9"},
                                Overrides{"data.fields.C2.tables=array,linear"}}) {
    SCOPED_TRACE(more.empty() ? "" : more[0]);
    const auto plan = Plan(1, 1, more);
    Loopback job(plan);
    ASSERT_TRUE(job.Run());
    ASSERT_EQ(job.scheduler().stop()->exit_code(), 0) << job.scheduler().stop()->reason();
    EXPECT_EQ(job.scheduler().version(), 12u) << "two epochs of the longest rank";
    StepOracle oracle(plan);
    const double loss = TrainNaively(*plan, job.data(), &oracle);
    ExpectSameModel(*plan, job.shard(0), oracle);
    EXPECT_NEAR(job.scheduler().totals().epoch_loss_sum, loss, 1e-9);
  }
}

// All keys on one row, two hashes, quotients and remainders, pieces: one update a physical row and
// step, with the sum of all that touched it.
TEST(RankTrainerTest, AddressersAreASequentialTrainerBitForBit) {
  const Overrides adagrad = {"tables.array.optimizer.kind=ADAGRAD",
                             "tables.array_linear.optimizer.kind=ADAGRAD"};
  for (const Overrides& more :
       {Overrides{"tables.array.rows=1", "tables.array_linear.rows=1"},
        Overrides{"tables.array.addresser.kind=DOUBLE_HASH", "tables.array.rows=1",
                  "tables.array_linear.rows=7"},
        Overrides{"tables.array.addresser.kind=DOUBLE_HASH",
                  "tables.array_linear.addresser.kind=DOUBLE_HASH", "train.clip_value=0.01"},
        Overrides{"tables.array.addresser.kind=QUOTIENT_REMAINDER",
                  "tables.array.addresser.remainders=7",
                  "tables.array_linear.addresser.kind=QUOTIENT_REMAINDER"},
        Overrides{"tables.array.addresser.kind=ROBE", "tables.array.addresser.piece=1",
                  "data.fields.C2.tables=array,linear", "train.clip_value=0.01"},
        Overrides{"tables.array.addresser.kind=ROBE", "tables.array.rows=1"}}) {
    SCOPED_TRACE(testing::PrintToString(more));
    Overrides overrides = adagrad;
    overrides.insert(overrides.end(), more.begin(), more.end());
    const auto plan = Plan(1, 1, overrides);
    Loopback job(plan);
    ASSERT_TRUE(job.Run());
    ASSERT_EQ(job.scheduler().stop()->exit_code(), 0) << job.scheduler().stop()->reason();
    StepOracle oracle(plan);
    TrainNaively(*plan, job.data(), &oracle);
    ExpectSameModel(*plan, job.shard(0), oracle);
  }
}

// Fields of fewer elements than their table has, tables of fewer than the model reads.
TEST(RankTrainerTest, NarrowFieldsAreASequentialTrainerBitForBit) {
  for (const Overrides& more :
       {Overrides{"data.fields.C2.dim=2"}, Overrides{"data.fields.C1.dim=1", "tables.array.dim=5"},
        Overrides{"model.name=dcnv2", "data.fields.C2.dim=2", "tables.array.dim=5"},
        Overrides{"data.fields.C3.dim=2", "tables.array.addresser.kind=DOUBLE_HASH"},
        Overrides{"data.fields.C2.dim=2", "data.fields.C3.dim=2", "train.clip_value=0.01",
                  "tables.array.optimizer.kind=ADAGRAD"}}) {
    SCOPED_TRACE(testing::PrintToString(more));
    const auto plan = Plan(1, 1, more);
    Loopback job(plan);
    ASSERT_TRUE(job.Run());
    ASSERT_EQ(job.scheduler().stop()->exit_code(), 0) << job.scheduler().stop()->reason();
    StepOracle oracle(plan);
    TrainNaively(*plan, job.data(), &oracle);
    ExpectSameModel(*plan, job.shard(0), oracle);
  }
}

TEST(RankTrainerTest, AVectorOfOneWholeRowIsTheRow) {
  // As many rows as keys: vectors of two keys would be summed in another order than a row's
  // samples.
  const Overrides overrides = {"model.name=fnn", "tables.array.rows=60",
                               "tables.array.optimizer.kind=ADAM"};
  for (const std::uint32_t shards : {1u, 2u}) {
    const auto plain = Plan(shards, 1, overrides);
    JobPlan made = *plain;
    KeyGroup& group = made.groups[made.fields[2].embedding_group];
    ASSERT_EQ(group.array_rows, 60u);
    group.addresser = {.kind = proto::Addresser::HASH, .rows = 60, .dim = group.dims[0]};
    Loopback rows(plain);
    Loopback vectors(std::make_shared<const JobPlan>(made));
    ASSERT_TRUE(rows.Run());
    ASSERT_TRUE(vectors.Run());
    EXPECT_EQ(rows.digest(), vectors.digest());
  }
}

struct Variant {
  const char* name;
  Overrides overrides;
};

class AnyClusterTest : public testing::TestWithParam<Variant> {};

TEST_P(AnyClusterTest, GivesTheSameBits) {
  Digest128 expected;
  for (const auto& [shards, workers] :
       {std::pair{1, 1}, std::pair{2, 1}, std::pair{3, 2}, std::pair{1, 3}, std::pair{2, 3}}) {
    Loopback job(Plan(static_cast<std::uint32_t>(shards), static_cast<std::uint32_t>(workers),
                      GetParam().overrides));
    ASSERT_TRUE(job.Run());
    ASSERT_EQ(job.scheduler().stop()->exit_code(), 0) << job.scheduler().stop()->reason();
    EXPECT_FALSE(job.scheduler().totals().inexact);
    if (shards == 1 && workers == 1) {
      expected = job.digest();
    }
    EXPECT_EQ(job.digest(), expected) << shards << " shards, " << workers << " workers";
    std::uint64_t samples = 0;
    for (std::uint32_t epoch = 0; epoch < 2; ++epoch) {
      for (std::uint32_t rank = 0; rank < 3; ++rank) {
        for (std::uint32_t i = 0; i < job.data().BatchCount(proto::Phase::TRAINING, rank); ++i) {
          samples += job.data().MakeBatch(proto::Phase::TRAINING, rank, epoch, i).samples;
        }
      }
    }
    EXPECT_EQ(job.scheduler().totals().samples, samples);
    for (const auto& [rank, trainer] : job.ranks()) {
      EXPECT_EQ(trainer->client().unacknowledged(), 0u);
      EXPECT_EQ(trainer->client().failure(), "");
    }
  }
}

INSTANTIATE_TEST_SUITE_P(
    Variants, AnyClusterTest,
    testing::Values(
        Variant{"Plain", {}}, Variant{"Lr", {"model.name=lr"}},
        Variant{"ClipValue", {"train.clip_value=0.02"}},
        Variant{"ClipDenseNorm", {"train.clip_dense_norm=0.05"}},
        Variant{"ClipRowNorm", {"tables.embedding.clip_row_norm=0.01"}},
        Variant{"BatchNorm", {"model.batch_norm=true"}}, Variant{"Dropout", {"model.dropout=0.5"}},
        Variant{"DoubleHash",
                {"tables.array.addresser.kind=DOUBLE_HASH",
                 "tables.array_linear.addresser.kind=DOUBLE_HASH"}},
        Variant{"QuotientRemainder", {"tables.array.addresser.kind=QUOTIENT_REMAINDER"}},
        Variant{"Robe",
                {"tables.array.addresser.kind=ROBE", "tables.array.addresser.piece=1",
                 "data.valid=v", "train.staleness=1", "train.deterministic=true"}},
        Variant{
            "Dimensions",
            {"data.fields.C2.dim=2", "tables.array.dim=5", "tables.embedding.optimizer.kind=ADAM",
             "tables.embedding.optimizer.initial_accumulator=0", "train.clip_value=0.02"}},
        Variant{"RobeInFewerBytes",
                {"tables.array.addresser.kind=ROBE", "tables.array.addresser.piece=1",
                 "data.fields.C2.dim=2", "train.pull_precision=BF16", "train.push_precision=INT8"}},
        Variant{"TablesSharedInPart", {"data.fields.C2.tables=array,linear"}},
        Variant{"Ssp", {"train.staleness=2", "train.deterministic=true"}},
        Variant{"Evaluations", {"data.valid=v", "data.test=t", "train.evaluate_every_steps=2"}},
        Variant{"SspEvaluations",
                {"data.valid=v", "train.evaluate_every_steps=4", "train.staleness=1",
                 "train.deterministic=true"}}),
    [](const auto& tested) { return std::string(tested.param.name); });

TEST(RankTrainerTest, SspDiffersFromBspAndIsWithinItsBound) {
  Loopback bsp(Plan(2, 1, {}));
  Loopback ssp(Plan(2, 1, {"train.staleness=2", "train.deterministic=true"}));
  ASSERT_TRUE(bsp.Run());
  ASSERT_TRUE(ssp.Run());
  EXPECT_FALSE(bsp.digest() == ssp.digest());
  EXPECT_EQ(bsp.shard(0).staleness_max(), 0u);
  EXPECT_EQ(ssp.shard(0).staleness_max(), 2u);
}

TEST(RankTrainerTest, AspAppliesEachPushOnce) {
  const auto plan = Plan(2, 2, {"train.staleness=-1"});
  Loopback job(plan);
  ASSERT_TRUE(job.Run());
  ASSERT_EQ(job.scheduler().stop()->exit_code(), 0);
  for (std::uint32_t s = 0; s < 2; ++s) {
    const ShardCounters& counters = job.shard(s).counters();
    EXPECT_EQ(counters.push_applied, 2u * (6 + 5 + 1)) << "a rank without data says so once";
    EXPECT_EQ(counters.pushes, counters.push_applied);
  }
}

TEST(RankTrainerTest, EvaluationIsThatOfOnePass) {
  const auto plan = Plan(2, 2, {"data.valid=v"});
  Loopback job(plan);
  ASSERT_TRUE(job.Run());
  std::vector<EvaluationFigures> told;
  for (const SchedulerEvent& event : job.events()) {
    if (event.kind == SchedulerEvent::Kind::kEvaluated) {
      told.push_back(event.figures);
    }
  }
  ASSERT_EQ(told.size(), 2u);
  StepOracle oracle(plan);
  TrainNaively(*plan, job.data(), &oracle);
  const std::unique_ptr<Model> model = MakeModel(*plan).value();
  EvaluationPart part;
  for (std::uint32_t rank = 0; rank < 3; ++rank) {
    for (std::uint32_t i = 0; i < job.data().BatchCount(proto::Phase::VALIDATION, rank); ++i) {
      const Batch batch = job.data().MakeBatch(proto::Phase::VALIDATION, rank, 0, i);
      const NaiveStep step = Compute(*plan, model.get(), oracle, batch, rank, 0, false);
      part.Add(step.logits, batch.labels, {});
    }
  }
  const EvaluationFigures figures = part.Figures();
  EXPECT_EQ(told[1].samples, figures.samples);
  EXPECT_EQ(told[1].auc, figures.auc);
  EXPECT_EQ(told[1].logloss, figures.logloss);
}

// One rank that holds the dense parameters itself; its exchange never waits.
TEST(RankTrainerTest, ReplicatedDenseParametersEndOnTheShards) {
  for (const Overrides& more :
       {Overrides{}, Overrides{"data.valid=v", "train.evaluate_every_steps=4"},
        Overrides{"train.clip_dense_norm=0.05", "model.batch_norm=true"}}) {
    Overrides overrides = {"train.ranks=1", "cluster.workers=1"};
    overrides.insert(overrides.end(), more.begin(), more.end());
    Loopback servers(Plan(2, 1, overrides));
    ASSERT_TRUE(servers.Run());
    overrides.emplace_back("train.dense_sync=MPI");
    const auto plan = Plan(2, 1, overrides);
    DenseReplica replica(plan, 1, MakeLocalReducer());
    Loopback replicated(plan, &replica);
    ASSERT_TRUE(replicated.Run());
    ASSERT_EQ(replicated.scheduler().stop()->exit_code(), 0);
    EXPECT_EQ(replicated.digest(), servers.digest());
  }
}

TEST(RankTrainerTest, AStopKeepsReplicatedDenseParametersToo) {
  const Overrides overrides = {"train.ranks=1", "cluster.workers=1"};
  const auto plan = Plan(2, 1, {"train.ranks=1", "cluster.workers=1", "train.dense_sync=MPI"});
  DenseReplica replica(plan, 1, MakeLocalReducer());
  Loopback replicated(plan, &replica);
  ASSERT_TRUE(replicated.Run(3));
  EXPECT_EQ(replicated.scheduler().stop()->exit_code(), 0);
  EXPECT_TRUE(replicated.scheduler().totals().interrupted);
  const std::uint64_t version = replicated.scheduler().version();
  EXPECT_LT(version, 8u);
  Loopback servers(Plan(2, 1, overrides));
  ASSERT_TRUE(servers.Run(version - 1));
  ASSERT_EQ(servers.scheduler().version(), version);
  EXPECT_EQ(replicated.digest(), servers.digest());
}

// The batch with the infinite input is trained as if its rank had nothing in that step.
TEST(RankTrainerTest, WhatIsNotFiniteCountsAsEmpty) {
  for (const Overrides& more : {Overrides{}, Overrides{"train.clip_value=0.01"},
                                Overrides{"tables.array.addresser.kind=DOUBLE_HASH"}}) {
    SCOPED_TRACE(testing::PrintToString(more));
    Overrides overrides = {"tables.array.optimizer.kind=ADAGRAD"};
    overrides.insert(overrides.end(), more.begin(), more.end());
    const auto plan = Plan(1, 1, overrides);
    Loopback job(plan);
    job.mutable_data()->Poison(1, 0, 2);
    ASSERT_TRUE(job.Run());
    StepOracle oracle(plan);
    TrainNaively(*plan, job.data(), &oracle);
    ExpectSameModel(*plan, job.shard(0), oracle);
    EXPECT_EQ(job.scheduler().totals().void_pushes,
              (std::map<std::uint32_t, std::uint64_t>{{1, 1}}));
  }
}

TEST(RankTrainerTest, WhatIsNotFiniteIsSoOnEveryShard) {
  for (const Overrides& more :
       {Overrides{"train.push_precision=INT8"}, Overrides{"train.push_precision=BF16"},
        Overrides{"train.clip_dense_norm=0.05", "model.batch_norm=true"},
        Overrides{"train.staleness=1", "train.deterministic=true"}}) {
    SCOPED_TRACE(testing::PrintToString(more));
    std::uint64_t samples = 0;
    Digest128 digest;
    for (std::uint32_t shards = 1; shards <= 3; ++shards) {
      Loopback job(Plan(shards, 1 + shards % 2, more));
      job.mutable_data()->Poison(0, 1, 3);
      ASSERT_TRUE(job.Run());
      ASSERT_EQ(job.scheduler().stop()->exit_code(), 0);
      samples = shards == 1 ? job.scheduler().totals().samples : samples;
      digest = shards == 1 ? job.digest() : digest;
      EXPECT_EQ(job.digest(), digest) << shards << " shards";
      EXPECT_EQ(job.scheduler().totals().samples, samples);
      EXPECT_EQ(job.scheduler().totals().void_pushes.at(0), 1u);
      EXPECT_EQ(job.shard(shards - 1).counters().push_void, 1u);
    }
    Loopback whole(Plan(1, 1, more));
    ASSERT_TRUE(whole.Run());
    EXPECT_EQ(whole.scheduler().totals().samples - samples,
              whole.data().MakeBatch(proto::Phase::TRAINING, 0, 1, 3).samples);
  }
}

TEST(RankTrainerTest, WhatIsNotFiniteStaysOutOfTheReduction) {
  const Overrides overrides = {"train.ranks=1", "cluster.workers=1"};
  Loopback servers(Plan(2, 1, overrides));
  servers.mutable_data()->Poison(0, 0, 5);  // The phase's last step too brings the dense state.
  servers.mutable_data()->Poison(0, 1, 2);
  ASSERT_TRUE(servers.Run());
  const auto plan = Plan(2, 1, {"train.ranks=1", "cluster.workers=1", "train.dense_sync=MPI"});
  DenseReplica replica(plan, 1, MakeLocalReducer());
  Loopback replicated(plan, &replica);
  replicated.mutable_data()->Poison(0, 0, 5);
  replicated.mutable_data()->Poison(0, 1, 2);
  ASSERT_TRUE(replicated.Run());
  EXPECT_EQ(replicated.digest(), servers.digest());
  EXPECT_EQ(replicated.scheduler().totals().void_pushes.at(0), 2u);
}

// A source that opens, or reads, with an error.
class BrokenSource final : public BatchSource {
 public:
  StatusOr<std::unique_ptr<PreparedBatch>> Next() override { return DataLoss("torn"); }
  void Recycle(std::unique_ptr<PreparedBatch>) override {}
  std::uint64_t bad_lines() const override { return 3; }
};

TEST(RankTrainerTest, FailsWithTheSourcesWords) {
  const auto plan = Plan(1, 1, {});
  for (const bool opens : {false, true}) {
    RankDeps deps;
    deps.model = MakeModel(*plan).value();
    deps.open_source = [opens](std::uint32_t, const proto::Phase&,
                               std::uint64_t) -> StatusOr<std::unique_ptr<BatchSource>> {
      if (opens) {
        return std::unique_ptr<BatchSource>(std::make_unique<BrokenSource>());
      }
      return NotFound("no file");
    };
    RankTrainer trainer(plan, 0, 1, std::move(deps), 1000);
    const FrameHeader query = HeaderOf(trainer.outbox().Take().at(0).frame);
    FrameHeader reply = query;
    reply.type = FrameType::kPhaseReply;
    reply.step = 1;
    const std::string phase = PhaseOf(1, proto::Phase::TRAIN, 1).SerializeAsString();
    trainer.OnMessage(ShardPeer(0), MakeFrame(reply, phase), 0);
    while (trainer.Progress(0)) {
    }
    EXPECT_EQ(trainer.state(), RankTrainer::State::kFailed);
    EXPECT_EQ(trainer.failure().message(), opens ? "torn" : "no file");
    EXPECT_EQ(trainer.bad_lines(), opens ? 3u : 0u);
  }
}

TEST(RankTrainerTest, EndsWhenItIsFencedOrRefused) {
  const auto plan = Plan(1, 1, {});
  for (const ReplyCode code : {ReplyCode::kFenced, ReplyCode::kBadRequest}) {
    RankDeps deps;
    deps.model = MakeModel(*plan).value();
    deps.open_source = [](std::uint32_t, const proto::Phase&,
                          std::uint64_t) -> StatusOr<std::unique_ptr<BatchSource>> {
      return NotFound("unused");
    };
    RankTrainer trainer(plan, 0, 1, std::move(deps), 1000);
    FrameHeader reply = HeaderOf(trainer.outbox().Take().at(0).frame);
    reply.type = FrameType::kError;
    reply.code = code;
    trainer.OnMessage(ShardPeer(0), MakeFrame(reply, "a sentence"), 0);
    EXPECT_FALSE(trainer.Progress(0));
    const bool fenced = code == ReplyCode::kFenced;
    EXPECT_EQ(trainer.state(), fenced ? RankTrainer::State::kFenced : RankTrainer::State::kFailed);
    EXPECT_THAT(trainer.failure().message(), HasSubstr(fenced ? "" : "a sentence"));
  }
}

}  // namespace
}  // namespace plexus
