// How a durable job goes on after the death of a server, of the scheduler, or of everything.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "scheduler/scheduler.h"
#include "tests/unit/scheduler/scheduler_testing.h"

namespace plexus {
namespace {

using testing::HasSubstr;
using testing::SizeIs;

const std::vector<std::string>& Job() {
  static const std::vector<std::string> job = {"checkpoint.durability=SYNC"};
  return job;
}

// What a server says of itself when it comes.
struct Server {
  std::uint32_t index = 0;
  std::uint64_t log_version = 0;
  std::optional<std::uint64_t> state_version = std::nullopt;
  std::uint64_t log_begin = 0;
  std::uint64_t incarnation = 0;
};

void Come(SchedulerDriver& driver, const Server& server) {
  proto::Control control;
  proto::Register& info = *control.mutable_register_member();
  info.set_role(proto::SERVER);
  info.set_index(server.index);
  info.set_incarnation(server.incarnation != 0
                           ? server.incarnation
                           : SchedulerDriver::IncarnationOf(proto::SERVER, server.index));
  info.set_job_hash(SchedulerDriver::kJobHash);
  info.set_log_version(server.log_version);
  info.set_log_begin(server.log_begin);
  if (server.state_version.has_value()) {
    info.set_state_version(*server.state_version);
  }
  driver.Send(SchedulerDriver::PeerOf(proto::SERVER, server.index), control);
}

void ComeWorkers(SchedulerDriver& driver) {
  driver.Register(proto::WORKER, 0);
  driver.Register(proto::WORKER, 1);
}

void Beat(SchedulerDriver& driver, std::uint32_t server, std::uint64_t version,
          std::uint64_t complete = 0, std::uint64_t incarnation = 0) {
  proto::Heartbeat heartbeat;
  heartbeat.set_role(proto::SERVER);
  heartbeat.set_index(server);
  heartbeat.set_version(version);
  heartbeat.set_complete_step(complete);
  heartbeat.set_fence(driver.scheduler().membership().fence());
  driver.Beat(heartbeat, incarnation);
}

proto::View ViewOfServer(SchedulerDriver& driver, std::uint32_t server) {
  return SchedulerDriver::ViewOf(driver.Take()[SchedulerDriver::PeerOf(proto::SERVER, server)]);
}

std::vector<SchedulerEvent> EventsOf(SchedulerDriver& driver, SchedulerEvent::Kind kind) {
  std::vector<SchedulerEvent> events = driver.scheduler().TakeEvents();
  std::erase_if(events, [kind](const SchedulerEvent& event) { return event.kind != kind; });
  return events;
}

// What the log of a scheduler that committed so many steps holds.
std::vector<proto::CommittedStep> Committed(std::uint64_t steps) {
  SchedulerDriver driver(Job());
  driver.Start();
  std::vector<proto::CommittedStep> log;
  for (std::uint64_t step = 1; step <= steps; ++step) {
    driver.SayBoth(driver.Complete(step));
    for (const SchedulerEvent& event : EventsOf(driver, SchedulerEvent::Kind::kCommitted)) {
      log.push_back(event.committed);
    }
  }
  EXPECT_THAT(log, SizeIs(steps));
  return log;
}

// At version `steps`, all at work.
void Work(SchedulerDriver& driver, std::uint64_t steps) {
  driver.Start();
  for (std::uint64_t step = 1; step <= steps; ++step) {
    driver.SayBoth(driver.Complete(step));
  }
  Beat(driver, 0, steps);
  Beat(driver, 1, steps);
  driver.Take();
  (void)driver.scheduler().TakeEvents();
}

TEST(SchedulerRecoveryTest, GoesOnFromTheNewestVersionThatAllCanMake) {
  SchedulerDriver driver(Job(), std::nullopt, Committed(3), 1);
  ComeWorkers(driver);
  Come(driver, {.index = 0, .log_version = 4});
  EXPECT_FALSE(ViewOfServer(driver, 0).has_recover()) << "not chosen yet";
  Come(driver, {.index = 1, .log_version = 2});
  EXPECT_EQ(driver.scheduler().version(), 2u);
  EXPECT_EQ(driver.scheduler().totals().samples, 16u) << "of two steps";
  const auto resumed = EventsOf(driver, SchedulerEvent::Kind::kResumed);
  ASSERT_THAT(resumed, SizeIs(1));
  EXPECT_EQ(resumed[0].step, 2u) << "what is behind it is forgotten";
  const proto::View view = ViewOfServer(driver, 0);
  EXPECT_EQ(view.recover().version(), 2u);
  EXPECT_EQ(view.recover().checkpoint(), 0u);
  EXPECT_FALSE(view.has_phase());
  Beat(driver, 0, 2);
  Beat(driver, 1, 1, 2);  // Made by its step and the scheduler's last commit.
  const proto::View goes_on = ViewOfServer(driver, 1);
  EXPECT_TRUE(goes_on.has_phase());
  EXPECT_EQ(goes_on.last_commit().step(), 2u);
  driver.SayBoth(driver.Complete(3));
  EXPECT_EQ(driver.scheduler().version(), 3u);
  EXPECT_EQ(driver.scheduler().totals().samples, 24u);
}

TEST(SchedulerRecoveryTest, ALivingServerThatIsNewerEndsTheJob) {
  SchedulerDriver driver(Job(), std::nullopt, Committed(3), 1);
  Come(driver, {.index = 0, .state_version = 3});
  Come(driver, {.index = 1, .log_version = 2});
  ASSERT_TRUE(driver.scheduler().stop().has_value());
  EXPECT_EQ(driver.scheduler().stop()->exit_code(), 3);
  EXPECT_THAT(driver.scheduler().stop()->reason(), HasSubstr("server 0 is at version 3"));
}

TEST(SchedulerRecoveryTest, ASchedulerThatLostItsLogDoesNotBeginAnew) {
  SchedulerDriver driver(Job());
  Come(driver, {.index = 0, .state_version = 5});
  Come(driver, {.index = 1, .state_version = 5});
  ASSERT_TRUE(driver.scheduler().stop().has_value());
  EXPECT_EQ(driver.scheduler().stop()->exit_code(), 3);
}

TEST(SchedulerRecoveryTest, LivingServersGoOn) {
  SchedulerDriver driver(Job(), std::nullopt, Committed(1), 1);
  ComeWorkers(driver);
  Come(driver, {.index = 0, .state_version = 0});  // Has not heard of the commit.
  Come(driver, {.index = 1, .state_version = 1});
  EXPECT_EQ(driver.scheduler().version(), 1u) << "version 0 is a state too";
  EXPECT_FALSE(ViewOfServer(driver, 0).has_recover());
  Beat(driver, 0, 0, 1);
  Beat(driver, 1, 1);
  EXPECT_TRUE(ViewOfServer(driver, 0).has_last_commit());
}

TEST(SchedulerRecoveryTest, ALogThatBeginsBehindTheCheckpointReachesNothing) {
  SchedulerDriver driver(Job(), std::nullopt, Committed(3), 1);
  Come(driver, {.index = 0, .log_version = 3});
  Come(driver, {.index = 1, .log_version = 3, .log_begin = 2});
  EXPECT_EQ(driver.scheduler().version(), 0u);
}

TEST(SchedulerRecoveryTest, AsksWhomItDoesNotKnowToRegisterAgain) {
  SchedulerDriver driver(Job(), std::nullopt, Committed(1), 1);
  Beat(driver, 0, 1);
  EXPECT_TRUE(ViewOfServer(driver, 0).register_again());
  driver.Beat(proto::WORKER, 1);
  EXPECT_TRUE(SchedulerDriver::ViewOf(driver.Take()["worker-1"]).register_again());
}

TEST(SchedulerRecoveryTest, EpochsOfALaterStartAreHigher) {
  std::uint32_t last_epoch = 0;
  std::uint64_t last_fence = 0;
  for (std::uint32_t starts = 0; starts < 3; ++starts) {
    SchedulerDriver driver(Job(), std::nullopt, {}, starts);
    driver.Start();
    EXPECT_GT(driver.scheduler().membership().epochs()[0], last_epoch);
    EXPECT_GT(driver.scheduler().membership().fence(), last_fence);
    last_epoch = driver.scheduler().membership().epochs()[0] + 60000;
    last_fence = driver.scheduler().membership().fence() + 60000;
  }
}

TEST(SchedulerRecoveryTest, EvaluationsReportedBeforeTheStartDoNotCount) {
  proto::SchedulerState state;
  state.set_version(3);
  state.mutable_phase()->set_number(2);
  state.mutable_phase()->set_kind(proto::Phase::EVALUATE);
  state.mutable_phase()->set_first_step(4);
  state.mutable_phase()->set_last_step(4);
  SchedulerDriver driver({"checkpoint.durability=SYNC", "data.valid=v"}, state);
  driver.Report(0, 1, 1);
  driver.Report(1, 1, 1);
  ComeWorkers(driver);
  Come(driver, {.index = 0, .state_version = 3});
  Come(driver, {.index = 1, .state_version = 3});
  Beat(driver, 0, 3, 4);
  Beat(driver, 1, 3, 4);
  driver.SayBoth(driver.Complete(4));
  EXPECT_EQ(driver.scheduler().version(), 3u);
  driver.Report(0, 1, 1);
  driver.Report(1, 1, 1);
  EXPECT_EQ(driver.scheduler().version(), 4u);
}

TEST(SchedulerRecoveryTest, ALostServerMayReturn) {
  SchedulerDriver driver(Job());
  Work(driver, 2);
  driver.now += 2 * SchedulerDriver::kLease;
  driver.Beat(proto::WORKER, 0);
  driver.Beat(proto::WORKER, 1);
  Beat(driver, 1, 2);
  driver.scheduler().OnTimer(driver.now);
  ASSERT_THAT(EventsOf(driver, SchedulerEvent::Kind::kServerLost), SizeIs(1));
  EXPECT_THAT(driver.scheduler().WaitReport(), HasSubstr("server 0 is not there"));
  driver.Take();
  driver.Say(1, driver.Complete(3));
  driver.Say(0, driver.Complete(3));  // Late: of a program that may be dead; its log has it.
  EXPECT_EQ(driver.scheduler().version(), 3u);
  Come(driver, {.index = 0, .log_version = 3, .incarnation = 111});
  const proto::View view = ViewOfServer(driver, 0);
  EXPECT_EQ(view.recover().version(), 3u);
  EXPECT_EQ(view.generation(), 2u) << "workers say again what they pushed";
  Beat(driver, 0, 2, 3, 111);
  EXPECT_FALSE(ViewOfServer(driver, 0).has_recover());
  EXPECT_FALSE(driver.scheduler().stop().has_value());
}

TEST(SchedulerRecoveryTest, ALostServerIsNotWaitedForForEver) {
  SchedulerDriver driver(Job());
  Work(driver, 2);
  for (int i = 0; i < 100 && !driver.scheduler().stop().has_value(); ++i) {
    driver.now += SchedulerDriver::kLease;
    driver.Beat(proto::WORKER, 0);
    driver.Beat(proto::WORKER, 1);
    Beat(driver, 1, 2);
    driver.scheduler().OnTimer(driver.now);
  }
  ASSERT_TRUE(driver.scheduler().stop().has_value());
  EXPECT_EQ(driver.scheduler().stop()->exit_code(), 3);
  EXPECT_THAT(driver.scheduler().stop()->reason(), HasSubstr("did not come back within 60 s"));
}

TEST(SchedulerRecoveryTest, AServerThatIsLostBeforeTheStartIsWaitedFor) {
  SchedulerDriver driver(Job(), std::nullopt, Committed(1), 1);
  Come(driver, {.index = 0, .log_version = 1});
  driver.now += 2 * SchedulerDriver::kLease;
  driver.scheduler().OnTimer(0);
  driver.scheduler().OnTimer(driver.now);
  EXPECT_FALSE(driver.scheduler().stop().has_value());
  Come(driver, {.index = 0, .log_version = 1, .incarnation = 111});
  Come(driver, {.index = 1, .log_version = 1});
  EXPECT_EQ(ViewOfServer(driver, 0).recover().version(), 1u);
}

TEST(SchedulerRecoveryTest, AReturnedServerThatCannotMakeTheVersionEndsTheJob) {
  SchedulerDriver driver(Job());
  Work(driver, 2);
  Come(driver, {.index = 0, .log_version = 1, .incarnation = 111});
  ASSERT_TRUE(driver.scheduler().stop().has_value());
  EXPECT_EQ(driver.scheduler().stop()->exit_code(), 3);
  EXPECT_THAT(driver.scheduler().stop()->reason(), HasSubstr("reach version 1 of 2"));
}

TEST(SchedulerRecoveryTest, WordsOfAFormerProgramDoNotCount) {
  SchedulerDriver driver(Job());
  Work(driver, 2);
  proto::Control complete;
  *complete.mutable_complete() = driver.Complete(3);
  driver.Send("server-0-of-a-former-life", complete);
  driver.Say(1, driver.Complete(3));
  EXPECT_EQ(driver.scheduler().version(), 2u);
  Come(driver, {.index = 0, .log_version = 2, .incarnation = 111});
  Beat(driver, 0, 2, 0, 111);
  driver.Take();
  Come(driver, {.index = 0, .log_version = 0});  // Was under way when that server died.
  EXPECT_FALSE(driver.scheduler().stop().has_value());
  EXPECT_EQ(ViewOfServer(driver, 0).stop().exit_code(), 3) << "of that incarnation";
  Beat(driver, 0, 2, 0, 111);
  EXPECT_FALSE(ViewOfServer(driver, 0).has_stop());
}

TEST(SchedulerRecoveryTest, TellsAReturnedServerWhatIsStillToBeWritten) {
  SchedulerDriver driver({"checkpoint.durability=SYNC"});
  Work(driver, 1);
  driver.scheduler().RequestStop(0);
  driver.SayBoth(driver.Complete(2));
  driver.Saved(0);
  Beat(driver, 0, 2);
  EXPECT_EQ(ViewOfServer(driver, 0).save(), "") << "it has said so";
  Come(driver, {.index = 0, .log_version = 2, .incarnation = 111});
  Beat(driver, 0, 2, 0, 111);
  const proto::View view = ViewOfServer(driver, 0);
  EXPECT_EQ(view.save(), "final") << "of that program: it may have been interrupted";
  driver.Saved(1);
  EXPECT_THAT(EventsOf(driver, SchedulerEvent::Kind::kSaved), SizeIs(0));
  driver.Saved(0);
  EXPECT_THAT(EventsOf(driver, SchedulerEvent::Kind::kSaved), SizeIs(1));
  Beat(driver, 1, 2);
  const proto::View later = ViewOfServer(driver, 1);
  EXPECT_EQ(later.save(), "");
  EXPECT_EQ(later.last_commit().save(), "") << "files that are finished stay as they are";
}

TEST(SchedulerRecoveryTest, AReturnedServerTakesNoRankFromItsCarrier) {
  SchedulerDriver driver(Job());
  Work(driver, 1);
  Come(driver, {.index = 0, .log_version = 1, .incarnation = 111});
  driver.Take();
  driver.Beat(proto::WORKER, 0);
  EXPECT_EQ(SchedulerDriver::ViewOf(driver.Take()["worker-0"]).carry_size(), 1)
      << "all servers knew its fence once";
}

}  // namespace
}  // namespace plexus
