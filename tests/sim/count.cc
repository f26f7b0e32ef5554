#include "tests/sim/count.h"

#include <algorithm>
#include <cstdio>
#include <map>
#include <sstream>
#include <string>
#include <utility>

#include "proto/job.h"
#include "tests/sim/processes.h"

namespace plexus::sim {
namespace {

// The first step is not like the others (it waits for the start); the last is not counted to its
// end.
constexpr std::uint64_t kCountedStep = 2;
constexpr std::uint32_t kSteps = 3;
// Each rank holds its dense values and gradients, one pull's reply and one push.
constexpr std::uint64_t kDenseBytesMax = 6ULL << 30;
constexpr Millis kNever = 1'000'000'000;

// Reads nothing, and whatever it is asked for has gradient zero.
class NoModel final : public Model {
 public:
  explicit NoModel(std::uint64_t dense) : dense_(dense) {}
  const std::vector<DenseParameterSpec>& dense_parameters() const override { return none_; }
  double Step(const ModelInput&, std::span<const float>, float* dense_gradients,
              std::span<float> logits) override {
    std::fill(logits.begin(), logits.end(), 0.0F);
    if (dense_gradients != nullptr) {
      std::fill_n(dense_gradients, dense_, 0.0F);
    }
    return 0;
  }

 private:
  const std::uint64_t dense_;
  std::vector<DenseParameterSpec> none_;
};

// One sample of `keys` different keys a step.
class KeySource final : public BatchSource {
 public:
  KeySource(const JobPlan& plan, std::uint32_t rank, std::uint32_t keys)
      : builder_(plan, InitialBucketMap(plan.buckets(), plan.shards()), plan.shards()),
        rank_(rank),
        keys_(keys) {}

  StatusOr<std::unique_ptr<PreparedBatch>> Next() override {
    auto prepared = std::make_unique<PreparedBatch>();
    prepared->batch.samples = 1;
    prepared->batch.labels = {0};
    SparseColumn& column = prepared->batch.sparse.emplace_back();
    const std::uint64_t universe = 20ULL * keys_ + 1;
    const std::uint64_t first = Mix64(++step_ * 1000003 + rank_) % universe;
    for (std::uint32_t i = 0; i < keys_; ++i) {
      column.keys.push_back((first + i) % universe);
    }
    column.offsets = {0, keys_};
    builder_.Build(prepared->batch, &prepared->keys);
    prepared->last = step_ == kSteps;
    return prepared;
  }
  void Recycle(std::unique_ptr<PreparedBatch>) override {}
  std::uint64_t bad_lines() const override { return 0; }

 private:
  StepKeysBuilder builder_;
  const std::uint32_t rank_;
  const std::uint32_t keys_;
  std::uint64_t step_ = 0;
};

JobPlan PlanOf(const CountShape& shape) {
  std::ostringstream text;
  text << "data { format: DELIMITED train: \"train\" columns: \"label\" columns: \"f\" "
          "fields { name: \"f\" kind: MULTI_VALUED tables: \"t\" } }\n"
          "tables { name: \"t\" dim: "
       << shape.dim << " }\nmodel { name: \"counter\" }\ntrain { ranks: " << shape.ranks
       << " batch_size: " << shape.ranks << " }\ncluster { servers: " << shape.servers
       << " workers: " << shape.workers << " buckets: " << std::max(1024U, shape.servers) << " }\n";
  StatusOr<proto::Job> job = ParseJob(text.str(), "count", {});
  CHECK(job.ok()) << job.status().message();
  JobPlan plan;
  plan.job = *std::move(job);
  TableSpec table;
  table.name = "t";
  table.dim = shape.dim;
  plan.tables = {table};
  KeyGroup group;
  group.fields = {0};
  group.tables = {0};
  group.dims = {shape.dim};
  plan.groups = {group};
  plan.fields = {FieldTables{.embedding = 0}};
  if (shape.dense > 0) {
    plan.dense = DenseLayout({DenseParameterSpec{.name = "dense", .shape = {shape.dense}}});
  }
  return plan;
}

struct Tally {
  std::uint64_t messages = 0;
  std::uint64_t bytes = 0;
  void Add(const Bytes& frame) {
    ++messages;
    bytes += frame.size();
  }
};

class Counter {
 public:
  void OnSend(const Bytes& frame) {
    const FrameHeader header = HeaderOf(frame);
    switch (header.type) {
      case FrameType::kPull:
        return Count("pull", header.step, frame);
      case FrameType::kPullReply:
        return Count("pull_reply", header.step, frame);
      case FrameType::kPush:
        return Count("push", header.step, frame);
      case FrameType::kPushReply:
        return Count("push_reply", header.step, frame);
      case FrameType::kControl:
        break;
      default:
        return;  // Phase queries: once a phase.
    }
    const StatusOr<proto::Control> control = DecodeControl(frame);
    if (control->has_complete()) {
      Count("complete", control->complete().step(), frame);
    } else if (control->has_commit()) {
      Count("commit", control->commit().step(), frame);
    } else if (control->has_heartbeat()) {
      heartbeat_ = std::max<std::uint64_t>(heartbeat_, frame.size());
    } else if (control->has_view()) {
      view_ = std::max<std::uint64_t>(view_, frame.size());
    }
  }

