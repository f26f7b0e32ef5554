// Every damage to a saved model is named.
#include "ps/store/model_check.h"

#include <cstring>
#include <filesystem>
#include <fstream>
#include <map>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "common/files.h"
#include "ps/store/model_file.h"
#include "tests/unit/ps/shard_testing.h"

namespace plexus {
namespace {

using testing::HasSubstr;

std::string Words(const ModelCheck& check) {
  std::string words;
  for (const ModelFinding& finding : check.findings) {
    words += finding.file +
             (finding.offset.has_value() ? " @" + std::to_string(*finding.offset) : "") + ": " +
             finding.what + "\n";
  }
  return words;
}

// A model of two shards, about 60 KiB a file, with a filter.
class ModelCheckTest : public testing::Test {
 protected:
  void SetUp() override {
    directory_ = testing::TempDir() + "model_check_test_" +
                 testing::UnitTest::GetInstance()->current_test_info()->name();
    std::filesystem::remove_all(directory_);
    proto::Manifest manifest;
    manifest.set_model("deepfm");
    manifest.set_version(3);
    manifest.set_shards(2);
    Digest128 digest;
    for (std::uint32_t s = 0; s < 2; ++s) {
      ShardState state(plan_, s, 2);
      Fill(&state);
      Digest128 part;
      StatusOr<proto::SavedFile> saved =
          WriteModelFile(*plan_, state, s, 3, directory_, nullptr, &part);
      ASSERT_TRUE(saved.ok()) << saved.status().ToString();
      *manifest.add_files() = *saved;
      digest += part;
    }
    manifest.set_model_digest(DigestHex(digest));
    ASSERT_TRUE(WriteManifest(manifest, directory_).ok());
    for (const auto& name : {"shard-00000.model", "shard-00001.model", "manifest.textproto"}) {
      contents_[name] = ReadWholeFile(directory_ + "/" + name, 1 << 24).value();
    }
  }
  void TearDown() override { std::filesystem::remove_all(directory_); }

  void Fill(ShardState* state) const {
    const std::uint32_t floats = state->table(0).layout().floats();
    for (Key key = 1; key <= 2000; ++key) {
      const std::vector<float> record(floats, static_cast<float>(key));
      RowView row{.key = Mix64(key), .last_step = 3, .count = 1, .record = {}};
      row.record = std::as_bytes(std::span<const float>(record));
      state->RestoreRow(0, row);
    }
  }
  void Write(const std::string& name, const std::string& content) const {
    std::ofstream(directory_ + "/" + name, std::ios::binary) << content;
  }
  ModelCheck Check() const { return CheckModel(directory_); }
  // Damage is found, all of it is in `name`, and an offset says where.
  void ExpectNamed(const std::string& name, const std::string& trace) const {
    SCOPED_TRACE(trace);
    const ModelCheck check = Check();
    EXPECT_TRUE(check.damaged());
    bool offset = false;
    for (const ModelFinding& finding : check.findings) {
      EXPECT_TRUE(!finding.damage || finding.file == directory_ + "/" + name) << finding.what;
      offset = offset || finding.offset.has_value();
    }
    EXPECT_TRUE(offset) << Words(check);
  }

