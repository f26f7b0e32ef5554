#include "ps/store/model_file.h"

#include <algorithm>
#include <filesystem>
#include <fstream>
#include <memory>
#include <vector>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "common/files.h"
#include "tests/unit/ps/shard_testing.h"

namespace plexus {
namespace {

using testing::HasSubstr;

std::shared_ptr<const JobPlan> Plan(const std::vector<std::string>& overrides = {}) {
  return PlanOf(kSmallJob, overrides);
}

// A model of two shards on disk, trained a little.
class ModelFileTest : public testing::Test {
 protected:
  void SetUp() override {
    directory_ = testing::TempDir() + "model_file_test_" +
                 testing::UnitTest::GetInstance()->current_test_info()->name();
    std::filesystem::remove_all(directory_);
    Draws draws(11);
    proto::Manifest manifest;
    manifest.set_model("deepfm");
    manifest.set_shards(2);
    for (std::uint32_t s = 0; s < 2; ++s) {
      ShardState state(plan_, s, 2);
      for (std::uint64_t step = 1; step <= 3; ++step) {
        Train(&draws, s, step, &state);
      }
      digest_ += state.Digest();
      Digest128 digest;
      StatusOr<proto::SavedFile> saved =
          WriteModelFile(*plan_, state, s, 3, directory_, nullptr, &digest);
      ASSERT_TRUE(saved.ok()) << saved.status().ToString();
      *manifest.add_files() = *saved;
    }
    manifest_ = manifest;
    ASSERT_TRUE(WriteManifest(manifest, directory_).ok());
    file_ = directory_ + "/shard-00001.model";
    content_ = ReadWholeFile(file_, 1 << 20).value();
  }
  void TearDown() override { std::filesystem::remove_all(directory_); }

  // A random push of which only the shard's own keys are kept.
  void Train(Draws* draws, std::uint32_t shard, std::uint64_t step, ShardState* state) {
    OwnedPush push = RandomPush(draws, *plan_, 0, state->dense_extent().values);
    for (std::size_t g = 0; g < push.keys.size(); ++g) {
      const bool array = plan_->groups[g].array_rows > 0;
      for (std::size_t i = 0; i < push.keys[g].size(); ++i) {
        const std::uint32_t bucket = array ? BucketOfRow(push.keys[g][i], plan_->buckets())
                                           : BucketOfKey(push.keys[g][i], plan_->buckets());
        push.keys[g][i] = bucket % 2 == shard ? push.keys[g][i] : ~Key{0};
      }
      for (std::size_t i = push.keys[g].size(); i-- > 0;) {
        if (push.keys[g][i] == ~Key{0}) {
          const auto at = static_cast<std::ptrdiff_t>(i);
          push.keys[g].erase(push.keys[g].begin() + at);
          push.counts[g].erase(push.counts[g].begin() + at);
          for (std::size_t t = 0; t < push.gradients[g].size(); ++t) {
            const auto dim =
                static_cast<std::ptrdiff_t>(plan_->tables[plan_->groups[g].tables[t]].dim);
            const auto from = push.gradients[g][t].begin() + at * dim;
            push.gradients[g][t].erase(from, from + dim);
          }
        }
      }
    }
    const PushBody body = push.Body();
    const PushBody* part = &body;
    state->ApplyStep(step, {&part, 1}, 1, 1);
  }

  Status Read() { return ReadModel(*plan_, directory_, &scratch_).status(); }
  Status ReadDamaged(const std::string& content) {
    std::ofstream(file_, std::ios::binary) << content;
    return Read();
  }

