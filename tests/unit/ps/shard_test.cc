#include "ps/shard.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "tests/unit/ps/shard_testing.h"

namespace plexus {
namespace {

using testing::ElementsAre;
using testing::HasSubstr;
using testing::IsEmpty;

constexpr auto kOk = ReplyCode::kOk;

std::shared_ptr<const JobPlan> Plan(const std::vector<std::string>& overrides = {}) {
  return PlanOf(kSmallJob, overrides);
}

std::string ErrorOf(const Envelope& reply) {
  return HeaderOf(reply.frame).type == FrameType::kError
             ? std::string(reply.frame.view().substr(sizeof(FrameHeader)))
             : "";
}

TEST(ShardTest, RegistersUntilAViewNamesIt) {
  ShardDriver driver(Plan());
  driver.shard().OnTimer(0);
  EXPECT_TRUE(driver.Take().controls.at(0).has_register_member());
  proto::View other;
  other.set_incarnation(ShardDriver::kIncarnation + 1);
  other.mutable_stop()->set_exit_code(3);
  driver.View(other);
  EXPECT_FALSE(driver.shard().stop().has_value()) << "meant for another";
  driver.shard().OnTimer(500);
  EXPECT_TRUE(driver.Take().controls.at(0).has_register_member());
  driver.Start();
  driver.shard().OnTimer(501);
  const auto said = driver.Take();
  ASSERT_TRUE(said.controls.at(0).has_heartbeat()) << "the fence is acknowledged at once";
  EXPECT_EQ(said.controls[0].heartbeat().fence(), 1u);
  EXPECT_THAT(said.controls[0].heartbeat().waiting_for(), ElementsAre(0, 1));
  EXPECT_EQ(driver.shard().phase().number(), 1u);
}

TEST(ShardTest, StopEndsIt) {
  ShardDriver driver(Plan());
  driver.Start();
  proto::View view;
  view.set_incarnation(ShardDriver::kIncarnation);
  view.mutable_stop()->set_exit_code(3);
  view.mutable_stop()->set_reason("why");
  driver.View(view);
  ASSERT_TRUE(driver.shard().stop().has_value());
  EXPECT_EQ(driver.shard().stop()->reason(), "why");
}

TEST(ShardTest, PullsParkUntilTheirVersionComes) {
  ShardDriver driver(Plan());
  driver.Pull(0, 1);
  EXPECT_THAT(driver.Take().replies, IsEmpty()) << "the phase has not begun";
  driver.Start();
  EXPECT_THAT(driver.Take().codes(), ElementsAre(kOk));
  driver.Pull(1, 2);
  EXPECT_THAT(driver.Take().replies, IsEmpty());
  driver.PushAll(1);
  EXPECT_THAT(driver.Take().completes(), ElementsAre(1));
  EXPECT_EQ(driver.shard().version(), 0u) << "the commit has not come";
  EXPECT_EQ(driver.shard().parked(), 1u);
  driver.Commit(1);
  const auto said = driver.Take();
  ASSERT_THAT(said.codes(), ElementsAre(kOk));
  EXPECT_EQ(HeaderOf(said.replies[0].frame).version, 1u);
  EXPECT_EQ(said.replies[0].peer, "peer/1");
  EXPECT_EQ(driver.shard().parked(), 0u);
}

TEST(ShardTest, PartsAreAppliedInRankOrderWhateverTheOrderOfArrival) {
  const auto plan = Plan({"train.ranks=4"});
  StepOracle oracle(plan);
  ShardDriver driver(plan);
  driver.Start();
  SCOPED_TRACE(SeedNote());
  Draws draws(1);
  const std::uint64_t dense = driver.shard().state().dense_extent().values;
  for (std::uint64_t step = 1; step <= 20; ++step) {
    std::vector<OwnedPush> pushes;
    for (std::uint32_t rank = 0; rank < 4; ++rank) {
      pushes.push_back(RandomPush(&draws, *plan, rank, dense));
    }
    std::vector<std::uint32_t> order = {0, 1, 2, 3};
    for (std::size_t i = 3; i > 0; --i) {
      std::swap(order[i], order[draws.Below(i + 1)]);
    }
    for (const std::uint32_t rank : order) {
      driver.Send(
          driver.PullFrame(driver.Header(FrameType::kPull, rank, step), pushes[rank].keys[0]));
      driver.Send(pushes[rank].Frame(*plan, driver.Header(FrameType::kPush, rank, step)));
    }
    driver.Commit(step);
    oracle.ApplyStep(pushes, 1.0f);
  }
  std::uint64_t hinted = 0;
  for (const std::uint32_t t : plan->groups[0].tables) {
    hinted += driver.shard().state().table(t).counters().hinted;
  }
  EXPECT_GT(hinted, 0u) << "pushes look where their pulls found their rows";
  for (std::uint32_t t = 0; t < plan->tables.size(); ++t) {
    EXPECT_EQ(driver.shard().state().table(t).row_count(), oracle.row_count(t));
    driver.shard().state().table(t).ForEachRow([&](const RowView& row) {
      const std::vector<float> values = oracle.Values(t, row.key);
      EXPECT_EQ(std::vector<float>(row.floats().begin(), row.floats().begin() + values.size()),
                values);
    });
  }
  std::vector<float> values(dense);
  driver.shard().state().dense().CopyValues(values.data());
  EXPECT_EQ(values, oracle.DenseValues());
  driver.ExpectCountersAddUp();
}

TEST(ShardTest, RepeatedPartsCountOnce) {
  ShardDriver driver(Plan());
  driver.Start();
  driver.Take();
  driver.EmptyPush(0, 1);
  driver.EmptyPush(0, 1);
  EXPECT_THAT(driver.Take().codes(), ElementsAre(kOk, kOk));
  EXPECT_EQ(driver.shard().pending_parts(), 1u);
  driver.EmptyPush(1, 1);
  driver.Commit(1);
  driver.EmptyPush(1, 1);
  EXPECT_EQ(driver.shard().counters().push_duplicate, 2u);
  EXPECT_EQ(driver.shard().counters().push_applied, 2u);
  driver.Commit(1);
  EXPECT_EQ(driver.shard().version(), 1u) << "a repeated commit";
  EXPECT_EQ(driver.shard().counters().commits, 1u);
  driver.ExpectCountersAddUp();
}

TEST(ShardTest, CommittedStepsAreStale) {
  ShardDriver driver(Plan());
  driver.Start();
  driver.PushAll(1);
  driver.Commit(1);
  driver.Take();
  driver.Pull(0, 1);
  const auto said = driver.Take();
  ASSERT_THAT(said.codes(), ElementsAre(ReplyCode::kStale));
  EXPECT_EQ(HeaderOf(said.replies[0].frame).version, 1u);
}

TEST(ShardTest, OlderCarriersAreFenced) {
  ShardDriver driver(Plan());
  driver.Start();
  driver.Pull(0, 2);  // Parks.
  proto::View view;
  view.set_incarnation(ShardDriver::kIncarnation);
  view.set_fence(2);
  view.add_carrier_epochs(2);
  view.add_carrier_epochs(1);
  driver.View(view);
  driver.Take();
  driver.EmptyPush(0, 1);
  driver.Send(MakeFrame(driver.Header(FrameType::kPhaseQuery, 0, 0)));
  driver.Pull(0, 1);
  EXPECT_THAT(driver.Take().codes(),
              ElementsAre(ReplyCode::kFenced, ReplyCode::kFenced, ReplyCode::kFenced));
  driver.EmptyPush(1, 1);
  EXPECT_THAT(driver.Take().codes(), ElementsAre(kOk));
  EXPECT_EQ(driver.shard().counters().push_refused, 1u);
  FrameHeader header = driver.Header(FrameType::kPush, 0, 1);
  header.epoch = 2;
  driver.Send(OwnedPush().Frame(driver.plan(), header));
  EXPECT_THAT(driver.Take().completes(), ElementsAre(1));
  EXPECT_EQ(driver.shard().parked(), 0u) << "the old carrier's pull is forgotten";
  driver.ExpectCountersAddUp();
}

TEST(ShardTest, ANewerCarrierFencesBeforeTheSchedulerDoes) {
  ShardDriver driver(Plan());
  driver.Start();
  driver.Pull(0, 2);
  FrameHeader header = driver.Header(FrameType::kPull, 0, 1);
  header.epoch = 5;
  driver.Send(driver.PullFrame(header));
  EXPECT_EQ(driver.shard().parked(), 0u) << "the old carrier's pull is dropped";
  driver.Take();
  driver.EmptyPush(0, 1);
  EXPECT_THAT(driver.Take().codes(), ElementsAre(ReplyCode::kFenced));
}

TEST(ShardTest, PhasesEndForPullsPushesAndQueries) {
  ShardDriver driver(Plan());
  driver.Start();
  driver.PushAll(1, kFlagLast | kFlagExhausted);
  const auto complete = driver.Take().controls.back().complete();
  EXPECT_TRUE(complete.all_last());
  EXPECT_TRUE(complete.all_exhausted());
  driver.Pull(0, 2);
  driver.Send(MakeFrame(driver.Header(FrameType::kPhaseQuery, 1, 0)));
  FrameHeader later = driver.Header(FrameType::kPull, 1, 2, kFlagReadOnly);
  later.phase = 2;
  driver.Send(driver.PullFrame(later));
  later.type = FrameType::kPush;
  driver.Send(OwnedPush().Frame(driver.plan(), later));
  EXPECT_THAT(driver.Take().replies, IsEmpty()) << "all of them are for the next phase";
  driver.Commit(1, 1, PhaseOf(2, proto::Phase::EVALUATE, 2, 2));
  const auto said = driver.Take();
  ASSERT_EQ(said.replies.size(), 3u);
  EXPECT_EQ(HeaderOf(said.replies[0].frame).code, ReplyCode::kPhaseEnded);
  EXPECT_EQ(HeaderOf(said.replies[1].frame).code, kOk) << "the evaluation's pull";
  EXPECT_EQ(HeaderOf(said.replies[2].frame).type, FrameType::kPhaseReply);
  EXPECT_EQ(HeaderOf(said.replies[2].frame).step, 2u);
  proto::Phase phase;
  ASSERT_TRUE(
      phase.ParseFromString(std::string(said.replies[2].frame.view().substr(sizeof(FrameHeader)))));
  EXPECT_EQ(phase.number(), 2u);
  EXPECT_THAT(said.completes(), ElementsAre(2)) << "nothing to wait for in an evaluation";
  driver.EmptyPush(0, 2);
  EXPECT_THAT(driver.Take().codes(), ElementsAre(ReplyCode::kPhaseEnded));
  EXPECT_EQ(driver.shard().counters().push_dropped, 2u);
  driver.ExpectCountersAddUp();
}

TEST(ShardTest, NewcomersHearOfThePhaseAtOnce) {
  ShardDriver driver(Plan());
  driver.Start();
  driver.PushAll(1);
  driver.Commit(1);
  driver.Take();
  FrameHeader query = driver.Header(FrameType::kPhaseQuery, 1, 0);
  query.phase = 0;
  driver.Send(MakeFrame(query));
  const auto said = driver.Take();
  ASSERT_EQ(said.replies.size(), 1u);
  EXPECT_EQ(HeaderOf(said.replies[0].frame).step, 2u);
}

TEST(ShardTest, MalformedFramesGetASentenceAndACount) {
  ShardDriver driver(Plan());
  driver.Start();
  driver.Take();
  driver.Send(MakeFrame(driver.Header(FrameType::kPush, 0, 1), "abc"));
  driver.Send(MakeFrame(driver.Header(FrameType::kPull, 0, 1), "abc"));
  driver.Pull(2, 1);
  driver.EmptyPush(7, 1);
  driver.Send(MakeFrame(driver.Header(FrameType::kPullReply, 0, 1)));
  const auto said = driver.Take();
  ASSERT_EQ(said.replies.size(), 5u);
  EXPECT_THAT(ErrorOf(said.replies[0]), HasSubstr("a push without a head"));
  EXPECT_THAT(ErrorOf(said.replies[1]), HasSubstr("a pull without a head"));
  EXPECT_THAT(ErrorOf(said.replies[2]), HasSubstr("no such rank"));
  EXPECT_THAT(ErrorOf(said.replies[3]), HasSubstr("no such rank"));
  EXPECT_THAT(ErrorOf(said.replies[4]), HasSubstr("frames of this type"));
  FrameHeader control;
  control.type = FrameType::kControl;
  driver.Send(MakeFrame(control, "\xff"));
  EXPECT_EQ(driver.shard().counters().frames_refused, 6u);
  EXPECT_EQ(driver.shard().counters().push_refused, 2u);
  driver.ExpectCountersAddUp();
}

TEST(ShardTest, OnlyTheSchedulerHasControl) {
  ShardDriver driver(Plan());
  driver.Start();
  driver.PushAll(1);
  driver.Take();
  proto::Control control;
  control.mutable_commit()->set_step(1);
  control.mutable_commit()->set_phase(1);
  driver.shard().OnMessage("peer/0", ControlFrame(control), 0);
  EXPECT_EQ(driver.shard().version(), 0u);
  EXPECT_EQ(driver.shard().counters().frames_refused, 1u);
  EXPECT_EQ(HeaderOf(driver.Take().replies.at(0).frame).type, FrameType::kError);
}

TEST(ShardTest, ACommitBeforeItsStepIsCompleteIsReportedNotApplied) {
  ShardDriver driver(Plan());
  driver.Start();
  driver.EmptyPush(0, 1);
  driver.Commit(1);
  EXPECT_EQ(driver.shard().version(), 0u);
  driver.Take();
  driver.shard().OnTimer(1);
  EXPECT_THAT(driver.Take().controls.at(0).heartbeat().failure(),
              HasSubstr("commit of step 1 came before its parts"));
}

TEST(ShardTest, PushesBeforeTheFirstPhaseChangeNothing) {
  for (const char* staleness : {"train.staleness=0", "train.staleness=-1"}) {
    ShardDriver driver(Plan({staleness}));
    FrameHeader header = driver.Header(FrameType::kPush, 0, 1);
    header.phase = 0;
    Draws draws(4);
    const std::uint64_t dense = driver.shard().state().dense_extent().values;
    const Digest128 before = driver.shard().state().Digest();
    driver.Send(RandomPush(&draws, driver.plan(), 0, dense).Frame(driver.plan(), header));
    EXPECT_EQ(driver.shard().state().Digest(), before);
    EXPECT_EQ(driver.shard().version(), 0u);
    EXPECT_EQ(driver.shard().counters().push_dropped, 1u);
  }
}

TEST(ShardTest, SavesAndSaysSoUntilTheNextCommit) {
  ShardDriver driver(Plan());
  driver.Start();
  driver.PushAll(1);
  driver.Commit(1, 1, PhaseOf(2, proto::Phase::STOP, 2), "best,final");
  EXPECT_EQ(driver.shard().TakeSaveRequest(), "best,final");
  EXPECT_EQ(driver.shard().TakeSaveRequest(), std::nullopt);
  driver.Take();
  proto::Saved saved;
  saved.set_file("f");
  driver.shard().OnSaved(saved);
  const auto said = driver.Take();
  ASSERT_EQ(said.controls.size(), 1u);
  const proto::Saved& got = said.controls[0].saved();
  EXPECT_EQ(got.version(), 1u);
  EXPECT_EQ(got.file(), "f");
  EXPECT_EQ(got.tables_size(), 4);
  const Digest128 digest = driver.shard().state().Digest();
  EXPECT_EQ((Digest128{got.digest_low(), got.digest_high()}), digest);
  driver.shard().OnTimer(10000);
  EXPECT_TRUE(driver.Take().controls.back().has_saved()) << "said again";
}

TEST(ShardTest, AStopWithoutASaveIsConfirmedAtOnce) {
  ShardDriver driver(Plan());
  driver.Start();
  driver.PushAll(1);
  driver.Take();
  driver.Commit(1, 1, PhaseOf(2, proto::Phase::STOP, 2));
  EXPECT_TRUE(driver.Take().controls.at(0).has_saved());
}

TEST(ShardTest, CompleteIsSaidAgainUntilTheCommit) {
  ShardDriver driver(Plan());
  driver.Start();
  driver.PushAll(1);
  driver.Take();
  driver.shard().OnTimer(2000);
  EXPECT_THAT(driver.Take().completes(), ElementsAre(1));
  driver.Commit(1);
  driver.Take();
  driver.shard().OnTimer(4000);
  EXPECT_THAT(driver.Take().completes(), IsEmpty());
}

TEST(ShardTest, ALostCommitComesWithTheView) {
  ShardDriver driver(Plan());
  driver.Start();
  driver.PushAll(1);
  proto::View view;
  view.set_incarnation(ShardDriver::kIncarnation);
  view.set_fence(1);
  view.set_version(1);
  view.mutable_last_commit()->set_step(1);
  view.mutable_last_commit()->set_phase(1);
  view.mutable_last_commit()->set_rate_factor(1);
  driver.View(view);
  EXPECT_EQ(driver.shard().version(), 1u);
}

// A heartbeat after one step that made rows beyond the limit.
proto::Heartbeat HeartbeatBeyondTheLimit(const std::string& policy) {
  ShardDriver driver(Plan({"cluster.memory_limit=4KiB", "cluster.on_memory_limit=" + policy}));
  driver.Start();
  driver.Take();
  driver.shard().OnTimer(0);
  EXPECT_EQ(driver.Take().controls.at(0).heartbeat().failure(), "");
  driver.PushAll(1);
  driver.Commit(1);
  driver.Take();
  driver.shard().OnTimer(1);
  return driver.Take().controls.at(0).heartbeat();
}

TEST(ShardTest, TooMuchMemoryFailsTheJobIfItSaysSo) {
  EXPECT_THAT(HeartbeatBeyondTheLimit("FAIL").failure(),
              HasSubstr("of cluster.memory_limit (4096)"));
}

TEST(ShardTest, OtherwiseTheBitsDependOnTheRunAndItIsSaid) {
  for (const char* const policy : {"REFUSE", "EVICT"}) {
    const proto::Heartbeat heartbeat = HeartbeatBeyondTheLimit(policy);
    EXPECT_EQ(heartbeat.failure(), "");
    EXPECT_THAT(heartbeat.nondeterministic(), HasSubstr("of cluster.memory_limit (4096)"));
  }
}

TEST(ShardTest, ReportsNormsOnlyIfTheyAreNeeded) {
  for (const bool clip : {false, true}) {
    ShardDriver driver(Plan({clip ? "train.clip_dense_norm=1" : "train.clip_dense_norm=0"}));
    driver.Start();
    Draws draws(2);
    const std::uint64_t dense = driver.shard().state().dense_extent().values;
    for (std::uint32_t rank = 0; rank < 2; ++rank) {
      driver.Send(RandomPush(&draws, driver.plan(), rank, dense)
                      .Frame(driver.plan(), driver.Header(FrameType::kPush, rank, 1)));
    }
    const proto::Complete complete = driver.Take().controls.back().complete();
    EXPECT_EQ(complete.norms_size() > 0, clip);
    EXPECT_GT(complete.samples(), 0u);
  }
}

}  // namespace
}  // namespace plexus
