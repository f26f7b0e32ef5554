// ShardSnapshot, and what a Shard does about it.
#include "ps/shard_snapshot.h"

#include <algorithm>
#include <string>
#include <utility>

#include <glog/logging.h>

#include "ps/shard.h"

namespace plexus {
namespace {

constexpr std::uint64_t kBytesMin = std::uint64_t{256} << 10;
constexpr std::uint64_t kBytesMax = std::uint64_t{256} << 20;
constexpr std::uint64_t kLimitShare = 16;

}  // namespace

std::uint64_t SnapshotBytesMax(std::uint64_t memory_limit) {
  return memory_limit == 0 ? kBytesMax
                           : std::clamp(memory_limit / kLimitShare, kBytesMin, kBytesMax);
}

void ShardSnapshot::Begin(std::uint64_t version, std::uint64_t base) {
  CHECK(!under_way_) << "a snapshot is under way";
  CHECK(base == 0 || (base == version_ && incremental_ && !needs_full_)) << "no base";
  under_way_ = true;
  needs_full_ = false;
  version_ = version;
  table_ = 0;
  usage_ = state_.Usage();
  for (std::uint32_t t = 0; t < state_.table_count(); ++t) {
    Table& table = state_.mutable_table(t);
    table.BeginSnapshot(version, base, state_.buckets());
    if (incremental_) {
      const std::vector<Key> erased = table.erased().Restart();
      if (base > 0 && !erased.empty()) {
        AddErased(t, erased);
      }
    }
  }
  const DenseStore& dense = state_.dense();
  for (std::size_t i = 0; i < dense.blocks().size(); ++i) {
    const std::span<const float> floats = dense.at(i);
    AddBlock({SnapshotBlock::Kind::kDense, 0, dense.blocks()[i],
              std::string(reinterpret_cast<const char*>(floats.data()), floats.size_bytes())});
  }
}

void ShardSnapshot::AddBlock(SnapshotBlock block) {
  block_bytes_ += block.bytes.size();
  blocks_.push_back(std::move(block));
}

void ShardSnapshot::AddErased(std::uint32_t table, const std::vector<Key>& keys) {
  constexpr std::size_t kKeysTogether = TableSnapshot::kBlockBytes / sizeof(Key);
  for (std::size_t at = 0; at < keys.size(); at += kKeysTogether) {
    const std::size_t count = std::min(kKeysTogether, keys.size() - at);
    AddBlock({SnapshotBlock::Kind::kErased, table, static_cast<std::uint32_t>(count),
              std::string(reinterpret_cast<const char*>(keys.data() + at), count * sizeof(Key))});
  }
}

void ShardSnapshot::Gather(std::uint64_t bytes) {
  if (has_more() && !state_.mutable_table(table_).GatherSlice(bytes)) {
    ++table_;
  }
}

// Of the tables, what fills blocks; all of it at the end.
void ShardSnapshot::Collect() {
  const bool all = table_ == state_.table_count() && copying_rows_ == 0;
  for (std::uint32_t t = 0; t < state_.table_count(); ++t) {
    TableSnapshot& table = state_.mutable_table(t).snapshot();
    for (SnapshotRows& rows : table.TakeBlocks(all)) {
      AddBlock({SnapshotBlock::Kind::kRows, t, rows.count, std::move(rows.bytes)});
    }
    for (SnapshotFilter& filter : table.TakeFilters()) {
      AddBlock({SnapshotBlock::Kind::kFilter, t, filter.bucket, std::move(filter.bytes)});
    }
    if (all) {
      table.End();
    }
  }
  if (all) {
    under_way_ = false;
    AddBlock({});
  }
}

std::vector<SnapshotBlock> ShardSnapshot::TakeBlocks() {
  if (under_way_) {
    Collect();
  }
  return std::exchange(blocks_, {});
}

std::vector<ColdKeys> ShardSnapshot::TakeCopies() {
  std::vector<ColdKeys> copies;
  for (std::uint32_t t = 0; under_way_ && t < state_.table_count(); ++t) {
    Table& table = state_.mutable_table(t);
    std::vector<Key> keys = table.snapshot().TakeCold();
    if (!keys.empty()) {
      copying_rows_ += keys.size();
      copying_bytes_ += keys.size() * table.cold_record_bytes();
      std::sort(keys.begin(), keys.end(), [](Key l, Key r) { return Mix64(l) < Mix64(r); });
      copies.push_back({t, std::move(keys)});
    }
  }
  return copies;
}

void ShardSnapshot::OnCopied(const ColdBatch& batch) {
  if (!under_way_) {
    return;  // It was abandoned.
  }
  Table& table = state_.mutable_table(batch.table);
  for (std::size_t i = 0; i < batch.keys.size(); ++i) {
    table.snapshot().Add(
        table.ReadCold(batch.keys[i], batch.records.data() + i * batch.record_bytes));
  }
  copying_rows_ -= batch.keys.size();
  copying_bytes_ -= batch.keys.size() * batch.record_bytes;
}

void ShardSnapshot::Abandon() {
  under_way_ = false;
  copying_rows_ = 0;
  copying_bytes_ = 0;
  for (std::uint32_t t = 0; t < state_.table_count(); ++t) {
    state_.mutable_table(t).snapshot().End();
  }
}

void ShardSnapshot::OnWritten(std::uint64_t bytes) {
  block_bytes_ -= std::min(block_bytes_, bytes);
}

std::uint64_t ShardSnapshot::bytes() const {
  std::uint64_t bytes = block_bytes_ + copying_bytes_;
  for (std::uint32_t t = 0; under_way_ && t < state_.table_count(); ++t) {
    bytes += state_.table(t).snapshot().waiting_bytes();
  }
  return bytes;
}

bool ShardSnapshot::NeedsFull() {
  for (std::uint32_t t = 0; t < state_.table_count() && !needs_full_; ++t) {
    needs_full_ = state_.table(t).erased().too_many();
  }
  for (std::uint32_t t = 0; t < state_.table_count() && needs_full_; ++t) {
    state_.mutable_table(t).erased().Stop();
  }
  return needs_full_;
}

// --- the shard -----------------------------------------------------------------------------------

void Shard::BeginSnapshot(const proto::Commit& commit) {
  if (replaying_) {
    return;  // Of the past.
  }
  const std::uint64_t base = commit.checkpoint().base();
  if (base > 0 && (snapshot_.under_way() || base != snapshot_.version())) {
    ReportFailure("server " + std::to_string(options_.shard) +
                  " was told to write a checkpoint of version " + std::to_string(commit.step()) +
                  " on that of " + std::to_string(base) + ", and its last one is " +
                  std::to_string(snapshot_.version()) +
                  (snapshot_.under_way() ? ", which is not done" : ""));
    return;
  }
  if (snapshot_.under_way()) {
    snapshot_.Abandon();  // The scheduler gave it up.
  }
  snapshot_.Begin(version_, base);
  snapshot_order_ = SnapshotOrder{version_, base};
  snapshot_saved_.reset();
  snapshot_nondeterministic_ = nondeterministic_;
}

void Shard::GatherSnapshot(std::uint64_t bytes) {
  snapshot_.Gather(bytes);
  AskForCopies();
}

void Shard::AskForCopies() {
  for (ColdKeys& keys : snapshot_.TakeCopies()) {
    cold_requests_.push_back({ColdRequest::Kind::kCopy, {}, std::move(keys)});
  }
}

void Shard::OnColdCopyFailed(const ColdKeys& keys, const Status& status) {
  snapshot_.Abandon();
  ReportFailure("server " + std::to_string(options_.shard) +
                " could not write the checkpoint of "
                "version " +
                std::to_string(snapshot_.version()) + ": " + std::to_string(keys.keys.size()) +
                " rows of table " + plan_->tables[keys.table].name +
                " could not be read from disk: " + status.message());
}

void Shard::OnSnapshotSaved(std::uint64_t version, proto::Saved saved, const Digest128& digest) {
  if (version != snapshot_.version() || snapshot_order_.has_value()) {
    return;  // Another one was begun meanwhile.
  }
  saved.set_shard(options_.shard);
  saved.set_version(snapshot_.version());
  saved.set_nondeterministic(snapshot_nondeterministic_);
  saved.set_digest_low(digest.low);
  saved.set_digest_high(digest.high);
  for (const proto::TableUsage& usage : snapshot_.usage()) {
    *saved.add_tables() = usage;
  }
  snapshot_saved_ = std::move(saved);
  SaySnapshotSaved();
}

void Shard::SaySnapshotSaved() {
  if (snapshot_saved_.has_value()) {
    proto::Control control;
    *control.mutable_saved() = *snapshot_saved_;
    SendControl(control);
  }
}

}  // namespace plexus
