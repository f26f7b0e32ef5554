#include "ps/store/cold_store.h"

#include <algorithm>
#include <condition_variable>
#include <deque>
#include <mutex>
#include <optional>
#include <thread>
#include <utility>

#include <glog/logging.h>

#include "common/failpoint.h"
#include "ps/store/cold_directory.h"
#include "ps/store/cold_files.h"
#include "ps/store/cold_key.h"
#include "ps/store/cold_runs.h"

namespace plexus {
namespace {

// Rows are gathered until a file would have this many bytes, or all tables' rows together take
// their share of the cache.
constexpr std::uint64_t kFileBytesMin = std::uint64_t{2} << 20;
constexpr std::uint64_t kGatheringShare = 4;  // A quarter.
// Forgotten keys are gathered up to this many.
constexpr std::size_t kForgottenMax = 1 << 16;
// Keys of a read that one thread takes at a time.
constexpr std::size_t kPieceKeys = 1024;

bool ByHash(Key a, Key b) { return Mix64(a) < Mix64(b); }

// Everything searches in them: a key out of order would be a row lost.
void CheckOrder(const std::vector<Key>& keys) {
  CHECK(std::adjacent_find(keys.begin(), keys.end(), [](Key a, Key b) { return !ByHash(a, b); }) ==
        keys.end())
      << "keys are not ascending by Mix64";
}

// A batch, or forgotten keys, not yet in files.
struct Pending {
  ColdRun run;
  bool said = true;  // kWritten was, or need not be.
};

// A read under way.
struct Reading {
  ColdBatch batch;
  std::size_t pieces_left = 0;
  std::vector<std::uint64_t> failed;  // Hashes.
  Status status;
  // Keys that the shard has back by other ways, or dropped.
  std::vector<std::shared_ptr<const std::vector<Key>>> left_out;
};

struct Piece {
  std::shared_ptr<Reading> reading;
  std::size_t begin;
};

// A copy under way: where the rows lay when it was asked for.
struct Copying {
  ColdBatch batch;
  std::vector<ColdRun> runs;
  std::unique_ptr<ColdFiles::View> view;
};

class RocksColdStore final : public ColdStore {
 public:
  RocksColdStore(std::unique_ptr<ColdFiles> files, const std::vector<ColdTable>& tables,
                 ColdStoreOptions options)
      : files_(std::move(files)),
        tables_(tables),
        gathering_max_(options.cache_bytes / kGatheringShare),
        wake_(std::move(options.wake)),
        pending_(tables.size()) {
    threads_.emplace_back([this] { WriteLoop(); });
    for (std::uint32_t i = 0; i < options.reader_threads; ++i) {
      threads_.emplace_back([this] { ReadLoop(); });
    }
  }

  ~RocksColdStore() override {
    {
      const std::lock_guard lock(mutex_);
      stopping_ = true;
    }
    to_write_.notify_all();
    to_read_.notify_all();
    threads_.clear();  // Joins.
  }

  void Write(ColdBatch batch) override {
    CHECK_EQ(batch.records.size(), batch.keys.size() * tables_[batch.table].record_bytes);
    CHECK_EQ(batch.record_bytes, tables_[batch.table].record_bytes);
    CheckOrder(batch.keys);
    {
      const std::lock_guard lock(mutex_);
      for (ColdEvent& event : events_) {
        if (event.kind == ColdEvent::Kind::kWriteFailed && event.batch.table == batch.table) {
          LeaveOut(batch.keys, &event.batch);
        }
      }
      const std::uint32_t table = batch.table;
      pending_[table].push_back({std::make_shared<const ColdBatch>(std::move(batch)), false});
      ++unsaid_;
    }
    to_write_.notify_one();
  }

  void Forget(ColdKeys keys) override {
    CheckOrder(keys.keys);
    const std::uint32_t table = keys.table;
    ColdBatch run;
    run.table = table;
    run.record_bytes = tables_[table].record_bytes;
    run.keys = std::move(keys.keys);
    {
      const std::lock_guard lock(mutex_);
      LeaveOutOfReads(table, std::make_shared<const std::vector<Key>>(run.keys));
      for (ColdEvent& event : events_) {
        if (event.batch.table == table && event.kind == ColdEvent::Kind::kRead) {
          LeaveOut(run.keys, &event.batch);
        }
      }
      forgotten_ += run.keys.size();
      pending_[table].push_back({std::make_shared<const ColdBatch>(std::move(run)), true});
    }
    to_write_.notify_one();
  }

