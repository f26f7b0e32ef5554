// Parts that are not finite: shards agree on them before a commit.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "tests/unit/scheduler/scheduler_testing.h"

namespace plexus {
namespace {

using testing::ElementsAre;
using testing::IsEmpty;
using testing::Pair;
using testing::SizeIs;

proto::Complete Without(proto::Complete complete, const std::vector<std::uint32_t>& ranks) {
  complete.mutable_void_ranks()->Add(ranks.begin(), ranks.end());
  complete.set_samples(complete.samples() - 4 * ranks.size());
  return complete;
}

std::vector<SchedulerEvent> VoidEvents(Scheduler* scheduler) {
  std::vector<SchedulerEvent> events = scheduler->TakeEvents();
  std::erase_if(events, [](const SchedulerEvent& event) {
    return event.kind != SchedulerEvent::Kind::kVoidPushes;
  });
  return events;
}

TEST(SchedulerVoidTest, WhatAllShardsSawIsCommittedAndNamed) {
  SchedulerDriver driver;
  driver.Start();
  driver.SayBoth(Without(driver.Complete(1), {1}));
  const auto commits = driver.TakeCommits();
  ASSERT_THAT(commits, SizeIs(1));
  EXPECT_THAT(commits[0].void_ranks(), ElementsAre(1));
  EXPECT_EQ(driver.scheduler().totals().samples, 4u);
  EXPECT_THAT(driver.scheduler().totals().void_pushes, ElementsAre(Pair(1, 1)));
  const auto events = VoidEvents(&driver.scheduler());
  ASSERT_THAT(events, SizeIs(1));
  EXPECT_EQ(events[0].rank, 1u);
  EXPECT_EQ(events[0].step, 1u);
}

TEST(SchedulerVoidTest, AShardThatSawLessIsToldAndWaitedFor) {
  for (const bool seer_first : {false, true}) {
    SchedulerDriver driver;
    driver.Start();
    driver.Say(seer_first ? 1 : 0,
               seer_first ? Without(driver.Complete(1), {0}) : driver.Complete(1));
    driver.Say(seer_first ? 0 : 1,
               seer_first ? driver.Complete(1) : Without(driver.Complete(1), {0}));
    auto taken = driver.Take();
    EXPECT_THAT(taken["server-1"], IsEmpty());
    ASSERT_THAT(taken["server-0"], SizeIs(1)) << "no commit";
    ASSERT_TRUE(taken["server-0"][0].has_void_parts());
    EXPECT_EQ(taken["server-0"][0].void_parts().step(), 1u);
    EXPECT_THAT(taken["server-0"][0].void_parts().ranks(), ElementsAre(0));
    // Lost: the shard says again what it had said, and hears it again.
    driver.Say(0, driver.Complete(1));
    EXPECT_THAT(driver.Take()["server-0"], SizeIs(1));
    driver.Say(0, Without(driver.Complete(1), {0}));
    const auto commits = driver.TakeCommits();
    ASSERT_THAT(commits, SizeIs(1));
    EXPECT_THAT(commits[0].void_ranks(), ElementsAre(0));
    EXPECT_EQ(driver.scheduler().totals().samples, 4u) << "all sums are of the same parts";
  }
}

TEST(SchedulerVoidTest, EachMayHaveSeenAnother) {
  SchedulerDriver driver;
  driver.Start();
  driver.Say(0, Without(driver.Complete(1), {0}));
  driver.Say(1, Without(driver.Complete(1), {1}));
  auto taken = driver.Take();
  for (const char* server : {"server-0", "server-1"}) {
    ASSERT_THAT(taken[server], SizeIs(1));
    EXPECT_THAT(taken[server][0].void_parts().ranks(), ElementsAre(0, 1));
  }
  driver.SayBoth(Without(driver.Complete(1), {0, 1}));
  EXPECT_THAT(driver.TakeCommits(), SizeIs(1));
  EXPECT_EQ(driver.scheduler().totals().samples, 0u);
  EXPECT_THAT(driver.scheduler().totals().void_pushes, ElementsAre(Pair(0, 1), Pair(1, 1)));
}

TEST(SchedulerVoidTest, AspNamesTheMostThatAShardSaw) {
  SchedulerDriver driver({"train.staleness=-1"});
  driver.Start();
  for (std::uint32_t shard = 0; shard < 2; ++shard) {
    proto::Complete complete = driver.Complete(5, true, true);
    proto::VoidPushes& seen = *complete.add_void_pushes();
    seen.set_rank(1);
    seen.set_pushes(2 + shard);
    driver.Say(shard, complete);
  }
  EXPECT_THAT(driver.scheduler().totals().void_pushes, ElementsAre(Pair(1, 3)));
  const auto events = VoidEvents(&driver.scheduler());
  ASSERT_THAT(events, SizeIs(1));
  EXPECT_EQ(events[0].pushes, 3u);
}

}  // namespace
}  // namespace plexus
