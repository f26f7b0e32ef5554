// HashedTable: rows that come and go other than by a step: eviction, disk, saved models.
#include <algorithm>
#include <cstring>

#include <glog/logging.h>

#include "common/failpoint.h"
#include "ps/table/hashed_table.h"

namespace plexus {
namespace {

// Buckets that a version's slice of compaction looks at: 1 / kCompactSlices of all.
constexpr std::uint32_t kCompactSlices = 64;
// Compaction begins when more than a quarter of the handles, and this many, are free.
constexpr std::uint32_t kCompactRowsMin = 1u << 16;
// A bucket beyond its limit is brought down to 15 / 16 of it, so that it is not beyond it again at
// once.
constexpr std::uint64_t kLimitShare = 16;

}  // namespace

void HashedTable::EndVersion(std::uint64_t version) {
  version_ = version;
  EvictUnseen(version);
  if (filter_ != nullptr) {
    if (snapshot_.active()) {
      const auto [begin, end] = filter_->ChangedByEndOf(version);
      AddFilters(begin, end);
    }
    filter_->EndVersion(version);
  }
  while (!lately_order_.empty() && lately_order_.front().first + spec().staleness < version) {
    const auto at = lately_evicted_.find(lately_order_.front().second);
    if (at != lately_evicted_.end() && at->second == lately_order_.front().first) {
      lately_evicted_.erase(at);
    }
    lately_order_.pop_front();
  }
  Compact(false);
  index_.Maintain();
}

void HashedTable::EvictUnseen(std::uint64_t version) {
  const EvictionSpec& eviction = spec().eviction;
  if (eviction.unseen_versions == 0) {
    return;
  }
  const std::uint64_t period = std::max<std::uint64_t>(1, eviction.sweep_versions);
  std::vector<Key> unseen;
  for (const std::uint32_t bucket : owned_) {
    if (bucket % period != version % period) {
      continue;
    }
    const auto [first, last] = index_.hashes().RangeOf(bucket);
    index_.ForEachBetween(first, last, [&](const Slot& slot) {
      if (slot.last_step + eviction.unseen_versions < version) {
        unseen.push_back(slot.key);
      }
    });
  }
  for (const Key key : unseen) {
    Evict(key, version, &TableCounters::evicted_unseen);
  }
}

void HashedTable::EvictBeyondLimits(std::uint64_t version) {
  for (const std::uint32_t bucket : beyond_limit_) {
    const std::uint64_t keep =
        std::max<std::uint64_t>(1, bucket_rows_max_ - bucket_rows_max_ / kLimitShare);
    EvictFromBucket(bucket, keep, version, spec().eviction.order, &TableCounters::evicted_limit);
    is_beyond_limit_[bucket] = false;
  }
  beyond_limit_.clear();
}

std::uint32_t HashedTable::WorthOf(const Slot& slot, std::uint64_t version,
                                   EvictionSpec::Order order) const {
  if (order == EvictionSpec::Order::kOldest) {
    return slot.last_step;
  }
  // Non-negative floats are ordered like their bits.
  const bool cold = slot.place >= kColdPlace;
  if (order == EvictionSpec::Order::kNorm) {
    return cold ? slot.place - kColdPlace : BitsOf(store_.NormOf(store_.RecordOf(slot.place - 1)));
  }
  const std::uint32_t bits = cold ? slot.place - kColdPlace : store_.CountOf(slot.place - 1);
  const auto age = static_cast<std::uint32_t>(version) - slot.last_step;
  return BitsOf(FloatOf(bits) * decay_.Of(age));
}

std::uint64_t HashedTable::EvictFromBucket(std::uint32_t bucket, std::uint64_t keep,
                                           std::uint64_t version, EvictionSpec::Order order,
                                           EvictionCounter why) {
  struct Candidate {
    std::uint32_t worth;
    std::uint64_t hash;
    Key key;
  };
  std::vector<Candidate> candidates;
  const auto [first, last] = index_.hashes().RangeOf(bucket);
  index_.ForEachBetween(first, last, [&](const Slot& slot) {
    candidates.push_back({WorthOf(slot, version, order), Mix64(slot.key), slot.key});
  });
  if (candidates.size() <= keep) {
    return 0;
  }
  const auto end = candidates.begin() + static_cast<std::ptrdiff_t>(candidates.size() - keep);
  std::nth_element(candidates.begin(), end, candidates.end(),
                   [](const Candidate& a, const Candidate& b) {
                     return a.worth != b.worth ? a.worth < b.worth : a.hash < b.hash;
                   });
  std::uint64_t freed = 0;
  for (auto at = candidates.begin(); at != end; ++at) {
    freed += Evict(at->key, version, why);
  }
  return freed;
}

std::uint64_t HashedTable::Evict(Key key, std::uint64_t version, EvictionCounter why) {
  Slot* slot = index_.Find(key, index_.HomeOf(key));
  CHECK(slot != nullptr);
  if (snapshot_.active() && snapshot_.IsAhead(index_.HomeOf(key))) {
    AddToSnapshot(*slot);
  }
  erased_.Note(key);
  std::uint64_t freed = 0;
  if (slot->place >= kColdPlace) {
    forgotten_.push_back(key);
  } else {
    if (spec().spills && copied_.Take(slot->place - 1)) {
      forgotten_.push_back(key);
    }
    handles_.Free(slot->place - 1);
    freed = store_.layout().record_bytes();
  }
  index_.Erase(slot);
  Failpoint("table.evicting");
  ++(counters_.*why);
  if (bucket_rows_max_ != 0) {
    --bucket_rows_[BucketOfKey(key, buckets_)];
  }
  if (spec().staleness > 0) {
    lately_evicted_[key] = version;
    lately_order_.emplace_back(version, key);
  }
  return freed;
}

std::uint64_t HashedTable::EvictOldest(std::uint64_t bytes) {
  std::uint64_t freed = 0;
  for (std::size_t i = 0; i < owned_.size() && freed < bytes; ++i) {
    const std::uint32_t bucket = owned_[evict_at_];
    const auto [first, last] = index_.hashes().RangeOf(bucket);
    std::uint64_t rows = 0;
    index_.ForEachBetween(first, last, [&](const Slot&) { ++rows; });
    if (rows > 0) {
      freed += EvictFromBucket(bucket, rows - std::max<std::uint64_t>(1, rows / 8), version_,
                               EvictionSpec::Order::kOldest, &TableCounters::evicted_memory);
    }
    evict_at_ = (evict_at_ + 1) % owned_.size();
  }
  return freed;
}

bool HashedTable::Compact(bool eager) {
  if (compact_target_ == 0) {
    const std::uint64_t live = handles_.live();
    const std::uint64_t high = handles_.high_water();
    const std::uint64_t room =
        eager ? live / 10 + kCompactRowsMin / 16 : live / 3 + kCompactRowsMin;
    if (high <= live + room) {
      return false;
    }
    compact_target_ = static_cast<std::uint32_t>(live + live / 16 + 1);
    compact_at_ = 0;
  }
  const std::size_t end =
      std::min(owned_.size(), compact_at_ + (owned_.size() + kCompactSlices - 1) / kCompactSlices);
  for (; compact_at_ < end; ++compact_at_) {
    const auto [first, last] = index_.hashes().RangeOf(owned_[compact_at_]);
    index_.ForEachBetween(first, last, [&](Slot& slot) {
      const std::uint32_t from = slot.place - 1;
      if (slot.place >= kColdPlace || from < compact_target_) {
        return;
      }
      const std::uint32_t to = AddHandle();
      if (to < from) {
        store_.Move(from, to);
        if (spec().spills && copied_.Take(from)) {
          copied_.Set(to);
        }
        slot.place = to + 1;
        handles_.Free(from);
      } else {
        handles_.Free(to);
      }
    });
  }
  if (compact_at_ == owned_.size()) {
    store_.ReleaseFrom(static_cast<std::uint32_t>(handles_.high_water()));
    compact_target_ = 0;
  }
  return compact_target_ != 0;
}

std::uint64_t HashedTable::FindCold(std::span<const Key> keys, std::vector<Key>* cold) const {
  std::uint64_t absent = 0;
  HomesAhead homes(index_, keys);
  for (std::size_t i = 0; i < keys.size(); ++i) {
    const Slot* slot = index_.Find(keys[i], homes.Of(i));
    if (slot == nullptr) {
      ++absent;
    } else if (slot->place >= kColdPlace) {
      cold->push_back(keys[i]);
    } else if (spec().spills) {
      Mark(slot->place - 1);
    }
  }
  return absent;
}

bool HashedTable::IsCold(Key key) const {
  const Slot* slot = index_.Find(key, index_.HomeOf(key));
  return slot != nullptr && slot->place >= kColdPlace;
}

// What WorthOf needs to know of a row on disk: 31 bits.
std::uint32_t HashedTable::ColdBitsOf(const Slot& slot) const {
  if (bucket_rows_max_ == 0 || spec().eviction.order == EvictionSpec::Order::kOldest) {
    return 0;
  }
  return spec().eviction.order == EvictionSpec::Order::kNorm
             ? BitsOf(store_.NormOf(store_.RecordOf(slot.place - 1)))
             : store_.CountOf(slot.place - 1);
}

void HashedTable::Spill(std::uint64_t bytes, ColdBatch* batch) {
  batch->record_bytes = cold_record_bytes_;
  batch->keys.clear();
  batch->records.clear();
  const std::uint64_t rows = std::max<std::uint64_t>(1, bytes / cold_record_bytes_);
  std::vector<std::pair<std::uint64_t, Slot*>> chosen;  // By hash.
  // The first time round, what was used since is passed over.
  for (std::size_t i = 0; i < 2 * owned_.size() && chosen.size() < rows; ++i) {
    const auto [first, last] = index_.hashes().RangeOf(owned_[spill_at_]);
    index_.ForEachBetween(first, last, [&](Slot& slot) {
      if (slot.place < kColdPlace && chosen.size() < rows && !marks_.Take(slot.place - 1)) {
        chosen.emplace_back(Mix64(slot.key), &slot);
      }
    });
    if (chosen.size() < rows) {
      spill_at_ = (spill_at_ + 1) % owned_.size();
    }
    if (handles_.live() <= chosen.size()) {
      break;
    }
  }
  std::sort(chosen.begin(), chosen.end());
  chosen.erase(std::unique(chosen.begin(), chosen.end()), chosen.end());
  batch->records.reserve(chosen.size() * cold_record_bytes_);
  const auto append = [batch](const void* from, std::size_t size) {
    const auto* data = static_cast<const std::byte*>(from);
    batch->records.insert(batch->records.end(), data, data + size);
  };
  for (const auto& [hash, slot] : chosen) {
    const std::uint32_t handle = slot->place - 1;
    batch->keys.push_back(slot->key);
    append(store_.RecordOf(handle), store_.layout().record_bytes());
    append(&slot->last_step, sizeof(slot->last_step));
    if (store_.counts()) {
      const std::uint32_t count = store_.CountOf(handle);
      append(&count, sizeof(count));
    }
    slot->place = kColdPlace | ColdBitsOf(*slot);
    handles_.Free(handle);
  }
  counters_.spilled += chosen.size();
}

// False: another row than the key's, or none: evicted, made anew, or back already.
bool HashedTable::ViewCold(Key key, const std::byte* record, RowView* view) const {
  const Slot* slot = index_.Find(key, index_.HomeOf(key));
  if (slot == nullptr || slot->place < kColdPlace) {
    return false;
  }
  *view = ReadCold(key, record);
  return view->last_step == slot->last_step;
}

RowView HashedTable::ReadCold(Key key, const std::byte* record) const {
  const std::size_t bytes = store_.layout().record_bytes();
  std::uint32_t last_step;
  std::uint32_t count = 0;
  std::memcpy(&last_step, record + bytes, sizeof(last_step));
  if (store_.counts()) {
    std::memcpy(&count, record + bytes + sizeof(last_step), sizeof(count));
  }
  return {key, last_step, count, {record, bytes}};
}

std::uint64_t HashedTable::Thaw(const ColdBatch& batch) {
  CHECK_EQ(batch.record_bytes, cold_record_bytes_);
  std::uint64_t outdated = 0;
  for (std::size_t i = 0; i < batch.keys.size(); ++i) {
    RowView view;
    if (!ViewCold(batch.keys[i], batch.records.data() + i * cold_record_bytes_, &view)) {
      outdated += IsCold(batch.keys[i]) ? 1 : 0;
      continue;
    }
    const std::uint32_t handle = AddHandle();
    store_.Touch(handle);
    copied_.Set(handle);
    std::memcpy(store_.RecordOf(handle), view.record.data(), view.record.size());
    if (store_.counts()) {
      store_.SetCount(handle, static_cast<std::uint32_t>(view.count));
    }
    index_.Find(view.key, index_.HomeOf(view.key))->place = handle + 1;
    ++counters_.thawed;
  }
  return outdated;
}

void HashedTable::ForEachRow(const std::function<void(const RowView&)>& visit) const {
  // Rows lie in another order than slots: let the next ones come while one is visited.
  Slot ring[kRing];
  std::size_t seen = 0;
  const auto visit_at = [&](std::size_t i) { visit(ViewOf(ring[i % kRing])); };
  index_.ForEach([&](const Slot& slot) {
    if (slot.place >= kColdPlace) {
      return;
    }
    store_.PrefetchRow(slot.place - 1);
    if (seen >= kBlock) {
      visit_at(seen - kBlock);
    }
    ring[seen++ % kRing] = slot;
  });
  for (std::size_t i = seen - std::min(seen, kBlock); i < seen; ++i) {
    visit_at(i);
  }
}

void HashedTable::Restore(const RowView& row) {
  CHECK_EQ(row.record.size(), store_.layout().record_bytes())
      << "row of another layout for " << spec().name;
  bool made = false;
  Slot* slot = index_.FindOrInsert(row.key, index_.Prefetch(row.key), &made);
  CHECK(made || slot->place < kColdPlace) << "restored over a row on disk";
  const std::uint32_t handle = made ? AddHandle() : slot->place - 1;
  slot->place = handle + 1;
  slot->last_step = static_cast<std::uint32_t>(row.last_step);
  store_.Touch(handle);
  std::memcpy(store_.RecordOf(handle), row.record.data(), row.record.size());
  if (store_.counts()) {
    store_.SetCount(handle, static_cast<std::uint32_t>(row.count));
  }
  if (made) {
    ++counters_.restored;
    if (bucket_rows_max_ != 0) {
      ++bucket_rows_[BucketOfKey(row.key, buckets_)];
    }
  }
}

void HashedTable::ForEachFilter(
    const std::function<void(std::uint32_t, const std::string&)>& visit) const {
  std::string bytes;
  for (std::uint32_t bucket = 0; filter_ != nullptr && bucket < buckets_; ++bucket) {
    bytes.clear();
    filter_->Save(bucket, &bytes);
    if (!bytes.empty()) {
      visit(bucket, bytes);
    }
  }
}

Status HashedTable::RestoreFilter(std::uint32_t bucket, const std::string& bytes) {
  return filter_ == nullptr ? Table::RestoreFilter(bucket, bytes) : filter_->Load(bucket, bytes);
}

Digest128 HashedTable::Digest() const {
  Digest128 digest = filter_ == nullptr ? Digest128{} : filter_->Digest(spec().name);
  ForEachRow([&](const RowView& row) { digest += RowDigest(spec().name, row); });
  return digest;
}

TableMemory HashedTable::memory() const {
  TableMemory memory;
  memory.index_bytes = index_.memory_bytes();
  memory.row_bytes = store_.record_memory_bytes();
  memory.header_bytes = store_.count_memory_bytes() + handles_.memory_bytes() +
                        marks_.memory_bytes() + copied_.memory_bytes() + erased_.memory_bytes();
  memory.filter_bytes = filter_ == nullptr ? 0 : filter_->memory_bytes();
  const std::uint64_t used = handles_.live() * store_.layout().record_bytes();
  memory.free_bytes = memory.row_bytes - std::min(memory.row_bytes, used);
  return memory;
}

IndexShape HashedTable::index_shape() const {
  const KeyIndex::ProbeLengths probes = index_.MeasureProbes();
  IndexShape shape;
  if (index_.row_count() > 0) {
    const auto rows = static_cast<double>(index_.row_count());
    shape.load_factor = rows / static_cast<double>(index_.slot_count());
    shape.probe_mean = static_cast<double>(probes.sum) / rows;
    shape.probe_max = probes.max;
  }
  return shape;
}

}  // namespace plexus
