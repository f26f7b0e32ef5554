// A shard whose rows lie on disk most of the time, against one whose rows never leave memory.
#include <algorithm>
#include <cstring>
#include <deque>
#include <map>
#include <memory>
#include <numeric>
#include <utility>
#include <vector>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "ps/store/model_file.h"
#include "tests/unit/ps/shard_testing.h"

namespace plexus {
namespace {

using ::testing::HasSubstr;
using ::testing::IsEmpty;

// A disk that answers when it is told to, in any order.
class Disk {
 public:
  explicit Disk(Shard* shard) : shard_(shard) {}

  // Takes over what the shard wants.
  void Collect() {
    for (ColdRequest& request : shard_->TakeColdRequests()) {
      switch (request.kind) {
        case ColdRequest::Kind::kSpill:
          Take(std::move(request.rows));
          break;
        case ColdRequest::Kind::kRead:
          reads_.push_back(std::move(request.keys));
          break;
        case ColdRequest::Kind::kForget:
          Forget(request.keys);
          break;
        case ColdRequest::Kind::kCopy:
          shard_->snapshot().OnCopied(BatchOf(request.keys));
          break;
      }
    }
  }

  // Answers one request that waits, chosen by `draw`; false: none waits.
  bool AnswerOne(std::uint64_t draw) {
    Collect();
    const std::size_t waiting = reads_.size() + spilled_.size();
    if (waiting == 0) {
      return false;
    }
    const std::size_t at = draw % waiting;
    if (at < reads_.size()) {
      const ColdKeys keys = Take(&reads_, at);
      shard_->OnColdRows(BatchOf(keys), 0);
    } else {
      shard_->OnSpilled(Take(&spilled_, at - reads_.size()).bytes());
    }
    return true;
  }

  ColdKeys TakeRead() {
    Collect();
    CHECK(!reads_.empty());
    return Take(&reads_, 0);
  }
  ColdBatch TakeSpill() {
    Collect();
    CHECK(!spilled_.empty());
    return Take(&spilled_, 0);
  }
  std::size_t reads() const { return reads_.size(); }
  std::uint64_t written() const { return written_; }
  std::uint64_t forgotten() const { return forgotten_; }
  std::size_t rows() const { return rows_.size(); }

  ColdBatch BatchOf(const ColdKeys& keys) const {
    ColdBatch batch;
    batch.table = keys.table;
    batch.record_bytes = shard_->state().table(keys.table).cold_record_bytes();
    batch.keys = keys.keys;
    for (const Key key : keys.keys) {
      CHECK(rows_.contains({keys.table, key})) << "row " << key << " is not on disk";
      const auto& record = rows_.at({keys.table, key});
      batch.records.insert(batch.records.end(), record.begin(), record.end());
    }
    return batch;
  }

  ColdScan scan() const {
    return [this](std::uint32_t table, const std::function<void(Key, const std::byte*)>& visit) {
      for (const auto& [place, record] : rows_) {
        if (place.first == table) {
          visit(place.second, record.data());
        }
      }
      return OkStatus();
    };
  }

 private:
  void Take(ColdBatch batch) {
    for (std::size_t i = 0; i < batch.keys.size(); ++i) {
      const std::byte* record = batch.records.data() + i * batch.record_bytes;
      rows_[{batch.table, batch.keys[i]}].assign(record, record + batch.record_bytes);
      ++written_;
    }
    spilled_.push_back(std::move(batch));
  }
  void Forget(const ColdKeys& keys) {
    for (std::size_t i = 1; i < keys.keys.size(); ++i) {
      ASSERT_LT(Mix64(keys.keys[i - 1]), Mix64(keys.keys[i]));
    }
    for (const Key key : keys.keys) {
      forgotten_ += rows_.erase({keys.table, key});
      for (ColdKeys& read : reads_) {  // As ColdStore: the answer leaves them out.
        if (read.table == keys.table) {
          std::erase(read.keys, key);
        }
      }
    }
  }
  template <typename T>
  static T Take(std::deque<T>* queue, std::size_t at) {
    T taken = std::move((*queue)[at]);
    queue->erase(queue->begin() + static_cast<std::ptrdiff_t>(at));
    return taken;
  }

