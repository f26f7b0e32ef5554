// checkpoint_bench: how fast a shard's checkpoint is written while the shard goes on, and how long
// the shard's thread is away for it.
//
//   checkpoint_bench [--rows=20000000] [--keys=20000] [--dirty=0.01] [--dir=DIR] [--json=FILE]
//
// A shard with one HASHED table of 16 f32 with Adagrad, 152 bytes a row in a file, driven in this
// process by frames of one rank (BSP); its SnapshotWriter writes to DIR.  Times are a clock's.
//
//   disk_mb_s          a file as large as the checkpoint, by writes of 1 MiB and a sync, of memory
//                      that is there; before and after, the better one
//   core_rows_s        one core that gathers, hashes and adds up the digest, and writes nothing
//   full_*             a whole checkpoint with nothing else to do; target: 0.6 of the smaller of
//                      the disk and 4 million rows/s
//   incremental_*      one on top of it, after steps that changed `dirty` of the rows; target: 5 %
//   step_ms            steps of --keys keys one after the other, without a checkpoint: median, most
//   beside_writer_*    the same while another thread hashes and writes a file as large from memory
//                      of its own: what the machine takes from whoever runs beside its disk
//   busy_*             with a whole checkpoint beside them: steps, and the shard's thread away for
//                      slices; target: all but one in a thousand within 50 ms
//
// Prints a table and, as its last line, one JSON object; exits with 1 if a figure misses its target
// (full size only).
#include <algorithm>
#include <atomic>
#include <cstdio>
#include <filesystem>
#include <memory>
#include <string>
#include <thread>
#include <vector>

#include <fcntl.h>
#include <gflags/gflags.h>
#include <glog/logging.h>
#include <poll.h>
#include <unistd.h>

#include "bench/store_figures.h"
#include "common/clock.h"
#include "common/files.h"
#include "common/random.h"
#include "launch/plan.h"
#include "launch/snapshot_writer.h"
#include "proto/control.h"
#include "proto/job.h"
#include "ps/shard.h"

DEFINE_uint64(rows, 20000000, "rows of the table");
DEFINE_uint32(keys, 20000, "distinct keys a step");
DEFINE_double(dirty, 0.01, "share of the rows that change before the incremental checkpoint");
DEFINE_string(dir, "/var/tmp/checkpoint_bench", "where files go; it is emptied and removed");
DEFINE_string(json, "", "also write the JSON object to this file");