  const std::shared_ptr<const JobPlan> plan_ = PlanOf(kSmallJob);
  std::string directory_;
  std::map<std::string, std::string> contents_;
};

TEST_F(ModelCheckTest, AWholeModelIsClean) {
  const ModelCheck check = Check();
  EXPECT_FALSE(check.damaged()) << Words(check);
  EXPECT_TRUE(check.findings.empty());
  EXPECT_EQ(check.files, 3u);
  EXPECT_GE(check.rows, 2000u);
  EXPECT_EQ(check.version, 3u);
  EXPECT_EQ(check.model, "deepfm");
}

TEST_F(ModelCheckTest, NamesEveryCut) {
  for (const auto& [name, content] : contents_) {
    for (std::size_t size = 0; size < content.size(); size += name[0] == 's' ? 4096 : 7) {
      Write(name, content.substr(0, size));
      ExpectNamed(name, name + " cut to " + std::to_string(size));
    }
    Write(name, content + "x");
    if (name[0] == 's') {
      ExpectNamed(name, name + " with a byte more");
    }
    Write(name, content);
  }
  EXPECT_FALSE(Check().damaged());
}

TEST_F(ModelCheckTest, NamesEveryFlippedBit) {
  SCOPED_TRACE(SeedNote());
  Draws draws(5);
  for (int i = 0; i < 1000; ++i) {
    const bool second = draws.OneIn(2);
    const std::string name = second ? "shard-00001.model" : "shard-00000.model";
    std::string damaged = contents_[name];
    const std::size_t byte = draws.Below(damaged.size());
    damaged[byte] = static_cast<char>(damaged[byte] ^ (1 << draws.Below(8)));
    Write(name, damaged);
    ExpectNamed(name, name + " with a flip in byte " + std::to_string(byte));
    Write(name, contents_[name]);
  }
}

// Heads are few bytes in large files, which random bits miss.
TEST_F(ModelCheckTest, NamesEveryFlippedBitOfHeadsAndOfTheManifest) {
  const std::string name = "shard-00000.model";
  const std::string content = contents_[name];
  std::size_t blocks = 0;
  for (std::size_t at = 0; at + 16 <= content.size(); ++blocks) {
    std::uint32_t bytes = 0;
    std::memcpy(&bytes, content.data() + at + 4, sizeof(bytes));
    const bool last = at + 16 + bytes == content.size();
    for (std::size_t bit = 0; bit < 128 && (blocks < 4 || last); ++bit) {
      std::string damaged = content;
      damaged[at + bit / 8] = static_cast<char>(damaged[at + bit / 8] ^ (1 << bit % 8));
      Write(name, damaged);
      ExpectNamed(name, "bit " + std::to_string(bit) + " of the head at " + std::to_string(at));
    }
    at += 16 + bytes;
  }
  Write(name, content);
  const std::string manifest = contents_["manifest.textproto"];
  for (std::size_t bit = 0; bit < manifest.size() * 8; ++bit) {
    std::string damaged = manifest;
    damaged[bit / 8] = static_cast<char>(damaged[bit / 8] ^ (1 << bit % 8));
    Write("manifest.textproto", damaged);
    EXPECT_THAT(Words(Check()), HasSubstr("manifest.textproto @")) << bit;
  }
}

TEST_F(ModelCheckTest, GoesOnAfterTheFirstDamage) {
  for (const auto& name : {"shard-00000.model", "shard-00001.model"}) {
    std::string damaged = contents_[name];
    damaged[100] = static_cast<char>(damaged[100] ^ 1);  // Of the rows' block,
    damaged[damaged.size() - 1] = 'x';                   // of the end block.
    Write(name, damaged);
  }
  const ModelCheck check = Check();
  std::map<std::string, int> found;
  for (const ModelFinding& finding : check.findings) {
    ++found[finding.file];
  }
  EXPECT_GE(found[directory_ + "/shard-00000.model"], 2);
  EXPECT_GE(found[directory_ + "/shard-00001.model"], 2);
}

TEST_F(ModelCheckTest, NamesMissingSwappedAndExtraFiles) {
  std::filesystem::remove(directory_ + "/shard-00001.model");
  EXPECT_THAT(Words(Check()), HasSubstr("shard-00001.model: missing"));
  Write("shard-00001.model", contents_["shard-00000.model"]);
  Write("shard-00000.model", contents_["shard-00001.model"]);
  const std::string swapped = Words(Check());
  EXPECT_THAT(swapped, HasSubstr("shard-00000.model @0: the file of shard 1"));
  EXPECT_THAT(swapped, HasSubstr("shard-00001.model @0: the file of shard 0"));
  Write("shard-00000.model", contents_["shard-00000.model"]);
  Write("shard-00001.model", contents_["shard-00001.model"]);
  Write("shard-00002.model", "");
  const ModelCheck extra = Check();
  EXPECT_FALSE(extra.damaged());
  EXPECT_THAT(Words(extra), HasSubstr("shard-00002.model: extra"));
  std::filesystem::remove(directory_ + "/manifest.textproto");
  const ModelCheck without = Check();
  EXPECT_TRUE(without.damaged());
  EXPECT_THAT(Words(without), HasSubstr("manifest.textproto: missing"));
  EXPECT_GE(without.rows, 2000u) << "files are checked all the same";
}

TEST_F(ModelCheckTest, AManifestOfAnotherModelIsNamed) {
  proto::Manifest manifest = ReadManifest(directory_).value();
  manifest.set_model_digest(std::string(32, '0'));
  ASSERT_TRUE(WriteManifest(manifest, directory_).ok());
  EXPECT_THAT(Words(Check()), HasSubstr("says model_digest 0000"));
  manifest.set_version(4);
  ASSERT_TRUE(WriteManifest(manifest, directory_).ok());
  EXPECT_THAT(Words(Check()), HasSubstr("of version 3, the manifest's is 4"));
  manifest.mutable_files(0)->set_name("../shard-00000.model");
  ASSERT_TRUE(WriteManifest(manifest, directory_).ok());
  EXPECT_THAT(Words(Check()), HasSubstr("which is none of ours"));
}

}  // namespace
}  // namespace plexus
