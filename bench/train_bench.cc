// train_bench: samples a second of training DeepFM in one process, scheduler, shard and ranks as
// its threads, on samples of Criteo's shape out of tables whose rows all exist.
//
//   train_bench [--ranks=2] [--servers=1] [--tsv] [--bf16] [--rows=10000000] [--batch=4096]
//   [--windows=7]
//
// First every row is pushed once.  Then 40 batches are trained on over and over, out of memory, or
// with --tsv out of a text file that a reader parses; the speed is the median over windows of five
// steps.  Prints one JSON object, and what the ranks' seconds went to.  bench/train.py holds it
// against PyTorch.
#include <algorithm>
#include <atomic>
#include <cstdio>
#include <cstdlib>
#include <future>
#include <map>
#include <memory>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include <gflags/gflags.h>
#include <glog/logging.h>
#include <unistd.h>

#include "bench/criteo_shape.h"
#include "common/clock.h"
#include "common/files.h"
#include "launch/flags.h"
#include "launch/node.h"
#include "launch/run_setup.h"
#include "worker/data/batch_reader.h"
#include "worker/data/field_plan.h"
#include "worker/prefetch_source.h"

DEFINE_string(bench_job, "examples/criteo_deepfm.textproto", "the job");
DEFINE_string(work_dir, "build/bench/train", "for the text file and the run");
DEFINE_uint32(ranks, 2, "ranks, a thread each");
DEFINE_uint32(servers, 1, "shards, a thread each");
DEFINE_uint64(rows, 10000000, "rows of each table");
DEFINE_uint32(batch, 4096, "samples a step, over all ranks");
DEFINE_uint32(batches, 40, "different batches");
DEFINE_uint32(windows, 7, "windows of five steps that are timed");
DEFINE_bool(tsv, false, "read text from a file instead of batches from memory");
DEFINE_bool(bf16, false, "bf16 matrix products");

namespace plexus {
namespace {

constexpr std::uint64_t kWindowSteps = 5;
constexpr std::uint64_t kSettleSteps = 8;

std::uint64_t FillSteps(const CriteoShape& shape) {
  const std::uint64_t keys = std::uint64_t{FLAGS_batch} * CriteoShape::kFields;
  return (shape.row_count() + keys - 1) / keys;
}

// Takes the time when rank 0 asks for a batch, and tells when enough was seen.
class Meter {
 public:
  struct Phases {
    double read = 0, exchange = 0, compute = 0, wait = 0;
  };

  Meter(std::uint64_t first_step, std::vector<RankTimes>* times)
      : first_step_(first_step), times_(times) {}

  void OnStep(std::uint64_t step) {
    if (step < first_step_ || (step - first_step_) % kWindowSteps != 0) {
      return;
    }
    const double now = SteadySeconds();
    if (step == first_step_) {
      began_ = now;
      before_ = Sum();
    } else {
      rates_.push_back(static_cast<double>(kWindowSteps * FLAGS_batch) / (now - last_));
    }
    last_ = now;
    if (rates_.size() == FLAGS_windows) {
      Finish();
    }
  }

  std::future<bool> finished() { return finished_.get_future(); }
  void Fail() { finished_.set_value(false); }
  const std::vector<double>& rates() const { return rates_; }
  // Shares of the timed seconds, over all ranks.
  const Phases& shares() const { return shares_; }

 private:
  Phases Sum() const {
    Phases sum;
    for (const RankTimes& times : *times_) {
      sum.read += times.read.load(std::memory_order_relaxed);
      sum.exchange += times.exchange.load(std::memory_order_relaxed);
      sum.compute += times.compute.load(std::memory_order_relaxed);
      sum.wait += times.wait.load(std::memory_order_relaxed);
    }
    return sum;
  }

  void Finish() {
    const double seconds = (last_ - began_) * static_cast<double>(times_->size());
    const Phases after = Sum();
    shares_ = {(after.read - before_.read) / seconds, (after.exchange - before_.exchange) / seconds,
               (after.compute - before_.compute) / seconds, (after.wait - before_.wait) / seconds};
    std::sort(rates_.begin(), rates_.end());
    finished_.set_value(true);
  }

  const std::uint64_t first_step_;
  std::vector<RankTimes>* const times_;
  double began_ = 0;
  double last_ = 0;
  Phases before_;
  Phases shares_;
  std::vector<double> rates_;
  std::promise<bool> finished_;
};

// One rank's batches: those that touch every row once, then either the same ones from memory over
// and over, or what a reader gives.
class BenchSource final : public BatchSource {
 public:
  BenchSource(std::shared_ptr<const JobPlan> plan, const CriteoShape& shape, std::uint32_t rank,
              Meter* meter)
      : plan_(std::move(plan)),
        fields_(PlanFields(plan_->job.data()).value()),
        shape_(shape),
        rank_(rank),
        meter_(meter),
        builder_(*plan_, InitialBucketMap(plan_->buckets(), plan_->shards()), plan_->shards()) {}

