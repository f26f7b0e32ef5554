// TableSnapshot: what a table gathers of one version of itself while steps go on.
//
// A row belongs to the snapshot of version T if its last step is at most T (and after the version
// that an incremental one builds on).  The table walks its rows in a fixed order, a slice at a
// time, and adds those that belong; before a row ahead of the walk is updated or taken away, it is
// added as it is.  An updated row has a later last step and does not belong any more, so each row
// is added exactly once, as of T.  Rows on disk are named by key: whoever reads them reads them as
// they are when they are named (ps/cold_rows.h), and the walk has passed them then.
//
// Filters and sketches are added bucket by bucket: by the walk, or before their bucket changes.
//
// Rows are gathered as model files have them (ps/store/model_file.h), in blocks of about 1 MiB.
//
// Thread safety: none; belongs to its table.
#pragma once

#include <cstdint>
#include <string>
#include <utility>
#include <vector>

#include "common/hash.h"
#include "ps/table/row_view.h"

namespace plexus {

struct SnapshotRows {
  std::uint32_t count = 0;
  std::string bytes;  // Per row u64 key, u64 last step, u64 count, the record.

  void Add(const RowView& row) {
    const std::uint64_t head[3] = {row.key, row.last_step, row.count};
    bytes.append(reinterpret_cast<const char*>(head), sizeof(head));
    bytes.append(reinterpret_cast<const char*>(row.record.data()), row.record.size());
    ++count;
  }
};

struct SnapshotFilter {
  std::uint32_t bucket = 0;
  std::string bytes;
};

class TableSnapshot {
 public:
  static constexpr std::size_t kBlockBytes = std::size_t{1} << 20;

  // Of the rows that are there now, those with a last step in (since, version].  `buckets`: of
  // filters.
  void Begin(std::uint64_t version, std::uint64_t since, std::uint32_t buckets) {
    *this = TableSnapshot();
    active_ = true;
    first_ = since == 0 ? 0 : since + 1;
    version_ = version;
    filter_is_added_.assign(buckets, false);
  }
  void End() { *this = TableSnapshot(); }
  bool active() const { return active_; }

  bool Holds(std::uint64_t last_step) const { return last_step >= first_ && last_step <= version_; }
  // Where the walk goes on; what places are is the table's.
  std::uint64_t next() const { return next_; }
  void MoveTo(std::uint64_t place) { next_ = place; }
  void FinishWalk() { walked_ = true; }
  bool walked() const { return walked_; }
  bool IsAhead(std::uint64_t place) const { return !walked_ && place >= next_; }

  void Add(const RowView& row) {
    if (open_.bytes.size() >= kBlockBytes) {
      closed_bytes_ += open_.bytes.size();
      blocks_.push_back(std::exchange(open_, {}));
    }
    if (open_.bytes.empty()) {
      open_.bytes.reserve(kBlockBytes + 32 + row.record.size());
    }
    open_.Add(row);
    bytes_ += 24 + row.record.size();
  }
  // `bytes`: what its row will take.
  void AddCold(Key key, std::uint64_t bytes) {
    cold_.push_back(key);
    bytes_ += bytes;
  }
  // True once a bucket: its filter has to be added now.
  bool ClaimFilter(std::uint32_t bucket) {
    const bool claimed = !filter_is_added_[bucket];
    filter_is_added_[bucket] = true;
    return claimed;
  }
  void AddFilter(std::uint32_t bucket, std::string bytes) {
    bytes_ += bytes.size();
    closed_bytes_ += bytes.size();
    filters_.push_back({bucket, std::move(bytes)});
  }

  // Of rows and filters, since Begin; of rows on disk as they are named.
  std::uint64_t bytes() const { return bytes_; }
  // Gathered, and not taken.
  std::uint64_t waiting_bytes() const { return closed_bytes_ + open_.bytes.size(); }

  // Full blocks, and with `all` the open one.
  std::vector<SnapshotRows> TakeBlocks(bool all) {
    if (all && open_.count > 0) {
      blocks_.push_back(std::exchange(open_, {}));
    }
    closed_bytes_ = 0;
    return std::exchange(blocks_, {});
  }
  // After TakeBlocks.
  std::vector<SnapshotFilter> TakeFilters() { return std::exchange(filters_, {}); }
  // Keys whose rows have to be read from disk, as they are now.
  std::vector<Key> TakeCold() { return std::exchange(cold_, {}); }

 private:
  bool active_ = false;
  bool walked_ = false;
  std::uint64_t first_ = 0;
  std::uint64_t version_ = 0;
  std::uint64_t next_ = 0;
  std::uint64_t bytes_ = 0;
  std::uint64_t closed_bytes_ = 0;  // Of blocks_ and filters_.
  SnapshotRows open_;
  std::vector<SnapshotRows> blocks_;
  std::vector<SnapshotFilter> filters_;
  std::vector<bool> filter_is_added_;
  std::vector<Key> cold_;
};

// Keys whose rows a table took away since a version, for the tombstones of an incremental
// checkpoint.
//
// Thread safety: none; belongs to its table.
class ErasedKeys {
 public:
  // Keys beyond which the next checkpoint is better a full one: 8 bytes each.
  static constexpr std::size_t kKeysMax = std::size_t{1} << 20;

  void Note(Key key) {
    if (is_kept_) {
      keys_.push_back(key);
    }
  }
  // Begins anew; those so far.
  std::vector<Key> Restart() {
    is_kept_ = true;
    return std::exchange(keys_, {});
  }
  // Keeps none until Restart.
  void Stop() {
    is_kept_ = false;
    keys_ = {};
  }
  bool too_many() const { return keys_.size() > kKeysMax; }
  std::uint64_t memory_bytes() const { return keys_.capacity() * sizeof(Key); }

 private:
  bool is_kept_ = false;
  std::vector<Key> keys_;
};

}  // namespace plexus
