// Shards under SSP and ASP.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "ps/shard.h"
#include "tests/unit/ps/shard_testing.h"

namespace plexus {
namespace {

using testing::ElementsAre;
using testing::IsEmpty;

constexpr auto kOk = ReplyCode::kOk;

std::shared_ptr<const JobPlan> Ssp(bool deterministic) {
  return PlanOf(kSmallJob, {"train.staleness=2", deterministic ? "train.deterministic=true"
                                                               : "train.deterministic=false"});
}

std::shared_ptr<const JobPlan> Asp() { return PlanOf(kSmallJob, {"train.staleness=-1"}); }

TEST(ShardSspTest, PullsLagByAtMostTheStaleness) {
  ShardDriver driver(Ssp(false));
  driver.Start();
  for (const std::uint64_t step : {1, 2, 3}) {
    driver.Pull(0, step);
  }
  EXPECT_THAT(driver.Take().codes(), ElementsAre(kOk, kOk, kOk));
  driver.Pull(0, 4);
  EXPECT_THAT(driver.Take().replies, IsEmpty());
  EXPECT_EQ(driver.shard().staleness_max(), 2u);
  driver.PushAll(1);
  EXPECT_THAT(driver.Take().completes(), ElementsAre(1)) << "plain SSP waits for no pull";
  driver.Commit(1);
  EXPECT_THAT(driver.Take().codes(), ElementsAre(kOk));
}

TEST(ShardSspTest, PushesFurtherAheadAreRefused) {
  ShardDriver driver(Ssp(false));
  driver.Start();
  driver.Take();
  driver.EmptyPush(0, 3);
  driver.EmptyPush(0, 4);
  EXPECT_THAT(driver.Take().codes(), ElementsAre(kOk, ReplyCode::kBadRequest));
  EXPECT_EQ(driver.shard().counters().push_refused, 1u);
  ShardDriver bsp(PlanOf(kSmallJob));
  bsp.Start();
  bsp.EmptyPush(0, 2);
  EXPECT_THAT(bsp.Take().codes(), ElementsAre(ReplyCode::kBadRequest));
  driver.ExpectCountersAddUp();
}

TEST(ShardSspTest, DeterministicCompletesOnlyAfterThePullsAhead) {
  ShardDriver driver(Ssp(true));
  driver.Start();
  driver.PushAll(1);
  driver.Pull(0, 2);
  driver.Pull(0, 3);
  driver.Pull(1, 2);
  EXPECT_THAT(driver.Take().completes(), IsEmpty());
  driver.Pull(1, 3);
  const auto said = driver.Take();
  ASSERT_THAT(said.completes(), ElementsAre(1));
  EXPECT_FALSE(said.controls.back().complete().inexact());
  driver.Pull(0, 4);
  EXPECT_THAT(driver.Take().replies, IsEmpty());
  driver.Commit(1);
  const auto after = driver.Take();
  ASSERT_THAT(after.codes(), ElementsAre(kOk));
  EXPECT_EQ(HeaderOf(after.replies[0].frame).version, 1u) << "exactly 4 - 1 - 2";
  EXPECT_EQ(HeaderOf(after.replies[0].frame).flags & kFlagInexact, 0u);
}

TEST(ShardSspTest, DeterministicWaitsForNoPullBeyondThePhase) {
  ShardDriver driver(Ssp(true));
  driver.Start(2);
  driver.PushAll(1);
  driver.Pull(0, 2);
  EXPECT_THAT(driver.Take().completes(), IsEmpty());
  driver.Pull(1, 2);
  EXPECT_THAT(driver.Take().completes(), ElementsAre(1));
  driver.Commit(1);
  driver.PushAll(2, kFlagLast);
  EXPECT_THAT(driver.Take().completes(), ElementsAre(2));
}

TEST(ShardSspTest, ANewCarriersLatePullIsInexact) {
  ShardDriver driver(Ssp(true));
  driver.Start();
  for (const std::uint32_t rank : {0, 1}) {
    for (const std::uint64_t step : {1, 2, 3}) {
      driver.Pull(rank, step);
    }
  }
  driver.PushAll(1);
  driver.Commit(1);
  driver.Take();
  FrameHeader header = driver.Header(FrameType::kPull, 0, 2);
  header.epoch = 2;
  driver.Send(driver.PullFrame(header));
  const auto said = driver.Take();
  ASSERT_THAT(said.codes(), ElementsAre(kOk));
  EXPECT_NE(HeaderOf(said.replies[0].frame).flags & kFlagInexact, 0u)
      << "version 0 is gone, it was answered at 1";
  driver.Pull(1, 4);
  header = driver.Header(FrameType::kPull, 0, 4);
  header.epoch = 2;
  driver.Send(driver.PullFrame(header));
  driver.EmptyPush(1, 2);
  header = driver.Header(FrameType::kPush, 0, 2);
  header.epoch = 2;
  driver.Send(OwnedPush().Frame(driver.plan(), header));
  const auto complete = driver.Take().controls.back();
  ASSERT_TRUE(complete.has_complete());
  EXPECT_TRUE(complete.complete().inexact());
}

TEST(ShardSspTest, PartsBeyondThePhasesEndAreThrownAway) {
  ShardDriver driver(Ssp(false));
  driver.Start();
  driver.PushAll(1);
  driver.EmptyPush(0, 2);
  driver.Commit(1, 1, PhaseOf(2, proto::Phase::TRAIN, 2));
  EXPECT_EQ(driver.shard().pending_parts(), 0u);
  EXPECT_EQ(driver.shard().pending_bytes(), 0u);
  EXPECT_EQ(driver.shard().counters().push_dropped, 1u);
  driver.ExpectCountersAddUp();
}

// One push with gradients for `rank`.
Bytes AspPush(ShardDriver& driver, Draws* draws, std::uint32_t rank, std::uint64_t step,
              std::uint32_t flags = 0) {
  const std::uint64_t dense = driver.shard().state().dense_extent().values;
  return RandomPush(draws, driver.plan(), rank, dense)
      .Frame(driver.plan(), driver.Header(FrameType::kPush, rank, step, flags));
}

TEST(ShardAspTest, AppliesAtOnceAndOnceInAnyOrder) {
  ShardDriver driver(Asp());
  driver.Start();
  Draws draws(3);
  std::vector<Bytes> frames;
  for (std::uint64_t step = 1; step <= 6; ++step) {
    frames.push_back(AspPush(driver, &draws, 0, step));
  }
  Digest128 previous = driver.shard().state().Digest();
  for (const std::size_t i : {2, 0, 5, 1, 3, 4}) {
    driver.Send(frames[i]);
    const Digest128 after = driver.shard().state().Digest();
    EXPECT_FALSE(after == previous) << "push " << i << " was not applied";
    driver.Send(frames[i]);
    EXPECT_EQ(driver.shard().state().Digest(), after) << "push " << i << " was applied twice";
    previous = after;
  }
  for (const Bytes& frame : frames) {
    driver.Send(frame);
  }
  EXPECT_EQ(driver.shard().state().Digest(), previous);
  EXPECT_EQ(driver.shard().counters().push_applied, 6u);
  EXPECT_EQ(driver.shard().counters().push_duplicate, 12u);
  EXPECT_EQ(driver.shard().version(), 3u) << "applied parts / ranks";
  driver.ExpectCountersAddUp();
}

TEST(ShardAspTest, PullsNeverWait) {
  ShardDriver driver(Asp());
  driver.Start();
  driver.Take();
  driver.Pull(0, 100);
  EXPECT_THAT(driver.Take().codes(), ElementsAre(kOk));
}

TEST(ShardAspTest, EndsWhenEveryRankHasNothingMore) {
  ShardDriver driver(Asp());
  driver.Start();
  driver.EmptyPush(0, 1);
  driver.EmptyPush(0, 2);
  driver.EmptyPush(0, 3, kFlagLast | kFlagExhausted);
  EXPECT_THAT(driver.Take().completes(), IsEmpty());
  driver.EmptyPush(1, 1, kFlagLast | kFlagExhausted);
  const auto said = driver.Take();
  ASSERT_THAT(said.completes(), ElementsAre(3)) << "the longest rank's steps";
  EXPECT_TRUE(said.controls.back().complete().all_exhausted());
  driver.Commit(3, 1, PhaseOf(2, proto::Phase::TRAIN, 4));
  EXPECT_EQ(driver.shard().version(), 3u);
  driver.Send(MakeFrame(driver.Header(FrameType::kPhaseQuery, 0, 0)));
  EXPECT_EQ(HeaderOf(driver.Take().replies.at(0).frame).step, 4u);
}

// The last push overtakes an earlier one: the phase must not end without it.
TEST(ShardAspTest, TheLastPushDoesNotHideAMissingOne) {
  ShardDriver driver(Asp());
  driver.Start();
  driver.EmptyPush(1, 1, kFlagLast);
  driver.EmptyPush(0, 1);
  driver.EmptyPush(0, 3, kFlagLast);
  EXPECT_THAT(driver.Take().completes(), IsEmpty()) << "step 2 of rank 0 is on its way";
  driver.EmptyPush(0, 2);
  EXPECT_THAT(driver.Take().completes(), ElementsAre(3));
}

// A stop is committed at the version of the last heartbeats; the shard may be further.
TEST(ShardAspTest, SavesUnderTheCommittedVersion) {
  ShardDriver driver(Asp());
  driver.Start();
  for (std::uint64_t step = 1; step <= 5; ++step) {
    driver.PushAll(step);
  }
  EXPECT_EQ(driver.shard().version(), 5u);
  driver.Commit(3, 1, PhaseOf(2, proto::Phase::STOP, 4), "final");
  driver.Take();
  driver.shard().OnSaved({});
  EXPECT_EQ(driver.Take().controls.at(0).saved().version(), 3u);
}

}  // namespace
}  // namespace plexus