  void Read(ColdKeys keys) override {
    CheckOrder(keys.keys);
    auto reading = std::make_shared<Reading>();
    reading->batch.table = keys.table;
    reading->batch.record_bytes = tables_[keys.table].record_bytes;
    reading->batch.keys = std::move(keys.keys);
    const std::size_t count = reading->batch.keys.size();
    CHECK_GT(count, 0u);
    reading->batch.records.resize(count * reading->batch.record_bytes);
    reading->pieces_left = (count + kPieceKeys - 1) / kPieceKeys;
    {
      const std::lock_guard lock(mutex_);
      for (const ColdEvent& event : events_) {
        if (event.kind == ColdEvent::Kind::kWriteFailed && event.batch.table == keys.table) {
          reading->left_out.push_back(std::make_shared<const std::vector<Key>>(event.batch.keys));
        }
      }
      for (std::size_t begin = 0; begin < count; begin += kPieceKeys) {
        pieces_.push_back({reading, begin});
      }
      readings_.push_back(std::move(reading));
    }
    to_read_.notify_all();
  }

  void Copy(ColdKeys keys) override {
    CheckOrder(keys.keys);
    Copying copying;
    copying.batch.table = keys.table;
    copying.batch.record_bytes = tables_[keys.table].record_bytes;
    copying.batch.keys = std::move(keys.keys);
    {
      const std::lock_guard lock(mutex_);
      copying.runs = RunsOf(keys.table);
      // After the runs: what has left them since lies in files.
      copying.view = files_->Pin(keys.table);
      copies_.push_back(std::move(copying));
    }
    to_read_.notify_one();
  }

  std::optional<ColdEvent> TakeEvent() override {
    const std::lock_guard lock(mutex_);
    if (events_.empty()) {
      return std::nullopt;
    }
    std::optional<ColdEvent> event = std::move(events_.front());
    events_.pop_front();
    return event;
  }

  Status Scan(std::uint32_t table,
              const std::function<void(Key, const std::byte*)>& visit) override {
    std::vector<ColdRun> newer;
    {
      const std::lock_guard lock(mutex_);
      newer = RunsOf(table);
    }
    return files_->Scan(table, newer, visit);
  }

  ColdStoreStats stats() const override {
    ColdStoreStats stats;
    {
      const std::lock_guard lock(mutex_);
      stats = stats_;
      for (const auto& of_table : pending_) {
        stats.memory_bytes += BytesOf(of_table);
      }
      for (const auto& reading : readings_) {
        stats.memory_bytes += reading->batch.bytes();
      }
    }
    stats.compactions = files_->compactions();
    stats.disk_bytes = files_->disk_bytes();
    stats.memory_bytes += files_->memory_bytes();
    return stats;
  }

  std::string Shape() const override { return files_->Shape(); }

 private:
  static std::uint64_t BytesOf(const std::deque<Pending>& pending) {
    std::uint64_t bytes = 0;
    for (const Pending& entry : pending) {
      bytes += entry.run->bytes();
    }
    return bytes;
  }

  // REQUIRES, here and below: mutex_ is held.
  // What lies in memory, the oldest first.
  std::vector<ColdRun> RunsOf(std::uint32_t table) const {
    std::vector<ColdRun> runs;
    // The shard does not have these back yet.
    for (const ColdEvent& event : events_) {
      if (event.kind == ColdEvent::Kind::kWriteFailed && event.batch.table == table &&
          !event.batch.keys.empty()) {
        runs.push_back(std::make_shared<const ColdBatch>(event.batch));
      }
    }
    for (const Pending& pending : pending_[table]) {
      runs.push_back(pending.run);
    }
    return runs;
  }

  void LeaveOutOfReads(std::uint32_t table, const std::shared_ptr<const std::vector<Key>>& keys) {
    for (const auto& reading : readings_) {
      if (reading->batch.table == table) {
        reading->left_out.push_back(keys);
      }
    }
  }

  // The table whose rows are to go into files now.
  std::optional<std::uint32_t> TableToWrite() const {
    std::uint64_t all = 0;
    std::uint64_t most = 0;
    std::uint32_t table = 0;
    for (std::uint32_t t = 0; t < pending_.size(); ++t) {
      const std::uint64_t bytes = BytesOf(pending_[t]);
      all += bytes;
      if (bytes > most) {
        most = bytes;
        table = t;
      }
    }
    const bool due = most >= kFileBytesMin || all > gathering_max_ || forgotten_ > kForgottenMax;
    return due && most > 0 ? std::optional(table) : std::nullopt;
  }