  Status OpenText(const proto::Phase& phase) {
    ASSIGN_OR_RETURN(text_, OpenPrefetchSource(plan_, rank_, phase, 0));
    return OkStatus();
  }

  Status LoadBatches() {
    const auto& files = plan_->job.data().train();
    BatchReaderOptions options;
    options.rank = rank_;
    options.ranks = plan_->ranks();
    options.batch_samples = samples();
    ASSIGN_OR_RETURN(const std::unique_ptr<BatchReader> reader,
                     BatchReader::Open(plan_->job.data(), {files[0]}, options));
    while (true) {
      auto prepared = std::make_unique<PreparedBatch>();
      ASSIGN_OR_RETURN(const bool more, reader->Next(&prepared->batch));
      if (!more || prepared->batch.samples < samples()) {
        return OkStatus();  // What is left is less than a batch.
      }
      place_[prepared.get()] = batches_.size();
      batches_.push_back(std::move(prepared));
    }
  }

  StatusOr<std::unique_ptr<PreparedBatch>> Next() override {
    const std::uint64_t step = next_++;
    if (rank_ == 0) {
      meter_->OnStep(step);
    }
    const std::uint64_t fill = FillSteps(shape_);
    if (step < fill) {
      return FillBatch(step);
    }
    if (text_ != nullptr) {
      return text_->Next();
    }
    std::unique_ptr<PreparedBatch> batch = std::move(batches_[(step - fill) % batches_.size()]);
    CHECK(batch != nullptr) << "more batches under way than there are";
    builder_.Build(batch->batch, &batch->keys);
    return batch;
  }

  void Recycle(std::unique_ptr<PreparedBatch> batch) override {
    if (const auto at = place_.find(batch.get()); at != place_.end()) {
      batches_[at->second] = std::move(batch);
    } else if (text_ != nullptr && next_ > FillSteps(shape_) + kSettleSteps) {
      text_->Recycle(std::move(batch));
    }
  }

  std::uint64_t bad_lines() const override { return 0; }

 private:
  std::uint32_t samples() const { return FLAGS_batch / plan_->ranks(); }

  // The next rows of the tables, as if they were samples' values.
  std::unique_ptr<PreparedBatch> FillBatch(std::uint64_t step) {
    auto prepared = std::make_unique<PreparedBatch>();
    Batch& batch = prepared->batch;
    batch.samples = samples();
    batch.labels.assign(samples(), 0.0f);
    batch.dense.assign(std::size_t{samples()} * CriteoShape::kDense, 0.0f);
    batch.sparse.resize(CriteoShape::kFields);
    std::uint64_t row = (step * plan_->ranks() + rank_) * samples() * CriteoShape::kFields;
    for (SparseColumn& column : batch.sparse) {
      for (std::uint32_t i = 0; i < samples(); ++i, ++row) {
        const std::uint64_t wrapped = row % shape_.row_count();
        column.keys.push_back(
            HashBytes(shape_.TextOf(wrapped), fields_.sparse[shape_.FieldOf(wrapped)].hash_seed));
      }
    }
    builder_.Build(batch, &prepared->keys);
    return prepared;
  }

