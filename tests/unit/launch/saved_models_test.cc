// diff and dump of models that fit their memory only in shares.
#include "launch/saved_models.h"

#include <filesystem>
#include <sstream>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "common/files.h"
#include "launch/model_diff.h"
#include "launch/model_dump.h"
#include "ps/store/model_file.h"
#include "tests/unit/proto/test_plan.h"

namespace plexus {
namespace {

using testing::HasSubstr;

constexpr Key kRows = 3000;

class SavedModelsTest : public testing::Test {
 protected:
  void SetUp() override {
    root_ = testing::TempDir() + "saved_models_test_" +
            testing::UnitTest::GetInstance()->current_test_info()->name();
    std::filesystem::remove_all(root_);
  }
  void TearDown() override { std::filesystem::remove_all(root_); }

  static Key KeyOf(Key i) { return Mix64(i); }
  // Saves RUN/model/final of a run; rows `changed` are another value, `absent` is left out.
  std::string Save(const std::string& run, std::uint32_t shards, Key changed = 0, Key absent = 0) {
    const std::string directory = root_ + "/" + run + "/model/final";
    proto::Manifest manifest;
    manifest.set_model("deepfm");
    manifest.set_version(3);
    manifest.set_shards(shards);
    for (std::uint32_t s = 0; s < shards; ++s) {
      ShardState state(plan_, s, shards);
      for (Key i = 1; i <= kRows; ++i) {
        std::vector<float> record(state.table(0).layout().floats(), static_cast<float>(i));
        record[1] += i == changed ? 0.5f : 0.0f;
        RowView row{.key = KeyOf(i), .last_step = 3, .count = i, .record = {}};
        row.record = std::as_bytes(std::span<const float>(record));
        if (i != absent) {
          state.RestoreRow(0, row);
        }
      }
      Digest128 digest;
      *manifest.add_files() =
          WriteModelFile(*plan_, state, s, 3, directory, nullptr, &digest).value();
    }
    CHECK(WriteManifest(manifest, directory).ok());
    CHECK(WriteFileAtomically(root_ + "/" + run + "/job.textproto", plan_->job.DebugString()).ok());
    return directory;
  }
  // The lines of table "embedding".
  std::vector<std::string> Dump(const std::string& directory, DumpOptions options) {
    options.table = "embedding";
    std::vector<std::string> lines;
    const Status status = DumpTable(directory, options, [&](const std::string& line) {
      lines.push_back(line);
      return true;
    });
    EXPECT_TRUE(status.ok()) << status.ToString();
    return lines;
  }

  const std::shared_ptr<const JobPlan> plan_ = PlanOf(kSmallJob);
  std::string root_;
};

TEST_F(SavedModelsTest, FindsModelsAndJobs) {
  const std::string model = Save("run", 1);
  EXPECT_EQ(FindModels(root_ + "/run").value(), std::vector{model});
  EXPECT_EQ(FindModels(model).value(), std::vector{model});
  EXPECT_THAT(FindModels(root_).status().message(), HasSubstr("no saved model in " + root_));
  EXPECT_EQ(ModelAt(root_ + "/run", "best").value(), model) << "there is no best";
  EXPECT_EQ(ModelAt(root_ + "/run", "other").status().code(), StatusCode::kNotFound);
  EXPECT_TRUE(PlanOfModel(model + "/").ok()) << PlanOfModel(model).status().ToString();
}

TEST_F(SavedModelsTest, DiffFindsOneRowInAnyShareOfTheKeys) {
  const std::string a = Save("a", 2);
  const std::string same = Save("same", 3);
  const std::string b = Save("b", 1, 77, 78);
  for (const std::uint64_t memory : {std::uint64_t{1} << 28, std::uint64_t{20000}}) {
    StatusOr<ModelDifference> difference = DiffModels(a, same, {.top = 5, .memory_bytes = memory});
    ASSERT_TRUE(difference.ok()) << difference.status().ToString();
    EXPECT_FALSE(difference->any());
    EXPECT_EQ(difference->tables["embedding"].equal, kRows);
    difference = DiffModels(a, b, {.top = 5, .memory_bytes = memory});
    ASSERT_TRUE(difference.ok()) << difference.status().ToString();
    EXPECT_TRUE(difference->any());
    const TableDifference& table = difference->tables["embedding"];
    EXPECT_EQ(table.equal, kRows - 2);
    EXPECT_EQ(table.changed, 1u);
    EXPECT_EQ(table.only_a, 1u);
    EXPECT_EQ(table.only_b, 0u);
    EXPECT_EQ(table.values_max, 0.5);
    EXPECT_EQ(table.state_max, 0);
    EXPECT_THAT(table.first.at(KeyOf(77)).text, HasSubstr("value[1] 77 and 77.5"));
    EXPECT_THAT(table.first.at(KeyOf(78)).text, HasSubstr("only in A"));
    EXPECT_FALSE(difference->tables["linear"].any());
  }
}

TEST_F(SavedModelsTest, DiffTakesDamageForNoAnswer) {
  const std::string a = Save("a", 1);
  const std::string b = Save("b", 1);
  std::filesystem::resize_file(b + "/shard-00000.model", 3000);
  EXPECT_EQ(DiffModels(a, b, {}).status().code(), StatusCode::kDataLoss);
}

TEST_F(SavedModelsTest, SortedDumpIsTheSameInAnyMemory) {
  const std::string directory = Save("run", 3);
  std::vector<std::string> lines = Dump(directory, {.table = {}, .key = {}, .sorted = true});
  ASSERT_EQ(lines.size(), kRows);
  std::vector<Key> keys;
  for (const std::string& line : lines) {
    keys.push_back(std::stoull(line));
  }
  EXPECT_TRUE(std::is_sorted(keys.begin(), keys.end()));
  EXPECT_EQ(Dump(directory, {.table = {}, .key = {}, .sorted = true, .memory_bytes = 10000}),
            lines);
  EXPECT_EQ(Dump(directory, {.table = {}, .key = {}, .sorted = true, .memory_bytes = 1}), lines)
      << "a row at a time";
  std::vector<std::string> unsorted = Dump(directory, {});
  EXPECT_NE(unsorted, lines);
  std::sort(unsorted.begin(), unsorted.end());
  std::sort(lines.begin(), lines.end());
  EXPECT_EQ(unsorted, lines);
}

TEST_F(SavedModelsTest, DumpNamesColumnsAndFindsOneRow) {
  const std::string directory = Save("run", 2);
  const std::vector<std::string> lines =
      Dump(directory, {.table = {}, .key = KeyOf(9), .sorted = true, .header = true});
  ASSERT_EQ(lines.size(), 2u);
  EXPECT_EQ(lines[0], "key\tlast_step\tcount\tvalue0\tvalue1\tvalue2\tstate0\tstate1\tstate2\n");
  EXPECT_EQ(lines[1], std::to_string(KeyOf(9)) + "\t3\t9\t9\t9\t9\t9\t9\t9\n");
  DumpOptions options;
  options.table = "embedding";
  options.key = 1;
  const auto ignore = [](const std::string&) { return true; };
  EXPECT_EQ(DumpTable(directory, options, ignore).code(), StatusCode::kNotFound);
  options.table = "none";
  EXPECT_THAT(DumpTable(directory, options, ignore).message(), HasSubstr("embedding, linear"));
}

}  // namespace
}  // namespace plexus
