#include "scheduler/scheduler.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "tests/unit/scheduler/scheduler_testing.h"

namespace plexus {
namespace {

using testing::Contains;
using testing::HasSubstr;
using testing::IsEmpty;
using testing::SizeIs;

TEST(SchedulerTest, StartsOnlyWhenAllHaveCome) {
  SchedulerDriver driver;
  driver.Register(proto::SERVER, 0);
  driver.Register(proto::WORKER, 0);
  driver.Register(proto::WORKER, 1);
  EXPECT_FALSE(SchedulerDriver::ViewOf(driver.Take()["server-0"]).has_phase());
  EXPECT_THAT(driver.scheduler().WaitReport(), HasSubstr("server 1 is not there"));
  driver.Register(proto::SERVER, 1);
  auto taken = driver.Take();
  const proto::View server = SchedulerDriver::ViewOf(taken["server-0"]);
  EXPECT_EQ(server.phase().number(), 1u);
  EXPECT_EQ(server.version(), 0u);
  EXPECT_EQ(server.fence(), 1u);
  EXPECT_EQ(server.carrier_epochs_size(), 2);
  const proto::View worker = SchedulerDriver::ViewOf(taken["worker-1"]);
  EXPECT_EQ(worker.incarnation(), 201u);
  EXPECT_EQ(worker.servers_size(), 2);
  EXPECT_EQ(worker.servers(1), "address-1");
}

TEST(SchedulerTest, StrangersAreRefusedWithTheCodeOfABadJob) {
  SchedulerDriver driver;
  driver.Register(proto::SERVER, 0, 0, SchedulerDriver::kJobHash + 1);
  proto::View view = SchedulerDriver::ViewOf(driver.Take()["server-0"]);
  EXPECT_EQ(view.stop().exit_code(), 2);
  EXPECT_THAT(view.stop().reason(), HasSubstr("another job file"));
  driver.Register(proto::WORKER, 2);
  view = SchedulerDriver::ViewOf(driver.Take()["worker-2"]);
  EXPECT_EQ(view.stop().exit_code(), 2);
  EXPECT_THAT(view.stop().reason(), HasSubstr("no WORKER of index 2"));
  EXPECT_EQ(driver.scheduler().messages_refused(), 2u);
  EXPECT_FALSE(driver.scheduler().stop().has_value()) << "the job goes on waiting";
}

TEST(SchedulerTest, CarriersBeginWhenAllServersKnowTheFence) {
  SchedulerDriver driver;
  driver.RegisterAll();
  driver.Take();
  driver.Beat(proto::SERVER, 0, 1);
  driver.Beat(proto::WORKER, 0);
  EXPECT_EQ(SchedulerDriver::ViewOf(driver.Take()["worker-0"]).carry_size(), 0);
  driver.Beat(proto::SERVER, 1, 1);
  auto taken = driver.Take();
  ASSERT_EQ(SchedulerDriver::ViewOf(taken["worker-0"]).carry_size(), 1) << "told at once";
  EXPECT_EQ(SchedulerDriver::ViewOf(taken["worker-0"]).carry(0).rank(), 0u);
  EXPECT_EQ(SchedulerDriver::ViewOf(taken["worker-1"]).carry(0).rank(), 1u);
  EXPECT_EQ(SchedulerDriver::ViewOf(taken["worker-1"]).carry(0).epoch(), 1u);
}

TEST(SchedulerTest, CommitsWhenEveryShardIsComplete) {
  SchedulerDriver driver({"train.schedule.warmup_steps=4"});
  driver.Start();
  driver.Say(0, driver.Complete(1));
  driver.Say(0, driver.Complete(1));
  EXPECT_THAT(driver.TakeCommits(), IsEmpty());
  driver.Say(1, driver.Complete(2));
  EXPECT_THAT(driver.TakeCommits(), IsEmpty()) << "another step";
  driver.Say(1, driver.Complete(1));
  auto taken = driver.Take();
  ASSERT_TRUE(taken["server-1"].back().has_commit());
  const proto::Commit commit = taken["server-0"].back().commit();
  EXPECT_EQ(commit.step(), 1u);
  EXPECT_EQ(commit.phase(), 1u);
  EXPECT_EQ(commit.rate_factor(), 0.25f);
  EXPECT_FALSE(commit.has_next());
  EXPECT_EQ(driver.scheduler().version(), 1u);
  EXPECT_EQ(driver.scheduler().totals().samples, 8u) << "of one shard, not of both";
}

TEST(SchedulerTest, ALostCommitIsSaidAgain) {
  SchedulerDriver driver;
  driver.Start();
  driver.SayBoth(driver.Complete(1));
  driver.Take();
  driver.Say(1, driver.Complete(1));
  auto taken = driver.Take();
  EXPECT_THAT(taken["server-0"], IsEmpty());
  ASSERT_THAT(taken["server-1"], SizeIs(1));
  EXPECT_EQ(taken["server-1"][0].commit().step(), 1u);
  driver.BeatServers();
  EXPECT_EQ(SchedulerDriver::ViewOf(driver.Take()["server-0"]).last_commit().step(), 1u);
}

TEST(SchedulerTest, ALostWorkersRanksAreCarriedAgain) {
  SchedulerDriver driver;
  driver.Start();
  driver.now = 900;
  driver.BeatServers();
  driver.Beat(proto::WORKER, 0);
  driver.now = 1001;
  driver.scheduler().OnTimer(driver.now);
  driver.now = 1600;
  driver.BeatServers();
  driver.Beat(proto::WORKER, 0);
  driver.BeatServers();  // The new fence.
  auto taken = driver.Take();
  const proto::View view = SchedulerDriver::ViewOf(taken["worker-0"]);
  ASSERT_EQ(view.carry_size(), 2);
  EXPECT_EQ(view.carry(0).epoch(), 1u);
  EXPECT_EQ(view.carry(1).epoch(), 2u);
  EXPECT_EQ(SchedulerDriver::ViewOf(taken["server-1"]).carrier_epochs(1), 2u);
  EXPECT_EQ(driver.scheduler().totals().worker_deaths, 1u);
  bool told = false;
  for (const SchedulerEvent& event : driver.scheduler().TakeEvents()) {
    told = told || (event.kind == SchedulerEvent::Kind::kWorkerLost &&
                    event.text == "worker 1 was not heard for 1001 ms");
  }
  EXPECT_TRUE(told);
}

TEST(SchedulerTest, ADeathCountsOnceHoweverItIsNoticed) {
  SchedulerDriver driver;
  driver.Start();
  driver.Register(proto::WORKER, 1, 300);  // Restarted within the lease.
  EXPECT_EQ(driver.scheduler().totals().worker_deaths, 1u);
  driver.now = 900;
  driver.BeatServers();
  driver.Beat(proto::WORKER, 1, 0, 300);
  driver.now = 1001;
  driver.scheduler().OnTimer(driver.now);  // Worker 0 is lost,
  EXPECT_EQ(driver.scheduler().totals().worker_deaths, 2u);
  driver.Register(proto::WORKER, 0, 301);  // and comes back.
  EXPECT_EQ(driver.scheduler().totals().worker_deaths, 2u);
  EXPECT_EQ(driver.scheduler().membership().epochs()[0], 2u);
}

TEST(SchedulerTest, AnOlderProgramIsToldToGo) {
  SchedulerDriver driver;
  driver.Start();
  driver.Register(proto::WORKER, 1, 300);
  driver.Take();
  driver.Beat(proto::WORKER, 1);
  const proto::View view = SchedulerDriver::ViewOf(driver.Take()["worker-1"]);
  EXPECT_EQ(view.incarnation(), 201u) << "meant for the old one";
  EXPECT_EQ(view.stop().exit_code(), 3);
}

TEST(SchedulerTest, MembersMayRestartBeforeTheStart) {
  SchedulerDriver driver;
  driver.Register(proto::SERVER, 0);
  driver.Register(proto::SERVER, 0, 111);
  driver.Register(proto::SERVER, 1);
  driver.Register(proto::WORKER, 0);
  driver.Register(proto::WORKER, 1);
  EXPECT_FALSE(driver.scheduler().stop().has_value());
  EXPECT_EQ(driver.scheduler().phase().number(), 1u);
}

TEST(SchedulerTest, EvaluatesSavesTheBestAndStops) {
  SchedulerDriver driver({"data.valid=v", "data.test=t"});
  driver.Start();
  driver.SayBoth(driver.Complete(1, true, true));
  auto commits = driver.TakeCommits();
  ASSERT_THAT(commits, SizeIs(1));
  EXPECT_EQ(commits[0].next().kind(), proto::Phase::EVALUATE);
  EXPECT_EQ(commits[0].save(), "");
  driver.SayBoth(driver.Complete(2));
  driver.Report(0, -1, 0);
  driver.Report(0, -1, 0);
  EXPECT_THAT(driver.TakeCommits(), IsEmpty()) << "rank 1 has not reported";
  EXPECT_THAT(driver.scheduler().WaitReport(), HasSubstr("the evaluation waits for rank 1"));
  driver.Report(1, 1, 1);
  commits = driver.TakeCommits();
  ASSERT_THAT(commits, SizeIs(1));
  EXPECT_EQ(commits[0].save(), "best");
  EXPECT_EQ(commits[0].next().data_set(), proto::Phase::TEST);
  EXPECT_EQ(driver.scheduler().planner().validation()->auc, 1.0);
  EXPECT_EQ(driver.scheduler().planner().validation()->samples, 2u);
  driver.SayBoth(driver.Complete(3));
  driver.Report(0, 0, 0);
  driver.Report(1, 0, 1);
  EXPECT_THAT(driver.TakeCommits(), IsEmpty()) << "the shards are still writing";
  driver.Saved(0);
  driver.Saved(0);
  EXPECT_THAT(driver.TakeCommits(), IsEmpty());
  driver.Saved(1);
  commits = driver.TakeCommits();
  ASSERT_THAT(commits, SizeIs(1)) << "the step that had waited";
  EXPECT_EQ(commits[0].next().kind(), proto::Phase::STOP);
  EXPECT_EQ(commits[0].save(), "final");
  EXPECT_EQ(driver.scheduler().planner().test()->auc, 0.5);
  EXPECT_FALSE(driver.scheduler().stop().has_value());
  driver.SaveBoth();
  ASSERT_TRUE(driver.scheduler().stop().has_value());
  EXPECT_EQ(driver.scheduler().stop()->exit_code(), 0);
  EXPECT_TRUE(SchedulerDriver::ViewOf(driver.Take()["worker-0"]).has_stop());
}

TEST(SchedulerTest, AFailedSaveEndsTheJob) {
  SchedulerDriver driver;
  driver.Start();
  driver.SayBoth(driver.Complete(1, true, true));
  driver.Saved(1, "disk full");
  EXPECT_EQ(driver.scheduler().stop()->exit_code(), 1);
  EXPECT_EQ(driver.scheduler().stop()->reason(), "server 1 could not write the model: disk full");
}

// The norms of the blocks, said by one shard or spread over two.
float ScaleOf(const std::vector<std::vector<std::uint32_t>>& blocks_of_shard) {
  SchedulerDriver driver({"train.clip_dense_norm=0.5"});
  driver.Start();
  for (std::uint32_t shard = 0; shard < 2; ++shard) {
    proto::Complete complete = driver.Complete(1);
    for (const std::uint32_t block : blocks_of_shard[shard]) {
      proto::BlockNorm& norm = *complete.add_norms();
      norm.set_block(block);
      norm.set_sum_of_squares(block == 0 ? 1e17 : 3.3 + block);
    }
    driver.Say(shard, complete);
  }
  return driver.TakeCommits().at(0).dense_scale();
}

TEST(SchedulerTest, ClipsByTheNormOfAllBlocksHoweverTheyAreSpread) {
  const float scale = ScaleOf({{0, 1, 2, 3, 4}, {}});
  double total = 0;
  for (const double square : {1e17, 4.3, 5.3, 6.3, 7.3}) {
    total += square;
  }
  EXPECT_EQ(scale, static_cast<float>(0.5 / std::sqrt(total)));
  EXPECT_EQ(ScaleOf({{0, 2, 4}, {1, 3}}), scale);
  EXPECT_EQ(ScaleOf({{3, 1}, {4, 2, 0}}), scale);
}

TEST(SchedulerTest, CountsTheEpochsLoss) {
  SchedulerDriver driver({"train.epochs=2"});
  driver.Start();
  driver.SayBoth(driver.Complete(1));
  driver.SayBoth(driver.Complete(2, true, true));
  EXPECT_EQ(driver.scheduler().totals().epoch_samples, 16u);
  proto::Complete inexact = driver.Complete(3);
  driver.Say(0, inexact);
  inexact.set_inexact(true);
  driver.Say(1, inexact);
  EXPECT_EQ(driver.scheduler().totals().epoch_samples, 8u) << "a new epoch";
  EXPECT_EQ(driver.scheduler().totals().epoch_loss_sum, 4);
  EXPECT_EQ(driver.scheduler().totals().samples, 24u);
  EXPECT_EQ(driver.scheduler().totals().steps, 3u);
  EXPECT_TRUE(driver.scheduler().totals().inexact) << "said by any shard";
}

TEST(SchedulerTest, OddMessagesAreCounted) {
  SchedulerDriver driver;
  driver.Say(0, driver.Complete(1));  // Nothing has begun.
  driver.Start();
  driver.Say(7, driver.Complete(1));
  FrameHeader header;
  header.type = FrameType::kPull;
  driver.scheduler().OnMessage("x", MakeFrame(header), 0);
  header.type = FrameType::kControl;
  driver.scheduler().OnMessage("x", MakeFrame(header, "\xff"), 0);
  driver.Send("x", proto::Control());
  EXPECT_EQ(driver.scheduler().messages_refused(), 5u);
  driver.Report(0, 1, 1);
  EXPECT_EQ(driver.scheduler().version(), 0u) << "nothing is being evaluated";
}

}  // namespace
}  // namespace plexus
