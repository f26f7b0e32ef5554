// Incremental checkpoints: what they hold, which stay, and that no damage anywhere in a chain is
// loaded: it is named, and the newest checkpoint whose whole chain is sound is taken.
#include <algorithm>
#include <filesystem>
#include <fstream>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "common/files.h"
#include "launch/checkpoints.h"
#include "proto/job_identity.h"
#include "ps/shard_snapshot.h"
#include "ps/store/model_check.h"
#include "ps/store/model_file.h"
#include "ps/store/model_writer.h"
#include "scheduler/phase_planner.h"
#include "tests/unit/ps/shard_testing.h"

namespace plexus {
namespace {

using testing::ElementsAre;
using testing::HasSubstr;

namespace fs = std::filesystem;

constexpr std::uint32_t kShards = 2;

// Two shards that are trained a little between checkpoints, in a run directory.
class CheckpointChainTest : public testing::Test {
 protected:
  void SetUp() override {
    run_ = testing::TempDir() + "checkpoint_chain_test_" +
           testing::UnitTest::GetInstance()->current_test_info()->name();
    fs::remove_all(run_);
    for (std::uint32_t s = 0; s < kShards; ++s) {
      states_.push_back(std::make_unique<ShardState>(plan_, s, kShards));
      snapshots_.push_back(std::make_unique<ShardSnapshot>(states_[s].get(), 1 << 20, true));
    }
  }
  void TearDown() override { fs::remove_all(run_); }

  std::string DirectoryOf(std::uint64_t version) const {
    return SavedDirectory(run_, kCheckpoint, version);
  }

  void Train(std::uint64_t version) {
    const OwnedPush push = RandomPush(&draws_, *plan_, 0, 0);
    for (std::uint32_t s = 0; s < kShards; ++s) {
      const OwnedPush own = PartOf(push, s);
      const PushBody body = own.Body();
      const PushBody* part = &body;
      states_[s]->ApplyStep(version, {&part, 1}, 1, 1);
    }
  }

  // What a rank sends to the shard.
  OwnedPush PartOf(const OwnedPush& push, std::uint32_t shard) const {
    const std::vector<std::uint32_t> map = InitialBucketMap(plan_->buckets(), kShards);
    OwnedPush part = push;
    for (std::size_t g = 0; g < push.keys.size(); ++g) {
      const KeyGroup& group = plan_->groups[g];
      part.keys[g].clear();
      part.counts[g].clear();
      for (auto& gradients : part.gradients[g]) {
        gradients.clear();
      }
      for (std::size_t i = 0; i < push.keys[g].size(); ++i) {
        const Key key = push.keys[g][i];
        const std::uint32_t bucket = group.array_rows > 0 ? BucketOfRow(key, plan_->buckets())
                                                          : BucketOfKey(key, plan_->buckets());
        if (map[bucket] != shard) {
          continue;
        }
        part.keys[g].push_back(key);
        part.counts[g].push_back(push.counts[g][i]);
        for (std::size_t t = 0; t < group.dims.size(); ++t) {
          const float* row = push.gradients[g][t].data() + i * group.dims[t];
          part.gradients[g][t].insert(part.gradients[g][t].end(), row, row + group.dims[t]);
        }
      }
    }
    return part;
  }

  // Of the states as they are.
  void Write(std::uint64_t version, std::uint64_t base, std::uint32_t keep = 9) {
    proto::Manifest manifest;
    manifest.set_model("deepfm");
    manifest.set_version(version);
    manifest.set_shards(kShards);
    manifest.set_job_hash(TrainingHash(plan_->job));
    manifest.mutable_scheduler()->set_version(version);
    if (base > 0) {
      manifest.set_base(base);
      ASSERT_TRUE(ReadManifest(DirectoryOf(base), manifest.mutable_base_seal()).ok());
    }
    Digest128 digest;
    std::map<std::string, std::uint64_t> rows;
    for (std::uint32_t s = 0; s < kShards; ++s) {
      *manifest.add_files() = WriteShard(s, version, base, &digest);
      for (const proto::TableUsage& usage : snapshots_[s]->usage()) {
        rows[usage.name()] += usage.rows();
      }
    }
    for (const auto& [name, count] : rows) {
      proto::TableRows& table = *manifest.add_tables();
      table.set_name(name);
      table.set_rows(count);
    }
    manifest.set_model_digest(DigestHex(digest));
    const Status status = FinishCheckpoint(run_, manifest, keep);
    ASSERT_TRUE(status.ok()) << status.ToString();
    digests_[version] = {};
    for (const auto& state : states_) {
      digests_[version] += state->Digest();
    }
  }

