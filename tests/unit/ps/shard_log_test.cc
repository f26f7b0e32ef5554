// What a shard logs before it says it, and that the log makes the same shard again.
#include <limits>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "proto/checkpoint.pb.h"
#include "tests/unit/ps/shard_testing.h"

namespace plexus {
namespace {

using testing::ElementsAre;
using testing::HasSubstr;
using testing::IsEmpty;
using testing::SizeIs;

std::shared_ptr<const JobPlan> Plan(const std::string& durability = "SYNC") {
  return PlanOf(kSmallJob, {"checkpoint.durability=" + durability});
}

struct LoggedRecord {
  PushRecordKind kind;
  Bytes payload;
};

Bytes Joined(const std::vector<Bytes>& pieces) {
  std::vector<std::uint8_t> bytes;
  for (const Bytes& piece : pieces) {
    bytes.insert(bytes.end(), piece.data(), piece.data() + piece.size());
  }
  return Bytes::Copy(bytes);
}

template <typename Message>
Bytes Serialized(const Message& message) {
  const std::string text = message.SerializeAsString();
  return Bytes::Copy({reinterpret_cast<const std::uint8_t*>(text.data()), text.size()});
}

// A shard, and the log that a runtime would keep of it.
class LoggedShard {
 public:
  explicit LoggedShard(std::shared_ptr<const JobPlan> plan) : driver_(std::move(plan)), draws_(7) {}

  ShardDriver& driver() { return driver_; }
  Shard& shard() { return driver_.shard(); }

  // The kinds of what is to be logged since.
  std::vector<PushRecordKind> Log() {
    std::vector<PushRecordKind> kinds;
    Shard::LogRequest request = shard().TakeLogRequest();
    synced_ = request.sync;
    for (const PushRecord& record : request.records) {
      kinds.push_back(record.kind);
      log_.push_back({record.kind, Joined(record.pieces)});
    }
    return kinds;
  }
  bool synced() const { return synced_; }
  std::vector<LoggedRecord>& log() { return log_; }

  Bytes RandomPushFrame(std::uint32_t rank, std::uint64_t step, bool finite = true) {
    OwnedPush push =
        RandomPush(&draws_, driver_.plan(), rank, shard().state().dense_extent().values);
    push.loss_sum = finite ? push.loss_sum : std::numeric_limits<double>::quiet_NaN();
    return push.Frame(driver_.plan(), driver_.Header(FrameType::kPush, rank, step));
  }
  void Push(std::uint64_t step, bool finite = true) {
    driver_.Send(RandomPushFrame(0, step));
    driver_.Send(RandomPushFrame(1, step, finite));
  }
  void VoidParts(std::uint64_t step, std::uint32_t rank) {
    proto::Control control;
    control.mutable_void_parts()->set_step(step);
    control.mutable_void_parts()->set_phase(1);
    control.mutable_void_parts()->add_ranks(rank);
    shard().OnMessage(kSchedulerPeer, ControlFrame(control), 0);
  }
  void CommitCheckpoint(std::uint64_t step) {
    proto::Control control;
    control.mutable_commit()->set_step(step);
    control.mutable_commit()->set_phase(1);
    control.mutable_commit()->set_rate_factor(1);
    control.mutable_commit()->set_save("checkpoint");
    control.mutable_commit()->mutable_checkpoint();
    shard().OnMessage(kSchedulerPeer, ControlFrame(control), 0);
  }

  // Begins with what another life left.
  Status Recover(const std::vector<LoggedRecord>& log, std::uint64_t version) {
    proto::View view;
    view.set_incarnation(ShardDriver::kIncarnation);
    view.mutable_recover()->set_version(version);
    driver_.View(view);
    EXPECT_TRUE(shard().TakeRecoverRequest().has_value());
    shard().OnRestored(0);
    Status status = OkStatus();
    for (const LoggedRecord& record : log) {
      status = status.ok() ? shard().Replay(record.kind, record.payload) : status;
    }
    shard().OnRecovered(status);
    return status;
  }
  void ExpectCountersAddUp() {
    const ShardCounters& c = shard().counters();
    EXPECT_EQ(c.pushes, c.push_applied + c.push_void + c.push_duplicate + c.push_refused +
                            c.push_dropped + shard().pending_parts());
  }

