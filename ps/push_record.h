// Push records: what a shard's push log holds, in the order in which the shard applied it.
//
//   kBegin   the state that the next records change: a proto::LogBegin.
//   kStep    all parts of a step, once they are there: its dense gradients are summed in rank
//            order, so that they are logged once; rows' gradients are the ranks' own.  A step may
//            come twice, if parts became void in between: the last one counts.
//   kCommit  the scheduler's word that a step is complete everywhere (proto::Commit): now it is
//            applied.
//
// A kStep record, little-endian: u64 step, u32 phase, u32 ranks, u64 dense floats; per rank u32
// flags, u32 epoch, u64 bytes; per rank the body of its push frame (proto/frame.h) but for dense
// gradients, up to a multiple of 8; f32 dense sums[dense floats].
//
// Thread safety: pure functions on values.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "common/bytes.h"
#include "common/status.h"
#include "proto/frame.h"

namespace plexus {

enum class PushRecordKind : std::uint32_t { kBegin = 1, kStep = 2, kCommit = 3 };

// For a log: the payload is the pieces one behind the other.
struct PushRecord {
  PushRecordKind kind = PushRecordKind::kBegin;
  std::uint64_t version = 0;  // kBegin: of the state; else the step.
  std::vector<Bytes> pieces;
};

// What one rank pushed.
struct LoggedPart {
  std::uint32_t flags = 0;  // FrameFlags of its push; kFlagVoid: it counts as empty.
  std::uint32_t epoch = 0;  // Of its carrier.
  Bytes frame;              // A push frame, which DecodePush takes; empty if it is void.
};

struct LoggedStep {
  std::uint64_t step = 0;
  std::uint32_t phase = 0;
  std::vector<LoggedPart> parts;  // By rank.
};

// `dense` is the sum over the parts, floats, or empty if none has dense gradients.  The record
// shares it, and the frames.
PushRecord MakeStepRecord(const LoggedStep& step, const DenseExtent& extent, const Bytes& dense);
// The dense sum belongs to the first part that is not void; others have none.
// kDataLoss: not such a record.
StatusOr<LoggedStep> ReadStepRecord(const Bytes& payload);

}  // namespace plexus
