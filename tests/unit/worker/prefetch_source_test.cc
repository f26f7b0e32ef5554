#include "worker/prefetch_source.h"

#include <filesystem>
#include <fstream>

#include <gtest/gtest.h>

#include "tests/unit/proto/test_plan.h"

namespace plexus {
namespace {

constexpr char kCsvJob[] = R"(
data {
  format: DELIMITED
  fields { name: "x" kind: DENSE }
  fields { name: "u" tables: "w" }
}
tables { name: "w" role: LINEAR dim: 1 }
model { name: "lr" }
train { ranks: 2 batch_size: 6 }
cluster { servers: 2 buckets: 8 }
)";

class PrefetchSourceTest : public testing::Test {
 protected:
  void SetUp() override {
    path_ = testing::TempDir() + "prefetch_source_test_" +
            testing::UnitTest::GetInstance()->current_test_info()->name() + ".csv";
    std::ofstream file(path_);
    file << "label,x,u\n";
    for (int i = 0; i < 40; ++i) {
      file << i % 2 << ',' << i << ",user" << i % 7 << '\n';
    }
    file.close();
    plan_ = PlanOf(kCsvJob, {"data.train=" + path_, "data.valid=" + path_, "data.max_bad_lines=1"});
    phase_.set_kind(proto::Phase::TRAIN);
  }
  void TearDown() override { std::filesystem::remove(path_); }

  // Reads all that is left; the dense column tells which rows they were.
  std::vector<std::vector<float>> ReadAll(BatchSource* source) {
    std::vector<std::vector<float>> batches;
    bool last = false;
    while (true) {
      StatusOr<std::unique_ptr<PreparedBatch>> next = source->Next();
      EXPECT_TRUE(next.ok()) << next.status().ToString();
      if (!next.ok() || *next == nullptr) {
        break;
      }
      EXPECT_FALSE(last) << "a batch after the last";
      last = (*next)->last;
      batches.push_back((*next)->batch.dense);
      EXPECT_EQ((*next)->keys.groups[0].indices[0].size(), (*next)->batch.samples);
      EXPECT_EQ((*next)->keys.groups[0].shard_begin.size(), 3u);
      source->Recycle(*std::move(next));
    }
    EXPECT_TRUE(last || batches.empty());
    return batches;
  }
  std::unique_ptr<BatchSource> Open(std::uint32_t rank, std::uint64_t skip) {
    return OpenPrefetchSource(plan_, rank, phase_, skip).value();
  }

  std::string path_;
  std::shared_ptr<const JobPlan> plan_;
  proto::Phase phase_;
};

TEST_F(PrefetchSourceTest, RanksShareTheRowsAndMarkTheLastBatch) {
  std::vector<float> rows;
  for (const std::uint32_t rank : {0u, 1u}) {
    const auto source = Open(rank, 0);
    for (const std::vector<float>& batch : ReadAll(source.get())) {
      EXPECT_LE(batch.size(), 3u);
      rows.insert(rows.end(), batch.begin(), batch.end());
    }
    EXPECT_EQ(source->bad_lines(), 0u);
  }
  std::sort(rows.begin(), rows.end());
  ASSERT_EQ(rows.size(), 40u);
  for (int i = 0; i < 40; ++i) {
    EXPECT_EQ(rows[i], static_cast<float>(i));
  }
}

TEST_F(PrefetchSourceTest, SkipsToWhereAnotherStopped) {
  const auto all = ReadAll(Open(1, 0).get());
  ASSERT_GT(all.size(), 3u);
  for (std::size_t skip = 0; skip <= all.size() + 2; ++skip) {
    const auto rest = ReadAll(Open(1, skip).get());
    EXPECT_EQ(rest, decltype(all)(all.begin() + std::min(skip, all.size()), all.end())) << skip;
  }
}

TEST_F(PrefetchSourceTest, ReadsWhatThePhaseAsksFor) {
  phase_.set_kind(proto::Phase::EVALUATE);
  phase_.set_data_set(proto::Phase::VALIDATION);
  EXPECT_FALSE(ReadAll(Open(0, 0).get()).empty());
  phase_.set_data_set(proto::Phase::TEST);
  EXPECT_TRUE(ReadAll(Open(0, 0).get()).empty()) << "the job has no test data";
}

TEST_F(PrefetchSourceTest, BadLinesAreCountedAndTooManyAreAnError) {
  std::ofstream(path_, std::ios::app) << "1,notanumber,u\n";
  const auto source = Open(1, 0);
  ReadAll(source.get());
  EXPECT_EQ(source->bad_lines(), 1u);
  std::ofstream(path_, std::ios::app) << "1,notanumber,u\n";
  const auto worse = Open(1, 0);
  Status status;
  while (status.ok()) {
    StatusOr<std::unique_ptr<PreparedBatch>> next = worse->Next();
    status = next.status();
    ASSERT_FALSE(next.ok() && *next == nullptr) << "the end came without an error";
  }
  EXPECT_EQ(status.code(), StatusCode::kResourceExhausted) << status.ToString();
}

TEST_F(PrefetchSourceTest, MayBeClosedWhileItReads) {
  for (int i = 0; i < 20; ++i) {
    const auto source = Open(0, 0);
    if (i % 2 == 0) {
      ASSERT_TRUE(source->Next().ok());
    }
  }
}

TEST_F(PrefetchSourceTest, AMissingFileIsNamed) {
  std::filesystem::remove(path_);
  StatusOr<std::unique_ptr<BatchSource>> source = OpenPrefetchSource(plan_, 0, phase_, 0);
  const Status status = source.ok() ? (*source)->Next().status() : source.status();
  EXPECT_EQ(status.code(), StatusCode::kNotFound);
  EXPECT_NE(status.message().find(path_), std::string::npos);
}

}  // namespace
}  // namespace plexus
