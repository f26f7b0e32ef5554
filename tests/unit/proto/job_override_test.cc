#include "proto/job_override.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "proto/job.h"
#include "tests/unit/proto/sample_job.h"

namespace plexus {
namespace {

using testing::ElementsAre;

proto::Job Override(const std::vector<std::string>& overrides) {
  StatusOr<proto::Job> job = ParseJob(kSampleJob, "job", overrides);
  CHECK(job.ok()) << job.status().ToString();
  return *std::move(job);
}

TEST(JobOverrideTest, SetsEveryTypeOfValue) {
  const proto::Job job = Override(
      {"data.hash_seed=18446744073709551615", "data.max_bad_lines=3", "data.shuffle_rows=1000",
       "data.label.positive_at_least=-1.5e-3", "data.label.skip=3,4", "train.ranks=4",
       "train.staleness=2", "train.deterministic=true", "train.compute=BF16", "model.name=dlrm",
       "cluster.memory_limit=512MiB", "cluster.servers=3", "cluster.buckets=64",
       "train.schedule.warmup_steps=9"});
  EXPECT_EQ(job.data().hash_seed(), 18446744073709551615ull);
  EXPECT_EQ(job.data().max_bad_lines(), 3u);
  EXPECT_EQ(job.data().shuffle_rows(), 1000u);
  EXPECT_EQ(job.data().label().positive_at_least(), -1.5e-3);
  EXPECT_THAT(job.data().label().skip(), ElementsAre(3, 4));
  EXPECT_EQ(job.train().ranks(), 4u);
  EXPECT_EQ(job.train().staleness(), 2);
  EXPECT_TRUE(job.train().deterministic());
  EXPECT_EQ(job.train().compute(), proto::Train::BF16);
  EXPECT_EQ(job.model().name(), "dlrm");
  EXPECT_EQ(job.cluster().memory_limit(), "512MiB");
  EXPECT_EQ(job.cluster().servers(), 3u);
  EXPECT_EQ(job.cluster().buckets(), 64u);
  EXPECT_EQ(job.train().schedule().warmup_steps(), 9u);
}

TEST(JobOverrideTest, ReplacesLists) {
  const proto::Job job =
      Override({"data.train=a.tsv,b=c.tsv", "data.valid=v", "data.valid=", "model.hidden=64,32"});
  EXPECT_THAT(job.data().train(), ElementsAre("a.tsv", "b=c.tsv"));
  EXPECT_TRUE(job.data().valid().empty());
  EXPECT_THAT(job.model().hidden(), ElementsAre(64, 32));
}

TEST(JobOverrideTest, NamesTablesAndFieldsByTheirNames) {
  const proto::Job job =
      Override({"tables.embedding.dim=32", "tables.linear.init.scale=0.125",
                "tables.embedding.optimizer.learning_rate=2", "data.fields.C*.tables=embedding",
                "data.fields.I*.transform=SQUARED_LOG_BUCKET", "data.fields.I*.tables=linear"});
  EXPECT_EQ(job.tables(0).dim(), 32u);
  EXPECT_EQ(job.tables(1).init().scale(), 0.125);
  EXPECT_EQ(job.tables(0).optimizer().learning_rate(), 2);
  EXPECT_THAT(job.data().fields(1).tables(), ElementsAre("embedding"));
  EXPECT_EQ(job.data().fields(0).transform(), proto::Field::SQUARED_LOG_BUCKET);
}

TEST(JobOverrideTest, LastOneWins) {
  EXPECT_EQ(Override({"train.seed=2", "train.seed=3"}).train().seed(), 3u);
}

TEST(JobOverrideTest, LearningRateReachesTheOptimizersThatSayNone) {
  const proto::Job job = Override({"train.learning_rate=0.125"});
  EXPECT_EQ(job.tables(0).optimizer().learning_rate(), 0.125);
  EXPECT_EQ(job.train().dense_optimizer().learning_rate(), 0.125);
}

// "--set OVERRIDE: MESSAGE" is all that is said.
struct Refusal {
  const char* override;
  const char* message;
};

constexpr Refusal kRefusals[] = {
    {"train.ranks", "not of the form path=value"},
    {"=3", "not of the form path=value"},
    {"", "not of the form path=value"},
    {"train.ranks=abc", "not a number (uint32)"},
    {"train.ranks=", "not a number (uint32)"},
    {"train.ranks=-1", "not a number (uint32)"},
    {"train.ranks=2.5", "not a number (uint32)"},
    {"train.ranks= 2", "not a number (uint32)"},
    {"train.ranks=4294967296", "out of range (uint32)"},
    {"train.staleness=2147483648", "out of range (int32)"},
    {"train.learning_rate=fast", "not a number (double)"},
    {"train.learning_rate=1e999", "out of range (double)"},
    {"train.learning_rate=nan", "learning_rate is not a finite float"},
    {"train.deterministic=yes", "neither true nor false"},
    {"train.dense_sync=mpi", "not one of SERVERS, MPI"},
    {"model.hidden=64,x", "not a number (uint32)"},
    {"speed=9",
     "the job has no \"speed\"; it has: data, tables, model, train, cluster, checkpoint"},
    {"data.label.colum=x", "data.label has no \"colum\"; it has: column, positive_at_least, skip"},
    {".=1", "the job has no \"\"; it has: data, tables, model, train, cluster, checkpoint"},
    {"tables.embd.dim=4", "tables has no \"embd\"; it has: embedding, linear"},
    {"tables=4", "tables is a list: name one of its elements, and a member of it"},
    {"data.label=4", "data.label is no single value; it has: column, positive_at_least, skip"},
    {"train.ranks.x=4", "train.ranks is a value and has no \"x\""},
    {"train.ranks=3", "batch_size 64 is not a multiple of ranks 3"},
    {"train.batch_size=63", "batch_size 63 is not a multiple of ranks 2"},
    {"data.train=a,,b", "train names a file with an empty name"},
    {"cluster.workers=3", "workers 3 is more than train.ranks 2: some would carry no rank"},
    {"cluster.memory_limit=5MB", "\"5MB\" is not a size such as 4096, 512KiB, 64MiB or 2GiB"},
    {"data.fields.C*.tables=linear,embd",
     "field \"C*\" names table \"embd\", which the job does not declare"},
};

TEST(JobOverrideTest, RefusesWithTheOverride) {
  for (const Refusal& refusal : kRefusals) {
    const Status status = ParseJob(kSampleJob, "job", {refusal.override}).status();
    EXPECT_EQ(status.code(), StatusCode::kInvalidArgument) << refusal.override;
    EXPECT_EQ(status.message(), std::string("--set ") + refusal.override + ": " + refusal.message);
  }
}

TEST(JobOverrideTest, BlamesTheOverrideAmongContradictingValues) {
  const Status status =
      ParseJob(kSampleJob, "job", {"train.seed=2", "train.ranks=5", "train.seed=3"}).status();
  EXPECT_EQ(status.message(), "--set train.ranks=5: batch_size 64 is not a multiple of ranks 5");
}

}  // namespace
}  // namespace plexus