  proto::SavedFile WriteShard(std::uint32_t shard, std::uint64_t version, std::uint64_t base,
                              Digest128* digest) {
    ModelFileWriter writer(*plan_, {.shard = shard, .version = version, .base = base},
                           DirectoryOf(version));
    ShardSnapshot& snapshot = *snapshots_[shard];
    snapshot.Begin(version, base);
    while (snapshot.under_way()) {
      snapshot.Gather(500);
      for (const SnapshotBlock& block : snapshot.TakeBlocks()) {
        CHECK(writer.Write(block).ok());
      }
    }
    *digest += writer.digest();
    const StatusOr<proto::SavedFile> saved = writer.Finish();
    CHECK(saved.ok()) << saved.status().ToString();
    return *saved;
  }

  // 2 is whole; 5 is whole, 7 builds on it, 9 on 7.
  void WriteChain() {
    std::uint64_t version = 0;
    for (const auto& [checkpoint, base] :
         std::vector<std::pair<std::uint64_t, std::uint64_t>>{{2, 0}, {5, 0}, {7, 5}, {9, 7}}) {
      while (version < checkpoint) {
        Train(++version);
      }
      ASSERT_NO_FATAL_FAILURE(Write(checkpoint, base));
    }
  }

  // The digest of what is loaded into one shard; an error: not ok.
  StatusOr<Digest128> Load(std::uint64_t version) const {
    ShardState state(plan_, 0, 1);
    ASSIGN_OR_RETURN(const proto::Manifest manifest,
                     ReadModel(*plan_, DirectoryOf(version), &state));
    (void)manifest;
    return state.Digest();
  }

  std::vector<std::string> Versions() const {
    std::vector<std::string> names;
    for (const auto& entry : fs::directory_iterator(run_ + "/checkpoints")) {
      if (entry.is_directory()) {
        names.push_back(entry.path().filename().string());
      }
    }
    std::sort(names.begin(), names.end());
    return names;
  }

  const std::shared_ptr<const JobPlan> plan_ = PlanOf(kSmallJob, {"cluster.servers=2"});
  Draws draws_{3};
  std::string run_;
  std::vector<std::unique_ptr<ShardState>> states_;
  std::vector<std::unique_ptr<ShardSnapshot>> snapshots_;
  std::map<std::uint64_t, Digest128> digests_;  // Of the states, by checkpoint.
};

TEST_F(CheckpointChainTest, EachOneIsTheStateOfItsVersion) {
  ASSERT_NO_FATAL_FAILURE(WriteChain());
  for (const auto& [version, digest] : digests_) {
    const StatusOr<Digest128> loaded = Load(version);
    ASSERT_TRUE(loaded.ok()) << loaded.status().ToString();
    EXPECT_EQ(*loaded, digest) << version;
    const ModelCheck check = CheckModel(DirectoryOf(version));
    EXPECT_FALSE(check.damaged()) << version << " " << check.findings[0].what;
  }
}

TEST_F(CheckpointChainTest, WhatOthersBuildOnStays) {
  ASSERT_NO_FATAL_FAILURE(WriteChain());
  Train(10);
  Write(10, 9, 1);
  EXPECT_THAT(Versions(), ElementsAre("10", "5", "7", "9"));
  Train(11);
  Write(11, 0, 1);
  EXPECT_THAT(Versions(), ElementsAre("11"));
}

TEST_F(CheckpointChainTest, OfSeveralThatStayTwoShareNoFile) {
  ASSERT_NO_FATAL_FAILURE(WriteChain());
  Train(10);
  Write(10, 9, 2);
  EXPECT_THAT(Versions(), ElementsAre("10", "2", "5", "7", "9"));
}

// Every kind of damage to every file of the chain.
class TornChainTest : public CheckpointChainTest {
 protected:
  void Prepare() {
    ASSERT_NO_FATAL_FAILURE(WriteChain());
    fs::rename(run_, run_ + ".whole");
    for (const std::uint64_t version : {5, 7, 9}) {
      for (const char* name : {"manifest.textproto", "shard-00000.model", "shard-00001.model"}) {
        files_.push_back({version, name});
      }
    }
  }
  void TearDown() override {
    fs::remove_all(run_ + ".whole");
    CheckpointChainTest::TearDown();
  }

  struct File {
    std::uint64_t version;
    std::string name;
  };
  std::string PathOf(const File& file) const { return DirectoryOf(file.version) + "/" + file.name; }