namespace plexus {
namespace {

constexpr std::uint32_t kDim = 16;
constexpr std::uint64_t kFullSize = 20000000;
constexpr double kCoreRows = 4e6;  // A second.

constexpr char kJob[] = R"(
data { format: CRITEO fields { name: "C1" tables: "rows" } }
tables {
  name: "rows" dim: 16 init { kind: CONSTANT scale: 0.5 }
  optimizer { kind: ADAGRAD learning_rate: 0.02 epsilon: 1e-10 }
}
model { name: "dcn" hidden: [8] cross_layers: 1 }
train { batch_size: 2 ranks: 1 }
checkpoint { every_steps: 1000000 }
cluster { servers: 1 workers: 1 }
)";

Key KeyOfRow(std::uint64_t row) { return Mix64(row + 0x9e3779b97f4a7c15ULL); }

std::shared_ptr<const JobPlan> MakeBenchPlan() {
  StatusOr<proto::Job> job = ParseJob(kJob, "checkpoint_bench", {});
  CHECK(job.ok()) << job.status().message();
  ResolveNumericProfile(&*job);
  StatusOr<JobPlan> plan = MakePlan(*job);
  CHECK(plan.ok()) << plan.status().message();
  return std::make_shared<const JobPlan>(*std::move(plan));
}

NodeOptions OptionsOf() {
  NodeOptions options;
  options.run_dir = FLAGS_dir;
  return options;
}

double Median(std::vector<double> values) {
  std::sort(values.begin(), values.end());
  return values.empty() ? 0 : values[values.size() / 2];
}

// MB/s of a file of so many bytes; with `hash`, what else ModelFileWriter does with them.
double DiskRate(std::uint64_t bytes, bool hash = false) {
  const std::string path = FLAGS_dir + "/sequential";
  const std::string part(std::size_t{1} << 20, 'x');
  Digest128 digest;
  const double began = SteadySeconds();
  const int file = ::open(path.c_str(), O_WRONLY | O_CREAT | O_TRUNC, 0666);
  PCHECK(file >= 0) << path;
  for (std::uint64_t done = 0; done < bytes; done += part.size()) {
    for (std::size_t at = 0; hash && at + 152 < part.size(); at += 152) {
      RowView row;
      row.record = std::as_bytes(std::span(part).subspan(at, 128));
      digest += RowDigest("rows", row);
    }
    digest.low += hash ? HashBytes(part, 0) + HashBytes(part, 1) : 0;
    PCHECK(::write(file, part.data(), part.size()) == static_cast<ssize_t>(part.size())) << path;
  }
  PCHECK(::fsync(file) == 0) << path;
  PCHECK(::close(file) == 0) << path;
  const double seconds = SteadySeconds() - began;
  PCHECK(::unlink(path.c_str()) == 0) << path;
  CHECK(!hash || digest.low != 0);
  return static_cast<double>(bytes) / seconds / 1e6;
}

class Bench {
 public:
  Bench()
      : plan_(MakeBenchPlan()),
        options_(OptionsOf()),
        shard_(plan_, {}),
        writer_(*plan_, options_, [] {}),
        gradients_(std::size_t{FLAGS_keys} * kDim) {
    const CounterRandom random(1, 1, 1);
    for (std::size_t i = 0; i < gradients_.size(); ++i) {
      gradients_[i] = random.Uniform(i) - 0.5f;
    }
    proto::Control control;
    proto::View& view = *control.mutable_view();
    view.mutable_phase()->set_number(1);
    view.mutable_phase()->set_kind(proto::Phase::TRAIN);
    view.mutable_phase()->set_first_step(1);
    view.set_version(0);
    shard_.OnMessage(kSchedulerPeer, ControlFrame(control), 0);
    for (std::uint64_t row = 0; row < FLAGS_rows; row += FLAGS_keys) {
      std::vector<Key> keys;
      for (std::uint64_t i = row; i < std::min<std::uint64_t>(FLAGS_rows, row + FLAGS_keys); ++i) {
        keys.push_back(KeyOfRow(i));
      }
      Step(keys, nullptr);
    }
  }

  void Run(Report* report) {
    const double file_mb = static_cast<double>(FLAGS_rows) * 152 / 1e6;
    double disk = DiskRate(static_cast<std::uint64_t>(file_mb * 1e6));
    const double core = CoreRate();
    const double full = Checkpoint(0);
    const std::uint64_t base = shard_.version();
    disk = std::max(disk, DiskRate(static_cast<std::uint64_t>(file_mb * 1e6)));
    for (std::uint64_t done = 0; done < Dirty(); done += FLAGS_keys) {
      Step(DrawKeys(), nullptr);
    }
    const double incremental = Checkpoint(base);
    const bool verdict = FLAGS_rows >= kFullSize;
    const double target = 0.6 * std::min(disk, kCoreRows * 152 / 1e6);
    report->AtLeast("disk_mb_s", disk, "MB/s", 0);
    report->AtLeast("core_rows_s", core / 1e6, "million rows/s", 0);
    report->AtLeast("full_rows_s", static_cast<double>(FLAGS_rows) / full / 1e6, "million rows/s",
                    0);
    report->AtLeast("full_mb_s", file_mb / full, "MB/s", verdict ? target : 0);
    report->AtMost("full_seconds", full, "s", 0);
    report->AtMost("incremental_seconds", incremental, "s", 0);
    report->AtMost("incremental_share", incremental / full, "of the full one's time",
                   verdict ? 0.05 : 0);
    RunBusy(verdict, report);
  }

