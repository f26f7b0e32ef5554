#include "launch/checkpoints.h"

#include <filesystem>
#include <fstream>
#include <memory>
#include <string>
#include <vector>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "common/files.h"
#include "launch/run_lock.h"
#include "launch/run_setup.h"
#include "proto/job_identity.h"
#include "ps/store/model_file.h"
#include "scheduler/phase_planner.h"
#include "tests/unit/ps/shard_testing.h"

namespace plexus {
namespace {

using testing::ElementsAre;
using testing::HasSubstr;
using testing::IsEmpty;

// A run directory with checkpoints of a job that was trained a little.
class CheckpointsTest : public testing::Test {
 protected:
  void SetUp() override {
    run_ = testing::TempDir() + "checkpoints_test_" +
           testing::UnitTest::GetInstance()->current_test_info()->name();
    std::filesystem::remove_all(run_);
  }
  void TearDown() override { std::filesystem::remove_all(run_); }

  std::string DirectoryOf(std::uint64_t version) const {
    return SavedDirectory(run_, kCheckpoint, version);
  }

  // The shards' files of a checkpoint, and the manifest that is yet to be written.
  proto::Manifest WriteFiles(std::uint64_t version, std::uint32_t shards = 2) {
    proto::Manifest manifest;
    manifest.set_model("deepfm");
    manifest.set_version(version);
    manifest.set_shards(shards);
    manifest.set_job_hash(TrainingHash(plan_->job));
    manifest.mutable_scheduler()->set_version(version);
    for (std::uint32_t s = 0; s < shards; ++s) {
      ShardState state(plan_, s, shards);
      const OwnedPush push = RandomPush(&draws_, *plan_, 0, 0);
      const PushBody body = push.Body();
      const PushBody* part = &body;
      state.ApplyStep(version, {&part, 1}, 1, 1);
      Digest128 digest;
      StatusOr<proto::SavedFile> saved =
          WriteModelFile(*plan_, state, s, version, DirectoryOf(version), nullptr, &digest);
      CHECK(saved.ok()) << saved.status().ToString();
      *manifest.add_files() = *saved;
    }
    return manifest;
  }
  void Write(std::uint64_t version, std::uint32_t keep = 2) {
    const Status status = FinishCheckpoint(run_, WriteFiles(version), keep);
    ASSERT_TRUE(status.ok()) << status.ToString();
  }

  std::vector<std::string> Entries() const {
    std::vector<std::string> names;
    for (const auto& entry : std::filesystem::directory_iterator(run_ + "/checkpoints")) {
      names.push_back(entry.path().filename().string());
    }
    std::sort(names.begin(), names.end());
    return names;
  }
  std::string FileOf(std::uint64_t version, std::uint32_t shard) const {
    return DirectoryOf(version) + "/shard-0000" + std::to_string(shard) + ".model";
  }
  void FlipByte(const std::string& path, std::uint64_t at) {
    std::string content = ReadWholeFile(path, 1 << 24).value();
    content[at] = static_cast<char>(content[at] ^ 1);
    std::ofstream(path, std::ios::binary) << content;
  }
  // The version of what is found, its warnings in warnings_; 0: nothing.
  std::uint64_t Find() {
    testing::internal::CaptureStderr();
    const StatusOr<std::optional<proto::Manifest>> found = FindCheckpoint(*plan_, run_);
    warnings_ = testing::internal::GetCapturedStderr();
    EXPECT_TRUE(found.ok()) << found.status().ToString();
    return found.ok() && found->has_value() ? (*found)->version() : 0;
  }

