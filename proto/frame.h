// Frames: what workers and shards say to each other on the data plane, and how control messages
// travel.
//
// A frame is a 64-byte header and a body.  All integers are little-endian; arrays in bodies are
// aligned to 8 bytes from the frame's start.
//
//   offset  0  u32 magic       "PLX1"
//           4  u16 type        FrameType
//           6  u16 code        ReplyCode of replies, else 0
//           8  u64 checksum    XXH3_64 of the frame with this field zero
//          16  u64 step        training step that a pull or push belongs to
//          24  u64 version     replies: the shard's version
//          32  u64 sequence    request's number, unique for (rank, epoch); a reply carries it back
//          40  u32 body_bytes
//          44  u32 phase
//          48  u32 rank
//          52  u32 epoch       of the rank's carrier
//          56  u32 generation  of the bucket map
//          60  u32 flags       FrameFlags
//
// Bodies, in order ([n] = array, aligned):
//   kPull        u32 groups, u32 0; per group: u32 group, u32 keys, u64 key[keys].
//   kPullReply   per group as asked, per table of the group: a wire row of values for each key, not
//                aligned; if kFlagDense was set: the shard's dense blocks, ascending: f32
//                value[count], aligned to 4.
//   kPush        u32 samples, u32 groups, f64 loss_sum; per group: u32 group, u32 keys, u64
//                key[keys], u32 count[keys], per table: a wire row of gradient sums for each key;
//                if kFlagDense: the shard's dense blocks' gradient sums; if kFlagDenseState: their
//                values followed by state.  With kFlagVoid no groups and no samples.
//   kPushReply, kPhaseQuery   empty
//   kPhaseReply  a proto::Phase; `step` = the rank's first step that this shard has not applied
//   kControl     a proto::Control
//   kError       a sentence
//
// A wire row is KeyGroup::dims floats as EncodeWireRow (common/precision) writes them, in
// train.pull_precision or train.push_precision: 4 dim bytes if F32, else 2 dim (BF16, F16) or dim
// and a scale (INT8), padded to 4.
//
// Thread safety: pure functions on values.
#pragma once

#include <cstdint>
#include <functional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "common/bytes.h"
#include "common/hash.h"
#include "common/status.h"
#include "proto/plan.h"

namespace plexus {

inline constexpr std::uint32_t kFrameMagic = 0x31584c50;  // "PLX1"
// One rank's push of a huge batch is tens of MB; beyond this a length is not believed.
inline constexpr std::uint32_t kFrameBytesMax = 1u << 30;

enum class FrameType : std::uint16_t {
  kPull = 1,
  kPullReply = 2,
  kPush = 3,
  kPushReply = 4,
  kPhaseQuery = 5,
  kPhaseReply = 6,
  kControl = 7,
  kError = 8,
};

enum class ReplyCode : std::uint16_t {
  kOk = 0,
  kPhaseEnded = 1,  // The phase named is over: ask for the next one.
  kStale = 2,       // The step is committed already; `version` says how far the shard is.
  kFenced = 3,      // A newer carrier has the rank.
  kWrongMap = 4,    // Another generation of the bucket map holds.
  kBadRequest = 5,  // The body says what is wrong.
};

// FrameFlags.
inline constexpr std::uint32_t kFlagDense = 1;      // Dense blocks belong to this pull or push.
inline constexpr std::uint32_t kFlagReadOnly = 2;   // A pull of an evaluation: any number a step.
inline constexpr std::uint32_t kFlagLast = 4;       // The rank has nothing more in this phase.
inline constexpr std::uint32_t kFlagExhausted = 8;  // The rank has nothing more in this epoch.
// The push carries dense values and state (dense_sync MPI, end of a phase).
inline constexpr std::uint32_t kFlagDenseState = 16;
// A deterministic SSP pull was answered at a newer version than the rule's.
inline constexpr std::uint32_t kFlagInexact = 32;
// The rank's gradients of this step were not finite: the push counts as empty.
inline constexpr std::uint32_t kFlagVoid = 64;

struct FrameHeader {
  std::uint32_t magic = kFrameMagic;
  FrameType type = FrameType::kError;
  ReplyCode code = ReplyCode::kOk;
  std::uint64_t checksum = 0;
  std::uint64_t step = 0;
  std::uint64_t version = 0;
  std::uint64_t sequence = 0;
  std::uint32_t body_bytes = 0;
  std::uint32_t phase = 0;
  std::uint32_t rank = 0;
  std::uint32_t epoch = 0;
  std::uint32_t generation = 0;
  std::uint32_t flags = 0;
};
static_assert(sizeof(FrameHeader) == 64);

// A writer positioned behind the header.  Finish with SealFrame().
ByteWriter StartFrame(const FrameHeader& header, std::size_t body_bytes);

// A frame whose body is `body`.
Bytes MakeFrame(FrameHeader header, std::string_view body = {});

// The header of a frame made in this process.  REQUIRES: frame.size() >= 64.
FrameHeader HeaderOf(const Bytes& frame);
std::span<const std::uint8_t> BodyOf(const Bytes& frame);

// Fills in the checksum, once: at the border of a process, not inside.
void SealFrame(const Bytes& frame);

// kDataLoss: not a frame, too long, damaged.  The connection's header cannot be trusted then.
Status VerifyFrame(const Bytes& frame);

struct KeyBlock {
  std::uint32_t group = 0;
  std::span<const Key> keys;
  std::span<const std::uint32_t> counts;  // Pushes.
  // Pushes: one a table of the group, wire rows of the keys; F32 are floats, aligned to 8.
  std::vector<std::span<const std::uint8_t>> gradients;
};

struct PullBody {
  std::vector<KeyBlock> groups;
};

struct PushBody {
  std::uint32_t samples = 0;
  double loss_sum = 0;
  std::vector<KeyBlock> groups;
  std::span<const float> dense;        // Gradient sums of the shard's blocks.
  std::span<const float> dense_state;  // Values and state of the shard's blocks.
};

// Floats that a shard's dense part has in a frame; the codec checks lengths against it.
struct DenseExtent {
  std::uint64_t values = 0;      // Sum of the blocks' counts.
  std::uint64_t with_state = 0;  // The same with state.
};

// Both borrow from `frame`.  kInvalidArgument names the field that is wrong; sizes are checked
// against `plan` before anything is allocated.
StatusOr<PullBody> DecodePull(const JobPlan& plan, const Bytes& frame);
StatusOr<PushBody> DecodePush(const JobPlan& plan, const DenseExtent& dense, const Bytes& frame);

// No NaN and no infinity among the loss and the gradients as they decode.
bool PushIsFinite(const JobPlan& plan, const PushBody& push);

// How long a pull's reply is: the same arithmetic for who writes and who reads.
std::size_t PullReplyBytes(const JobPlan& plan, const PullBody& pull, std::uint64_t dense_floats);

std::size_t PullBytes(const JobPlan& plan, std::span<const KeyBlock> groups);
void EncodePull(ByteWriter& writer, std::span<const KeyBlock> groups);

// Keys and counts of `groups`, and the gradients that gradients_of(position in `groups`, position
// of the table in its group) names: [keys x KeyGroup::dims], not read if there are no keys.
using GradientsOf = std::function<const float*(std::size_t, std::size_t)>;
std::size_t PushBytes(const JobPlan& plan, std::span<const KeyBlock> groups,
                      std::uint64_t dense_floats);
void EncodePush(ByteWriter& writer, const JobPlan& plan, std::uint32_t samples, double loss_sum,
                std::span<const KeyBlock> groups, const GradientsOf& gradients_of);

}  // namespace plexus
