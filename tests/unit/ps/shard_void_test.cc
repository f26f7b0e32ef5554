// Pushes that are not finite count as empty.
#include <cmath>
#include <limits>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "tests/unit/ps/shard_testing.h"

namespace plexus {
namespace {

using testing::ElementsAre;
using testing::IsEmpty;
using testing::Pair;

constexpr float kNan = std::numeric_limits<float>::quiet_NaN();

std::shared_ptr<const JobPlan> Plan(const std::vector<std::string>& overrides = {}) {
  return PlanOf(kSmallJob, overrides);
}

// Where a push can be wrong.
enum class Place { kRow, kDense, kLoss, kFlag };

Bytes PoisonedFrame(ShardDriver* driver, OwnedPush push, Place place, std::uint64_t step) {
  std::uint32_t flags = 0;
  if (place == Place::kRow) {
    for (auto& table : push.gradients[0]) {
      for (float& value : table) {
        value = kNan;
      }
    }
  } else if (place == Place::kDense) {
    push.dense.back() = -std::numeric_limits<float>::infinity();
  } else if (place == Place::kLoss) {
    push.loss_sum = kNan;
  } else {
    flags = kFlagVoid;
  }
  return push.Frame(driver->plan(), driver->Header(FrameType::kPush, push.rank, step, flags));
}

OwnedPush PushWithRows(Draws* draws, const ShardDriver& driver, const Shard& shard,
                       std::uint32_t rank) {
  OwnedPush push;
  do {
    push = RandomPush(draws, driver.plan(), rank, shard.state().dense_extent().values);
  } while (push.keys[0].empty());
  return push;
}

TEST(ShardVoidTest, AVoidPushIsTheEmptyOne) {
  SCOPED_TRACE(SeedNote());
  for (const Place place : {Place::kRow, Place::kDense, Place::kLoss, Place::kFlag}) {
    const auto plan = Plan();
    StepOracle oracle(plan);
    ShardDriver driver(plan);
    driver.Start();
    Draws draws(static_cast<std::uint64_t>(place) + 1);
    for (std::uint64_t step = 1; step <= 4; ++step) {
      const OwnedPush first = PushWithRows(&draws, driver, driver.shard(), 0);
      const OwnedPush second = PushWithRows(&draws, driver, driver.shard(), 1);
      driver.Send(first.Frame(*plan, driver.Header(FrameType::kPush, 0, step)));
      driver.Take();
      if (step == 2) {
        driver.Send(PoisonedFrame(&driver, second, place, step));
      } else {
        driver.Send(second.Frame(*plan, driver.Header(FrameType::kPush, 1, step)));
      }
      const ShardDriver::Said said = driver.Take();
      EXPECT_THAT(said.codes(), ElementsAre(ReplyCode::kOk)) << "it is not sent again";
      ASSERT_EQ(said.controls.size(), 1u);
      const proto::Complete& complete = said.controls[0].complete();
      EXPECT_EQ(complete.samples(), first.samples + (step == 2 ? 0 : second.samples));
      EXPECT_EQ(complete.loss_sum(), first.loss_sum + (step == 2 ? 0 : second.loss_sum));
      EXPECT_THAT(complete.void_ranks(), testing::SizeIs(step == 2 ? 1 : 0));
      driver.Commit(step);
      oracle.ApplyStep(step == 2 ? std::vector{first} : std::vector{first, second}, 1.0f);
    }
    for (std::uint32_t t = 0; t < plan->tables.size(); ++t) {
      EXPECT_EQ(driver.shard().state().table(t).row_count(), oracle.row_count(t));
      driver.shard().state().table(t).ForEachRow([&](const RowView& row) {
        const std::vector<float> values = oracle.Values(t, row.key);
        EXPECT_EQ(std::vector<float>(row.floats().begin(), row.floats().begin() + values.size()),
                  values);
      });
    }
    std::vector<float> dense(driver.shard().state().dense_extent().values);
    driver.shard().state().dense().CopyValues(dense.data());
    EXPECT_EQ(dense, oracle.DenseValues());
    EXPECT_THAT(driver.shard().void_pushes(), ElementsAre(Pair(1, 1)));
    EXPECT_EQ(driver.shard().counters().push_void, 1u);
    driver.ExpectCountersAddUp();
  }
}

TEST(ShardVoidTest, WhatAnotherShardSawIsVoidHereToo) {
  SCOPED_TRACE(SeedNote());
  const auto plan = Plan({"train.clip_dense_norm=1"});
  ShardDriver told(plan);
  ShardDriver empty(plan);  // Rank 1 pushes nothing.
  Draws draws(1);
  told.Start();
  empty.Start();
  const OwnedPush first = PushWithRows(&draws, told, told.shard(), 0);
  const OwnedPush second = PushWithRows(&draws, told, told.shard(), 1);
  told.Send(first.Frame(*plan, told.Header(FrameType::kPush, 0, 1)));
  told.Send(second.Frame(*plan, told.Header(FrameType::kPush, 1, 1)));
  empty.Send(first.Frame(*plan, empty.Header(FrameType::kPush, 0, 1)));
  empty.EmptyPush(1, 1);
  EXPECT_THAT(told.Take().controls.at(0).complete().void_ranks(), IsEmpty());
  const proto::Complete expected = empty.Take().controls.at(0).complete();

  proto::Control control;
  control.mutable_void_parts()->set_step(1);
  control.mutable_void_parts()->set_phase(1);
  control.mutable_void_parts()->add_ranks(1);
  control.mutable_void_parts()->add_ranks(99);  // No such rank.
  told.shard().OnMessage(kSchedulerPeer, ControlFrame(control), 0);
  proto::Complete complete = told.Take().controls.at(0).complete();
  EXPECT_THAT(complete.void_ranks(), ElementsAre(1));
  complete.clear_void_ranks();
  EXPECT_EQ(complete.SerializeAsString(), expected.SerializeAsString())
      << "samples, loss and norms are those without the part";
  told.Commit(1);
  empty.Commit(1);
  EXPECT_EQ(told.shard().state().Digest(), empty.shard().state().Digest());
  told.ExpectCountersAddUp();

  // Overtaken, it changes nothing.
  told.PushAll(2);
  told.Take();
  told.shard().OnMessage(kSchedulerPeer, ControlFrame(control), 0);
  EXPECT_THAT(told.Take().controls, IsEmpty());
  EXPECT_EQ(told.shard().counters().push_void, 1u);
}

TEST(ShardVoidTest, TheCommitsWordHolds) {
  SCOPED_TRACE(SeedNote());
  const auto plan = Plan();
  ShardDriver driver(plan);
  Draws draws(1);
  driver.Start();
  const Digest128 before = driver.shard().state().Digest();
  for (std::uint32_t rank = 0; rank < 2; ++rank) {
    driver.Send(PushWithRows(&draws, driver, driver.shard(), rank)
                    .Frame(*plan, driver.Header(FrameType::kPush, rank, 1)));
  }
  proto::Control control;
  control.mutable_commit()->set_step(1);
  control.mutable_commit()->set_phase(1);
  control.mutable_commit()->set_rate_factor(1);
  control.mutable_commit()->add_void_ranks(0);
  control.mutable_commit()->add_void_ranks(1);
  driver.shard().OnMessage(kSchedulerPeer, ControlFrame(control), 0);
  EXPECT_EQ(driver.shard().version(), 1u);
  EXPECT_EQ(driver.shard().state().Digest(), before) << "a step without samples";
  EXPECT_EQ(driver.shard().pending_bytes(), 0u);
}

TEST(ShardVoidTest, AspCountsItWhereItIsSeenAndExactlyOnce) {
  SCOPED_TRACE(SeedNote());
  const auto plan = Plan({"train.staleness=-1"});
  ShardDriver driver(plan);
  Draws draws(1);
  driver.Start(2);
  const Digest128 before = driver.shard().state().Digest();
  const OwnedPush push = PushWithRows(&draws, driver, driver.shard(), 1);
  const Bytes frame = PoisonedFrame(&driver, push, Place::kRow, 1);
  driver.Send(frame);
  driver.Send(frame);
  EXPECT_EQ(driver.shard().state().Digest(), before);
  EXPECT_EQ(driver.shard().counters().push_void, 1u);
  EXPECT_EQ(driver.shard().counters().push_duplicate, 1u);
  driver.shard().OnTimer(0);
  const ShardDriver::Said said = driver.Take();
  ASSERT_EQ(said.controls.back().heartbeat().phase_void_size(), 1);
  EXPECT_EQ(said.controls.back().heartbeat().phase_void(0).rank(), 1u);
  driver.EmptyPush(0, 1);
  driver.EmptyPush(0, 2, kFlagLast);
  driver.EmptyPush(1, 2, kFlagLast);
  const proto::Complete complete = driver.Take().controls.back().complete();
  EXPECT_EQ(complete.samples(), 0u);
  ASSERT_EQ(complete.void_pushes_size(), 1);
  EXPECT_EQ(complete.void_pushes(0).pushes(), 1u);
  driver.ExpectCountersAddUp();
}

TEST(ShardVoidTest, DenseStateIsNoGradientAndStays) {
  SCOPED_TRACE(SeedNote());
  const auto plan = Plan({"train.dense_sync=MPI"});
  ShardDriver driver(plan);
  driver.Start();
  const std::vector<float> state(driver.shard().state().dense_extent().with_state, 0.25f);
  const FrameHeader header =
      driver.Header(FrameType::kPush, 0, 1, kFlagVoid | kFlagLast | kFlagDenseState);
  ByteWriter writer = StartFrame(header, PushBytes(*plan, {}, state.size()));
  EncodePush(writer, *plan, 0, 0, {}, nullptr);
  writer.PutArray(std::span<const float>(state));
  driver.Send(writer.Finish());
  driver.EmptyPush(1, 1, kFlagLast);
  driver.Commit(1);
  EXPECT_EQ(driver.shard().state().dense().at(0)[0], 0.25f);
  EXPECT_EQ(driver.shard().counters().push_void, 1u);
}

}  // namespace
}  // namespace plexus