  void Written(Pending* pending) {
    if (std::exchange(pending->said, true)) {
      return;
    }
    --unsaid_;
    ColdEvent& event = events_.emplace_back();
    event.kind = ColdEvent::Kind::kWritten;
    event.bytes = pending->run->bytes();
  }

  // The disk does not take rows: those that were not taken over yet go back, all of them.  What
  // was forgotten stays so.
  void GiveBack(const Status& status) {
    for (std::uint32_t t = 0; t < pending_.size(); ++t) {
      std::deque<Pending> kept;
      for (std::size_t i = 0; i < pending_[t].size(); ++i) {
        Pending& entry = pending_[t][i];
        if (entry.said) {  // Taken over, or forgotten keys.
          kept.push_back(std::move(entry));
          continue;
        }
        --unsaid_;
        ++stats_.write_failures;
        ColdEvent event;
        event.kind = ColdEvent::Kind::kWriteFailed;
        event.bytes = entry.run->bytes();
        event.batch = *entry.run;
        event.status = status;
        for (std::size_t newer = i + 1; newer < pending_[t].size(); ++newer) {
          if (!IsForgotten(*pending_[t][newer].run)) {
            LeaveOut(pending_[t][newer].run->keys, &event.batch);
          }
        }
        LeaveOutOfReads(t, std::make_shared<const std::vector<Key>>(event.batch.keys));
        events_.push_back(std::move(event));
      }
      pending_[t] = std::move(kept);
    }
    disk_failed_ = true;
  }

  void WriteLoop() {
    std::unique_lock lock(mutex_);
    for (;;) {
      // A disk that fails is tried again when there are rows for it.
      to_write_.wait(lock, [this] {
        return stopping_ || unsaid_ > 0 || (forgotten_ > kForgottenMax && !disk_failed_);
      });
      if (stopping_) {
        return;
      }
      const std::optional<std::uint32_t> table = TableToWrite();
      if (table.has_value()) {
        WriteTable(*table, &lock);
      } else {
        for (auto& of_table : pending_) {
          for (Pending& entry : of_table) {
            Written(&entry);
          }
        }
      }
      lock.unlock();
      wake_();
      lock.lock();
    }
  }

  void WriteTable(std::uint32_t table, std::unique_lock<std::mutex>* lock) {
    std::vector<ColdRun> runs;
    for (const Pending& entry : pending_[table]) {
      runs.push_back(entry.run);
    }
    lock->unlock();
    Failpoint("cold.spilling");
    const Status status = files_->Write(table, runs);
    Failpoint("cold.spilled");
    lock->lock();
    if (!status.ok()) {
      GiveBack(status);
      return;
    }
    disk_failed_ = false;
    for (const ColdRun& run : runs) {
      Written(&pending_[table].front());
      pending_[table].pop_front();
      if (IsForgotten(*run)) {
        forgotten_ -= run->keys.size();
      } else {
        stats_.rows_written += run->keys.size();
        stats_.bytes_written += run->bytes();
      }
    }
    ++stats_.files_written;
  }

  void ReadLoop() {
    std::unique_lock lock(mutex_);
    for (;;) {
      to_read_.wait(lock, [this] { return stopping_ || !pieces_.empty() || !copies_.empty(); });
      if (stopping_) {
        return;
      }
      if (pieces_.empty()) {  // Someone waits for a read, no one for a copy.
        Copying copying = std::move(copies_.front());
        copies_.pop_front();
        lock.unlock();
        ColdEvent event = Copied(std::move(copying));
        lock.lock();
        events_.push_back(std::move(event));
        lock.unlock();
        wake_();
        lock.lock();
        continue;
      }
      const Piece piece = std::move(pieces_.front());
      pieces_.pop_front();
      if (ReadPiece(piece, &lock)) {
        lock.unlock();
        wake_();
        lock.lock();
      }
    }
  }

  // Without mutex_.
  ColdEvent Copied(Copying copying) {
    ColdBatch& batch = copying.batch;
    batch.records.resize(batch.keys.size() * batch.record_bytes);
    std::vector<ColdLookup> lookups;
    for (std::size_t i = 0; i < batch.keys.size(); ++i) {
      lookups.push_back({Mix64(batch.keys[i]), batch.records.data() + i * batch.record_bytes});
    }
    for (auto run = copying.runs.rbegin(); run != copying.runs.rend() && !lookups.empty(); ++run) {
      TakeFrom(**run, &lookups);
    }
    ColdEvent event;
    event.status = files_->ReadPinned(copying.view.get(), batch.table, lookups);
    event.kind = event.status.ok() ? ColdEvent::Kind::kCopied : ColdEvent::Kind::kCopyFailed;
    if (event.status.ok()) {
      event.batch = std::move(batch);
    } else {
      event.keys = {batch.table, std::move(batch.keys)};
    }
    return event;
  }

