#include "proto/frame.h"

#include <bit>
#include <cmath>
#include <cstring>

#include "common/precision/finite.h"

namespace plexus {
namespace {

static_assert(std::endian::native == std::endian::little,
              "frames are written as they lie in memory");

constexpr std::size_t kHeaderBytes = sizeof(FrameHeader);
constexpr std::size_t kChecksumOffset = offsetof(FrameHeader, checksum);

std::size_t Padded(std::size_t bytes) { return (bytes + 7) / 8 * 8; }

std::uint64_t Checksum(const std::uint8_t* frame, std::size_t size) {
  // The header with a zero checksum seeds the body's hash, so that no copy of the frame is needed.
  std::uint8_t header[kHeaderBytes];
  std::memcpy(header, frame, kHeaderBytes);
  std::memset(header + kChecksumOffset, 0, sizeof(std::uint64_t));
  const std::uint64_t seed = HashBytes({reinterpret_cast<char*>(header), kHeaderBytes}, 0);
  return HashBytes({reinterpret_cast<const char*>(frame) + kHeaderBytes, size - kHeaderBytes},
                   seed);
}

Status Bad(const char* what) { return InvalidArgument(std::string("malformed body: ") + what); }

Status DecodeKeys(const JobPlan& plan, ByteReader& reader, std::uint32_t groups, bool push,
                  std::vector<KeyBlock>* blocks) {
  if (groups > plan.groups.size()) {
    return Bad("more key groups than the job has");
  }
  blocks->resize(groups);
  std::uint32_t previous = 0;
  for (std::uint32_t i = 0; i < groups; ++i) {
    KeyBlock& block = (*blocks)[i];
    std::uint32_t keys = 0;
    if (!reader.Get(&block.group) || !reader.Get(&keys) || !reader.GetArray(keys, &block.keys)) {
      return Bad("keys are cut off");
    }
    if (block.group >= plan.groups.size() || (i > 0 && block.group <= previous)) {
      return Bad("key groups are not ascending, or unknown");
    }
    previous = block.group;
    const KeyGroup& group = plan.groups[block.group];
    if (group.array_rows > 0) {
      for (const Key key : block.keys) {
        if (key >= group.array_rows) {
          return Bad("a row beyond the table's end");
        }
      }
    }
    if (!push) {
      continue;
    }
    if (!reader.GetArray(keys, &block.counts) || !reader.Align(8)) {
      return Bad("counts are cut off");
    }
    for (std::size_t t = 0; t < group.tables.size(); ++t) {
      const std::uint64_t row_bytes = WireRowBytes(PushPrecision(plan), WireDim(plan, group, t));
      std::span<const std::uint8_t> gradients;
      if (!reader.GetArray(keys * row_bytes, &gradients) || !reader.Align(8)) {
        return Bad("gradients are cut off");
      }
      block.gradients.push_back(gradients);
    }
  }
  return OkStatus();
}

}  // namespace

ByteWriter StartFrame(const FrameHeader& header, std::size_t body_bytes) {
  FrameHeader sized = header;
  sized.body_bytes = static_cast<std::uint32_t>(body_bytes);
  sized.checksum = 0;  // A reply's header is made from a request's, which was sealed.
  ByteWriter writer(kHeaderBytes + body_bytes);
  writer.Put(sized);
  return writer;
}

Bytes MakeFrame(FrameHeader header, std::string_view body) {
  ByteWriter writer = StartFrame(header, body.size());
  writer.PutArray(std::span<const char>(body.data(), body.size()));
  return writer.Finish();
}

FrameHeader HeaderOf(const Bytes& frame) {
  CHECK_GE(frame.size(), kHeaderBytes);
  FrameHeader header;
  std::memcpy(&header, frame.data(), kHeaderBytes);
  return header;
}

std::span<const std::uint8_t> BodyOf(const Bytes& frame) {
  return {frame.data() + kHeaderBytes, frame.size() - kHeaderBytes};
}

void SealFrame(const Bytes& frame) {
  if (HeaderOf(frame).checksum != 0) {
    return;  // Sent before; other threads may be reading it.
  }
  const std::uint64_t checksum = Checksum(frame.data(), frame.size());
  // The only writer: a frame is sealed by the thread that made it, before it is handed on.
  std::memcpy(const_cast<std::uint8_t*>(frame.data()) + kChecksumOffset, &checksum,
              sizeof(checksum));
}

Status VerifyFrame(const Bytes& frame) {
  if (frame.size() < kHeaderBytes) {
    return DataLoss("frame of " + std::to_string(frame.size()) + " bytes is shorter than a header");
  }
  const FrameHeader header = HeaderOf(frame);
  if (header.magic != kFrameMagic) {
    return DataLoss("frame does not begin with the magic number: not a peer, or another version");
  }
  if (frame.size() > kFrameBytesMax) {
    return DataLoss("frame of " + std::to_string(frame.size()) + " bytes is too long");
  }
  if (header.body_bytes != frame.size() - kHeaderBytes) {
    return DataLoss("frame says " + std::to_string(header.body_bytes) + " bytes of body and has " +
                    std::to_string(frame.size() - kHeaderBytes));
  }
  if (header.checksum != Checksum(frame.data(), frame.size())) {
    return DataLoss("frame checksum mismatch");
  }
  return OkStatus();
}

StatusOr<PullBody> DecodePull(const JobPlan& plan, const Bytes& frame) {
  const auto body = BodyOf(frame);
  ByteReader reader(body.data(), body.size());
  std::uint32_t groups = 0;
  std::uint32_t reserved = 0;
  if (!reader.Get(&groups) || !reader.Get(&reserved)) {
    return Bad("a pull without a head");
  }
  PullBody pull;
  RETURN_IF_ERROR(DecodeKeys(plan, reader, groups, false, &pull.groups));
  if (reader.remaining() != 0) {
    return Bad("bytes behind the end");
  }
  return pull;
}

StatusOr<PushBody> DecodePush(const JobPlan& plan, const DenseExtent& dense, const Bytes& frame) {
  const auto body = BodyOf(frame);
  const std::uint32_t flags = HeaderOf(frame).flags;
  ByteReader reader(body.data(), body.size());
  PushBody push;
  std::uint32_t groups = 0;
  if (!reader.Get(&push.samples) || !reader.Get(&groups) || !reader.Get(&push.loss_sum)) {
    return Bad("a push without a head");
  }
  RETURN_IF_ERROR(DecodeKeys(plan, reader, groups, true, &push.groups));
  if ((flags & kFlagDense) != 0 && !reader.GetArray(dense.values, &push.dense)) {
    return Bad("dense gradients are cut off");
  }
  if ((flags & kFlagDenseState) != 0 && !reader.GetArray(dense.with_state, &push.dense_state)) {
    return Bad("dense state is cut off");
  }
  if (reader.remaining() != 0) {
    return Bad("bytes behind the end");
  }
  return push;
}

bool PushIsFinite(const JobPlan& plan, const PushBody& push) {
  if (!std::isfinite(push.loss_sum) || !AllFinite(push.dense.data(), push.dense.size())) {
    return false;
  }
  const Precision precision = PushPrecision(plan);
  for (const KeyBlock& block : push.groups) {
    const KeyGroup& group = plan.groups[block.group];
    for (std::size_t t = 0; t < group.tables.size(); ++t) {
      if (!WireRowsAreFinite(precision, block.gradients[t].data(), block.keys.size(),
                             WireDim(plan, group, t))) {
        return false;
      }
    }
  }
  return true;
}

std::size_t PullReplyBytes(const JobPlan& plan, const PullBody& pull, std::uint64_t dense_floats) {
  std::size_t bytes = dense_floats * sizeof(float);
  for (const KeyBlock& block : pull.groups) {
    const KeyGroup& group = plan.groups[block.group];
    for (std::size_t t = 0; t < group.tables.size(); ++t) {
      bytes += block.keys.size() * WireRowBytes(PullPrecision(plan), WireDim(plan, group, t));
    }
  }
  return bytes;
}

std::size_t PullBytes(const JobPlan&, std::span<const KeyBlock> groups) {
  std::size_t bytes = 8;
  for (const KeyBlock& block : groups) {
    bytes += 8 + block.keys.size() * sizeof(Key);
  }
  return bytes;
}

void EncodePull(ByteWriter& writer, std::span<const KeyBlock> groups) {
  writer.Put(static_cast<std::uint32_t>(groups.size()));
  writer.Put(std::uint32_t{0});
  for (const KeyBlock& block : groups) {
    writer.Put(block.group);
    writer.Put(static_cast<std::uint32_t>(block.keys.size()));
    writer.PutArray(block.keys);
  }
}

std::size_t PushBytes(const JobPlan& plan, std::span<const KeyBlock> groups,
                      std::uint64_t dense_floats) {
  std::size_t bytes = 16;
  for (const KeyBlock& block : groups) {
    bytes += 8 + block.keys.size() * sizeof(Key);
    bytes += Padded(block.keys.size() * sizeof(std::uint32_t));
    const KeyGroup& group = plan.groups[block.group];
    for (std::size_t t = 0; t < group.tables.size(); ++t) {
      bytes +=
          Padded(block.keys.size() * WireRowBytes(PushPrecision(plan), WireDim(plan, group, t)));
    }
  }
  return bytes + dense_floats * sizeof(float);
}

void EncodePush(ByteWriter& writer, const JobPlan& plan, std::uint32_t samples, double loss_sum,
                std::span<const KeyBlock> groups, const GradientsOf& gradients_of) {
  writer.Put(samples);
  writer.Put(static_cast<std::uint32_t>(groups.size()));
  writer.Put(loss_sum);
  for (std::size_t g = 0; g < groups.size(); ++g) {
    const KeyBlock& block = groups[g];
    writer.Put(block.group);
    writer.Put(static_cast<std::uint32_t>(block.keys.size()));
    writer.PutArray(block.keys);
    writer.PutArray(block.counts);
    writer.Align(8);
    const KeyGroup& group = plan.groups[block.group];
    for (std::size_t t = 0; t < group.tables.size() && !block.keys.empty(); ++t) {
      const std::uint32_t dim = WireDim(plan, group, t);
      const std::size_t bytes = block.keys.size() * WireRowBytes(PushPrecision(plan), dim);
      EncodeWireRows(PushPrecision(plan), gradients_of(g, t), block.keys.size(), dim,
                     writer.Reserve(bytes));
      writer.Align(8);
    }
  }
}

}  // namespace plexus
