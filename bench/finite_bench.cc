// finite_bench: what looking for gradients that are not finite costs, in this process.
//
//   finite_bench [--rows=2000000] [--keys=100000] [--pushes=60]
//                [--precision=F32|BF16|F16|INT8] [--json=FILE]
//
// Pushes of --keys distinct keys, uniform over a HASHED table of 16 f32 with Adagrad, are applied
// by a shard as they arrive (ASP), each from a frame of its own: frames and rows come from memory,
// not from a cache.  Before every second push its frame is looked at once more, as the shard will,
// and timed: the two kinds of time alternate.  Prints one JSON object of medians, in ns a key:
// `push` = the shard's whole push, its look included; `look` = the same look at a frame that nobody
// has read since it was written; `look_again` = at one that has just been looked at; `rank` = a
// rank's look at its own gradient sums.
#include <algorithm>
#include <cstdio>
#include <memory>
#include <unordered_set>
#include <vector>

#include <gflags/gflags.h>
#include <glog/logging.h>

#include "common/clock.h"
#include "common/files.h"
#include "common/precision/finite.h"
#include "common/random.h"
#include "launch/plan.h"
#include "proto/control.h"
#include "proto/job.h"
#include "ps/shard.h"

DEFINE_uint64(rows, 2000000, "rows of the table");
DEFINE_uint32(keys, 100000, "distinct keys a push");
DEFINE_uint32(pushes, 60, "pushes to time");
DEFINE_string(json, "", "also write the object to this file");
DEFINE_string(precision, "F32", "of pushed gradients on the wire: F32, BF16, F16 or INT8");

namespace plexus {
namespace {

constexpr std::uint32_t kDim = 16;
constexpr std::uint32_t kFrames = 24;  // Of 8 MB: more than a cache.

constexpr char kJob[] = R"(
data { format: CRITEO fields { name: "C1" tables: "rows" } }
tables {
  name: "rows" dim: 16 init { kind: CONSTANT scale: 0.5 }
  optimizer { kind: ADAGRAD learning_rate: 0.02 epsilon: 1e-10 }
}
model { name: "dcn" hidden: [8] cross_layers: 1 }
train { batch_size: 2 staleness: -1 ranks: 1 }
cluster { servers: 1 workers: 1 }
)";

Key KeyOfRow(std::uint64_t row) { return Mix64(row + 0x9e3779b97f4a7c15ULL); }

std::shared_ptr<const JobPlan> MakeBenchPlan() {
  StatusOr<proto::Job> job =
      ParseJob(kJob, "finite_bench", {"train.push_precision=" + FLAGS_precision});
  CHECK(job.ok()) << job.status().message();
  ResolveNumericProfile(&*job);
  StatusOr<JobPlan> plan = MakePlan(*job);
  CHECK(plan.ok()) << plan.status().message();
  return std::make_shared<const JobPlan>(*std::move(plan));
}

class Bench {
 public:
  Bench() : plan_(MakeBenchPlan()), shard_(plan_, {}), gradients_(std::size_t{FLAGS_keys} * kDim) {
    const CounterRandom random(1, 1, 1);
    for (std::size_t i = 0; i < gradients_.size(); ++i) {
      gradients_[i] = random.Uniform(i) - 0.5f;
    }
    proto::Control control;
    proto::Phase& phase = *control.mutable_view()->mutable_phase();
    phase.set_number(1);
    phase.set_kind(proto::Phase::TRAIN);
    phase.set_first_step(1);
    control.mutable_view()->set_version(0);
    shard_.OnMessage(kSchedulerPeer, ControlFrame(control), 0);
    for (std::uint64_t row = 0; row < FLAGS_rows; row += FLAGS_keys) {
      std::vector<Key> keys;
      for (std::uint64_t i = row; i < std::min(FLAGS_rows, row + FLAGS_keys); ++i) {
        keys.push_back(KeyOfRow(i));
      }
      Push(MakeFrame(keys));
    }
  }

  void Run() {
    std::vector<double> push;
    std::vector<double> look;
    std::vector<double> look_again;
    std::vector<double> rank;
    for (std::uint32_t first = 0; first < FLAGS_pushes; first += kFrames) {
      std::vector<Bytes> frames;
      for (std::uint32_t f = 0; f < kFrames; ++f) {
        frames.push_back(MakeFrame(DrawKeys(first + f)));
      }
      for (std::uint32_t f = 0; f < kFrames; f += 2) {
        look.push_back(Nanoseconds([&] { Look(frames[f]); }));
        look_again.push_back(Nanoseconds([&] { Look(frames[f]); }));
        push.push_back(Nanoseconds([&] { Push(frames[f + 1]); }));
        rank.push_back(
            Nanoseconds([&] { CHECK(AllFinite(gradients_.data(), gradients_.size())); }));
      }
    }
    char text[200];
    std::snprintf(text, sizeof(text),
                  "{\"precision\": \"%s\", \"dim\": %u, \"push\": %.2f, \"look\": %.3f, "
                  "\"look_again\": %.3f, \"rank\": %.3f}\n",
                  FLAGS_precision.c_str(), kDim, Median(push), Median(look), Median(look_again),
                  Median(rank));
    std::fputs(text, stdout);
    if (!FLAGS_json.empty()) {
      const Status status = WriteFileAtomically(FLAGS_json, text);
      CHECK(status.ok()) << status.message();
    }
  }

 private:
  static double Median(std::vector<double> values) {
    std::sort(values.begin(), values.end());
    return values[values.size() / 2];
  }

  template <typename Work>
  static double Nanoseconds(const Work& work) {
    const double began = SteadySeconds();
    work();
    return (SteadySeconds() - began) * 1e9 / FLAGS_keys;
  }

  static std::vector<Key> DrawKeys(std::uint64_t set) {
    const CounterRandom random(1, 2, set);
    std::unordered_set<std::uint64_t> seen;
    std::vector<Key> keys;
    for (std::uint64_t i = 0; keys.size() < FLAGS_keys; ++i) {
      const std::uint64_t row = random.Below(i, FLAGS_rows);
      if (seen.insert(row).second) {
        keys.push_back(KeyOfRow(row));
      }
    }
    return keys;
  }

  Bytes MakeFrame(const std::vector<Key>& keys) {
    FrameHeader header;
    header.type = FrameType::kPush;
    header.phase = 1;
    header.step = ++step_;
    const std::vector<std::uint32_t> counts(keys.size(), 1);
    KeyBlock block;
    block.keys = keys;
    block.counts = counts;
    ByteWriter writer = StartFrame(header, PushBytes(*plan_, {&block, 1}, 0));
    EncodePush(writer, *plan_, 1, 0.5, {&block, 1},
               [this](std::size_t, std::size_t) { return gradients_.data(); });
    return writer.Finish();
  }

  void Push(const Bytes& frame) {
    shard_.OnMessage("rank", frame, 0);
    (void)shard_.outbox().Take();
  }

  void Look(const Bytes& frame) const {
    const StatusOr<PushBody> body = DecodePush(*plan_, shard_.state().dense_extent(), frame);
    CHECK(body.ok() && PushIsFinite(*plan_, *body));
  }

  const std::shared_ptr<const JobPlan> plan_;
  Shard shard_;
  std::vector<float> gradients_;
  std::uint64_t step_ = 0;
};

}  // namespace
}  // namespace plexus

int main(int argc, char** argv) {
  google::InitGoogleLogging(argv[0]);
  gflags::ParseCommandLineFlags(&argc, &argv, true);
  plexus::Bench().Run();
  return 0;
}