  // True: there is an event.
  bool ReadPiece(const Piece& piece, std::unique_lock<std::mutex>* lock) {
    Reading& reading = *piece.reading;
    const std::uint32_t table = reading.batch.table;
    std::vector<ColdRun> runs;
    for (const Pending& entry : pending_[table]) {
      runs.push_back(entry.run);
    }
    lock->unlock();
    std::vector<ColdLookup> lookups;
    const std::size_t end = std::min(piece.begin + kPieceKeys, reading.batch.keys.size());
    for (std::size_t i = piece.begin; i < end; ++i) {
      lookups.push_back({Mix64(reading.batch.keys[i]),
                         reading.batch.records.data() + i * reading.batch.record_bytes});
    }
    for (auto run = runs.rbegin(); run != runs.rend() && !lookups.empty(); ++run) {
      TakeFrom(**run, &lookups);
    }
    runs.clear();
    std::vector<std::uint64_t> failed;
    Status status = files_->Read(table, lookups, &failed);
    lock->lock();
    reading.failed.insert(reading.failed.end(), failed.begin(), failed.end());
    if (reading.status.ok()) {
      reading.status = std::move(status);
    }
    if (--reading.pieces_left > 0) {
      return false;
    }
    std::erase(readings_, piece.reading);
    Finish(&reading);
    return true;
  }

  void Finish(Reading* reading) {
    ColdKeys failed;
    failed.table = reading->batch.table;
    for (const std::uint64_t hash : reading->failed) {
      failed.keys.push_back(KeyOfMix64(hash));
    }
    std::sort(failed.keys.begin(), failed.keys.end(), ByHash);
    for (const auto& keys : reading->left_out) {
      LeaveOut(*keys, &reading->batch);
      std::erase_if(failed.keys, [&](Key key) {
        return std::binary_search(keys->begin(), keys->end(), key, ByHash);
      });
    }
    ColdEvent& event = events_.emplace_back();
    if (failed.keys.empty()) {
      stats_.rows_read += reading->batch.keys.size();
      stats_.bytes_read += reading->batch.bytes();
      event.kind = ColdEvent::Kind::kRead;
      event.batch = std::move(reading->batch);
    } else {
      ++stats_.read_failures;
      event.kind = ColdEvent::Kind::kReadFailed;
      event.keys = std::move(failed);
      event.status = std::move(reading->status);
    }
  }

  const std::unique_ptr<ColdFiles> files_;
  const std::vector<ColdTable> tables_;
  const std::uint64_t gathering_max_;  // Bytes.
  const std::function<void()> wake_;

  mutable std::mutex mutex_;
  std::condition_variable to_write_;
  std::condition_variable to_read_;
  bool stopping_ = false;
  std::vector<std::deque<Pending>> pending_;  // By table, in the order in which they came.
  std::size_t unsaid_ = 0;                    // Of pending_,
  std::size_t forgotten_ = 0;                 // keys in it.
  bool disk_failed_ = false;                  // The last write.
  std::deque<Piece> pieces_;
  std::deque<Copying> copies_;
  std::vector<std::shared_ptr<Reading>> readings_;
  std::deque<ColdEvent> events_;
  ColdStoreStats stats_;

  std::vector<std::jthread> threads_;  // Last: they use what is above.
};

}  // namespace

StatusOr<std::unique_ptr<ColdStore>> ColdStore::Open(const std::string& directory,
                                                     const std::vector<ColdTable>& tables,
                                                     ColdStoreOptions options) {
  ASSIGN_OR_RETURN(std::unique_ptr<ColdDirectory> claimed, ColdDirectory::Claim(directory));
  ASSIGN_OR_RETURN(std::unique_ptr<ColdFiles> files,
                   ColdFiles::Open(std::move(claimed), tables, options));
  if (options.wake == nullptr) {
    options.wake = [] {};
  }
  return std::unique_ptr<ColdStore>(
      std::make_unique<RocksColdStore>(std::move(files), tables, std::move(options)));
}

}  // namespace plexus
