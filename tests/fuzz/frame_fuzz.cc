// frame_fuzz: any bytes as a frame for the decoders, or as a sequence of frames for a shard.
//
// The first byte chooses: decoders, or a shard in BSP, deterministic SSP or ASP (mod 4), and the
// precision of rows on the wire (div 4, mod 4).  A shard's frames
// are u16 length and as many bytes; magic, length and checksum are put right, so that the fuzzer
// gets past them.  A length of 0 is a tick of the timer.
#include <cstddef>
#include <cstdint>
#include <map>
#include <string>
#include <vector>

#include <glog/logging.h>
#include <google/protobuf/stubs/logging.h>

#include "proto/control.h"
#include "proto/frame.h"
#include "proto/job.h"
#include "ps/shard.h"
#include "tests/unit/proto/exact_bytes.h"

namespace plexus {
namespace {

constexpr std::uint64_t kIncarnation = 7;

// Two ranks; a HASHED and an ARRAY group; two dense parameters.
std::shared_ptr<const JobPlan> MakeFuzzPlan(std::int32_t staleness, proto::Precision precision) {
  StatusOr<proto::Job> job = ParseJob(
      "data { fields { name: \"C1\" tables: \"t\" } } tables { name: \"t\" } train { ranks: 2 }",
      "fuzz", {});
  CHECK(job.ok()) << job.status().ToString();
  auto plan = std::make_shared<JobPlan>();
  plan->job = *std::move(job);
  plan->job.mutable_cluster()->set_buckets(8);
  plan->job.mutable_train()->set_staleness(staleness);
  plan->job.mutable_train()->set_deterministic(staleness > 0);
  plan->job.mutable_train()->set_clip_dense_norm(1);
  plan->job.mutable_train()->set_pull_precision(precision);
  plan->job.mutable_train()->set_push_precision(precision);
  plan->tables.resize(3);
  plan->tables[0].name = "hashed";
  plan->tables[0].dim = 3;
  plan->tables[0].optimizer.kind = OptimizerKind::kAdagrad;
  plan->tables[1].name = "linear";
  plan->tables[1].dim = 1;
  plan->tables[2].name = "array";
  plan->tables[2].kind = TableSpec::Kind::kArray;
  plan->tables[2].rows = 10;
  plan->tables[2].dim = 2;
  plan->groups.resize(2);
  plan->groups[0].tables = {0, 1};
  plan->groups[0].dims = {3, 1};
  plan->groups[1].tables = {2};
  plan->groups[1].dims = {2};
  plan->groups[1].array_rows = 10;
  DenseParameterSpec weight;
  weight.name = "w";
  weight.shape = {5};
  DenseParameterSpec statistic = weight;
  statistic.name = "s";
  statistic.kind = DenseParameterSpec::Kind::kStatistic;
  plan->dense = DenseLayout({weight, statistic});
  return plan;
}

// `bytes` as a frame that verifies: padded to a header, with the fields that guard it put right.
Bytes Repaired(std::span<const std::uint8_t> bytes) {
  std::vector<std::uint8_t> padded(bytes.begin(), bytes.end());
  padded.resize(std::max(padded.size(), sizeof(FrameHeader)));
  FrameHeader header;
  std::memcpy(&header, padded.data(), sizeof(header));
  header.magic = kFrameMagic;
  header.checksum = 0;
  header.body_bytes = static_cast<std::uint32_t>(padded.size() - sizeof(header));
  std::memcpy(padded.data(), &header, sizeof(header));
  const Bytes frame = ExactBytes(padded);
  SealFrame(frame);
  CHECK(VerifyFrame(frame).ok());
  return frame;
}

template <typename T>
void Touch(std::span<const T> values) {
  volatile T sink{};
  for (const T value : values) {
    sink = value;
  }
  (void)sink;
}

void FuzzDecoders(proto::Precision precision, std::span<const std::uint8_t> bytes) {
  static std::map<proto::Precision, std::shared_ptr<const JobPlan>> plans;
  std::shared_ptr<const JobPlan>& plan = plans[precision];
  if (plan == nullptr) {
    plan = MakeFuzzPlan(0, precision);
  }
  (void)VerifyFrame(ExactBytes(bytes));
  const Bytes frame = Repaired(bytes);
  (void)DecodeControl(frame);
  if (const StatusOr<PullBody> pull = DecodePull(*plan, frame); pull.ok()) {
    for (const KeyBlock& block : pull->groups) {
      Touch(block.keys);
    }
    CHECK_LE(PullReplyBytes(*plan, *pull, 10), frame.size() * 16);
  }
  const StatusOr<PushBody> push = DecodePush(*plan, {.values = 10, .with_state = 15}, frame);
  if (!push.ok()) {
    return;
  }
  for (const KeyBlock& block : push->groups) {
    Touch(block.keys);
    Touch(block.counts);
    for (std::size_t t = 0; t < block.gradients.size(); ++t) {
      const std::uint32_t dim = plan->groups[block.group].dims[t];
      std::vector<float> floats(block.keys.size() * dim);
      if (!floats.empty()) {
        DecodeWireRows(PushPrecision(*plan), block.gradients[t].data(), block.keys.size(), dim,
                       floats.data());
      }
      Touch(std::span<const float>(floats));
    }
  }
  Touch(push->dense);
  Touch(push->dense_state);
}

void StartPhaseOne(Shard* shard) {
  proto::Control control;
  proto::View& view = *control.mutable_view();
  view.set_incarnation(kIncarnation);
  view.set_fence(1);
  view.set_version(0);
  view.add_carrier_epochs(1);
  view.add_carrier_epochs(1);
  view.mutable_phase()->set_number(1);
  view.mutable_phase()->set_kind(proto::Phase::TRAIN);
  view.mutable_phase()->set_first_step(1);
  shard->OnMessage(kSchedulerPeer, ControlFrame(control), 0);
}

void FuzzShard(std::int32_t staleness, proto::Precision precision,
               std::span<const std::uint8_t> bytes) {
  ShardOptions options;
  options.registration.set_incarnation(kIncarnation);
  Shard shard(MakeFuzzPlan(staleness, precision), options);
  StartPhaseOne(&shard);
  Millis now = 0;
  while (bytes.size() >= 2) {
    const std::size_t size = std::min<std::size_t>(bytes.size() - 2, bytes[0] + 256u * bytes[1]);
    if (size == 0) {
      now += 500;
      shard.OnTimer(now);
    } else {
      const Bytes frame = Repaired(bytes.subspan(2, size));
      const bool control = HeaderOf(frame).type == FrameType::kControl;
      const std::string peer = "peer/" + std::to_string(HeaderOf(frame).rank % 3);
      shard.OnMessage(control ? kSchedulerPeer : peer, frame, now);
    }
    bytes = bytes.subspan(2 + size);
    if (shard.TakeSaveRequest().has_value()) {
      shard.OnSaved({});
    }
    for (const Envelope& envelope : shard.outbox().Take()) {
      SealFrame(envelope.frame);
      CHECK(VerifyFrame(envelope.frame).ok());
    }
    const ShardCounters& c = shard.counters();
    CHECK_EQ(c.pushes, c.push_applied + c.push_void + c.push_duplicate + c.push_refused +
                           c.push_dropped + shard.pending_parts());
  }
}

}  // namespace
}  // namespace plexus

extern "C" int LLVMFuzzerInitialize(int*, char***) {
  FLAGS_minloglevel = google::FATAL;  // Refusals are what is asked for here.
  google::protobuf::SetLogHandler(nullptr);
  return 0;
}

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* bytes, std::size_t size) {
  if (size == 0) {
    return 0;
  }
  const std::span<const std::uint8_t> rest(bytes + 1, size - 1);
  const auto precision = static_cast<plexus::proto::Precision>(bytes[0] / 4 % 4);
  switch (bytes[0] % 4) {
    case 0:
      plexus::FuzzDecoders(precision, rest);
      break;
    case 1:
      plexus::FuzzShard(0, precision, rest);
      break;
    case 2:
      plexus::FuzzShard(2, precision, rest);
      break;
    default:
      plexus::FuzzShard(-1, precision, rest);
  }
  return 0;
}
