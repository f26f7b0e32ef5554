#include "ps/push_record.h"

#include <span>
#include <utility>

namespace plexus {
namespace {

struct StepHead {
  std::uint64_t step = 0;
  std::uint32_t phase = 0;
  std::uint32_t ranks = 0;
  std::uint64_t dense_floats = 0;
};

struct PartHead {
  std::uint32_t flags = 0;
  std::uint32_t epoch = 0;
  std::uint64_t bytes = 0;
};

constexpr std::uint32_t kRanksMax = 1U << 20;

std::uint64_t Padded(std::uint64_t bytes) { return (bytes + 7) / 8 * 8; }

// The body of a push frame without its dense gradients, which are its end.
std::span<const std::uint8_t> SparseBody(const LoggedPart& part, const DenseExtent& extent) {
  if (part.frame.empty()) {
    return {};
  }
  const auto body = BodyOf(part.frame);
  const bool dense = (HeaderOf(part.frame).flags & kFlagDense) != 0;
  return body.first(body.size() - (dense ? extent.values * sizeof(float) : 0));
}

// A part of `piece` that shares its bytes.
Bytes SliceOf(const Bytes& frame, std::span<const std::uint8_t> piece) {
  return {std::make_shared<Bytes>(frame), piece.data(), piece.size()};
}

Bytes FrameOf(const LoggedStep& step, std::uint32_t rank, const LoggedPart& part,
              std::span<const std::uint8_t> body, std::span<const float> dense) {
  FrameHeader header;
  header.type = FrameType::kPush;
  header.step = step.step;
  header.phase = step.phase;
  header.rank = rank;
  header.epoch = part.epoch;
  header.flags = (part.flags & ~kFlagDense) | (dense.empty() ? 0 : kFlagDense);
  ByteWriter writer = StartFrame(header, body.size() + dense.size_bytes());
  writer.PutArray(body);
  writer.PutArray(dense);
  return writer.Finish();
}

}  // namespace

PushRecord MakeStepRecord(const LoggedStep& step, const DenseExtent& extent, const Bytes& dense) {
  PushRecord record{.kind = PushRecordKind::kStep, .version = step.step, .pieces = {}};
  const auto ranks = static_cast<std::uint32_t>(step.parts.size());
  ByteWriter heads(sizeof(StepHead) + ranks * sizeof(PartHead));
  heads.Put(StepHead{step.step, step.phase, ranks, dense.size() / sizeof(float)});
  for (const LoggedPart& part : step.parts) {
    heads.Put(PartHead{part.flags, part.epoch, SparseBody(part, extent).size()});
  }
  record.pieces.push_back(heads.Finish());
  for (const LoggedPart& part : step.parts) {
    const auto body = SparseBody(part, extent);
    if (body.empty()) {
      continue;
    }
    record.pieces.push_back(SliceOf(part.frame, body));
    if (const std::uint64_t padding = Padded(body.size()) - body.size(); padding > 0) {
      const std::uint64_t zero = 0;
      record.pieces.push_back(Bytes::Copy({reinterpret_cast<const std::uint8_t*>(&zero), padding}));
    }
  }
  if (!dense.empty()) {
    record.pieces.push_back(dense);
  }
  return record;
}

StatusOr<LoggedStep> ReadStepRecord(const Bytes& payload) {
  const Status bad = DataLoss("a step in the push log is not one");
  ByteReader reader(payload.data(), payload.size());
  StepHead head;
  std::span<const PartHead> parts;
  if (!reader.Get(&head) || head.ranks > kRanksMax || !reader.GetArray(head.ranks, &parts)) {
    return bad;
  }
  LoggedStep step{.step = head.step, .phase = head.phase, .parts = {}};
  std::vector<std::span<const std::uint8_t>> bodies;
  for (const PartHead& part : parts) {
    std::span<const std::uint8_t> body;
    if (!reader.GetArray(part.bytes, &body) || !reader.Align(8)) {
      return bad;
    }
    bodies.push_back(body);
  }
  std::span<const float> dense;
  if (!reader.GetArray(head.dense_floats, &dense) || reader.remaining() != 0) {
    return bad;
  }
  for (std::uint32_t rank = 0; rank < head.ranks; ++rank) {
    LoggedPart part{.flags = parts[rank].flags, .epoch = parts[rank].epoch, .frame = {}};
    if ((part.flags & kFlagVoid) == 0) {
      part.frame = FrameOf(step, rank, part, bodies[rank], std::exchange(dense, {}));
    }
    step.parts.push_back(std::move(part));
  }
  return step;
}

}  // namespace plexus
