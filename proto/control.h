// Control messages as frames, and the few pure functions of the commit protocol that scheduler,
// shards and ranks share.
//
// Thread safety: pure functions.
#pragma once

#include "common/bytes.h"
#include "common/status.h"
#include "proto/control.pb.h"
#include "proto/frame.h"
#include "proto/job.pb.h"

namespace plexus {

Bytes ControlFrame(const proto::Control& control);

// kInvalidArgument: not a control message.
StatusOr<proto::Control> DecodeControl(const Bytes& frame);

// Factor on every learning rate at `step` (1, 2, ...): warm-up, then decay.  Pure function of the
// job.
float RateFactor(const proto::Schedule& schedule, std::uint64_t step);

// The version at which a pull of `step` in `phase` may be answered at the earliest: max(first_step
// - 1, step - 1 - staleness); ASP: none, 0.
std::uint64_t EarliestVersion(const proto::Phase& phase, std::uint64_t step,
                              std::int32_t staleness);

}  // namespace plexus