 private:
  static std::uint64_t Dirty() {
    return static_cast<std::uint64_t>(FLAGS_dirty * static_cast<double>(FLAGS_rows));
  }

  static void Tell(const std::string& name, std::vector<double> seconds, Report* report) {
    report->AtMost(name, Median(seconds) * 1e3, "ms", 0);
    report->AtMost(name + "_max", *std::max_element(seconds.begin(), seconds.end()) * 1e3, "ms", 0);
  }

  // Steps without a checkpoint, beside another file, and as many as it takes beside a checkpoint.
  void RunBusy(bool verdict, Report* report) {
    std::vector<double> alone;
    for (int i = 0; i < 200; ++i) {
      alone.push_back(TimedStep(nullptr));
    }
    std::vector<double> beside_writer;
    {
      std::atomic<bool> done = false;
      const std::jthread disk([&done] {
        (void)DiskRate(FLAGS_rows * 152, true);
        done = true;
      });
      while (!done) {
        beside_writer.push_back(TimedStep(nullptr));
      }
    }
    proto::Commit::Checkpoint order;
    std::vector<double> beside;
    std::vector<double> away;
    const std::uint64_t written = writer_.stats().snapshots;
    const std::uint64_t at_once = writer_.stats().written_at_once;
    const double began = SteadySeconds();
    const proto::Commit::Checkpoint* first = &order;
    while (writer_.stats().snapshots == written) {
      beside.push_back(TimedStep(first));
      first = nullptr;
      // As a server's loop: a turn after the push and one after the commit.
      for (int turn = 0; turn < 2; ++turn) {
        const double turn_began = SteadySeconds();
        writer_.Exchange(shard_, nullptr, false);
        away.push_back(SteadySeconds() - turn_began);
      }
    }
    Tell("step_ms", alone, report);
    Tell("beside_writer_step_ms", beside_writer, report);
    Tell("busy_step_ms", beside, report);
    std::sort(away.begin(), away.end());
    report->AtMost("busy_away_ms_99_9_percent", away[away.size() * 999 / 1000] * 1e3, "ms",
                   verdict ? 50 : 0);
    report->AtMost("busy_away_ms_max", away.back() * 1e3, "ms", 0);
    report->AtMost("busy_full_seconds", SteadySeconds() - began, "s", 0);
    report->AtMost("busy_written_at_once",
                   static_cast<double>(writer_.stats().written_at_once - at_once), "times", 0);
  }

  double TimedStep(const proto::Commit::Checkpoint* checkpoint) {
    const std::vector<Key> keys = DrawKeys();
    const Bytes push = MakePush(keys);
    const double began = SteadySeconds();
    Apply(push, checkpoint);
    return SteadySeconds() - began;
  }

  // One core does all but writing.
  double CoreRate() {
    const proto::Commit::Checkpoint order;
    Step(DrawKeys(), &order);
    (void)shard_.TakeSnapshotOrder();
    const double began = SteadySeconds();
    std::uint64_t rows = 0;
    Digest128 digest;
    while (shard_.snapshot().under_way()) {
      shard_.GatherSnapshot(std::uint64_t{1} << 20);
      for (const SnapshotBlock& block : shard_.snapshot().TakeBlocks()) {
        rows += block.kind == SnapshotBlock::Kind::kRows ? block.count : 0;
        digest += Hash(block);
        shard_.snapshot().OnWritten(block.bytes.size());
      }
    }
    CHECK_EQ(rows, FLAGS_rows) << "digest " << DigestHex(digest);
    return static_cast<double>(rows) / (SteadySeconds() - began);
  }

