#include "proto/job_check.h"

#include <cmath>
#include <limits>

#include <google/protobuf/descriptor.h>
#include <google/protobuf/message.h>

#include "proto/job.h"

namespace plexus {
namespace {

using google::protobuf::FieldDescriptor;
using google::protobuf::Message;
using google::protobuf::Reflection;

constexpr std::uint32_t kRanksMax = 65536;
constexpr std::uint32_t kBucketsMax = 65536;
constexpr std::int32_t kStalenessMax = 1024;
constexpr std::uint32_t kBatchSizeMax = 1u << 24;
constexpr std::uint32_t kWidthMax = 65536;  // Of a layer.
constexpr std::uint32_t kLayersMax = 1024;

bool IsFloat(double value) {
  return std::isfinite(value) && std::fabs(value) <= std::numeric_limits<float>::max();
}

// Every number, anywhere, is one that a float can hold: text format lets "inf", "nan" and "1e300"
// through.
void CheckNumbers(const Message& message, const std::string& path, Mistakes* mistakes) {
  const Reflection& r = *message.GetReflection();
  std::vector<const FieldDescriptor*> set;
  r.ListFields(message, &set);
  for (const FieldDescriptor* field : set) {
    const std::string name = (path.empty() ? "" : path + ".") + field->name();
    const int count = field->is_repeated() ? r.FieldSize(message, field) : 1;
    for (int i = 0; i < count; ++i) {
      const std::string here = field->is_repeated() ? name + "[" + std::to_string(i) + "]" : name;
      if (field->cpp_type() == FieldDescriptor::CPPTYPE_MESSAGE) {
        CheckNumbers(field->is_repeated() ? r.GetRepeatedMessage(message, field, i)
                                          : r.GetMessage(message, field),
                     here, mistakes);
      } else if (field->cpp_type() == FieldDescriptor::CPPTYPE_DOUBLE) {
        const double value = field->is_repeated() ? r.GetRepeatedDouble(message, field, i)
                                                  : r.GetDouble(message, field);
        mistakes->Require(IsFloat(value), {here}, field->name() + " is not a finite float");
      }
    }
  }
}

bool IsShare(double value) { return value >= 0 && value < 1; }

void CheckModel(const proto::Model& model, Mistakes* mistakes) {
  mistakes->Require(!model.name().empty(), {"model.name"}, "the model has no name");
  const auto widths = [&](const auto& list, const std::string& name) {
    for (int i = 0; i < list.size(); ++i) {
      mistakes->Require(list[i] >= 1 && list[i] <= kWidthMax,
                        {"model." + name + "[" + std::to_string(i) + "]"},
                        name + " " + std::to_string(list[i]) + " is not a width between 1 and " +
                            std::to_string(kWidthMax));
    }
  };
  widths(model.hidden(), "hidden");
  widths(model.bottom_hidden(), "bottom_hidden");
  mistakes->Require(IsShare(model.dropout()), {"model.dropout"}, "dropout is not in [0, 1)");
  const auto range = [&](std::uint32_t value, std::uint32_t least, std::uint32_t most,
                         const std::string& name) {
    mistakes->Require(value >= least && value <= most, {"model." + name},
                      name + " " + std::to_string(value) + " is not between " +
                          std::to_string(least) + " and " + std::to_string(most));
  };
  range(model.cross_layers(), 1, kLayersMax, "cross_layers");
  range(model.cross_rank(), 0, kWidthMax, "cross_rank");
  range(model.attention_layers(), 1, kLayersMax, "attention_layers");
  range(model.attention_heads(), 1, kWidthMax, "attention_heads");
  range(model.attention_dim(), 1, kWidthMax, "attention_dim");
}

void CheckSchedule(const proto::Schedule& schedule, Mistakes* mistakes) {
  const std::string path = "train.schedule.";
  if (schedule.decay() == proto::Schedule::NONE) {
    mistakes->Require(schedule.decay_steps() == 0, {path + "decay_steps", path + "decay"},
                      "decay_steps without a decay");
  } else {
    mistakes->Require(schedule.decay_steps() > 0, {path + "decay", path + "decay_steps"},
                      "a decay needs decay_steps");
  }
  mistakes->Require(schedule.decay_rate() > 0 && schedule.decay_rate() <= 1, {path + "decay_rate"},
                    "decay_rate is not in (0, 1]");
  mistakes->Require(schedule.final_factor() >= 0 && schedule.final_factor() <= 1,
                    {path + "final_factor"}, "final_factor is not in [0, 1]");
}

void CheckRanks(const proto::Train& train, Mistakes* mistakes) {
  const std::string ranks = std::to_string(train.ranks());
  const std::string batch = std::to_string(train.batch_size());
  if (train.ranks() < 1 || train.ranks() > kRanksMax) {
    mistakes->Add({"train.ranks"},
                  "ranks " + ranks + " is not between 1 and " + std::to_string(kRanksMax));
  } else if (train.batch_size() < 1 || train.batch_size() > kBatchSizeMax) {
    mistakes->Add({"train.batch_size"},
                  "batch_size " + batch + " is not between 1 and " + std::to_string(kBatchSizeMax));
  } else if (train.batch_size() % train.ranks() != 0) {
    mistakes->Add({"train.batch_size", "train.ranks"},
                  "batch_size " + batch + " is not a multiple of ranks " + ranks);
  }
  mistakes->Require(train.epochs() >= 1, {"train.epochs"}, "epochs is 0");
}

void CheckConsistency(const proto::Train& train, Mistakes* mistakes) {
  const std::string staleness = std::to_string(train.staleness());
  if (train.staleness() < -1 || train.staleness() > kStalenessMax) {
    mistakes->Add({"train.staleness"}, "staleness " + staleness + " is not between -1 (ASP) and " +
                                           std::to_string(kStalenessMax));
    return;
  }
  mistakes->Require(!(train.deterministic() && train.staleness() < 0),
                    {"train.deterministic", "train.staleness"},
                    "deterministic is not possible with staleness -1 (ASP)");
  mistakes->Require(train.dense_sync() != proto::Train::MPI || train.staleness() == 0,
                    {"train.dense_sync", "train.staleness"},
                    "dense_sync MPI needs staleness 0 (BSP), not " + staleness);
}

void CheckTrain(const proto::Job& job, Mistakes* mistakes) {
  const proto::Train& train = job.train();
  CheckRanks(train, mistakes);
  CheckConsistency(train, mistakes);
  mistakes->Require(train.learning_rate() >= 0, {"train.learning_rate"},
                    "learning_rate is negative");
  mistakes->Require(train.clip_value() >= 0, {"train.clip_value"}, "clip_value is negative");
  mistakes->Require(train.clip_dense_norm() >= 0, {"train.clip_dense_norm"},
                    "clip_dense_norm is negative");
  CheckSchedule(train.schedule(), mistakes);
  mistakes->Require(train.pull_precision() != proto::INT4, {"train.pull_precision"},
                    "pull_precision INT4 is for rows as stored, not for the wire");
  mistakes->Require(train.push_precision() != proto::INT4, {"train.push_precision"},
                    "push_precision INT4 is for rows as stored, not for the wire");
  if (train.has_dense_optimizer()) {
    proto::Optimizer optimizer = train.dense_optimizer();
    if (!optimizer.has_kind()) {
      optimizer.set_kind(proto::Optimizer::ADAM);
    }
    CheckOptimizer(optimizer, "train.dense_optimizer", mistakes);
    mistakes->Require(optimizer.kind() != proto::Optimizer::ROW_WISE_ADAGRAD,
                      {"train.dense_optimizer.kind"},
                      "ROW_WISE_ADAGRAD is for tables: dense parameters have no rows");
  }
  if (job.data().valid().empty()) {
    mistakes->Require(train.early_stop_patience() == 0, {"train.early_stop_patience", "data.valid"},
                      "early_stop_patience needs data.valid");
    mistakes->Require(train.evaluate_every_steps() == 0,
                      {"train.evaluate_every_steps", "data.valid"},
                      "evaluate_every_steps needs data.valid");
  }
}

void CheckCluster(const proto::Job& job, Mistakes* mistakes) {
  const proto::Cluster& cluster = job.cluster();
  const std::string servers = std::to_string(cluster.servers());
  const std::string workers = std::to_string(cluster.workers());
  const std::string buckets = std::to_string(cluster.buckets());
  mistakes->Require(cluster.servers() >= 1, {"cluster.servers"}, "servers is 0");
  mistakes->Require(cluster.workers() >= 1, {"cluster.workers"}, "workers is 0");
  mistakes->Require(cluster.workers() <= job.train().ranks(), {"cluster.workers", "train.ranks"},
                    "workers " + workers + " is more than train.ranks " +
                        std::to_string(job.train().ranks()) + ": some would carry no rank");
  if (cluster.buckets() < 1 || cluster.buckets() > kBucketsMax) {
    mistakes->Add({"cluster.buckets"},
                  "buckets " + buckets + " is not between 1 and " + std::to_string(kBucketsMax));
  } else {
    mistakes->Require(
        cluster.buckets() >= cluster.servers(), {"cluster.buckets", "cluster.servers"},
        "buckets " + buckets + " is less than servers " + servers + ": some would own nothing");
  }
  if (!cluster.memory_limit().empty()) {
    const StatusOr<std::uint64_t> bytes = ParseByteSize(cluster.memory_limit());
    mistakes->Require(bytes.ok(), {"cluster.memory_limit"}, bytes.status().message());
    mistakes->Require(!bytes.ok() || *bytes > 0, {"cluster.memory_limit"}, "memory_limit is 0");
  }
  mistakes->Require(cluster.lease_ms() >= 1, {"cluster.lease_ms"}, "lease_ms is 0");
  mistakes->Require(job.train().compute() != proto::Train::BF16 ||
                        cluster.numeric_profile() != proto::Cluster::AVX2,
                    {"train.compute", "cluster.numeric_profile"},
                    "compute BF16 needs AVX-512, but numeric_profile is AVX2");
}

void CheckCheckpoint(const proto::Job& job, Mistakes* mistakes) {
  const proto::Checkpoint& checkpoint = job.checkpoint();
  mistakes->Require(checkpoint.keep() >= 1, {"checkpoint.keep"},
                    "keep is 0: a checkpoint would be deleted as soon as it is written");
  mistakes->Require(checkpoint.full_every() >= 1, {"checkpoint.full_every"},
                    "full_every is 0: 1 makes every checkpoint a whole one");
  const StatusOr<std::uint64_t> log_limit = ParseByteSize(checkpoint.log_limit());
  mistakes->Require(log_limit.ok(), {"checkpoint.log_limit"}, log_limit.status().message());
  const bool durable = checkpoint.durability() != proto::Checkpoint::NONE;
  if (checkpoint.every_steps() == 0 && !durable) {
    return;
  }
  const bool periodic = checkpoint.every_steps() > 0;
  const std::string entry = periodic ? "checkpoint.every_steps" : "checkpoint.durability";
  const std::string needs = periodic ? "checkpoints need " : "durability needs ";
  mistakes->Require(job.train().staleness() == 0, {entry, "train.staleness"},
                    needs + "staleness 0 (BSP), not " + std::to_string(job.train().staleness()) +
                        ": only there is a version all that a job is");
  mistakes->Require(job.train().dense_sync() == proto::Train::SERVERS, {entry, "train.dense_sync"},
                    needs + "dense_sync SERVERS: under MPI the workers hold the dense parameters");
}

}  // namespace

std::string Quoted(std::string_view text) {
  std::string quoted(1, '"');
  quoted += text;
  quoted += '"';
  return quoted;
}

Status Mistakes::ToStatus() const {
  if (lines_.empty()) {
    return OkStatus();
  }
  std::string all;
  for (const std::string& line : lines_) {
    all += (all.empty() ? "" : "\n") + line;
  }
  return InvalidArgument(all);
}

Status CheckJob(const proto::Job& job, const JobSource& source) {
  Mistakes mistakes(source);
  CheckNumbers(job, "", &mistakes);
  RETURN_IF_ERROR(mistakes.ToStatus());  // Every range would complain of a NaN again.
  CheckData(job.data(), &mistakes);
  CheckTables(job, &mistakes);
  CheckModel(job.model(), &mistakes);
  CheckTrain(job, &mistakes);
  CheckCluster(job, &mistakes);
  CheckCheckpoint(job, &mistakes);
  return mistakes.ToStatus();
}

}  // namespace plexus
