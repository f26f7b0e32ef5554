// Every refusal, with its place (the first line of the message): '@' in a replacement marks where
// the message points.
#include "proto/job_check.h"

#include <algorithm>
#include <string>
#include <vector>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "proto/job.h"
#include "tests/unit/proto/sample_job.h"

namespace plexus {
namespace {

struct Refusal {
  const char* find;     // What to replace in the sample job ...
  const char* replace;  // ... by what.
  const char* message;
};

// "job:LINE:COLUMN" of the first '@', which goes.
std::string TakeMark(std::string* text) {
  const std::size_t at = text->find('@');
  CHECK(at != std::string::npos) << *text;
  const auto line =
      std::count(text->begin(), text->begin() + static_cast<std::ptrdiff_t>(at), '\n');
  const std::size_t newline = text->rfind('\n', at);
  std::size_t column = 0;
  for (std::size_t i = newline == std::string::npos ? 0 : newline + 1; i < at; ++i) {
    column = (*text)[i] == '\t' ? (column / 8 + 1) * 8 : column + 1;
  }
  text->erase(at, 1);
  return "job:" + std::to_string(line + 1) + ":" + std::to_string(column + 1);
}

void ExpectRefused(const std::string& sample, const std::vector<Refusal>& refusals) {
  for (const Refusal& refusal : refusals) {
    std::string text = sample;
    const std::size_t at = text.find(refusal.find);
    ASSERT_NE(at, std::string::npos) << refusal.find;
    text.replace(at, std::string(refusal.find).size(), refusal.replace);
    const std::string place = TakeMark(&text);
    const Status status = ParseJob(text, "job", {}).status();
    EXPECT_EQ(status.code(), StatusCode::kInvalidArgument) << refusal.replace;
    const std::string first = status.message().substr(0, status.message().find('\n'));
    EXPECT_EQ(first, place + ": " + refusal.message) << text;
  }
}

TEST(JobCheckTest, RefusesWhatIsNoJob) {
  const std::vector<Refusal> refusals = {
      {"ranks: 2", "@rank: 2",
       "Train has no \"rank\"; it has: ranks, batch_size, epochs, seed, dense_sync, staleness, "
       "deterministic, compute, learning_rate, schedule, dense_optimizer, clip_value, "
       "clip_dense_norm, evaluate_every_steps, early_stop_patience, pull_precision, "
       "push_precision"},
      {"model {", "@speed {",
       "Job has no \"speed\"; it has: data, tables, model, train, cluster, checkpoint"},
      {"ranks: 2", "ranks: @\"two\"", "Expected integer, got: \"two\""},
      {"ranks: 2", "ranks: @99999999999", "Integer out of range (99999999999)"},
      {"ranks: 2", "ranks: @-2", "Expected integer, got: -"},
      {"kind: ADAGRAD", "kind: @ADAGRAD2\n",
       "Unknown enumeration value of \"ADAGRAD2\" for field \"kind\"."},
      {"ranks: 2", "ranks: 2\n\t@ranks\n: 3",
       "Non-repeated field \"ranks\" is specified multiple times."},
  };
  ExpectRefused(kSampleJob, refusals);
}

TEST(JobCheckTest, RefusesCheckpoints) {
  const std::vector<Refusal> refusals = {
      {"cluster {", "checkpoint { @keep: 0 }\ncluster {",
       "keep is 0: a checkpoint would be deleted as soon as it is written"},
      {"learning_rate: 0.5 }", "staleness: 2 }\ncheckpoint { @every_steps: 5 }",
       "checkpoints need staleness 0 (BSP), not 2: only there is a version all that a job is"},
      {"learning_rate: 0.5 }", "dense_sync: MPI }\ncheckpoint { @every_steps: 5 }",
       "checkpoints need dense_sync SERVERS: under MPI the workers hold the dense parameters"},
  };
  ExpectRefused(kSampleJob, refusals);
}

TEST(JobCheckTest, RefusesNumbersThatAreNone) {
  const std::vector<Refusal> refusals = {
      {"learning_rate: 0.5", "@learning_rate: nan", "learning_rate is not a finite float"},
      {"learning_rate: 0.5", "@learning_rate: 1e300", "learning_rate is not a finite float"},
      {"dim: 8", "init { @scale: inf }", "scale is not a finite float"},
      {"format: CRITEO", "label { skip: 1 @skip: -inf }", "skip is not a finite float"},
  };
  ExpectRefused(kSampleJob, refusals);
}

TEST(JobCheckTest, RefusesData) {
  const std::vector<Refusal> refusals = {
      {"train: \"train.tsv\"", "train: \"a\" @train: \"\"",
       "train names a file with an empty name"},
      {"format: CRITEO", "@delimiter: \";\"", "delimiter is for DELIMITED, not for CRITEO"},
      {"format: CRITEO", "@columns: \"label\"", "columns is for DELIMITED, not for CRITEO"},
      {"format: CRITEO", "label { @column: \"click\" }",
       "the data has no column \"click\" for the label"},
      {"format: CRITEO", "@group_column: \"C27\"", "the data has no column \"C27\""},
      {"name: \"I*\"", "@name: \"X*\"", "field \"X*\": no column has that prefix"},
      {"name: \"I*\"", "@name: \"I14\"", "field \"I14\": the data has no column \"I14\""},
      {"name: \"I*\"", "name: \"age\" @column: \"I14\"",
       "field \"age\": the data has no column \"I14\""},
      {"name: \"I*\"", "name: \"I*\" @column: \"I1\"",
       "field \"I*\": '*' and column exclude each other"},
      {"name: \"I*\"", "@name: \"\"", "a field has no name"},
      {"fields { name: \"I*\"", "@fields { ", "a field has no name"},
      {"name: \"C*\"", "@name: \"I3\"", "field \"I3\" is named twice"},
  };
  ExpectRefused(kSampleJob, refusals);
  EXPECT_EQ(ParseJob("data { format: CRITEO }", "job", {}).status().message(),
            "job:1:1: the job has no data.fields");
  EXPECT_EQ(ParseJob("", "job", {}).status().message(), "job:1:1: the job has no data.fields");
}

TEST(JobCheckTest, RefusesDelimitedData) {
  const std::vector<Refusal> refusals = {
      {"columns", "@delimiter: \"\" columns", "delimiter is empty or has a line break"},
      {"columns", "@delimiter: \"\\n\" columns", "delimiter is empty or has a line break"},
      {"columns: [\"user\",", "@columns: [\"item\",", "column \"item\" is named twice"},
      {"column: \"rating\"", "@column: \"\"", "the data has no column \"\" for the label"},
      {"column: \"rating\"", "@column: \"stars\"",
       "the data has no column \"stars\" for the label"},
      {"columns: [\"user\", \"item\", \"rating\"]\n  label { column: \"rating\"",
       "label { @column: \"\"", "the data has no column \"\" for the label"},
      {"columns: [\"user\", \"item\", \"rating\"]\n  label { column: \"rating\"",
       "fields { @name: \"u*\" tables: \"embedding\" } label { column: \"rating\"",
       "field \"u*\": '*' needs the columns to be known: CRITEO, or data.columns"},
      {"columns", "@group_column: \"session\" columns", "the data has no column \"session\""},
      {"name: \"item\"", "@name: \"film\"", "field \"film\": the data has no column \"film\""},
      {"name: \"item\"", "@name: \"user\"", "field \"user\" is named twice"},
      {"name: \"item\"", "@name: \"rating*\"", "field \"rating*\": no column has that prefix"},
  };
  ExpectRefused(kDelimitedJob, refusals);
}

TEST(JobCheckTest, RefusesLibsvmData) {
  const std::vector<Refusal> refusals = {
      {"name: \"features\"", "@name: \"x\"", "LIBSVM data has exactly one field, \"features\""},
      {"fields {", "fields { name: \"features\" tables: \"weights\" } @fields {",
       "LIBSVM data has exactly one field, \"features\""},
      {"tables: \"weights\" }", "tables: \"weights\" @kind: CATEGORICAL }",
       "LIBSVM's field \"features\" is MULTI_VALUED"},
      {"tables: \"weights\" }", "tables: \"weights\" @column: \"x\" }",
       "LIBSVM data has no columns"},
      {"format: LIBSVM", "format: LIBSVM @group_column: \"x\"",
       "LIBSVM data has no columns, so no group_column"},
      {"format: LIBSVM", "format: LIBSVM @columns: \"x\"",
       "columns is for DELIMITED, not for LIBSVM"},
  };
  ExpectRefused(kLibsvmJob, refusals);
}

TEST(JobCheckTest, RefusesFields) {
  const char* dense = "kind: DENSE transform: LOG1P";
  const char* last = "tables: \"linear\" }";
  const char* both = "tables: \"embedding\" tables: \"linear\" }";
  const std::vector<Refusal> refusals = {
      {both, "tables: \"embedding\" @tables: \"embd\" tables: \"linear\" }",
       "field \"C*\" names table \"embd\", which the job does not declare"},
      {both, "tables: [\"embedding\", \"linear\"] @tables: \"embd\" }",
       "field \"C*\" names table \"embd\", which the job does not declare"},
      {last, "tables: \"linear\" @tables: \"embedding\" }",
       "field \"C*\" names two tables of role EMBEDDING: \"embedding\" and \"embedding\""},
      {"fields { name: \"C*\"", "@fields { name: \"C1\" } fields { name: \"C2*\"",
       "field \"C1\" is CATEGORICAL and names no table"},
      {"fields { name: \"C*\"",
       "@fields { name: \"C1\" kind: MULTI_VALUED } fields { name: \"C2*\"",
       "field \"C1\" is MULTI_VALUED and names no table"},
      {dense, "kind: DENSE @tables: \"linear\"",
       "field \"I*\" is DENSE and names a table; only SQUARED_LOG_BUCKET makes keys"},
      {"fields { name: \"I*\" kind: DENSE transform: LOG1P",
       "@fields { name: \"I*\" kind: DENSE transform: SQUARED_LOG_BUCKET",
       "field \"I*\" has the transform SQUARED_LOG_BUCKET and names no table"},
      {dense, "kind: DENSE transform: STANDARD @stddev: 0", "field \"I*\": stddev is not above 0"},
      {dense, "kind: DENSE transform: STANDARD @stddev: -1", "field \"I*\": stddev is not above 0"},
      {dense, "kind: DENSE transform: STANDARD @stddev: 1e-60",
       "field \"I*\": stddev is not above 0"},
      {dense, "kind: DENSE @mean: 2", "field \"I*\": mean is for the transform STANDARD"},
      {dense, "kind: DENSE @stddev: 2", "field \"I*\": stddev is for the transform STANDARD"},
      {dense, "kind: DENSE @salt_by_field: true",
       "field \"I*\": salt_by_field is for fields with tables"},
      {last, "tables: \"linear\" @transform: LOG1P }", "field \"C*\": transform is for DENSE"},
      {last, "tables: \"linear\" @separator: \",\" }",
       "field \"C*\": separator is for MULTI_VALUED"},
      {last, "tables: \"linear\" @pooling: MEAN }", "field \"C*\": pooling is for MULTI_VALUED"},
      {last, "tables: \"linear\" kind: MULTI_VALUED @separator: \"\" }",
       "field \"C*\": separator is empty"},
  };
  ExpectRefused(kSampleJob, refusals);
}

TEST(JobCheckTest, RefusesTables) {
  const std::vector<Refusal> refusals = {
      {"tables {", "@tables { } tables {", "a table has no name"},
      {"name: \"linear\"", "name: \"linear\" } tables { @name: \"a b\"",
       "table \"a b\": a name has letters, digits, '_' and '-'"},
      {"tables { name: \"linear\"", "tables { @name: \"embedding\" } tables { name: \"linear\"",
       "table \"embedding\" is declared twice"},
      {"tables { name: \"linear\"", "@tables { name: \"spare\" } tables { name: \"linear\"",
       "table \"spare\" is named by no field"},
      {"dim: 8", "@dim: 0", "table \"embedding\": dim 0 is not between 1 and 512"},
      {"dim: 8", "@dim: 513", "table \"embedding\": dim 513 is not between 1 and 512"},
      {"role: LINEAR dim: 1", "role: LINEAR @dim: 2",
       "table \"linear\" has role LINEAR and needs dim 1, not 2"},
      {"role: LINEAR dim: 1", "@role: LINEAR",
       "table \"linear\" has role LINEAR and needs dim 1, not 16"},
      {"dim: 8", "@rows: 5", "table \"embedding\" is not an ARRAY: rows is for ARRAY"},
      {"dim: 8", "init { @scale: -0.5 }", "table \"embedding\": the scale of its init is negative"},
      {"dim: 8", "@clip_row_norm: -1", "table \"embedding\": clip_row_norm is negative"},
  };
  ExpectRefused(kSampleJob, refusals);
}

TEST(JobCheckTest, RefusesArrays) {
  const std::vector<Refusal> refusals = {
      {"dim: 8", "@kind: ARRAY", "table \"embedding\" is an ARRAY and needs rows, 1 to 4294967295"},
      {"dim: 8", "kind: ARRAY @rows: 4294967296",
       "table \"embedding\" is an ARRAY and needs rows, 1 to 4294967295"},
  };
  ExpectRefused(kSampleJob, refusals);
}

// What does not go together, or has no meaning: docs/store.md, "What goes with what".
TEST(JobCheckTest, RefusesWhatTablesCannotCombine) {
  const std::vector<Refusal> refusals = {
      {"dim: 8", "@state_precision: INT8",
       "table \"embedding\": state_precision is F32 or BF16: an accumulator needs the range"},
      {"dim: 8", "@learned_scale: true",
       "table \"embedding\": learned_scale is for precision INT8 and INT4, which have a scale"},
      {"dim: 8", "admission { kind: COUNT @threshold: 0 }",
       "table \"embedding\": admission.threshold is not between 1 and 65535"},
      {"dim: 8", "admission { kind: PROBABILITY @probability: 1.5 }",
       "table \"embedding\": admission.probability is not in (0, 1]"},
      {"dim: 8", "kind: ARRAY rows: 9 @admission { kind: COUNT }",
       "table \"embedding\" is an ARRAY: its rows are there from the start, there is nothing to "
       "admit"},
      {"dim: 8", "kind: HYBRID hybrid { exact_rows: 9 shared_rows: 9 } @admission { kind: COUNT }",
       "table \"embedding\" is HYBRID: its sketch decides which keys get a row"},
      {"dim: 8", "kind: ARRAY rows: 9 @eviction { unseen_versions: 4 }",
       "table \"embedding\" is ARRAY: its rows are limited by what it declares, none is evicted"},
      {"dim: 8", "eviction { @order: COUNT }",
       "table \"embedding\": eviction.order is for tables with max_rows or max_bytes"},
      {"dim: 8", "max_rows: 9 eviction { @half_life_versions: 4 }",
       "table \"embedding\": eviction.half_life_versions is for order COUNT"},
      {"dim: 8", "@max_bytes: \"much\"",
       "\"much\" is not a size such as 4096, 512KiB, 64MiB or 2GiB"},
      {"dim: 8", "@hybrid { exact_rows: 9 }", "table \"embedding\": hybrid is for kind HYBRID"},
      {"dim: 8", "@addresser { kind: ROBE }", "table \"embedding\": addresser is for kind ARRAY"},
      {"dim: 8", "kind: ARRAY rows: 9 addresser { kind: ROBE @piece: 3 }",
       "table \"embedding\": addresser.piece does not divide dim"},
  };
  ExpectRefused(kSampleJob, refusals);
}

TEST(JobCheckTest, RefusesOptimizers) {
  const std::vector<std::pair<const char*, const char*>> refusals = {
      {"@learning_rate: -0.5", "learning_rate is negative, and not -1 (train.learning_rate)"},
      {"@epsilon: -0.5", "epsilon is negative, and not -1 (the rule's own)"},
      {"kind: MOMENTUM @momentum: 1", "momentum is not in [0, 1)"},
      {"kind: ADAM @beta1: 1", "beta1 is not in [0, 1)"},
      {"kind: ADAM @beta1: -0.1", "beta1 is not in [0, 1)"},
      {"kind: ADAM_W @beta2: 1", "beta2 is not in [0, 1)"},
      {"kind: ADAGRAD @initial_accumulator: -1", "initial_accumulator is negative"},
      {"kind: FTRL @l1: -1", "l1 is negative"},
      {"@l2: -1", "l2 is negative"},
      {"kind: FTRL @beta: -1 l2: 1", "beta is negative"},
      {"kind: ADAM_W @weight_decay: -1", "weight_decay is negative"},
      {"kind: ADAM @epsilon: 0", "epsilon is 0"},
      {"kind: ADAM_W @epsilon: 1e-60", "epsilon is 0"},
      {"kind: ADAGRAD @epsilon: 0", "epsilon and initial_accumulator are both 0"},
      {"kind: ROW_WISE_ADAGRAD @epsilon: 0", "epsilon and initial_accumulator are both 0"},
      {"kind: FTRL @learning_rate: 0", "learning_rate is 0: FTRL divides by it"},
      {"kind: FTRL @beta: 0", "beta and l2 are both 0"},
      {"kind: SGD @momentum: 0.5", "momentum is for MOMENTUM, not for SGD"},
      {"kind: ADAGRAD @beta1: 0.5", "beta1 is for ADAM and ADAM_W, not for ADAGRAD"},
      {"kind: FTRL @beta2: 0.5", "beta2 is for ADAM and ADAM_W, not for FTRL"},
      {"kind: ADAM @initial_accumulator: 1",
       "initial_accumulator is for ADAGRAD and ROW_WISE_ADAGRAD, not for ADAM"},
      {"kind: ADAM @l1: 1", "l1 is for FTRL, not for ADAM"},
      {"kind: ADAM @beta: 2", "beta is for FTRL, not for ADAM"},
      {"kind: ADAM @weight_decay: 0.5", "weight_decay is for ADAM_W, not for ADAM"},
  };
  for (const auto& [knobs, message] : refusals) {
    ExpectRefused(kSampleJob, {{"kind: ADAGRAD", knobs, message}});
  }
  ExpectRefused(kSampleJob,
                {{"ranks: 2", "ranks: 2 dense_optimizer { @kind: ROW_WISE_ADAGRAD }",
                  "ROW_WISE_ADAGRAD is for tables: dense parameters have no rows"},
                 {"ranks: 2", "ranks: 2 dense_optimizer { @epsilon: 0 }", "epsilon is 0"}});
}

TEST(JobCheckTest, RefusesModels) {
  const std::vector<Refusal> refusals = {
      {"name: \"deepfm\"", "@name: \"\"", "the model has no name"},
      {"name: \"deepfm\"", "hidden: 8 @hidden: 0", "hidden 0 is not a width between 1 and 65536"},
      {"name: \"deepfm\"", "@bottom_hidden: 65537",
       "bottom_hidden 65537 is not a width between 1 and 65536"},
      {"name: \"deepfm\"", "@dropout: 1", "dropout is not in [0, 1)"},
      {"name: \"deepfm\"", "@dropout: -0.5", "dropout is not in [0, 1)"},
      {"name: \"deepfm\"", "@cross_layers: 0", "cross_layers 0 is not between 1 and 1024"},
      {"name: \"deepfm\"", "@cross_rank: 65537", "cross_rank 65537 is not between 0 and 65536"},
      {"name: \"deepfm\"", "@attention_layers: 0", "attention_layers 0 is not between 1 and 1024"},
      {"name: \"deepfm\"", "@attention_heads: 0", "attention_heads 0 is not between 1 and 65536"},
      {"name: \"deepfm\"", "@attention_dim: 0", "attention_dim 0 is not between 1 and 65536"},
  };
  ExpectRefused(kSampleJob, refusals);
}

TEST(JobCheckTest, RefusesTraining) {
  const std::vector<Refusal> refusals = {
      {"ranks: 2", "@ranks: 0", "ranks 0 is not between 1 and 65536"},
      {"ranks: 2", "@ranks: 65537", "ranks 65537 is not between 1 and 65536"},
      {"batch_size: 64", "@batch_size: 0", "batch_size 0 is not between 1 and 16777216"},
      {"batch_size: 64", "@batch_size: 63", "batch_size 63 is not a multiple of ranks 2"},
      {"ranks: 2 batch_size: 64", "@ranks: 3", "batch_size 4096 is not a multiple of ranks 3"},
      {"ranks: 2", "ranks: 2 @epochs: 0", "epochs is 0"},
      {"ranks: 2", "ranks: 2 @staleness: -2", "staleness -2 is not between -1 (ASP) and 1024"},
      {"ranks: 2", "ranks: 2 @staleness: 1025", "staleness 1025 is not between -1 (ASP) and 1024"},
      {"ranks: 2", "ranks: 2 staleness: -1 @deterministic: true",
       "deterministic is not possible with staleness -1 (ASP)"},
      {"ranks: 2", "ranks: 2 staleness: 1 @dense_sync: MPI",
       "dense_sync MPI needs staleness 0 (BSP), not 1"},
      {"ranks: 2", "ranks: 2 staleness: -1 @dense_sync: MPI",
       "dense_sync MPI needs staleness 0 (BSP), not -1"},
      {"learning_rate: 0.5", "@learning_rate: -0.5", "learning_rate is negative"},
      {"ranks: 2", "ranks: 2 @clip_value: -1", "clip_value is negative"},
      {"ranks: 2", "ranks: 2 @clip_dense_norm: -1", "clip_dense_norm is negative"},
      {"ranks: 2", "ranks: 2 @early_stop_patience: 3", "early_stop_patience needs data.valid"},
      {"ranks: 2", "ranks: 2 @evaluate_every_steps: 3", "evaluate_every_steps needs data.valid"},
      {"ranks: 2", "ranks: 2 schedule { @decay: COSINE }", "a decay needs decay_steps"},
      {"ranks: 2", "ranks: 2 schedule { @decay_steps: 5 }", "decay_steps without a decay"},
      {"ranks: 2", "ranks: 2 schedule { @decay_rate: 0 }", "decay_rate is not in (0, 1]"},
      {"ranks: 2", "ranks: 2 schedule { @decay_rate: 1.5 }", "decay_rate is not in (0, 1]"},
      {"ranks: 2", "ranks: 2 schedule { @final_factor: 1.5 }", "final_factor is not in [0, 1]"},
  };
  ExpectRefused(kSampleJob, refusals);
}

TEST(JobCheckTest, RefusesClusters) {
  const std::vector<Refusal> refusals = {
      {"servers: 2", "@servers: 0", "servers is 0"},
      {"workers: 1", "@workers: 0", "workers is 0"},
      {"workers: 1", "@workers: 3",
       "workers 3 is more than train.ranks 2: some would carry no rank"},
      {"servers: 2", "@buckets: 0", "buckets 0 is not between 1 and 65536"},
      {"servers: 2", "@buckets: 65537", "buckets 65537 is not between 1 and 65536"},
      {"servers: 2", "servers: 2 @buckets: 1",
       "buckets 1 is less than servers 2: some would own nothing"},
      {"servers: 2", "@memory_limit: \"5MB\"",
       "\"5MB\" is not a size such as 4096, 512KiB, 64MiB or 2GiB"},
      {"servers: 2", "@memory_limit: \"0KiB\"", "memory_limit is 0"},
      {"servers: 2", "@lease_ms: 0", "lease_ms is 0"},
      {"learning_rate: 0.5 }\ncluster {", "@compute: BF16 }\ncluster { numeric_profile: AVX2",
       "compute BF16 needs AVX-512, but numeric_profile is AVX2"},
  };
  ExpectRefused(kSampleJob, refusals);
}

TEST(JobCheckTest, SaysAllMistakesAtOnce) {
  const Status status =
      ParseJob(
          "data {\n  fields { name: \"C*\" tables: \"t\" }\n}\ntables { name: \"t\" dim: 0 }\n"
          "train {\n  epochs: 0\n}\n",
          "job", {})
          .status();
  EXPECT_EQ(status.message(),
            "job:4:20: table \"t\": dim 0 is not between 1 and 512\njob:6:3: epochs is 0");
}

TEST(JobCheckTest, AcceptsTheBounds) {
  for (const char* override :
       {"tables.embedding.dim=1", "tables.embedding.dim=512", "train.ranks=64", "train.ranks=1",
        "train.staleness=-1", "cluster.buckets=65536", "cluster.buckets=2", "model.dropout=0",
        "train.learning_rate=0", "data.valid=v.tsv", "train.dense_sync=MPI", "train.clip_value=1",
        "train.clip_dense_norm=1", "tables.embedding.optimizer.kind=ROW_WISE_ADAGRAD",
        "tables.embedding.optimizer.kind=FTRL", "tables.embedding.optimizer.kind=ADAM_W"}) {
    const StatusOr<proto::Job> job = ParseJob(kSampleJob, "job", {override});
    EXPECT_TRUE(job.ok()) << job.status().ToString();
  }
  const StatusOr<proto::Job> job =
      ParseJob(kSampleJob, "job",
               {"data.valid=v", "train.early_stop_patience=2", "train.evaluate_every_steps=10",
                "train.staleness=1024", "train.deterministic=true"});
  EXPECT_TRUE(job.ok()) << job.status().ToString();
}

}  // namespace
}  // namespace plexus