  Shard* const shard_;
  std::map<std::pair<std::uint32_t, Key>, std::vector<std::byte>> rows_;
  std::deque<ColdKeys> reads_;
  std::deque<ColdBatch> spilled_;
  std::uint64_t written_ = 0;
  std::uint64_t forgotten_ = 0;  // Rows that were there.
};

std::shared_ptr<const JobPlan> Plan(std::vector<std::string> overrides = {}) {
  overrides.push_back("cluster.memory_limit=1GiB");
  return PlanOf(kSmallJob, overrides);
}

// What each request was answered with, by sequence.
void Note(const ShardDriver::Said& said, std::map<std::uint64_t, std::string>* answers) {
  for (const Envelope& reply : said.replies) {
    const FrameHeader header = HeaderOf(reply.frame);
    const auto body = BodyOf(reply.frame);
    (*answers)[header.sequence] = std::to_string(static_cast<int>(header.code)) + " " +
                                  std::to_string(header.version) + " " +
                                  std::string(body.begin(), body.end());
  }
}

Bytes RandomPull(Draws* draws, ShardDriver* driver, std::uint32_t rank, std::uint64_t step) {
  std::vector<Key> keys;
  for (Key key = 0; key < 9; ++key) {
    if (draws->Below(2) == 0) {
      keys.push_back(Mix64(key));
    }
  }
  return driver->PullFrame(driver->Header(FrameType::kPull, rank, step), keys);
}

// Checkpoints of a shard whose rows go to disk and back meanwhile, whole and incremental, beside
// the rows that the warm shard had at their versions.
class SnapshotCheck {
 public:
  explicit SnapshotCheck(ShardDriver* cold) : shard_(cold->shard()) {}

  bool under_way() const { return !expected_.empty(); }
  // The base of the next one.
  std::uint64_t base() const { return checked_ % 3 == 0 ? 0 : shard_.snapshot().version(); }
  std::uint64_t checked() const { return checked_; }

  // After the warm shard's commit.
  void Begin(const ShardState& warm) {
    whole_ = base() == 0;
    expected_.assign(warm.table_count(), {});
    for (std::uint32_t t = 0; t < warm.table_count(); ++t) {
      warm.table(t).ForEachRow([&](const RowView& row) {
        SnapshotRows one;
        one.Add(row);
        expected_[t][row.key] = one.bytes;
      });
    }
    got_ = whole_ ? Rows(expected_.size()) : std::exchange(got_, {});
    fresh_.assign(expected_.size(), {});
  }

  // The next slice, of about so many bytes.
  void Gather(std::uint64_t bytes) {
    shard_.GatherSnapshot(bytes);
    for (const SnapshotBlock& block : shard_.snapshot().TakeBlocks()) {
      shard_.snapshot().OnWritten(block.bytes.size());
      Take(block);
    }
  }

 private:
  using Rows = std::vector<std::map<Key, std::string>>;

  void Take(const SnapshotBlock& block) {
    const std::size_t each = block.count == 0 ? 0 : block.bytes.size() / block.count;
    for (std::size_t at = 0; block.kind == SnapshotBlock::Kind::kRows && at < block.bytes.size();
         at += each) {
      Key key;
      std::memcpy(&key, block.bytes.data() + at, sizeof(key));
      ASSERT_TRUE(fresh_[block.table].try_emplace(key, block.bytes.substr(at, each)).second)
          << "twice: row " << key;
    }
    for (std::size_t at = 0; block.kind == SnapshotBlock::Kind::kErased && at < block.bytes.size();
         at += sizeof(Key)) {
      Key key;
      std::memcpy(&key, block.bytes.data() + at, sizeof(key));
      got_[block.table].erase(key);
    }
    if (block.kind == SnapshotBlock::Kind::kEnd) {
      for (std::size_t t = 0; t < fresh_.size(); ++t) {
        for (auto& [key, bytes] : fresh_[t]) {
          got_[t][key] = bytes;
        }
        EXPECT_TRUE(got_[t] == expected_[t])
            << "table " << t << (whole_ ? ", whole: " : ": ") << got_[t].size() << " rows of "
            << expected_[t].size();
      }
      EXPECT_EQ(shard_.snapshot().bytes(), 0u);
      expected_.clear();
      ++checked_;
    }
  }