  // As ModelFileWriter: the block's checksum, the file's, and each row's part of the digest.
  static Digest128 Hash(const SnapshotBlock& block) {
    Digest128 digest;
    digest.low = HashBytes(block.bytes, 0) + HashBytes(block.bytes, 1);
    if (block.kind != SnapshotBlock::Kind::kRows) {
      return digest;
    }
    const std::size_t row_bytes = block.bytes.size() / block.count;
    for (std::size_t at = 0; at < block.bytes.size(); at += row_bytes) {
      RowView row;
      row.record = std::as_bytes(std::span(block.bytes).subspan(at + 24, row_bytes - 24));
      digest += RowDigest("rows", row);
    }
    return digest;
  }

  // Seconds from the commit until the file is complete, with nothing else to do.
  double Checkpoint(std::uint64_t base) {
    proto::Commit::Checkpoint order;
    order.set_base(base);
    const std::uint64_t written = writer_.stats().snapshots;
    Step(DrawKeys(), &order);
    const double began = SteadySeconds();
    while (writer_.stats().snapshots == written) {
      writer_.Exchange(shard_, nullptr, true);
      if (!writer_.HasWork(shard_)) {
        ::poll(nullptr, 0, 1);
      }
    }
    return SteadySeconds() - began;
  }

  std::vector<Key> DrawKeys() {
    const CounterRandom random(1, 2, ++draws_);
    std::vector<Key> keys;
    for (std::uint64_t i = 0; i < FLAGS_keys; ++i) {
      // Distinct: one of each stretch of the rows.
      const std::uint64_t stretch = FLAGS_rows / FLAGS_keys;
      keys.push_back(KeyOfRow(i * stretch + random.Below(i, stretch)));
    }
    return keys;
  }

  void Step(const std::vector<Key>& keys, const proto::Commit::Checkpoint* checkpoint) {
    Apply(MakePush(keys), checkpoint);
  }

  Bytes MakePush(const std::vector<Key>& keys) {
    FrameHeader header;
    header.type = FrameType::kPush;
    header.phase = 1;
    header.step = shard_.version() + 1;
    const std::vector<std::uint32_t> counts(keys.size(), 1);
    KeyBlock block;
    block.keys = keys;
    block.counts = counts;
    ByteWriter writer = StartFrame(header, PushBytes(*plan_, {&block, 1}, 0));
    EncodePush(writer, *plan_, 1, 0.5, {&block, 1},
               [this](std::size_t, std::size_t) { return gradients_.data(); });
    return writer.Finish();
  }

  void Apply(const Bytes& push, const proto::Commit::Checkpoint* checkpoint) {
    shard_.OnMessage("rank", push, 0);
    proto::Control control;
    proto::Commit& commit = *control.mutable_commit();
    commit.set_step(shard_.version() + 1);
    commit.set_phase(1);
    commit.set_rate_factor(1);
    if (checkpoint != nullptr) {
      *commit.mutable_checkpoint() = *checkpoint;
    }
    shard_.OnMessage(kSchedulerPeer, ControlFrame(control), 0);
    (void)shard_.outbox().Take();
  }

  const std::shared_ptr<const JobPlan> plan_;
  const NodeOptions options_;
  Shard shard_;
  SnapshotWriter writer_;
  std::vector<float> gradients_;
  std::uint64_t draws_ = 0;
};

int Run() {
  std::error_code error;
  std::filesystem::remove_all(FLAGS_dir, error);
  CHECK(MakeDirectories(FLAGS_dir).ok()) << FLAGS_dir;
  Report report;
  {
    Bench bench;
    bench.Run(&report);
  }
  std::filesystem::remove_all(FLAGS_dir, error);
  const std::string json = "{\"rows\":" + std::to_string(FLAGS_rows) + report.json() + "}\n";
  std::fputs(json.c_str(), stdout);
  if (!FLAGS_json.empty()) {
    const Status status = WriteFileAtomically(FLAGS_json, json);
    CHECK(status.ok()) << status.message();
  }
  return report.ok() ? 0 : 1;
}

}  // namespace
}  // namespace plexus

int main(int argc, char** argv) {
  google::InitGoogleLogging(argv[0]);
  gflags::ParseCommandLineFlags(&argc, &argv, true);
  return plexus::Run();
}