  const std::shared_ptr<const JobPlan> plan_;
  const FieldPlan fields_;
  const CriteoShape& shape_;
  const std::uint32_t rank_;
  Meter* const meter_;
  StepKeysBuilder builder_;
  std::unique_ptr<BatchSource> text_;
  std::vector<std::unique_ptr<PreparedBatch>> batches_;
  std::map<const PreparedBatch*, std::size_t> place_;  // In batches_.
  std::uint64_t next_ = 0;
};

StatusOr<std::shared_ptr<const JobPlan>> MakeBenchPlan(const std::string& text,
                                                       std::uint64_t steps) {
  Flags flags;
  flags.job = FLAGS_bench_job;
  // Often enough for all steps in one pass.
  std::string files = text;
  for (std::uint64_t covered = FLAGS_batches; FLAGS_tsv && covered < steps;
       covered += FLAGS_batches) {
    files += "," + text;
  }
  flags.overrides = {"data.train=" + files, "train.ranks=" + std::to_string(FLAGS_ranks),
                     "cluster.servers=" + std::to_string(FLAGS_servers),
                     "train.batch_size=" + std::to_string(FLAGS_batch),
                     std::string("train.compute=") + (FLAGS_bf16 ? "BF16" : "F32")};
  return LoadPlan(flags, false);
}

// Scheduler, shard and ranks as threads, until the meter has seen enough; the process ends with
// them running.
bool Train(const std::shared_ptr<const JobPlan>& plan, const CriteoShape& shape, Meter* meter,
           std::vector<RankTimes>* times) {
  NetContext context(1);
  NodeOptions options;
  options.run_dir = FLAGS_work_dir + "/run";
  options.scheduler_address = "inproc://scheduler";
  options.local = true;
  options.rank_times = times->data();
  options.open_source = [&](std::uint32_t rank, const proto::Phase& phase,
                            std::uint64_t) -> StatusOr<std::unique_ptr<BatchSource>> {
    auto source = std::make_unique<BenchSource>(plan, shape, rank, meter);
    RETURN_IF_ERROR(FLAGS_tsv ? source->OpenText(phase) : source->LoadBatches());
    return std::unique_ptr<BatchSource>(std::move(source));
  };
  std::future<bool> finished = meter->finished();
  std::vector<std::jthread> threads;
  threads.emplace_back([&] {
    RunSchedulerNode(plan, context, options);
    meter->Fail();  // The job ends only by a failure.
  });
  std::vector<NodeOptions> servers(FLAGS_servers, options);
  for (std::uint32_t i = 0; i < FLAGS_servers; ++i) {
    servers[i].index = i;
    servers[i].data_address = "inproc://server-" + std::to_string(i);
    threads.emplace_back([&, i] { (void)RunServerNode(plan, context, servers[i]); });
  }
  threads.emplace_back([&] { (void)RunWorkerNode(plan, context, options); });
  if (!finished.get()) {
    return false;
  }
  const std::vector<double>& rates = meter->rates();
  const Meter::Phases& shares = meter->shares();
  std::printf(
      "{\"bench\":\"train\",\"ranks\":%u,\"tsv\":%s,\"bf16\":%s,\"rows\":%llu,"
      "\"samples_per_second\":%.0f,\"min\":%.0f,\"max\":%.0f,"
      "\"read\":%.4f,\"exchange\":%.4f,\"compute\":%.4f,\"wait\":%.4f}\n",
      FLAGS_ranks, FLAGS_tsv ? "true" : "false", FLAGS_bf16 ? "true" : "false",
      static_cast<unsigned long long>(shape.row_count()), rates[rates.size() / 2], rates.front(),
      rates.back(), shares.read, shares.exchange, shares.compute, shares.wait);
  std::fflush(stdout);
  std::_Exit(0);  // Saving tables of this size would take longer than the measurement.
}

int Run() {
  const CriteoShape shape(FLAGS_rows);
  const std::string text = FLAGS_work_dir + "/" + std::to_string(FLAGS_rows) + "-" +
                           std::to_string(FLAGS_batches * FLAGS_batch) + ".tsv";
  if (Status made = MakeDirectories(FLAGS_work_dir); !made.ok()) {
    LOG(ERROR) << made.message();
    return 1;
  }
  if (::access(text.c_str(), R_OK) != 0) {
    // Some lines more, since ranks share a file by bytes.
    const std::uint64_t samples = std::uint64_t{FLAGS_batches} * FLAGS_batch;
    const std::string part = text + ".part";
    Status written = shape.WriteText(part, samples + samples / 50);
    if (!written.ok() || std::rename(part.c_str(), text.c_str()) != 0) {
      LOG(ERROR) << (written.ok() ? ErrnoStatus("rename", part) : written).message();
      return 1;
    }
  }
  const std::uint64_t first = FillSteps(shape) + kSettleSteps;
  StatusOr<std::shared_ptr<const JobPlan>> plan =
      MakeBenchPlan(text, first + (FLAGS_windows + 2) * kWindowSteps);
  if (!plan.ok()) {
    LOG(ERROR) << plan.status().message();
    return 2;
  }
  Flags flags;
  flags.run_dir = FLAGS_work_dir + "/run";
  flags.overwrite = true;
  if (const Status prepared = PrepareRunDirectory(flags, **plan).status(); !prepared.ok()) {
    LOG(ERROR) << prepared.message();
    return 1;
  }
  std::vector<RankTimes> times(FLAGS_ranks);
  Meter meter(first, &times);
  return Train(*plan, shape, &meter, &times) ? 0 : 1;
}

}  // namespace
}  // namespace plexus

int main(int argc, char** argv) {
  google::InitGoogleLogging(argv[0]);
  gflags::ParseCommandLineFlags(&argc, &argv, true);
  return plexus::Run();
}
