// How a job ends before its time.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "scheduler/scheduler.h"
#include "tests/unit/scheduler/scheduler_testing.h"

namespace plexus {
namespace {

using testing::HasSubstr;
using testing::IsEmpty;
using testing::SizeIs;

TEST(SchedulerStopTest, ALostServerStopsTheJobRestartable) {
  SchedulerDriver driver;
  driver.Start();
  driver.SayBoth(driver.Complete(1));
  driver.now = 900;
  driver.Beat(proto::SERVER, 1, 1);
  driver.Beat(proto::WORKER, 0);
  driver.Beat(proto::WORKER, 1);
  driver.Take();
  driver.scheduler().OnTimer(1001);
  ASSERT_TRUE(driver.scheduler().stop().has_value());
  EXPECT_EQ(driver.scheduler().stop()->exit_code(), 3);
  EXPECT_EQ(driver.scheduler().stop()->reason(),
            "server 0 was not heard for 1001 ms: its rows at version 1 are lost");
  EXPECT_EQ(SchedulerDriver::ViewOf(driver.Take()["worker-1"]).stop().exit_code(), 3);
}

TEST(SchedulerStopTest, AReplacedServerStopsTheJobRestartable) {
  SchedulerDriver driver;
  driver.Start();
  driver.Register(proto::SERVER, 1, 111);
  EXPECT_EQ(driver.scheduler().stop()->exit_code(), 3);
  EXPECT_THAT(driver.scheduler().stop()->reason(), HasSubstr("server 1 was restarted"));
  EXPECT_EQ(SchedulerDriver::ViewOf(driver.Take()["server-1"]).stop().exit_code(), 3);
}

TEST(SchedulerStopTest, AMembersFailureIsPassedOn) {
  for (const bool restartable : {false, true}) {
    SchedulerDriver driver;
    driver.Start();
    proto::Heartbeat heartbeat;
    heartbeat.set_role(proto::SERVER);
    heartbeat.set_index(0);
    heartbeat.set_fence(1);
    heartbeat.set_failure("too much");
    heartbeat.set_restartable(restartable);
    driver.Beat(heartbeat);
    EXPECT_EQ(driver.scheduler().stop()->exit_code(), restartable ? 3 : 1);
    EXPECT_EQ(driver.scheduler().stop()->reason(), "too much");
    driver.scheduler().Fail(1, "later", 0);
    EXPECT_EQ(driver.scheduler().stop()->reason(), "too much") << "the first reason stays";
  }
}

TEST(SchedulerStopTest, ARequestedStopFinishesTheStepAndSaves) {
  SchedulerDriver driver;
  driver.Start();
  driver.Say(0, driver.Complete(1));
  driver.scheduler().RequestStop(0);
  EXPECT_THAT(driver.TakeCommits(), IsEmpty()) << "the step is not complete";
  driver.Say(1, driver.Complete(1));
  const auto commits = driver.TakeCommits();
  ASSERT_THAT(commits, SizeIs(1));
  EXPECT_EQ(commits[0].next().kind(), proto::Phase::STOP);
  EXPECT_EQ(commits[0].save(), "final");
  driver.SaveBoth();
  EXPECT_EQ(driver.scheduler().stop()->exit_code(), 0);
  EXPECT_TRUE(driver.scheduler().totals().interrupted);
}

TEST(SchedulerStopTest, ARequestedStopWaitsForAnEvaluationAndKeepsItsBest) {
  SchedulerDriver driver({"data.valid=v", "train.epochs=5"});
  driver.Start();
  driver.SayBoth(driver.Complete(1, true, true));
  driver.scheduler().RequestStop(0);
  driver.Take();
  driver.SayBoth(driver.Complete(2));
  driver.Report(0, -1, 0);
  driver.Report(1, 1, 1);
  const auto commits = driver.TakeCommits();
  ASSERT_THAT(commits, SizeIs(1));
  EXPECT_EQ(commits[0].next().kind(), proto::Phase::STOP);
  EXPECT_EQ(commits[0].save(), "best,final") << "result.json will name a best epoch";
  driver.scheduler().TakeEvents();
  driver.SaveBoth();
  std::vector<std::string> saved;
  for (const SchedulerEvent& event : driver.scheduler().TakeEvents()) {
    if (event.kind == SchedulerEvent::Kind::kSaved) {
      saved.push_back(event.text);
    }
  }
  EXPECT_THAT(saved, testing::ElementsAre("best", "final"));
}

TEST(SchedulerStopTest, ARequestedStopBeforeTheStartEndsAtOnce) {
  SchedulerDriver driver;
  driver.Register(proto::SERVER, 0);
  driver.scheduler().RequestStop(0);
  EXPECT_EQ(driver.scheduler().stop()->exit_code(), 1);
  EXPECT_TRUE(driver.scheduler().totals().interrupted);
}

TEST(SchedulerStopTest, AspStopsInsideThePhase) {
  SchedulerDriver driver({"train.staleness=-1"});
  driver.Start();
  proto::Heartbeat heartbeat;
  heartbeat.set_role(proto::SERVER);
  heartbeat.set_index(1);
  heartbeat.set_fence(1);
  heartbeat.set_version(41);
  driver.Beat(heartbeat);
  driver.Take();
  driver.scheduler().RequestStop(0);
  const auto commits = driver.TakeCommits();
  ASSERT_THAT(commits, SizeIs(1));
  EXPECT_EQ(commits[0].step(), 41u) << "the newest that was heard of";
  EXPECT_EQ(commits[0].next().first_step(), 42u);
  driver.scheduler().RequestStop(0);
  EXPECT_THAT(driver.TakeCommits(), IsEmpty());
}

TEST(SchedulerStopTest, AspStopsAfterASaveThatIsUnderWay) {
  SchedulerDriver driver({"train.staleness=-1", "data.valid=v", "train.epochs=5"});
  driver.Start();
  driver.SayBoth(driver.Complete(10, true, true));
  driver.SayBoth(driver.Complete(11));
  driver.Report(0, -1, 0);
  driver.Report(1, 1, 1);
  EXPECT_EQ(driver.TakeCommits().back().save(), "best");
  EXPECT_EQ(driver.scheduler().phase().kind(), proto::Phase::TRAIN);
  driver.scheduler().RequestStop(0);
  EXPECT_THAT(driver.TakeCommits(), IsEmpty()) << "no commit while a save is under way";
  driver.SaveBoth();
  const auto commits = driver.TakeCommits();
  ASSERT_THAT(commits, SizeIs(1));
  EXPECT_EQ(commits[0].next().kind(), proto::Phase::STOP);
}

TEST(SchedulerStopTest, AStallIsReportedWithWhoWaitsForWhom) {
  SchedulerDriver driver;
  driver.Start();
  driver.Say(0, driver.Complete(1));
  for (driver.now = 0; driver.now <= 100500; driver.now += 500) {
    proto::Heartbeat heartbeat;
    heartbeat.set_role(proto::SERVER);
    heartbeat.set_index(1);
    heartbeat.set_fence(1);
    heartbeat.add_waiting_for(0);
    heartbeat.add_waiting_for(1);
    driver.Beat(heartbeat);
    driver.Beat(proto::SERVER, 0, 1);
    driver.Beat(proto::WORKER, 0);
    driver.Beat(proto::WORKER, 1);
    driver.scheduler().OnTimer(driver.now);
  }
  ASSERT_TRUE(driver.scheduler().stop().has_value());
  EXPECT_EQ(driver.scheduler().stop()->exit_code(), 3);
  EXPECT_EQ(
      driver.scheduler().stop()->reason(),
      "no step was committed for 100 s: step 1 waits for server 1, which waits for rank 0, 1");
}

TEST(SchedulerStopTest, MembersThatNeverComeAreNamed) {
  SchedulerDriver driver;
  driver.scheduler().OnTimer(0);
  for (driver.now = 0; driver.now <= 60500; driver.now += 500) {
    driver.Register(proto::SERVER, 0);
    driver.Register(proto::SERVER, 1);
    driver.Register(proto::WORKER, 0);
    driver.scheduler().OnTimer(driver.now);
  }
  EXPECT_EQ(driver.scheduler().stop()->exit_code(), 3);
  EXPECT_EQ(driver.scheduler().stop()->reason(),
            "not all members came within 60 s: worker 1 is not there");
}

TEST(SchedulerStopTest, WithoutWorkersItWaitsAWhile) {
  SchedulerDriver driver;
  driver.Start();
  for (driver.now = 0; driver.now <= 70000; driver.now += 500) {
    driver.BeatServers();
    driver.scheduler().OnTimer(driver.now);
    ASSERT_TRUE(driver.now > 60000 || !driver.scheduler().stop().has_value()) << driver.now;
  }
  EXPECT_EQ(driver.scheduler().stop()->reason(), "no worker came back");
}

TEST(SchedulerStopTest, IsDoneWhenAllHaveLeftOrHadTheTime) {
  SchedulerDriver driver;
  driver.Start();
  EXPECT_FALSE(driver.scheduler().Done(0));
  driver.scheduler().Fail(1, "why", 0);
  EXPECT_FALSE(driver.scheduler().Done(5000));
  EXPECT_TRUE(driver.scheduler().Done(5001));
  for (const proto::Role role : {proto::SERVER, proto::WORKER}) {
    for (const std::uint32_t index : {0, 1}) {
      EXPECT_FALSE(driver.scheduler().Done(10));
      proto::Heartbeat heartbeat;
      heartbeat.set_role(role);
      heartbeat.set_index(index);
      heartbeat.set_leaving(true);
      driver.Beat(heartbeat);
    }
  }
  EXPECT_TRUE(driver.scheduler().Done(10));
}

}  // namespace
}  // namespace plexus