  void Print(const CountShape& shape) const {
    Tally all;
    std::printf(
        "{\"ranks\": %u, \"servers\": %u, \"workers\": %u, \"keys_per_rank\": %u, \"dim\": %u, "
        "\"dense\": %u, \"per_step\": {",
        shape.ranks, shape.servers, shape.workers, shape.keys, shape.dim, shape.dense);
    for (const auto& [kind, tally] : step_) {
      std::printf("\"%s\": {\"messages\": %llu, \"bytes\": %llu}, ", kind.c_str(),
                  static_cast<unsigned long long>(tally.messages),
                  static_cast<unsigned long long>(tally.bytes));
      all.messages += tally.messages;
      all.bytes += tally.bytes;
    }
    std::printf(
        "\"all\": {\"messages\": %llu, \"bytes\": %llu}}, \"heartbeat_bytes_max\": %llu, "
        "\"view_bytes_max\": %llu}\n",
        static_cast<unsigned long long>(all.messages), static_cast<unsigned long long>(all.bytes),
        static_cast<unsigned long long>(heartbeat_), static_cast<unsigned long long>(view_));
  }

 private:
  void Count(const char* kind, std::uint64_t step, const Bytes& frame) {
    if (step == kCountedStep) {
      step_[kind].Add(frame);
    }
  }

  std::map<std::string, Tally> step_;
  std::uint64_t heartbeat_ = 0;
  std::uint64_t view_ = 0;
};

std::string Refusal(const CountShape& shape) {
  if (shape.ranks == 0 || shape.servers == 0 || shape.workers == 0 || shape.dim == 0 ||
      shape.workers > shape.ranks) {
    return "--ranks, --servers, --workers and --dim are at least 1, --workers at most --ranks";
  }
  if (std::uint64_t{shape.ranks} * shape.dense * 4 * sizeof(float) > kDenseBytesMax) {
    return "--ranks times --dense would not fit into memory; bytes are linear in --dense";
  }
  return "";
}

}  // namespace

int CountMessages(const CountShape& shape) {
  if (const std::string refusal = Refusal(shape); !refusal.empty()) {
    std::fprintf(stderr, "cluster_sim: %s\n", refusal.c_str());
    return 2;
  }
  const auto plan = std::make_shared<const JobPlan>(PlanOf(shape));
  ProcessOptions options;
  options.plan = plan;
  options.open_source = [&](std::uint32_t rank, const proto::Phase&,
                            std::uint64_t) -> StatusOr<std::unique_ptr<BatchSource>> {
    return std::unique_ptr<BatchSource>(std::make_unique<KeySource>(*plan, rank, shape.keys));
  };
  options.make_model = [&] { return std::make_unique<NoModel>(plan->dense.size()); };
  options.resend_ms = kNever;
  World world(1, NetworkOptions{.delay_us_min = 1, .delay_us_max = 1});
  Counter counter;
  world.on_send = [&counter](ProcessId, const Bytes& frame) { counter.OnSend(frame); };
  SchedulerProcess scheduler(world, options);
  std::vector<std::unique_ptr<ServerProcess>> servers;
  for (std::uint32_t server = 0; server < shape.servers; ++server) {
    servers.push_back(std::make_unique<ServerProcess>(world, options, server, Life()));
  }
  std::vector<std::unique_ptr<WorkerProcess>> workers;
  for (std::uint32_t worker = 0; worker < shape.workers; ++worker) {
    workers.push_back(std::make_unique<WorkerProcess>(world, options, worker, worker + 1, 0));
  }
  while (scheduler.scheduler().version() < kSteps) {
    if (!world.Step() || scheduler.scheduler().stop().has_value()) {
      std::fprintf(stderr, "cluster_sim: the job ended early: %s\n",
                   scheduler.scheduler().WaitReport().c_str());
      return 1;
    }
  }
  counter.Print(shape);
  return 0;
}

}  // namespace plexus::sim
