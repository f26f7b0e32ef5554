// When a commit orders a checkpoint, what it holds, and how a job goes on from one.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "scheduler/scheduler.h"
#include "tests/unit/scheduler/scheduler_testing.h"

namespace plexus {
namespace {

using testing::HasSubstr;
using testing::SizeIs;

proto::Commit Step(SchedulerDriver& driver, bool last = false) {
  driver.SayBoth(driver.Complete(driver.scheduler().version() + 1, last, last));
  const auto commits = driver.TakeCommits();
  return commits.empty() ? proto::Commit() : commits.back();
}

// The state of the checkpoint that was written last.
proto::SchedulerState LastState(SchedulerDriver& driver) {
  proto::SchedulerState state;
  for (const SchedulerEvent& event : driver.scheduler().TakeEvents()) {
    if (event.kind == SchedulerEvent::Kind::kSaved && event.text == kCheckpoint) {
      state = event.state;
    }
  }
  return state;
}

void Restored(SchedulerDriver& driver, std::uint32_t server, std::uint64_t version) {
  proto::Heartbeat heartbeat;
  heartbeat.set_role(proto::SERVER);
  heartbeat.set_index(server);
  heartbeat.set_version(version);
  driver.Beat(heartbeat);
}

TEST(SchedulerCheckpointTest, EverySoManyVersionsAndStepsGoOnMeanwhile) {
  SchedulerDriver driver({"checkpoint.every_steps=2"});
  driver.Start();
  EXPECT_FALSE(Step(driver).has_checkpoint());
  const proto::Commit second = Step(driver);
  ASSERT_TRUE(second.has_checkpoint());
  EXPECT_EQ(second.checkpoint().base(), 0u) << "the first is whole";
  EXPECT_EQ(second.save(), "");
  EXPECT_EQ(Step(driver).step(), 3u);
  driver.SaveCheckpoint(2);
  const proto::SchedulerState state = LastState(driver);
  EXPECT_EQ(state.version(), 2u);
  EXPECT_EQ(state.phase().number(), 1u);
  EXPECT_EQ(state.samples(), 16u) << "of two steps, whatever came since";
  driver.SaveCheckpoint(2);
  EXPECT_EQ(LastState(driver).version(), 0u) << "said again";
}

TEST(SchedulerCheckpointTest, OneThatIsDueWhileAnotherIsWrittenBeginsAfterIt) {
  SchedulerDriver driver({"checkpoint.every_steps=2"});
  driver.Start();
  Step(driver);
  ASSERT_TRUE(Step(driver).has_checkpoint());
  Step(driver);
  EXPECT_FALSE(Step(driver).has_checkpoint());
  EXPECT_EQ(driver.scheduler().totals().late_checkpoints, 1u);
  driver.SaveCheckpoint(2);
  const proto::Commit fifth = Step(driver);
  ASSERT_TRUE(fifth.has_checkpoint());
  EXPECT_EQ(fifth.checkpoint().base(), 2u);
  driver.SaveCheckpoint(5, 1);
  EXPECT_EQ(LastState(driver).version(), 5u);
  EXPECT_TRUE(Step(driver).has_checkpoint()) << "as it is due";
}

TEST(SchedulerCheckpointTest, WholeAfterSoManyOrSoMuchOrWhenAShardSaysSo) {
  SchedulerDriver driver({"checkpoint.every_steps=1", "checkpoint.full_every=3"});
  driver.Start();
  const auto base_of_next = [&](std::uint64_t bytes, bool needs_full = false) {
    proto::Complete complete = driver.Complete(driver.scheduler().version() + 1);
    complete.set_needs_full_checkpoint(needs_full);
    driver.SayBoth(complete);
    const proto::Commit commit = driver.TakeCommits().back();
    driver.SaveCheckpoint(commit.step(), bytes);
    return commit.checkpoint().base();
  };
  EXPECT_EQ(base_of_next(100), 0u);
  EXPECT_EQ(base_of_next(10), 1u);
  EXPECT_EQ(base_of_next(10), 2u);
  EXPECT_EQ(base_of_next(100), 0u) << "full_every";
  EXPECT_EQ(base_of_next(51), 4u);
  EXPECT_EQ(base_of_next(100), 0u) << "more than half of the whole one";
  EXPECT_EQ(base_of_next(100, true), 0u);
  EXPECT_EQ(base_of_next(10), 7u);
}

TEST(SchedulerCheckpointTest, OneThatCannotBeWrittenEndsTheJob) {
  SchedulerDriver driver({"checkpoint.every_steps=1"});
  driver.Start();
  Step(driver);
  driver.SaveCheckpoint(1, 0, "disk full");
  ASSERT_TRUE(driver.scheduler().stop().has_value());
  EXPECT_EQ(driver.scheduler().stop()->exit_code(), 1);
  EXPECT_THAT(driver.scheduler().stop()->reason(),
              HasSubstr("could not write the checkpoint of version 1: disk full"));
}

TEST(SchedulerCheckpointTest, NoneAtTheEndWhichWaitsForTheLast) {
  SchedulerDriver driver({"checkpoint.every_steps=1"});
  driver.Start();
  EXPECT_TRUE(Step(driver).has_checkpoint());
  const proto::Commit last = Step(driver, true);
  EXPECT_EQ(last.save(), "final");
  EXPECT_FALSE(last.has_checkpoint());
  driver.SaveBoth();
  EXPECT_FALSE(driver.scheduler().stop().has_value());
  driver.SaveCheckpoint(1);
  EXPECT_EQ(LastState(driver).version(), 1u);
  ASSERT_TRUE(driver.scheduler().stop().has_value());
  EXPECT_EQ(driver.scheduler().stop()->exit_code(), 0);
}

TEST(SchedulerCheckpointTest, TogetherWithTheBestModel) {
  SchedulerDriver driver({"data.valid=v", "train.epochs=5", "checkpoint.every_steps=2"});
  driver.Start();
  EXPECT_EQ(Step(driver, true).save(), "");
  driver.Report(0, -1, 0);
  driver.Report(1, 1, 1);
  const proto::Commit commit = Step(driver);
  EXPECT_EQ(commit.save(), "best");
  EXPECT_TRUE(commit.has_checkpoint());
  driver.SaveBoth();
  driver.SaveCheckpoint(2);
  const proto::SchedulerState state = LastState(driver);
  EXPECT_EQ(state.phase().kind(), proto::Phase::TRAIN);
  EXPECT_EQ(state.planner().best_version(), 2u);
  EXPECT_EQ(state.planner().validation().auc(), 1.0);
}

TEST(SchedulerCheckpointTest, AnInterruptedJobLeavesOneThatDoesNotStop) {
  SchedulerDriver driver({"checkpoint.every_steps=1"});
  driver.Start();
  Step(driver);
  driver.scheduler().RequestStop(0);
  EXPECT_EQ(Step(driver).step(), 0u) << "waits for the one that is being written";
  driver.SaveCheckpoint(1);
  const auto commits = driver.TakeCommits();
  ASSERT_THAT(commits, SizeIs(1));
  EXPECT_EQ(commits[0].save(), "final");
  EXPECT_TRUE(commits[0].has_checkpoint());
  driver.SaveBoth();
  driver.SaveCheckpoint(2, 1);
  const proto::SchedulerState state = LastState(driver);
  EXPECT_EQ(state.phase().kind(), proto::Phase::TRAIN);
  EXPECT_EQ(state.version(), 2u);
  EXPECT_EQ(driver.scheduler().stop()->exit_code(), 0);
}

TEST(SchedulerCheckpointTest, GoesOnOnceAllServersHaveLoadedIt) {
  const std::vector<std::string> job = {"data.valid=v", "train.epochs=5",
                                        "checkpoint.every_steps=3"};
  SchedulerDriver before(job);
  before.Start();
  Step(before, true);
  before.Report(0, -1, 0);
  before.Report(1, 1, 1);
  Step(before);
  before.SaveBoth();
  Step(before);
  before.SaveCheckpoint(3);
  const proto::SchedulerState state = LastState(before);

  SchedulerDriver after(job, state);
  after.RegisterAll();
  const proto::View first = SchedulerDriver::ViewOf(after.Take()["server-1"]);
  EXPECT_EQ(first.recover().checkpoint(), 3u);
  EXPECT_FALSE(first.has_phase());
  after.now = 10 * SchedulerDriver::kLease;
  for (const proto::Role role : {proto::SERVER, proto::WORKER}) {
    after.Beat(role, 0);
    after.Beat(role, 1);
  }
  after.scheduler().OnTimer(after.now);
  EXPECT_FALSE(after.scheduler().stop().has_value()) << "servers that load say that they live";
  EXPECT_THAT(after.scheduler().WaitReport(), HasSubstr("server 0 recovers version 3"));
  Restored(after, 0, 3);
  EXPECT_FALSE(SchedulerDriver::ViewOf(after.Take()["server-0"]).has_phase());
  Restored(after, 1, 3);
  const proto::View second = SchedulerDriver::ViewOf(after.Take()["server-1"]);
  EXPECT_EQ(second.phase().SerializeAsString(), before.scheduler().phase().SerializeAsString());
  EXPECT_EQ(second.version(), 3u);
  EXPECT_EQ(second.has_recover(), false);
  EXPECT_EQ(after.scheduler().resumed_version(), 3u);
  EXPECT_EQ(after.scheduler().planner().State().SerializeAsString(),
            before.scheduler().planner().State().SerializeAsString());
  // The same from here on.
  EXPECT_EQ(Step(after, true).SerializeAsString(), Step(before, true).SerializeAsString());
  EXPECT_EQ(after.scheduler().totals().samples, before.scheduler().totals().samples);
  EXPECT_EQ(after.scheduler().totals().epoch_loss_sum, before.scheduler().totals().epoch_loss_sum);
}

TEST(SchedulerCheckpointTest, KnowsThePushesThatCountedAsEmpty) {
  const std::vector<std::string> job = {"checkpoint.every_steps=1"};
  SchedulerDriver before(job);
  before.Start();
  proto::Complete complete = before.Complete(1);
  complete.add_void_ranks(1);
  before.SayBoth(complete);
  before.SaveCheckpoint(1);
  SchedulerDriver after(job, LastState(before));
  EXPECT_THAT(after.scheduler().totals().void_pushes, testing::ElementsAre(testing::Pair(1, 1)));
}

TEST(SchedulerCheckpointTest, AServerThatDiesWhileItLoadsIsWaitedFor) {
  proto::SchedulerState state;
  state.set_version(3);
  state.mutable_phase()->set_number(1);
  state.mutable_phase()->set_first_step(1);
  SchedulerDriver driver({}, state);
  driver.RegisterAll();
  Restored(driver, 0, 3);
  driver.Register(proto::SERVER, 1, 111);
  EXPECT_FALSE(driver.scheduler().stop().has_value());
  EXPECT_EQ(SchedulerDriver::ViewOf(driver.Take()["server-1"]).recover().checkpoint(), 3u);
  driver.scheduler().OnTimer(0);
  driver.now = 100001;
  driver.Beat(proto::SERVER, 0);
  driver.Beat(proto::SERVER, 1, 0, 111);
  driver.scheduler().OnTimer(driver.now);
  ASSERT_TRUE(driver.scheduler().stop().has_value());
  EXPECT_THAT(driver.scheduler().stop()->reason(),
              HasSubstr("not all servers recovered within 100 s: server 1 recovers"));
}

}  // namespace
}  // namespace plexus