  // `damage` was done to `file`: fsck names it, nothing that builds on it loads, and the job goes
  // on from what is sound.
  template <typename Damage>
  void Expect(const File& file, const Damage& damage, const std::string& what) {
    fs::remove_all(run_);
    fs::copy(run_ + ".whole", run_, fs::copy_options::recursive);
    damage();
    const ModelCheck check = CheckModel(DirectoryOf(file.version));
    EXPECT_TRUE(std::any_of(check.findings.begin(), check.findings.end(),
                            [&](const ModelFinding& found) {
                              // Of another version's manifest, the files are named.
                              return found.damage &&
                                     found.file.starts_with(DirectoryOf(file.version) + "/");
                            }))
        << what;
    for (const std::uint64_t version : {5, 7, 9}) {
      const StatusOr<Digest128> loaded = Load(version);
      EXPECT_EQ(loaded.ok(), version < file.version) << what << " at " << version;
    }
    testing::internal::CaptureStderr();
    const auto found = FindCheckpoint(*plan_, run_);
    const std::string said = testing::internal::GetCapturedStderr();
    ASSERT_TRUE(found.ok()) << what << ": " << found.status().ToString();
    // A directory without a manifest is no checkpoint, and no damage; what builds on it is damaged.
    ASSERT_TRUE(found->has_value()) << what;
    const std::uint64_t sound = file.version == 9 ? 7 : file.version == 7 ? 5 : 2;
    EXPECT_EQ((*found)->version(), sound) << what;
    const bool unfinished = !fs::exists(PathOf(file)) && file.name == "manifest.textproto";
    if (!unfinished) {
      EXPECT_THAT(said, HasSubstr(DirectoryOf(file.version) + "/")) << what;
    }
  }

  std::vector<File> files_;
  Draws places_{11};
};

TEST_F(TornChainTest, CutShort) {
  ASSERT_NO_FATAL_FAILURE(Prepare());
  for (const File& file : files_) {
    fs::remove_all(run_);
    const std::uint64_t size = fs::file_size(run_ + ".whole" + PathOf(file).substr(run_.size()));
    std::vector<std::uint64_t> places;
    for (std::uint64_t at = 0; at < size; at += 4096) {
      places.push_back(at);
    }
    for (int i = 0; i < 20; ++i) {
      places.push_back(places_.Below(size));
    }
    for (const std::uint64_t at : places) {
      ASSERT_NO_FATAL_FAILURE(Expect(
          file, [&] { fs::resize_file(PathOf(file), at); },
          PathOf(file) + " cut at " + std::to_string(at)));
    }
    ASSERT_FALSE(HasFailure());
  }
}

TEST_F(TornChainTest, FlippedBits) {
  ASSERT_NO_FATAL_FAILURE(Prepare());
  for (int i = 0; i < 1000; ++i) {
    const File& file = files_[places_.Below(files_.size())];
    std::string what;
    ASSERT_NO_FATAL_FAILURE(Expect(
        file,
        [&] {
          std::string content = ReadWholeFile(PathOf(file), 1 << 24).value();
          const std::uint64_t bit = places_.Below(8 * content.size());
          content[bit / 8] = static_cast<char>(content[bit / 8] ^ (1 << bit % 8));
          std::ofstream(PathOf(file), std::ios::binary) << content;
          what = PathOf(file) + " bit " + std::to_string(bit);
        },
        "flip " + std::to_string(i) + " of " + PathOf(file)));
    ASSERT_FALSE(HasFailure()) << what;
  }
}

TEST_F(TornChainTest, GoneSwappedAndOfAnotherVersion) {
  ASSERT_NO_FATAL_FAILURE(Prepare());
  for (const File& file : files_) {
    ASSERT_NO_FATAL_FAILURE(Expect(
        file, [&] { fs::remove(PathOf(file)); }, PathOf(file) + " gone"));
    const std::string other = DirectoryOf(file.version == 5 ? 2 : 5) + "/" + file.name;
    ASSERT_NO_FATAL_FAILURE(Expect(
        file, [&] { fs::copy_file(other, PathOf(file), fs::copy_options::overwrite_existing); },
        PathOf(file) + " replaced by " + other));
  }
  for (const std::uint64_t version : {5, 7, 9}) {
    const std::string directory = DirectoryOf(version);
    ASSERT_NO_FATAL_FAILURE(Expect(
        {version, "shard-00000.model"},
        [&] {
          fs::rename(directory + "/shard-00000.model", directory + "/other");
          fs::rename(directory + "/shard-00001.model", directory + "/shard-00000.model");
          fs::rename(directory + "/other", directory + "/shard-00001.model");
        },
        directory + " swapped"));
  }
}

}  // namespace
}  // namespace plexus