  Shard& shard_;
  bool whole_ = true;
  Rows expected_;
  Rows fresh_;
  Rows got_;
  std::uint64_t checked_ = 0;
};

// As many rows as the warm shard has, and on disk no copies of others.
void CheckRows(const JobPlan& plan, ShardDriver& warm, ShardDriver& cold, Disk* disk) {
  std::uint64_t rows = 0;
  bool evicts = false;
  for (std::uint32_t t = 0; t < plan.tables.size(); ++t) {
    const Table& table = cold.shard().state().table(t);
    evicts = evicts || table.spec().eviction.unseen_versions > 0;
    rows += table.spec().spills ? table.row_count() : 0;
    if (!plan.asp() || !evicts) {
      EXPECT_EQ(table.row_count(), warm.shard().state().table(t).row_count());
    }
  }
  EXPECT_EQ(evicts, disk->forgotten() > 0);
  disk->Collect();
  EXPECT_LE(disk->rows(), rows) << "copies of rows that are no more";
}

void RunBeside(const std::shared_ptr<const JobPlan>& plan, std::uint64_t steps) {
  ShardDriver warm(plan);
  ShardDriver cold(plan, 0, /*spill_always=*/true);
  Disk disk(&cold.shard());
  warm.Start();
  cold.Start();
  SnapshotCheck snapshot(&cold);
  Draws draws(5);
  std::map<std::uint64_t, std::string> warm_answers;
  std::map<std::uint64_t, std::string> cold_answers;
  const std::uint64_t dense = warm.shard().state().dense_extent().values;
  const auto send = [&](const Bytes& frame) {
    warm.Send(frame);
    cold.Send(frame);
    while (draws.Below(3) > 0 && disk.AnswerOne(draws.Below(1 << 20))) {
    }
    if (snapshot.under_way() && draws.Below(2) == 0) {
      disk.Collect();
      snapshot.Gather(1 + draws.Below(300));
    }
  };
  for (std::uint64_t step = 1; step <= steps; ++step) {
    for (std::uint32_t rank = 0; rank < plan->ranks(); ++rank) {
      send(RandomPull(&draws, &warm, rank, step));
      send(RandomPush(&draws, *plan, rank, dense)
               .Frame(*plan, warm.Header(FrameType::kPush, rank, step)));
      send(RandomPull(&draws, &warm, rank, step + 1));  // Waits for the version.
    }
    // A rank pushes when its pull was answered, and a step without that push is not committed.
    while (cold.shard().waiting_for_rows() > 0) {
      ASSERT_TRUE(disk.AnswerOne(draws.Below(1 << 20))) << "step " << step << " waits for ever";
    }
    if (!plan->asp()) {
      warm.Commit(step);
      std::optional<std::uint64_t> base;
      if (!snapshot.under_way() && plan->job.checkpoint().every_steps() > 0) {
        base = snapshot.base();
        snapshot.Begin(warm.shard().state());
      }
      cold.Commit(step, 1, std::nullopt, "", base);
      while (cold.shard().version() < step) {
        ASSERT_TRUE(disk.AnswerOne(draws.Below(1 << 20))) << "step " << step << " waits for ever";
      }
    }
    Note(warm.Take(), &warm_answers);
    Note(cold.Take(), &cold_answers);
  }
  while (disk.AnswerOne(0) && cold.shard().waiting_for_rows() > 0) {
  }
  Note(cold.Take(), &cold_answers);
  EXPECT_GT(disk.written(), steps);
  EXPECT_TRUE(plan->job.checkpoint().every_steps() == 0 || snapshot.checked() > steps / 10);
  if (!plan->asp()) {  // ASP applies pushes as they come, and these came in another order.
    EXPECT_EQ(warm_answers, cold_answers);
    const StatusOr<Digest128> digest = DigestOf(cold.shard().state(), disk.scan());
    ASSERT_TRUE(digest.ok()) << digest.status().ToString();
    EXPECT_EQ(*digest, warm.shard().state().Digest());
  }
  EXPECT_EQ(warm_answers.size(), cold_answers.size());
  CheckRows(*plan, warm, cold, &disk);
  cold.ExpectCountersAddUp();
}

TEST(ShardColdTest, WhereRowsLieChangesNothingInBsp) { RunBeside(Plan(), 60); }
TEST(ShardColdTest, NorCheckpoints) { RunBeside(Plan({"checkpoint.every_steps=1"}), 200); }
TEST(ShardColdTest, NorCheckpointsWithEviction) {
  RunBeside(Plan({"checkpoint.every_steps=1", "tables.embedding.eviction.unseen_versions=1",
                  "tables.embedding.eviction.sweep_versions=1"}),
            300);
}
TEST(ShardColdTest, NorInSsp) { RunBeside(Plan({"train.staleness=2"}), 60); }
TEST(ShardColdTest, NorInDeterministicSsp) {
  RunBeside(Plan({"train.staleness=1", "train.deterministic=true"}), 60);
}
TEST(ShardColdTest, AspAppliesEveryPushOnce) { RunBeside(Plan({"train.staleness=-1"}), 40); }
TEST(ShardColdTest, NorWithEviction) {
  RunBeside(Plan({"tables.embedding.eviction.unseen_versions=1",
                  "tables.embedding.eviction.sweep_versions=1"}),
            300);
}
TEST(ShardColdTest, NorWithEvictionInAsp) {
  RunBeside(Plan({"train.staleness=-1", "tables.embedding.eviction.unseen_versions=1",
                  "tables.embedding.eviction.sweep_versions=1"}),
            300);
}

// One step that makes row 5 of group 0, and its way to disk.
void MakeColdRow(ShardDriver* driver, Disk* disk) {
  driver->Start();
  OwnedPush push;
  push.samples = 1;
  push.keys = {{5}};
  push.counts = {{1}};
  push.gradients = {{{1, 1, 1}, {1}}};
  driver->Send(push.Frame(driver->plan(), driver->Header(FrameType::kPush, 0, 1)));
  driver->EmptyPush(1, 1);
  driver->Commit(1);
  disk->Collect();
  driver->Take();
}

// One event applies two pushes: the first one's version evicts row 5, which lies on disk and is
// asked for; the second makes it anew, and it is spilled again.
TEST(ShardColdTest, ARowEvictedAndMadeAnewInOneEventIsOnDisk) {
  ShardDriver driver(
      Plan({"train.staleness=-1", "tables.embedding.eviction.unseen_versions=1",
            "tables.embedding.eviction.sweep_versions=1",
            "tables.linear.eviction.unseen_versions=1", "tables.linear.eviction.sweep_versions=1"}),
      0, true);
  Disk disk(&driver.shard());
  driver.Start();
  const auto push = [&](std::uint32_t rank, std::uint64_t step, std::vector<Key> keys) {
    OwnedPush owned;
    owned.samples = 1;
    owned.counts = {std::vector<std::uint32_t>(keys.size(), 1)};
    owned.gradients = {
        {std::vector<float>(3 * keys.size(), 1), std::vector<float>(keys.size(), 1)}};
    owned.keys = {std::move(keys)};
    driver.Send(owned.Frame(driver.plan(), driver.Header(FrameType::kPush, rank, step)));
  };
  const auto settle = [&disk] {
    while (disk.AnswerOne(0)) {
    }
  };
  push(0, 1, {5, 6});
  push(1, 1, {6});
  settle();
  push(0, 2, {6});
  settle();
  ASSERT_TRUE(driver.shard().state().table(0).IsCold(5));
  push(1, 2, {6});  // Version 2.
  push(0, 3, {5});
  disk.Collect();
  ASSERT_EQ(disk.reads(), 4u) << "each key in two tables";
  ASSERT_EQ(driver.shard().waiting_for_rows(), 2u);
  const std::uint64_t admitted = driver.shard().state().table(0).counters().admitted;
  ASSERT_TRUE(disk.AnswerOne(0) && disk.AnswerOne(0)) << "row 6 of both tables";
  ASSERT_EQ(driver.shard().waiting_for_rows(), 0u) << "both pushes in one event";
  ASSERT_EQ(driver.shard().state().table(0).counters().admitted, admitted + 1);
  ASSERT_TRUE(driver.shard().state().table(0).IsCold(5));
  settle();
  driver.Take();
  driver.Pull(0, 4);
  settle();
  EXPECT_EQ(driver.Take().replies.size(), 1u);
}

// A bucket's rows are evicted in no order of their own; the disk searches in what it is given.
TEST(ShardColdTest, ForgottenKeysAreSorted) {
  ShardDriver driver(Plan({"tables.embedding.eviction.unseen_versions=1",
                           "tables.embedding.eviction.sweep_versions=1"}),
                     0, true);
  Disk disk(&driver.shard());
  driver.Start();
  constexpr std::size_t kKeys = 2000;
  OwnedPush push;
  push.samples = 1;
  std::vector<Key> keys(kKeys);
  std::iota(keys.begin(), keys.end(), Key{1});
  push.keys = {std::move(keys)};
  push.counts = {std::vector<std::uint32_t>(kKeys, 1)};
  push.gradients = {{std::vector<float>(3 * kKeys, 1), std::vector<float>(kKeys, 1)}};
  driver.Send(push.Frame(driver.plan(), driver.Header(FrameType::kPush, 0, 1)));
  driver.EmptyPush(1, 1);
  driver.Commit(1);
  while (disk.AnswerOne(0)) {
  }
  ASSERT_EQ(driver.shard().state().table(0).cold_count(), kKeys);
  for (std::uint64_t step = 2; step <= 3; ++step) {
    driver.PushAll(step);
    driver.Commit(step);
  }
  disk.Collect();  // Asserts it.
  EXPECT_EQ(disk.forgotten(), kKeys);
}

TEST(ShardColdTest, PullWaitsForItsRowsAndAsksOnce) {
  ShardDriver driver(Plan(), 0, true);
  Disk disk(&driver.shard());
  MakeColdRow(&driver, &disk);
  ASSERT_GT(driver.shard().state().cold_count(), 0u);
  driver.Pull(0, 2);
  EXPECT_THAT(driver.Take().replies, IsEmpty());
  EXPECT_EQ(driver.shard().waiting_for_rows(), 1u);
  driver.Pull(1, 2);
  disk.Collect();
  EXPECT_EQ(disk.reads(), 2u) << "one a table, though two pulls want them";
  while (disk.AnswerOne(0)) {
  }
  EXPECT_EQ(driver.Take().replies.size(), 2u);
  EXPECT_EQ(driver.shard().waiting_for_rows(), 0u);
}

TEST(ShardColdTest, APullThatWaitsForItsVersionHasItsRowsRead) {
  ShardDriver driver(Plan(), 0, true);
  Disk disk(&driver.shard());
  MakeColdRow(&driver, &disk);
  driver.Pull(0, 3);
  EXPECT_EQ(driver.shard().parked(), 1u);
  disk.Collect();
  EXPECT_EQ(disk.reads(), 2u);
}

TEST(ShardColdTest, ARowThatCannotBeReadFailsTheJob) {
  ShardDriver driver(Plan(), 0, true);
  Disk disk(&driver.shard());
  MakeColdRow(&driver, &disk);
  driver.Pull(0, 2);
  driver.shard().OnColdReadFailed(disk.TakeRead(), DataLoss("block checksum mismatch in 7.sst"));
  driver.shard().OnTimer(1);
  const auto said = driver.Take();
  ASSERT_FALSE(said.controls.empty());
  EXPECT_THAT(said.controls.back().DebugString(), HasSubstr("checksum mismatch in 7.sst"));
  EXPECT_THAT(said.replies, IsEmpty()) << "no initial value in its place";
}

// A damaged file may bring an older copy to light: it is known by its last step.
TEST(ShardColdTest, AnOutdatedRowFailsTheJob) {
  ShardDriver driver(Plan(), 0, true);
  Disk disk(&driver.shard());
  MakeColdRow(&driver, &disk);
  driver.Pull(0, 2);
  ColdBatch rows = disk.BatchOf(disk.TakeRead());
  const RowLayout& layout = driver.shard().state().table(rows.table).layout();
  rows.records[layout.record_bytes()] ^= std::byte{2};  // Its last step.
  driver.shard().OnColdRows(rows, 0);
  driver.shard().OnTimer(1);
  const auto said = driver.Take();
  ASSERT_FALSE(said.controls.empty());
  EXPECT_THAT(said.controls.back().DebugString(), HasSubstr("as they were before their last"));
  EXPECT_THAT(said.replies, IsEmpty());
}

TEST(ShardColdTest, RowsThatCannotBeWrittenStay) {
  ShardDriver driver(Plan(), 0, true);
  Disk disk(&driver.shard());
  MakeColdRow(&driver, &disk);
  while (driver.shard().state().cold_count() > 0) {
    const ColdBatch batch = disk.TakeSpill();
    driver.shard().OnSpillFailed(batch, batch.bytes(),
                                 ResourceExhausted("no space left on device"));
  }
  EXPECT_GT(driver.shard().counters().spill_failures, 0u);
  driver.Pull(0, 2);
  EXPECT_EQ(driver.Take().replies.size(), 1u);
}

}  // namespace
}  // namespace plexus
