// A shard that begins with a checkpoint.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "proto/checkpoint.pb.h"
#include "ps/shard.h"
#include "tests/unit/ps/shard_testing.h"

namespace plexus {
namespace {

using testing::HasSubstr;

constexpr std::uint64_t kVersion = 6;

proto::View Restore() {
  proto::View view;
  view.set_incarnation(ShardDriver::kIncarnation);
  view.set_version(kVersion);
  view.mutable_recover()->set_checkpoint(kVersion);
  view.mutable_recover()->set_version(kVersion);
  return view;
}

// Phase 3, which began with step 5, goes on.
proto::View GoOn(const JobPlan& plan) {
  proto::View view;
  view.set_incarnation(ShardDriver::kIncarnation);
  view.set_fence(1);
  view.set_version(kVersion);
  for (std::uint32_t rank = 0; rank < plan.ranks(); ++rank) {
    view.add_carrier_epochs(1);
  }
  *view.mutable_phase() = PhaseOf(3, proto::Phase::TRAIN, 5, 0);
  return view;
}

proto::Heartbeat Beat(ShardDriver& driver) {
  driver.shard().OnTimer(0);
  proto::Heartbeat heartbeat;
  for (const proto::Control& control : driver.Take().controls) {
    heartbeat = control.has_heartbeat() ? control.heartbeat() : heartbeat;
  }
  return heartbeat;
}

TEST(ShardRestoreTest, LoadsSaysSoAndGoesOnBehindIt) {
  ShardDriver driver(PlanOf(kSmallJob));
  driver.View(Restore());
  EXPECT_EQ(driver.shard().TakeRecoverRequest()->checkpoint(), kVersion);
  EXPECT_FALSE(driver.shard().TakeRecoverRequest().has_value());
  EXPECT_EQ(Beat(driver).version(), 0u);
  driver.shard().OnRestored(kVersion);
  driver.shard().OnRecovered(OkStatus());
  EXPECT_EQ(Beat(driver).version(), kVersion) << "at once: the scheduler waits";
  driver.View(Restore());
  EXPECT_FALSE(driver.shard().TakeRecoverRequest().has_value()) << "said again";
  driver.View(GoOn(driver.plan()));
  EXPECT_EQ(driver.shard().phase().number(), 3u);
  EXPECT_EQ(driver.shard().WaitingFor().size(), driver.plan().ranks());

  FrameHeader query = driver.Header(FrameType::kPhaseQuery, 0, 0);
  query.phase = 0;
  driver.Send(MakeFrame(query, ""));
  const auto replies = driver.Take().replies;
  ASSERT_EQ(replies.size(), 1u);
  EXPECT_EQ(HeaderOf(replies[0].frame).step, kVersion + 1) << "where ranks go on";
}

TEST(ShardRestoreTest, DoesNotBeginBeforeItHasLoaded) {
  ShardDriver driver(PlanOf(kSmallJob));
  driver.View(GoOn(driver.plan()));
  EXPECT_EQ(driver.shard().phase().number(), 0u);
}

TEST(ShardRestoreTest, AFailureIsTheJobsAndNotTriedAgain) {
  ShardDriver driver(PlanOf(kSmallJob));
  driver.View(Restore());
  (void)driver.shard().TakeRecoverRequest();
  driver.shard().OnRecovered(DataLoss("a file at offset 7: checksum mismatch"));
  const proto::Heartbeat heartbeat = Beat(driver);
  EXPECT_EQ(heartbeat.version(), 0u);
  EXPECT_THAT(heartbeat.failure(), HasSubstr("server 0 could not recover: a file at offset 7"));
  driver.View(Restore());
  EXPECT_FALSE(driver.shard().TakeRecoverRequest().has_value());
}

Bytes BytesOf(const std::string& text) {
  return Bytes::Copy({reinterpret_cast<const std::uint8_t*>(text.data()), text.size()});
}

// A shard that has replayed a commit that asked for a model to be saved, and the beginning of a
// segment behind it.
void RecoverBehindSave(ShardDriver& driver, const proto::Commit& commit) {
  driver.View(Restore());
  (void)driver.shard().TakeRecoverRequest();
  driver.shard().OnRestored(kVersion);
  proto::LogBegin begin;
  begin.set_version(kVersion);
  *begin.mutable_phase() = PhaseOf(3, proto::Phase::EVALUATE, kVersion + 1, kVersion + 1);
  ASSERT_TRUE(
      driver.shard().Replay(PushRecordKind::kBegin, BytesOf(begin.SerializeAsString())).ok());
  ASSERT_TRUE(
      driver.shard().Replay(PushRecordKind::kCommit, BytesOf(commit.SerializeAsString())).ok());
  begin.set_version(kVersion + 1);
  *begin.mutable_phase() = commit.next();
  ASSERT_TRUE(
      driver.shard().Replay(PushRecordKind::kBegin, BytesOf(begin.SerializeAsString())).ok());
  driver.shard().OnRecovered(OkStatus());
}

TEST(ShardRestoreTest, SavesAgainWhatTheSchedulerStillWaitsForAndNothingElse) {
  proto::Commit commit;
  commit.set_step(kVersion + 1);
  commit.set_phase(3);
  commit.set_save("best,checkpoint");
  commit.set_checkpoint(true);
  *commit.mutable_next() = PhaseOf(4, proto::Phase::TRAIN, kVersion + 2, 0);
  for (const bool waits : {true, false}) {
    ShardDriver driver(PlanOf(kSmallJob, {"checkpoint.durability=ASYNC"}));
    RecoverBehindSave(driver, commit);
    EXPECT_EQ(driver.shard().version(), kVersion + 1);
    EXPECT_FALSE(driver.shard().TakeSaveRequest().has_value()) << "the files may be whole";
    proto::View view = GoOn(driver.plan());
    view.set_version(kVersion + 1);
    *view.mutable_phase() = commit.next();
    *view.mutable_last_commit() = commit;
    if (!waits) {
      view.mutable_last_commit()->clear_save();
    }
    driver.View(view);
    EXPECT_EQ(driver.shard().TakeSaveRequest().has_value(), waits);
    driver.View(view);
    EXPECT_FALSE(driver.shard().TakeSaveRequest().has_value()) << "once";
  }
}

}  // namespace
}  // namespace plexus