 private:
  ShardDriver driver_;
  Draws draws_;
  std::vector<LoggedRecord> log_;
  bool synced_ = false;
};

TEST(ShardLogTest, ItsLogMakesTheSameShard) {
  LoggedShard live(Plan());
  live.driver().Start();
  live.Push(1);
  live.driver().Commit(1);
  live.Push(2, /*finite=*/false);
  live.driver().Commit(2);
  live.Push(3);
  EXPECT_THAT(live.Log(), SizeIs(6));
  LoggedShard again(Plan());
  ASSERT_TRUE(again.Recover(live.log(), 2).ok());
  EXPECT_EQ(again.shard().version(), 2u);
  EXPECT_EQ(again.shard().complete_version(), 3u);
  EXPECT_EQ(again.shard().state().Digest(), live.shard().state().Digest());
  EXPECT_EQ(again.shard().void_pushes(), live.shard().void_pushes());
  EXPECT_THAT(again.Log(), IsEmpty()) << "it is in the log";
  again.ExpectCountersAddUp();
  for (LoggedShard* shard : {&live, &again}) {
    shard->driver().Commit(3);
    shard->Push(4);
    shard->driver().Commit(4);
    shard->ExpectCountersAddUp();
  }
  EXPECT_EQ(again.shard().version(), 4u);
}

TEST(ShardLogTest, SaysAgainThatTheStepIsCompleteAndTakesNoPartTwice) {
  LoggedShard live(Plan());
  live.driver().Start();
  live.Push(1);
  (void)live.Log();
  LoggedShard again(Plan());
  ASSERT_TRUE(again.Recover(live.log(), 0).ok());
  again.shard().OnTimer(0);
  EXPECT_THAT(again.driver().Take().completes(), ElementsAre(1));
  again.driver().Send(again.RandomPushFrame(0, 1));
  EXPECT_THAT(again.driver().Take().codes(), ElementsAre(ReplyCode::kOk));
  EXPECT_EQ(again.shard().counters().push_duplicate, 1u);
  live.driver().Commit(1);
  again.driver().Commit(1);
  EXPECT_EQ(again.shard().state().Digest(), live.shard().state().Digest());
}

TEST(ShardLogTest, AcknowledgesOnceTheStepIsLogged) {
  for (const std::string durability : {"ASYNC", "SYNC"}) {
    LoggedShard shard(Plan(durability));
    shard.driver().Start();
    EXPECT_THAT(shard.Log(), ElementsAre(PushRecordKind::kBegin));
    const Bytes first = shard.RandomPushFrame(0, 1);
    shard.driver().Send(first);
    shard.driver().Send(first);
    EXPECT_THAT(shard.driver().Take().replies, IsEmpty()) << "said twice, and not logged";
    EXPECT_THAT(shard.Log(), IsEmpty());
    shard.driver().Send(shard.RandomPushFrame(1, 1));
    EXPECT_THAT(shard.driver().Take().replies, SizeIs(3));
    EXPECT_THAT(shard.Log(), ElementsAre(PushRecordKind::kStep));
    EXPECT_EQ(shard.synced(), durability == "SYNC");
    shard.driver().Commit(1);
    EXPECT_THAT(shard.Log(), ElementsAre(PushRecordKind::kCommit));
    EXPECT_FALSE(shard.synced()) << "the scheduler has it";
  }
}

TEST(ShardLogTest, WithoutDurabilityItLogsNothing) {
  LoggedShard shard(PlanOf(kSmallJob));
  shard.driver().Start();
  shard.driver().Send(shard.RandomPushFrame(0, 1));
  EXPECT_THAT(shard.driver().Take().replies, SizeIs(1));
  shard.driver().Send(shard.RandomPushFrame(1, 1));
  shard.driver().Commit(1);
  EXPECT_THAT(shard.Log(), IsEmpty());
}

TEST(ShardLogTest, PartsThatBecomeVoidLogTheStepAgain) {
  LoggedShard live(Plan());
  live.driver().Start();
  live.Push(1);
  live.VoidParts(1, 1);
  EXPECT_THAT(live.Log(),
              ElementsAre(PushRecordKind::kBegin, PushRecordKind::kStep, PushRecordKind::kStep));
  EXPECT_TRUE(live.synced());
  live.driver().Commit(1);
  (void)live.Log();
  LoggedShard again(Plan());
  ASSERT_TRUE(again.Recover(live.log(), 1).ok());
  EXPECT_EQ(again.shard().state().Digest(), live.shard().state().Digest());
  EXPECT_THAT(again.shard().void_pushes(), ElementsAre(testing::Pair(1, 1)));
  again.ExpectCountersAddUp();
}

TEST(ShardLogTest, RefusesRecordsThatDoNotFit) {
  LoggedShard live(Plan());
  live.driver().Start();
  for (std::uint64_t step = 1; step <= 2; ++step) {
    live.Push(step);
    live.driver().Commit(step);
  }
  (void)live.Log();
  const std::vector<LoggedRecord> log = live.log();
  proto::LogBegin later;
  later.set_version(5);
  const std::vector<std::vector<LoggedRecord>> bad = {
      {log[0], log[2]},                                      // A commit without its step,
      {log[0], log[3]},                                      // step 2 at version 0,
      {log[0], log[1], log[2], log[2]},                      // a commit twice,
      {{PushRecordKind::kBegin, Serialized(later)}},         // another version's segment,
      {log[0], {PushRecordKind::kStep, log[2].payload}},     // no step,
      {log[0], {static_cast<PushRecordKind>(9), Bytes()}}};  // and no record.
  for (std::size_t i = 0; i < bad.size(); ++i) {
    LoggedShard again(Plan());
    const Status status = again.Recover(bad[i], 2);
    // The commit without its step is found by the shard, which fails.
    EXPECT_TRUE(!status.ok() || again.shard().failed()) << i;
    EXPECT_TRUE(again.shard().failed()) << i;
  }
}

TEST(ShardLogTest, ACheckpointBeginsASegmentEvenIfTheServerDiedBeforeIt) {
  LoggedShard live(Plan());
  live.driver().Start();
  live.Push(1);
  live.CommitCheckpoint(1);
  EXPECT_THAT(live.Log(), ElementsAre(PushRecordKind::kBegin, PushRecordKind::kStep,
                                      PushRecordKind::kCommit, PushRecordKind::kBegin));
  LoggedShard whole(Plan());
  ASSERT_TRUE(whole.Recover(live.log(), 1).ok());
  EXPECT_THAT(whole.Log(), IsEmpty());
  live.log().pop_back();
  LoggedShard torn(Plan());
  ASSERT_TRUE(torn.Recover(live.log(), 1).ok());
  EXPECT_THAT(torn.Log(), ElementsAre(PushRecordKind::kBegin));
}

TEST(ShardLogTest, WritesAgainWhatTheSchedulerStillWaitsFor) {
  LoggedShard live(Plan());
  live.driver().Start();
  live.Push(1);
  live.CommitCheckpoint(1);
  live.Push(2);
  (void)live.Log();
  LoggedShard again(Plan());
  ASSERT_TRUE(again.Recover(live.log(), 1).ok());
  EXPECT_FALSE(again.shard().TakeSaveRequest().has_value()) << "it may be written, and finished";
  proto::View view;
  view.set_incarnation(ShardDriver::kIncarnation);
  view.set_version(1);
  view.set_save("checkpoint");
  again.driver().View(view);
  EXPECT_EQ(again.shard().TakeSaveRequest(), "checkpoint");
  again.shard().OnSaved({});
  again.driver().View(view);
  EXPECT_FALSE(again.shard().TakeSaveRequest().has_value()) << "a late word";
}

TEST(ShardLogTest, AnEvaluationIsCompleteByTheCommitBeforeIt) {
  LoggedShard live(Plan());
  live.driver().Start();
  live.Push(1);
  (void)live.Log();
  live.driver().Commit(1, 1, PhaseOf(2, proto::Phase::EVALUATE, 2, 2));
  EXPECT_THAT(live.driver().Take().completes(), ElementsAre(1, 2));
  EXPECT_THAT(live.Log(), ElementsAre(PushRecordKind::kCommit));
  EXPECT_TRUE(live.synced()) << "without it the evaluation's commit would find no version 1";
  LoggedShard again(Plan());
  ASSERT_TRUE(again.Recover(live.log(), 2).ok());
  EXPECT_EQ(again.shard().complete_version(), 2u);

  proto::LogBegin begin;  // The same from a checkpoint.
  *begin.mutable_phase() = PhaseOf(2, proto::Phase::EVALUATE, 1, 1);
  LoggedShard third(Plan());
  ASSERT_TRUE(third.Recover({{PushRecordKind::kBegin, Serialized(begin)}}, 0).ok());
  EXPECT_EQ(third.shard().complete_version(), 1u);
}

TEST(ShardLogTest, IgnoresPushesBehindACommitThatItDoesNotKnowYet) {
  LoggedShard shard(Plan());
  shard.driver().Start();
  shard.driver().Send(shard.RandomPushFrame(0, 2));
  EXPECT_THAT(shard.driver().Take().replies, IsEmpty()) << "it is said again";
  EXPECT_EQ(shard.shard().counters().push_dropped, 1u);
}

TEST(ShardLogTest, RegistersWithWhatItsLogReachesOrItsStateIs) {
  LoggedShard shard(Plan());
  shard.shard().SetLogVersions(2, 5);
  shard.shard().OnTimer(0);
  proto::Register info = shard.driver().Take().controls.at(0).register_member();
  EXPECT_EQ(info.log_begin(), 2u);
  EXPECT_EQ(info.log_version(), 5u);
  EXPECT_FALSE(info.has_state_version());
  shard.driver().Start();
  proto::View again;
  again.set_incarnation(ShardDriver::kIncarnation);
  again.set_register_again(true);
  shard.driver().View(again);
  shard.shard().OnTimer(1);
  info = shard.driver().Take().controls.back().register_member();
  EXPECT_TRUE(info.has_state_version()) << "version 0 is a state";
}

}  // namespace
}  // namespace plexus
