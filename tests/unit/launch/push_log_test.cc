#include "launch/push_log.h"

#include <filesystem>
#include <string>

#include <gtest/gtest.h>

#include "proto/checkpoint.pb.h"
#include "proto/job_identity.h"
#include "tests/unit/ps/shard_testing.h"

namespace plexus {
namespace {

// A log of server 0 that begins at version 4.
class PushLogTest : public testing::Test {
 protected:
  void SetUp() override {
    options_.run_dir = testing::TempDir() + "push_log_test_" +
                       testing::UnitTest::GetInstance()->current_test_info()->name();
    std::filesystem::remove_all(options_.run_dir);
    StatusOr<std::unique_ptr<RecordLog>> log =
        RecordLog::Open(options_.run_dir + "/log/server-00000", 0);
    ASSERT_TRUE(log.ok());
    log_ = *std::move(log);
    ASSERT_TRUE(log_->BeginSegment(4, false).ok());
  }
  void TearDown() override { std::filesystem::remove_all(options_.run_dir); }

  void Append(PushRecordKind kind, const std::string& text) {
    const Bytes pieces[] = {
        Bytes::Copy({reinterpret_cast<const std::uint8_t*>(text.data()), text.size()})};
    ASSERT_TRUE(log_->Append(static_cast<std::uint32_t>(kind), pieces).ok());
  }
  void AppendBegin(proto::Phase::Kind kind) {
    proto::LogBegin begin;
    begin.set_version(4);
    begin.set_shards(plan_->shards());
    begin.set_job_hash(TrainingHash(plan_->job));
    begin.mutable_phase()->set_kind(kind);
    Append(PushRecordKind::kBegin, begin.SerializeAsString());
  }
  std::uint64_t Reach() {
    log_.reset();  // One process at a time.
    return PushLog::Open(*plan_, options_).value()->newest_version();
  }

  const std::shared_ptr<const JobPlan> plan_ = PlanOf(kSmallJob, {"checkpoint.durability=ASYNC"});
  NodeOptions options_;
  std::unique_ptr<RecordLog> log_;
};

TEST_F(PushLogTest, ReachesTheVersionThatItBeginsWith) {
  AppendBegin(proto::Phase::TRAIN);
  EXPECT_EQ(Reach(), 4u);
}

// The death of a server between the commit of an evaluation and its record lost the job.
TEST_F(PushLogTest, ReachesTheEvaluationBehindItsLastCommit) {
  AppendBegin(proto::Phase::TRAIN);
  proto::Commit commit;
  commit.set_step(5);
  commit.mutable_next()->set_kind(proto::Phase::EVALUATE);
  Append(PushRecordKind::kCommit, commit.SerializeAsString());
  EXPECT_EQ(Reach(), 6u);
}

TEST_F(PushLogTest, ReachesTheEvaluationBehindItsBeginning) {
  AppendBegin(proto::Phase::EVALUATE);
  EXPECT_EQ(Reach(), 5u);
}

}  // namespace
}  // namespace plexus
