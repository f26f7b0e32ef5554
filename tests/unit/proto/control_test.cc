#include "proto/control.h"

#include <cmath>

#include <gtest/gtest.h>

namespace plexus {
namespace {

proto::Schedule Schedule(proto::Schedule::Decay decay) {
  proto::Schedule schedule;
  schedule.set_warmup_steps(4);
  schedule.set_decay(decay);
  schedule.set_decay_steps(10);
  schedule.set_decay_rate(0.5);
  schedule.set_final_factor(0.2);
  return schedule;
}

TEST(RateFactorTest, WarmsUpThenDecays) {
  for (const auto decay : {proto::Schedule::NONE, proto::Schedule::LINEAR, proto::Schedule::COSINE,
                           proto::Schedule::EXPONENTIAL}) {
    EXPECT_EQ(RateFactor(Schedule(decay), 1), 0.25f);
    EXPECT_EQ(RateFactor(Schedule(decay), 3), 0.75f);
    EXPECT_EQ(RateFactor(Schedule(decay), 4), 1.0f);
  }
  EXPECT_EQ(RateFactor(Schedule(proto::Schedule::NONE), 1000), 1.0f);
  EXPECT_FLOAT_EQ(RateFactor(Schedule(proto::Schedule::LINEAR), 9), 0.6f);
  EXPECT_FLOAT_EQ(RateFactor(Schedule(proto::Schedule::LINEAR), 1000), 0.2f);
  EXPECT_FLOAT_EQ(RateFactor(Schedule(proto::Schedule::COSINE), 9), 0.6f);
  EXPECT_FLOAT_EQ(RateFactor(Schedule(proto::Schedule::COSINE), 1000), 0.2f);
  EXPECT_FLOAT_EQ(RateFactor(Schedule(proto::Schedule::EXPONENTIAL), 14), 0.5f);
  EXPECT_FLOAT_EQ(RateFactor(Schedule(proto::Schedule::EXPONENTIAL), 24), 0.25f);
}

TEST(RateFactorTest, WithoutAScheduleIsOne) {
  EXPECT_EQ(RateFactor(proto::Schedule(), 0), 1.0f);
  EXPECT_EQ(RateFactor(proto::Schedule(), 123), 1.0f);
}

TEST(EarliestVersionTest, LagsByTheStalenessAndNeverBehindThePhase) {
  proto::Phase phase;
  phase.set_first_step(10);
  EXPECT_EQ(EarliestVersion(phase, 10, 0), 9u);
  EXPECT_EQ(EarliestVersion(phase, 15, 0), 14u);
  EXPECT_EQ(EarliestVersion(phase, 11, 2), 9u);
  EXPECT_EQ(EarliestVersion(phase, 13, 2), 10u);
  EXPECT_EQ(EarliestVersion(phase, 15, -1), 0u);
  phase.set_first_step(1);
  EXPECT_EQ(EarliestVersion(phase, 1, 5), 0u);
}

TEST(ControlFrameTest, RoundTripsAndRefusesOtherBytes) {
  proto::Control control;
  control.mutable_commit()->set_step(3);
  const Bytes frame = ControlFrame(control);
  EXPECT_EQ(HeaderOf(frame).type, FrameType::kControl);
  EXPECT_EQ(DecodeControl(frame)->commit().step(), 3u);
  FrameHeader header;
  header.type = FrameType::kControl;
  EXPECT_EQ(DecodeControl(MakeFrame(header, "\xff\xff")).status().code(),
            StatusCode::kInvalidArgument);
}

}  // namespace
}  // namespace plexus