  const std::shared_ptr<const JobPlan> plan_ = Plan();
  ShardState scratch_{plan_, 0, 1};  // Read into again and again, for the Status only.
  std::string directory_;
  std::string file_;
  std::string content_;
  Digest128 digest_;
  proto::Manifest manifest_;
};

TEST_F(ModelFileTest, ReadsIntoAnyNumberOfShards) {
  for (const std::uint32_t shards : {1u, 2u, 3u, 5u}) {
    Digest128 digest;
    for (std::uint32_t s = 0; s < shards; ++s) {
      ShardState state(plan_, s, shards);
      const StatusOr<proto::Manifest> manifest = ReadModel(*plan_, directory_, &state);
      ASSERT_TRUE(manifest.ok()) << manifest.status().ToString();
      digest += state.Digest();
    }
    EXPECT_EQ(digest, digest_) << shards << " shards";
  }
}

TEST_F(ModelFileTest, AVisitShowsEveryRowAndBlockOnce) {
  ShardState whole(plan_, 0, 1);
  ASSERT_TRUE(ReadModel(*plan_, directory_, &whole).ok());
  Digest128 expected;
  for (std::uint32_t t = 0; t < whole.table_count(); ++t) {
    expected += whole.table(t).Digest();
  }
  Digest128 rows;
  std::vector<std::uint32_t> blocks;
  ModelVisitor visitor;
  visitor.row = [&](std::uint32_t table, const RowView& row) {
    rows += RowDigest(plan_->tables[table].name, row);
  };
  visitor.dense = [&](std::uint32_t block, std::span<const float> floats) {
    EXPECT_EQ(floats.size(), whole.dense().at(block).size());
    blocks.push_back(block);
    return OkStatus();
  };
  ASSERT_TRUE(VisitModel(*plan_, directory_, visitor).ok());
  EXPECT_EQ(rows, expected);
  std::sort(blocks.begin(), blocks.end());
  EXPECT_EQ(blocks, whole.dense().blocks());
}

TEST_F(ModelFileTest, AVisitOfNothingStillVerifies) {
  EXPECT_TRUE(VisitModel(*plan_, directory_, {}).ok());
  content_[content_.size() / 2] ^= 1;
  std::ofstream(file_, std::ios::binary) << content_;
  const Status status = VisitModel(*plan_, directory_, {}).status();
  EXPECT_EQ(status.code(), StatusCode::kDataLoss);
  EXPECT_THAT(status.message(), HasSubstr(file_));
}

TEST_F(ModelFileTest, AVisitorsErrorNamesFileAndOffset) {
  ModelVisitor visitor;
  visitor.dense = [](std::uint32_t, std::span<const float>) { return Aborted("enough"); };
  const Status status = VisitModel(*plan_, directory_, visitor).status();
  EXPECT_EQ(status.code(), StatusCode::kAborted);
  EXPECT_THAT(status.message(), HasSubstr("shard-0000"));
  EXPECT_THAT(status.message(), HasSubstr("at offset"));
}

TEST_F(ModelFileTest, AnUntrainedModelHasOnlyDenseBlocks) {
  ShardState state(plan_, 0, 1);
  const std::string directory = directory_ + "/empty";
  Digest128 digest;
  const StatusOr<proto::SavedFile> saved =
      WriteModelFile(*plan_, state, 0, 0, directory, nullptr, &digest);
  ASSERT_TRUE(saved.ok());
  proto::Manifest manifest;
  manifest.set_model("deepfm");
  manifest.set_shards(1);
  *manifest.add_files() = *saved;
  ASSERT_TRUE(WriteManifest(manifest, directory).ok());
  ShardState back(plan_, 0, 1);
  ASSERT_TRUE(ReadModel(*plan_, directory, &back).ok());
  EXPECT_EQ(back.Digest(), state.Digest());
}

std::vector<std::size_t> BlockBorders(const std::string& content) {
  std::vector<std::size_t> borders;
  for (std::size_t at = 0; at < content.size();) {
    borders.push_back(at);
    std::uint32_t bytes = 0;
    std::memcpy(&bytes, content.data() + at + 4, sizeof(bytes));
    at += 16 + bytes;
  }
  return borders;
}

TEST_F(ModelFileTest, EachTruncationIsRefusedWithFileAndOffset) {
  const std::vector<std::size_t> borders = BlockBorders(content_);
  ASSERT_GT(borders.size(), 5u);
  for (const std::size_t border : borders) {
    const Status status = ReadDamaged(content_.substr(0, border));
    EXPECT_EQ(status.code(), StatusCode::kDataLoss);
    EXPECT_THAT(status.message(), HasSubstr(file_));
    EXPECT_THAT(status.message(), HasSubstr("at offset " + std::to_string(border)));
  }
  SCOPED_TRACE(SeedNote());
  Draws draws(12);
  for (int i = 0; i < 200; ++i) {
    const std::size_t size = draws.Below(content_.size());
    EXPECT_EQ(ReadDamaged(content_.substr(0, size)).code(), StatusCode::kDataLoss) << size;
  }
}

TEST_F(ModelFileTest, EachFlippedBitIsRefused) {
  SCOPED_TRACE(SeedNote());
  Draws draws(13);
  std::fstream file(file_, std::ios::binary | std::ios::in | std::ios::out);
  for (int i = 0; i < 1000; ++i) {
    const std::size_t at = i % 2 == 0 ? draws.Below(content_.size()) : draws.Below(200);
    const auto damaged = static_cast<char>(content_[at] ^ (1 << draws.Below(8)));
    file.seekp(static_cast<std::streamoff>(at)).put(damaged).flush();
    const Status status = Read();
    file.seekp(static_cast<std::streamoff>(at)).put(content_[at]).flush();
    EXPECT_FALSE(status.ok()) << "byte " << at;
    EXPECT_THAT(status.message(), HasSubstr(file_));
  }
  EXPECT_TRUE(Read().ok());
}

TEST_F(ModelFileTest, MissingRepeatedAndForeignBlocksAreRefused) {
  const std::vector<std::size_t> borders = BlockBorders(content_);
  for (std::size_t b = 0; b + 1 < borders.size(); ++b) {
    const std::string block = content_.substr(borders[b], borders[b + 1] - borders[b]);
    std::string without = content_;
    without.erase(borders[b], block.size());
    EXPECT_FALSE(ReadDamaged(without).ok()) << "without block " << b;
    std::string twice = content_;
    twice.insert(borders[b], block);
    EXPECT_FALSE(ReadDamaged(twice).ok()) << "block " << b << " twice";
  }
}

TEST_F(ModelFileTest, AFileOfAnotherSaveIsRefused) {
  ShardState other(plan_, 1, 2);
  Digest128 digest;
  ASSERT_TRUE(WriteModelFile(*plan_, other, 1, 9, directory_, nullptr, &digest).ok());
  const Status status = Read();
  EXPECT_EQ(status.code(), StatusCode::kDataLoss);
  EXPECT_THAT(status.message(), HasSubstr("not the file that the manifest names"));
}

TEST_F(ModelFileTest, MissingFilesAreNamed) {
  std::filesystem::remove(file_);
  EXPECT_EQ(Read().code(), StatusCode::kNotFound);
  EXPECT_THAT(Read().message(), HasSubstr(file_));
  std::filesystem::remove(directory_ + "/manifest.textproto");
  EXPECT_EQ(Read().code(), StatusCode::kNotFound);
  EXPECT_THAT(Read().message(), HasSubstr("no saved model in " + directory_));
}

TEST_F(ModelFileTest, DamagedManifestsAreRefused) {
  const std::string path = directory_ + "/manifest.textproto";
  std::ofstream(path) << "model: ";
  EXPECT_EQ(Read().code(), StatusCode::kDataLoss);
  proto::Manifest shorter = manifest_;
  shorter.mutable_files()->RemoveLast();
  ASSERT_TRUE(WriteManifest(shorter, directory_).ok());
  EXPECT_EQ(Read().code(), StatusCode::kDataLoss);
}

TEST_F(ModelFileTest, ModelsOfOtherJobsAreRefused) {
  const std::vector<std::vector<std::string>> others = {
      {"tables.array.rows=20", "tables.array_linear.rows=20"},
      {"tables.embedding.dim=5", "tables.array.dim=5"},
      {"tables.embedding.optimizer.kind=ROW_WISE_ADAGRAD"},
      {"model.hidden=7"},
      {"model.name=fm"}};
  for (const std::vector<std::string>& overrides : others) {
    const auto other = Plan(overrides);
    ShardState state(other, 0, 1);
    const Status status = ReadModel(*other, directory_, &state).status();
    EXPECT_EQ(status.code(), StatusCode::kFailedPrecondition)
        << overrides[0] << ": " << status.ToString();
  }
}

TEST_F(ModelFileTest, AnUnwritablePlaceIsAnError) {
  std::ofstream(directory_ + "/file") << "x";
  ShardState state(plan_, 0, 1);
  Digest128 digest;
  EXPECT_FALSE(
      WriteModelFile(*plan_, state, 0, 0, directory_ + "/file/below", nullptr, &digest).ok());
  std::filesystem::create_directory(directory_ + "/shard-00007.model.tmp");
  EXPECT_FALSE(WriteModelFile(*plan_, state, 7, 0, directory_, nullptr, &digest).ok());
}

}  // namespace
}  // namespace plexus
