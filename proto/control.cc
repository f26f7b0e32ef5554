#include "proto/control.h"

#include <algorithm>
#include <cmath>
#include <numbers>

namespace plexus {

Bytes ControlFrame(const proto::Control& control) {
  FrameHeader header;
  header.type = FrameType::kControl;
  ByteWriter writer = StartFrame(header, control.ByteSizeLong());
  control.SerializeWithCachedSizesToArray(writer.Reserve(control.ByteSizeLong()));
  return writer.Finish();
}

StatusOr<proto::Control> DecodeControl(const Bytes& frame) {
  const auto body = BodyOf(frame);
  proto::Control control;
  if (!control.ParseFromArray(body.data(), static_cast<int>(body.size()))) {
    return InvalidArgument("malformed body: not a control message");
  }
  return control;
}

float RateFactor(const proto::Schedule& schedule, std::uint64_t step) {
  const std::uint64_t warmup = schedule.warmup_steps();
  if (step < warmup) {
    return static_cast<float>(static_cast<double>(step) / static_cast<double>(warmup));
  }
  if (schedule.decay() == proto::Schedule::NONE || schedule.decay_steps() == 0) {
    return 1.0f;
  }
  const double progress =
      static_cast<double>(step - warmup) / static_cast<double>(schedule.decay_steps());
  const double share = std::min(1.0, progress);
  const double final_factor = schedule.final_factor();
  switch (schedule.decay()) {
    case proto::Schedule::LINEAR:
      return static_cast<float>(1.0 + (final_factor - 1.0) * share);
    case proto::Schedule::COSINE:
      return static_cast<float>(final_factor + (1.0 - final_factor) * 0.5 *
                                                   (1.0 + std::cos(std::numbers::pi * share)));
    case proto::Schedule::EXPONENTIAL:
      return static_cast<float>(std::pow(schedule.decay_rate(), progress));
    case proto::Schedule::NONE:
      break;
  }
  return 1.0f;
}

std::uint64_t EarliestVersion(const proto::Phase& phase, std::uint64_t step,
                              std::int32_t staleness) {
  if (staleness < 0) {
    return 0;
  }
  const std::uint64_t lag = 1 + static_cast<std::uint64_t>(staleness);
  return std::max<std::uint64_t>(phase.first_step() - 1, step > lag ? step - lag : 0);
}

}  // namespace plexus
