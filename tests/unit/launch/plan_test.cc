#include "launch/plan.h"

#include <algorithm>
#include <filesystem>
#include <set>
#include <string>
#include <vector>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "common/hash.h"
#include "proto/job.h"

namespace plexus {
namespace {

using testing::ElementsAre;
using testing::HasSubstr;

constexpr char kJob[] = R"(
data {
  fields { name: "I*" kind: DENSE }
  fields { name: "C1" tables: "embedding" tables: "linear" }
  fields { name: "C2" tables: "linear" tables: "embedding" }
  fields { name: "C3" tables: "own" tables: "own_linear" }
}
tables { name: "own_linear" role: LINEAR dim: 1 }
tables {
  name: "embedding"
  optimizer { kind: ADAGRAD learning_rate: 0.5 initial_accumulator: 0.25 l2: 2 }
  init { kind: NORMAL scale: 0.125 }
  clip_row_norm: 3
}
tables { name: "linear" role: LINEAR dim: 1 init { kind: CONSTANT scale: 7 } reduction: SUM }
tables { name: "own" }
model { name: "deepfm" hidden: 8 }
train { ranks: 2 learning_rate: 0.75 dense_optimizer { beta1: 0.5 } }
cluster { servers: 3 memory_limit: "64MiB" }
)";

proto::Job Job(const std::string& text, const std::vector<std::string>& overrides = {}) {
  StatusOr<proto::Job> job = ParseJob(text, "job", overrides);
  CHECK(job.ok()) << job.status().ToString();
  return *std::move(job);
}

std::string Refusal(const std::string& text, const std::vector<std::string>& overrides = {}) {
  const StatusOr<JobPlan> plan = MakePlan(Job(text, overrides));
  if (plan.ok()) {
    return "not refused";
  }
  EXPECT_EQ(plan.status().code(), StatusCode::kInvalidArgument);
  return plan.status().message();
}

std::vector<std::string> NamesOf(const JobPlan& plan) {
  std::vector<std::string> names;
  for (const TableSpec& table : plan.tables) {
    names.push_back(table.name);
  }
  return names;
}

TEST(PlanTest, TablesComeInTheJobsOrder) {
  const JobPlan plan = MakePlan(Job(kJob)).value();
  EXPECT_THAT(NamesOf(plan), ElementsAre("own_linear", "embedding", "linear", "own"));
  const TableSpec& embedding = plan.tables[1];
  EXPECT_EQ(embedding.kind, TableSpec::Kind::kHashed);
  EXPECT_EQ(embedding.dim, 16u);
  EXPECT_EQ(embedding.optimizer.kind, OptimizerKind::kAdagrad);
  EXPECT_EQ(embedding.optimizer.learning_rate, 0.5f);
  EXPECT_EQ(embedding.optimizer.epsilon, 1e-10f);
  EXPECT_EQ(embedding.optimizer.initial_accumulator, 0.25f);
  EXPECT_EQ(embedding.optimizer.l2, 2.0f);
  EXPECT_EQ(embedding.init, TableSpec::Init::kNormal);
  EXPECT_EQ(embedding.init_scale, 0.125f);
  EXPECT_EQ(embedding.clip_row_norm, 3.0f);
  EXPECT_FALSE(embedding.sum_gradients);
  EXPECT_EQ(plan.tables[2].init, TableSpec::Init::kConstant);
  EXPECT_EQ(plan.tables[2].init_scale, 7.0f);
  EXPECT_EQ(plan.tables[2].optimizer.kind, OptimizerKind::kSgd);
  EXPECT_EQ(plan.tables[2].optimizer.learning_rate, 0.75f);
  EXPECT_TRUE(plan.tables[2].sum_gradients);
  EXPECT_EQ(plan.dense_optimizer.kind, OptimizerKind::kAdam);
  EXPECT_EQ(plan.dense_optimizer.beta1, 0.5f);
  EXPECT_EQ(plan.memory_limit_bytes, 64u << 20);
  EXPECT_GT(plan.dense.size(), 0u);
}

TEST(PlanTest, FieldsWithTheSameTablesAreOneGroup) {
  const JobPlan plan = MakePlan(Job(kJob)).value();
  ASSERT_EQ(plan.fields.size(), 3u);
  EXPECT_EQ(plan.fields[0].embedding, 1u);
  EXPECT_EQ(plan.fields[0].linear, 2u);
  EXPECT_EQ(plan.fields[0].embedding_group, 0u);
  EXPECT_EQ(plan.fields[0].linear_group, 0u);
  EXPECT_EQ(plan.fields[1].embedding_group, 0u);
  EXPECT_EQ(plan.fields[1].linear_group, 0u);
  EXPECT_EQ(plan.fields[2].embedding, 3u);
  EXPECT_EQ(plan.fields[2].linear, 0u);
  EXPECT_EQ(plan.fields[2].embedding_group, 1u);
  EXPECT_EQ(plan.fields[2].linear_group, 1u);
  ASSERT_EQ(plan.groups.size(), 2u);
  EXPECT_THAT(plan.groups[0].fields, ElementsAre(0, 1));
  EXPECT_THAT(plan.groups[0].tables, ElementsAre(1, 2));
  EXPECT_THAT(plan.groups[0].dims, ElementsAre(16, 1));
  EXPECT_EQ(plan.groups[0].array_rows, 0u);
  EXPECT_THAT(plan.groups[1].fields, ElementsAre(2));
  EXPECT_THAT(plan.groups[1].tables, ElementsAre(0, 3));
  EXPECT_THAT(plan.groups[1].dims, ElementsAre(1, 16));
}

TEST(PlanTest, ArrayGroupsKnowTheirRows) {
  const JobPlan plan =
      MakePlan(Job(kJob, {"tables.own.kind=ARRAY", "tables.own.rows=99",
                          "tables.own_linear.kind=ARRAY", "tables.own_linear.rows=99"}))
          .value();
  EXPECT_EQ(plan.groups[0].array_rows, 0u);
  EXPECT_EQ(plan.groups[1].array_rows, 99u);
  EXPECT_EQ(plan.tables[3].kind, TableSpec::Kind::kArray);
  EXPECT_EQ(plan.tables[3].rows, 99u);
}

TEST(PlanTest, ShapeFollowsTheFields) {
  const JobPlan plan = MakePlan(Job(kJob)).value();
  const ModelShape shape = ShapeOf(plan);
  EXPECT_EQ(shape.config.name(), "deepfm");
  EXPECT_FALSE(shape.bf16);
  EXPECT_EQ(shape.dense_fields, 13u);
  EXPECT_THAT(shape.embedding_dims, ElementsAre(16, 16, 16));
  EXPECT_EQ(shape.linear_fields, 3u);
  EXPECT_FALSE(shape.jagged_features);
  EXPECT_EQ(shape.ranks, 2u);
  const StatusOr<std::unique_ptr<Model>> model = MakeModel(plan);
  ASSERT_TRUE(model.ok()) << model.status().ToString();
  EXPECT_EQ((*model)->dense_parameters().size(), plan.dense.parameters().size());
}

TEST(PlanTest, LeavesOutTablesThatTheModelDoesNotRead) {
  const JobPlan lr = MakePlan(Job(kJob, {"model.name=lr"})).value();
  EXPECT_THAT(NamesOf(lr), ElementsAre("own_linear", "linear"));
  EXPECT_THAT(ShapeOf(lr).embedding_dims, ElementsAre());
  EXPECT_EQ(lr.fields[0].embedding, kNoTable);
  EXPECT_EQ(lr.fields[0].linear, 1u);
  const JobPlan dcn = MakePlan(Job(kJob, {"model.name=dcnv2"})).value();
  EXPECT_THAT(NamesOf(dcn), ElementsAre("embedding", "own"));
  EXPECT_EQ(ShapeOf(dcn).linear_fields, 0u);
}

TEST(PlanTest, ExpandsPrefixes) {
  const JobPlan plan = MakePlan(Job(R"(
      data { fields { name: "C*" tables: "e" tables: "l" } fields { name: "I1" kind: DENSE
             transform: SQUARED_LOG_BUCKET tables: "e" tables: "l" } }
      tables { name: "e" } tables { name: "l" role: LINEAR dim: 1 })"))
                           .value();
  EXPECT_EQ(plan.fields.size(), 27u);
  EXPECT_EQ(plan.groups.size(), 1u);
  EXPECT_EQ(ShapeOf(plan).dense_fields, 0u);
}

TEST(PlanTest, RefusesAnUnknownModel) {
  const std::string message = Refusal(kJob, {"model.name=deepfn"});
  EXPECT_THAT(message, HasSubstr("model.name: "));
  EXPECT_THAT(message, HasSubstr("deepfn"));
  EXPECT_THAT(message, HasSubstr("deepfm"));
}

TEST(PlanTest, RefusesAFieldWithoutTheRoleThatTheModelReads) {
  EXPECT_EQ(Refusal(kJob, {"data.fields.C3.tables=own", "data.fields.C1.tables=own_linear"}),
            "model deepfm needs each field with keys to name a table of role EMBEDDING: field "
            "\"C1\" names none");
  const std::string text = R"(data { fields { name: "C3" tables: "e" } } tables { name: "e" })";
  EXPECT_EQ(Refusal(text),
            "model deepfm needs each field with keys to name a table of role LINEAR: field \"C3\" "
            "names none");
  EXPECT_EQ(Refusal("data { fields { name: \"I*\" kind: DENSE } }"),
            "model deepfm needs a field with a table; the job has none");
}

// A group as text: fields, tables of dims, array_rows.
std::string TextOf(const KeyGroup& group) {
  std::string text;
  for (const std::uint32_t field : group.fields) {
    text += "f" + std::to_string(field) + " ";
  }
  for (std::size_t t = 0; t < group.tables.size(); ++t) {
    text += "t" + std::to_string(group.tables[t]) + ":" + std::to_string(group.dims[t]) + " ";
  }
  return text + std::to_string(group.array_rows) + (group.addresser.has_value() ? " made" : "");
}

std::vector<std::string> GroupsOf(const std::vector<std::string>& overrides) {
  const StatusOr<JobPlan> plan = MakePlan(Job(kJob, overrides));
  EXPECT_TRUE(plan.ok()) << plan.status().ToString();
  std::vector<std::string> groups;
  for (const KeyGroup& group : plan->groups) {
    groups.push_back(TextOf(group));
  }
  return groups;
}

// Tables: 0 own_linear, 1 embedding, 2 linear, 3 own.
TEST(PlanTest, TablesMayBeSharedInPart) {
  EXPECT_THAT(GroupsOf({"data.fields.C2.tables=own,linear"}),
              ElementsAre("f0 t1:16 t2:1 0", "f1 t2:1 t3:16 0", "f2 t0:1 t3:16 0"));
}

TEST(PlanTest, TablesOfOtherKeysHaveGroupsOfTheirOwn) {
  EXPECT_THAT(GroupsOf({"tables.own.kind=ARRAY", "tables.own.rows=99"}),
              ElementsAre("f0 f1 t1:16 t2:1 0", "f2 t3:16 99", "f2 t0:1 0"));
  EXPECT_THAT(GroupsOf({"tables.own.kind=ARRAY", "tables.own.rows=99",
                        "tables.own_linear.kind=ARRAY", "tables.own_linear.rows=98"}),
              ElementsAre("f0 f1 t1:16 t2:1 0", "f2 t3:16 99", "f2 t0:1 98"));
  EXPECT_THAT(GroupsOf({"tables.own.kind=HYBRID", "tables.own.hybrid.exact_rows=5",
                        "tables.own.hybrid.shared_rows=5"}),
              ElementsAre("f0 f1 t1:16 t2:1 0", "f2 t0:1 t3:16 0"));
}

TEST(PlanTest, AddressersHaveGroupsOfTheirOwn) {
  const std::vector<std::string> rows = {"tables.own.kind=ARRAY", "tables.own.rows=99",
                                         "tables.own_linear.kind=ARRAY",
                                         "tables.own_linear.rows=99"};
  for (const char* kind : {"DOUBLE_HASH", "QUOTIENT_REMAINDER", "ROBE"}) {
    std::vector<std::string> overrides = rows;
    overrides.push_back(std::string("tables.own.addresser.kind=") + kind);
    EXPECT_THAT(GroupsOf(overrides),
                ElementsAre("f0 f1 t1:16 t2:1 0", "f2 t3:16 99 made", "f2 t0:1 99"));
    overrides.push_back(std::string("tables.own_linear.addresser.kind=") + kind);
    EXPECT_THAT(GroupsOf(overrides),
                ElementsAre("f0 f1 t1:16 t2:1 0", "f2 t3:16 99 made", "f2 t0:1 99 made"));
  }
  std::vector<std::string> overrides = rows;
  overrides.emplace_back("tables.own.addresser.kind=HASH");
  EXPECT_THAT(GroupsOf(overrides), ElementsAre("f0 f1 t1:16 t2:1 0", "f2 t0:1 t3:16 99"));
}

TEST(PlanTest, AddressersAreResolved) {
  const std::vector<std::string> rows = {"model.name=dlrm", "tables.own.kind=ARRAY",
                                         "tables.own.rows=99"};
  const auto spec = [&rows](std::vector<std::string> more) {
    more.insert(more.begin(), rows.begin(), rows.end());
    return MakePlan(Job(kJob, more)).value().groups[1].addresser.value();
  };
  const AddresserSpec robe = spec({"tables.own.addresser.kind=ROBE"});
  EXPECT_EQ(robe.kind, proto::Addresser::ROBE);
  EXPECT_EQ(robe.rows, 99u);
  EXPECT_EQ(robe.dim, 16u);
  EXPECT_EQ(robe.piece, 16u);
  EXPECT_EQ(robe.salt, HashBytes("own", 0));
  EXPECT_EQ(spec({"tables.own.addresser.kind=ROBE", "tables.own.addresser.piece=4"}).piece, 4u);
  EXPECT_EQ(spec({"tables.own.addresser.kind=QUOTIENT_REMAINDER"}).remainders, 49u);
  EXPECT_EQ(
      spec({"tables.own.addresser.kind=QUOTIENT_REMAINDER", "tables.own.addresser.remainders=10"})
          .remainders,
      10u);
}

TEST(PlanTest, FieldsOfOtherDimensionsHaveGroupsOfTheirOwn) {
  EXPECT_THAT(GroupsOf({"data.fields.C2.dim=4"}),
              ElementsAre("f0 t1:16 t2:1 0", "f1 t1:4 t2:1 0", "f2 t0:1 t3:16 0"));
  EXPECT_THAT(GroupsOf({"data.fields.C1.dim=16"}),
              ElementsAre("f0 f1 t1:16 t2:1 0", "f2 t0:1 t3:16 0"));
  const JobPlan plan = MakePlan(Job(kJob, {"data.fields.C2.dim=4", "tables.own.dim=24"})).value();
  EXPECT_THAT(ShapeOf(plan).embedding_dims, ElementsAre(16, 16, 24)) << "as the tables have it";
  EXPECT_TRUE(MakeModel(plan).ok());
}

constexpr char kCounterJob[] = R"(
data { fields { name: "C*" tables: "counters" } }
tables { name: "counters" dim: 4 optimizer { kind: SGD learning_rate: 1 } reduction: SUM }
model { name: "counter" }
train { ranks: 4 }
)";

TEST(PlanTest, CounterNeedsAnElementARankAndExactSums) {
  EXPECT_TRUE(MakePlan(Job(kCounterJob)).ok()) << MakePlan(Job(kCounterJob)).status().ToString();
  EXPECT_EQ(Refusal(kCounterJob, {"train.ranks=2"}),
            "model counter: table \"counters\" needs one element a rank: dim 2, not 4");
  for (const char* override :
       {"tables.counters.reduction=MEAN", "tables.counters.optimizer.kind=ADAGRAD",
        "tables.counters.optimizer.l2=1", "tables.counters.clip_row_norm=1"}) {
    EXPECT_THAT(Refusal(kCounterJob, {override}), HasSubstr("needs SGD without l2")) << override;
  }
  EXPECT_THAT(Refusal(kCounterJob, {"data.fields.C*.dim=3"}), HasSubstr("whole rows"));
  EXPECT_THAT(Refusal(kCounterJob, {"tables.counters.kind=ARRAY", "tables.counters.rows=9",
                                    "tables.counters.addresser.kind=DOUBLE_HASH"}),
              HasSubstr("no addresser but HASH"));
  EXPECT_THAT(Refusal(kCounterJob, {"train.dense_sync=MPI"}), HasSubstr("dense_sync SERVERS"));
  EXPECT_THAT(Refusal(kCounterJob, {"train.clip_value=1"}), HasSubstr("constant rate"));
  EXPECT_THAT(Refusal(kCounterJob, {"train.schedule.warmup_steps=1"}), HasSubstr("constant rate"));
}

TEST(PlanTest, NumericProfileIsResolvedOnce) {
  proto::Job job = Job(kJob);
  ASSERT_EQ(job.cluster().numeric_profile(), proto::Cluster::AUTO);
  ResolveNumericProfile(&job);
  EXPECT_NE(job.cluster().numeric_profile(), proto::Cluster::AUTO);
  EXPECT_TRUE(CheckMachine(job).ok());
  job.mutable_cluster()->set_numeric_profile(proto::Cluster::AVX2);
  ResolveNumericProfile(&job);
  EXPECT_EQ(job.cluster().numeric_profile(), proto::Cluster::AVX2);
  EXPECT_TRUE(CheckMachine(job).ok());
  job.mutable_train()->set_compute(proto::Train::BF16);
  EXPECT_EQ(CheckMachine(job).code(), StatusCode::kFailedPrecondition);
}

std::vector<std::string> Examples() {
  std::vector<std::string> paths;
  for (const auto& entry : std::filesystem::directory_iterator(PLEXUS_EXAMPLES)) {
    if (entry.path().extension() == ".textproto") {
      paths.push_back(entry.path().string());
    }
  }
  std::sort(paths.begin(), paths.end());
  return paths;
}

TEST(ExamplesTest, EachLoadsPlansAndBuildsItsModel) {
  const std::vector<std::string> paths = Examples();
  EXPECT_GE(paths.size(), 13u);
  for (const std::string& path : paths) {
    const StatusOr<proto::Job> job = LoadJob(path, {"data.train=train.tsv"});
    ASSERT_TRUE(job.ok()) << job.status().ToString();
    EXPECT_TRUE(CheckRunnable(*job).ok());
    const StatusOr<JobPlan> plan = MakePlan(*job);
    EXPECT_TRUE(plan.ok()) << path << ": " << plan.status().ToString();
    EXPECT_TRUE(!plan.ok() || MakeModel(*plan).ok()) << path;
  }
}

TEST(ExamplesTest, EachModelHasOne) {
  std::set<std::string> shown;
  for (const std::string& path : Examples()) {
    shown.insert(LoadJob(path, {}).value().model().name());
  }
  for (const std::string& name : ModelNames()) {
    EXPECT_TRUE(shown.count(name)) << name;
  }
}

}  // namespace
}  // namespace plexus