  const std::shared_ptr<const JobPlan> plan_ = PlanOf(kSmallJob);
  Draws draws_{3};
  std::string run_;
  std::string warnings_;
};

TEST_F(CheckpointsTest, TheManifestComesBackAsItWas) {
  proto::Manifest manifest = WriteFiles(7);
  proto::SchedulerState& state = *manifest.mutable_scheduler();
  state.mutable_phase()->set_number(4);
  state.set_epoch_loss_sum(1.0 / 3);
  state.mutable_planner()->mutable_validation()->set_auc(0.1 + 0.2);
  ASSERT_TRUE(FinishCheckpoint(run_, manifest, 2).ok());
  const auto found = FindCheckpoint(*plan_, run_);
  ASSERT_TRUE(found.ok() && found->has_value());
  EXPECT_EQ((*found)->SerializeAsString(), manifest.SerializeAsString()) << "bit for bit";
}

TEST_F(CheckpointsTest, TheNewestAreKept) {
  for (const std::uint64_t version : {5, 10, 15, 100}) {
    Write(version);
    EXPECT_EQ(ReadWholeFile(run_ + "/checkpoints/LATEST", 100).value(),
              std::to_string(version) + "\n");
  }
  EXPECT_THAT(Entries(), ElementsAre("100", "15", "LATEST"));
  EXPECT_EQ(Find(), 100u);
}

TEST_F(CheckpointsTest, WithoutAManifestThereIsNoCheckpoint) {
  Write(5);
  (void)WriteFiles(10);
  EXPECT_EQ(Find(), 5u);
  EXPECT_THAT(Entries(), ElementsAre("5", "LATEST")) << "what was begun is gone";
  EXPECT_THAT(warnings_, IsEmpty()) << "a kill is no damage";
}

TEST_F(CheckpointsTest, OneThatIsBeingWrittenStaysWhenAnOlderIsFinished) {
  const proto::Manifest older = WriteFiles(5);
  (void)WriteFiles(6);
  ASSERT_TRUE(FinishCheckpoint(run_, older, 1).ok());
  EXPECT_THAT(Entries(), ElementsAre("5", "6", "LATEST"));
}

TEST_F(CheckpointsTest, FilesOfAnotherNumberOfShardsGo) {
  (void)WriteFiles(5, 3);
  ASSERT_TRUE(FinishCheckpoint(run_, WriteFiles(5, 2), 2).ok());
  EXPECT_FALSE(std::filesystem::exists(FileOf(5, 2)));
  EXPECT_EQ(Find(), 5u);
}

TEST_F(CheckpointsTest, NothingIsFoundWhereNothingIs) { EXPECT_EQ(Find(), 0u); }

TEST_F(CheckpointsTest, AFlippedBitIsNamedAndTheOneBeforeIsTaken) {
  Write(5);
  Write(10);
  FlipByte(FileOf(10, 1), 100);
  EXPECT_EQ(Find(), 5u);
  EXPECT_THAT(warnings_, HasSubstr(FileOf(10, 1) + " at offset"));
  EXPECT_THAT(Entries(), ElementsAre("10.damaged", "5", "LATEST"));
}

TEST_F(CheckpointsTest, ATornFileIsNamedAndTheOneBeforeIsTaken) {
  Write(5);
  Write(10);
  std::filesystem::resize_file(FileOf(10, 0), std::filesystem::file_size(FileOf(10, 0)) - 1);
  EXPECT_EQ(Find(), 5u);
  EXPECT_THAT(warnings_, HasSubstr(FileOf(10, 0) + " at offset"));
}

TEST_F(CheckpointsTest, SwappedAndOlderFilesAreNamed) {
  Write(5);
  Write(10, 3);
  Write(15, 3);
  std::filesystem::rename(FileOf(15, 0), run_ + "/other");
  std::filesystem::rename(FileOf(15, 1), FileOf(15, 0));
  std::filesystem::rename(run_ + "/other", FileOf(15, 1));
  std::filesystem::copy_file(FileOf(5, 1), FileOf(10, 1),
                             std::filesystem::copy_options::overwrite_existing);
  EXPECT_EQ(Find(), 5u);
  EXPECT_THAT(warnings_, HasSubstr(FileOf(15, 0)));
  EXPECT_THAT(warnings_, HasSubstr(FileOf(10, 1)));
  EXPECT_THAT(warnings_, HasSubstr("not the file that the manifest names"));
}

TEST_F(CheckpointsTest, AMissingFileAndADamagedManifestAreNamed) {
  Write(5);
  Write(10, 3);
  Write(15, 3);
  std::filesystem::remove(FileOf(15, 0));
  const std::string manifest = DirectoryOf(10) + "/manifest.textproto";
  const std::string text = ReadWholeFile(manifest, 1 << 20).value();
  FlipByte(manifest, text.find("version: 10") + 9);
  EXPECT_EQ(Find(), 5u);
  EXPECT_THAT(warnings_, HasSubstr(FileOf(15, 0)));
  EXPECT_THAT(warnings_, HasSubstr(manifest));
}

TEST_F(CheckpointsTest, ACheckpointUnderAnotherNameIsNone) {
  Write(5);
  Write(10);
  std::filesystem::rename(DirectoryOf(10), DirectoryOf(20));
  EXPECT_EQ(Find(), 5u);
  EXPECT_THAT(warnings_, HasSubstr("is of version 10"));
}

TEST_F(CheckpointsTest, WhenAllAreDamagedNothingIsThrownAway) {
  Write(5);
  FlipByte(FileOf(5, 0), 100);
  EXPECT_EQ(FindCheckpoint(*plan_, run_).status().code(), StatusCode::kDataLoss);
  EXPECT_THAT(Entries(), ElementsAre("5", "LATEST"));
}

// A scheduler that is started again by hand among living servers must not take their files away.
TEST_F(CheckpointsTest, UnfinishedOnesStayWhereServersMayBeWritingThem) {
  Write(5);
  (void)WriteFiles(7);
  EXPECT_EQ(FindCheckpoint(*plan_, run_, Unfinished::kKeep).value()->version(), 5u);
  EXPECT_THAT(Entries(), ElementsAre("5", "7", "LATEST"));
  EXPECT_EQ(FindCheckpoint(*plan_, run_).value()->version(), 5u);
  EXPECT_THAT(Entries(), ElementsAre("5", "LATEST"));
}

TEST_F(CheckpointsTest, AnotherJobsAreRefused) {
  Write(5);
  const auto other = PlanOf(kSmallJob, {"train.seed=2"});
  EXPECT_EQ(FindCheckpoint(*other, run_).status().code(), StatusCode::kFailedPrecondition);
  const auto larger = PlanOf(kSmallJob, {"cluster.servers=4", "cluster.workers=2",
                                         "cluster.memory_limit=1GiB", "checkpoint.keep=9"});
  EXPECT_TRUE(FindCheckpoint(*larger, run_).ok()) << "nothing that decides the model";
}

TEST_F(CheckpointsTest, ARunDirectoryIsGoneOnWithOrReplacedOrLeftAlone) {
  Flags flags;
  flags.run_dir = run_;
  EXPECT_EQ(PrepareRunDirectory(flags, *plan_).value(), 0u);
  Write(5);
  EXPECT_THAT(PrepareRunDirectory(flags, *plan_).status().message(), HasSubstr("--resume"));
  flags.resume = true;
  EXPECT_EQ(PrepareRunDirectory(flags, *plan_).value(), 5u);
  const auto other = PlanOf(kSmallJob, {"train.seed=2"});
  EXPECT_THAT(PrepareRunDirectory(flags, *other).status().message(),
              HasSubstr("train.seed: 1 -> 2"));
  flags.overwrite = true;
  EXPECT_EQ(PrepareRunDirectory(flags, *plan_).status().code(), StatusCode::kInvalidArgument);
  flags.resume = false;
  EXPECT_EQ(PrepareRunDirectory(flags, *plan_).value(), 0u);
  EXPECT_FALSE(std::filesystem::exists(run_ + "/checkpoints"));
}

TEST_F(CheckpointsTest, ASchedulerStartedByHandLeavesItsServersLocksAndLogsAlone) {
  ASSERT_TRUE(MakeDirectories(run_ + "/log/server-00000").ok());
  const StatusOr<FileLock> server = LockRun(run_, "server-0", 0);
  ASSERT_TRUE(server.ok());
  Flags flags;
  flags.run_dir = run_;
  flags.listen = "tcp://127.0.0.1:7000";
  EXPECT_EQ(PrepareRunDirectory(flags, *plan_).value(), 0u);
  EXPECT_TRUE(std::filesystem::exists(run_ + "/log/server-00000"));
}

}  // namespace
}  // namespace plexus
