#include "ps/table/hashed_table.h"

#include <algorithm>
#include <cstring>
#include <numeric>

#include <glog/logging.h>

namespace plexus {
namespace {

constexpr std::uint64_t kCountMax = 0xffffffff;

// A step's gradients when one part has all of them; PartMerger has the same shape.
struct OnePart {
  const GradientPart& part;
  const std::uint32_t dim;

  std::span<const Key> keys() const { return part.keys; }
  std::uint64_t count(std::size_t i) const { return part.counts[i]; }
  const float* gradients(std::size_t i) const { return part.gradients + i * dim; }
  std::uint32_t active(std::size_t) const { return dim; }
};

std::vector<std::uint32_t> AllBuckets(std::uint32_t buckets) {
  std::vector<std::uint32_t> all(buckets);
  std::iota(all.begin(), all.end(), 0u);
  return all;
}

std::unique_ptr<AdmissionFilter> MakeFilter(const TableSpec& spec, const RowStore& store,
                                            std::uint32_t buckets) {
  return spec.admission.kind == AdmissionSpec::Kind::kAll
             ? nullptr
             : std::make_unique<AdmissionFilter>(spec.admission, store.seed(), store.stream(),
                                                 buckets);
}

}  // namespace

HashedTable::HashedTable(const TableSpec& spec, std::uint64_t seed, std::uint32_t buckets,
                         const std::vector<std::uint32_t>& owned)
    : store_(spec, seed),
      buckets_(buckets),
      owned_(owned.empty() ? AllBuckets(buckets) : owned),
      bucket_rows_max_(spec.max_rows == 0 ? 0
                                          : std::max<std::uint64_t>(1, spec.max_rows / buckets)),
      cold_record_bytes_(store_.layout().record_bytes() + 4 + (store_.counts() ? 4 : 0)),
      decay_(spec.eviction.half_life_versions),
      index_(buckets, owned),
      filter_(MakeFilter(spec, store_, buckets)),
      merger_(spec.dim),
      bucket_rows_(bucket_rows_max_ == 0 ? 0 : buckets),
      is_beyond_limit_(bucket_rows_.size()) {
  for (Block& block : blocks_) {
    block.rows.Resize(store_.block_rows());
    block.handles.resize(store_.block_rows());
    block.counts.resize(store_.block_rows());
    block.old_steps.resize(store_.block_rows());
  }
}

void HashedTable::Pull(std::span<const Key> keys, std::uint32_t dim, Precision precision,
                       std::uint8_t* out) const {
  const bool copied = spec().precision == Precision::kF32 && precision == Precision::kF32;
  switch (copied ? dim : 0) {
    case 1:
      return PullRows<1>(keys, dim, precision, out);
    case 4:
      return PullRows<4>(keys, dim, precision, out);
    case 8:
      return PullRows<8>(keys, dim, precision, out);
    case 16:
      return PullRows<16>(keys, dim, precision, out);
    case 32:
      return PullRows<32>(keys, dim, precision, out);
    case 64:
      return PullRows<64>(keys, dim, precision, out);
    default:
      return PullRows<0>(keys, dim, precision, out);
  }
}

// Three positions in the batch: slots are prefetched 2 * kAhead before a row is copied, rows kAhead
// before.  kDim > 0: f32 rows of as many values, as f32.
template <std::uint32_t kDim>
void HashedTable::PullRows(std::span<const Key> keys, std::uint32_t dim, Precision precision,
                           std::uint8_t* out) const {
  const std::size_t n = keys.size();
  const std::size_t out_bytes = WireRowBytes(precision, dim);
  KeyIndex::Home homes[kRing];
  const std::byte* records[kRing];
  const auto find = [&](std::size_t i) {
    const Slot* slot = index_.Find(keys[i], homes[i % kRing]);
    records[i % kRing] = nullptr;
    if (slot != nullptr) {
      CHECK_LT(slot->place, kColdPlace) << "pull of a row on disk, table " << spec().name;
      const std::byte* record = store_.RecordOf(slot->place - 1);
      if constexpr (kDim > 0) {
        PrefetchRecord(record, kDim * sizeof(float));
      } else {
        store_.PrefetchValues(record);
      }
      if (spec().spills) {
        Mark(slot->place - 1);
      }
      records[i % kRing] = record;
    }
  };
  const auto copy = [&](std::size_t i) {
    const std::byte* record = records[i % kRing];
    if (record == nullptr) {
      store_.WriteInitialWireRow(keys[i], dim, precision, out + i * out_bytes);
    } else if constexpr (kDim > 0) {
      std::memcpy(out + i * (kDim * sizeof(float)), record, kDim * sizeof(float));
    } else {
      store_.WriteWireRow(record, dim, precision, out + i * out_bytes);
    }
  };
  const std::size_t head = std::min(n, kAhead);
  for (std::size_t i = 0; i < head; ++i) {
    homes[i % kRing] = index_.Prefetch(keys[i]);
  }
  for (std::size_t i = 0; i < head; ++i) {
    if (i + kAhead < n) {
      homes[(i + kAhead) % kRing] = index_.Prefetch(keys[i + kAhead]);
    }
    find(i);
  }
  std::size_t i = head;
  for (; i + kAhead < n; ++i) {
    homes[(i + kAhead) % kRing] = index_.Prefetch(keys[i + kAhead]);
    copy(i - kAhead);
    find(i);
  }
  for (; i < n; ++i) {
    copy(i - kAhead);
    find(i);
  }
  for (i = n - head; i < n; ++i) {
    copy(i);
  }
}

void HashedTable::ApplyStep(std::uint64_t version, std::span<const GradientPart> parts, float scale,
                            float rate_factor) {
  CHECK_LT(version, kCountMax) << "versions have 32 bits";
  version_ = version;
  const StepRates rates{version, scale, rate_factor};
  const GradientPart* only = nullptr;
  std::size_t parts_with_keys = 0;
  for (const GradientPart& part : parts) {
    if (!part.keys.empty()) {
      only = &part;
      ++parts_with_keys;
    }
  }
  if (parts_with_keys == 0) {
    return;
  }
  if (parts_with_keys == 1) {
    DCHECK_EQ(only->keys.size(), only->counts.size());
    UpdateRows(rates, OnePart{*only, only->dim == 0 ? spec().dim : only->dim});
  } else {
    merger_.Merge(parts);
    UpdateRows(rates, merger_);
  }
  EvictBeyondLimits(version);
}

template <typename Source>
void HashedTable::UpdateRows(const StepRates& rates, const Source& source) {
  const std::span<const Key> keys = source.keys();
  Block* current = &blocks_[0];
  Block* next = &blocks_[1];
  for (std::size_t i = 0; i < std::min(keys.size(), kAhead); ++i) {
    homes_[i % kRing] = index_.Prefetch(keys[i]);
  }
  LocateBlock(rates, source, 0, current);
  while (true) {
    LocateBlock(rates, source, current->end, next);
    if (store_.counts()) {
      UpdateCounts(*current, static_cast<std::uint32_t>(rates.version));
    }
    store_.Update(current->rows, rates);
    if (current->end == keys.size()) {
      break;  // `next` is empty.
    }
    std::swap(current, next);
  }
}

// Finds or makes the rows of the keys from `begin` on, as many as a block holds, and prefetches
// them.
template <typename Source>
void HashedTable::LocateBlock(const StepRates& rates, const Source& source, std::size_t begin,
                              Block* block) {
  const std::span<const Key> keys = source.keys();
  block->rows.size = 0;
  std::size_t i = begin;
  for (; i < keys.size() && block->rows.size < store_.block_rows(); ++i) {
    if (i + kAhead < keys.size()) {
      homes_[(i + kAhead) % kRing] = index_.Prefetch(keys[i + kAhead]);
    }
    const Key key = keys[i];
    const std::uint64_t count = source.count(i);
    bool made = false;
    Slot* slot = SlotFor(key, homes_[i % kRing], count, rates.version, &made);
    if (slot == nullptr) {
      continue;
    }
    const std::uint32_t handle = made ? AddHandle() : slot->place - 1;
    const std::size_t at = block->rows.size;
    block->old_steps[at] = slot->last_step;
    slot->place = handle + 1;
    slot->last_step = static_cast<std::uint32_t>(rates.version);
    if (made) {
      store_.Make(key, handle);
    } else {
      store_.PrefetchRow(handle);
    }
    block->handles[at] = handle;
    block->counts[at] = static_cast<std::uint32_t>(std::min(count, kCountMax));
    block->rows.Add(store_.RecordOf(handle), key, source.gradients(i), source.active(i));
  }
  block->end = i;
}

Slot* HashedTable::SlotFor(Key key, KeyIndex::Home home, std::uint64_t count, std::uint64_t version,
                           bool* made) {
  if (filter_ == nullptr && !refuse_new_rows_) {
    Slot* slot = index_.FindOrInsert(key, home, made);
    if (*made) {
      NoteNewRow(key, version);
    } else {
      CHECK_LT(slot->place, kColdPlace) << "push to a row on disk, table " << spec().name;
    }
    return slot;
  }
  if (Slot* slot = index_.Find(key, home); slot != nullptr) {
    CHECK_LT(slot->place, kColdPlace) << "push to a row on disk, table " << spec().name;
    return slot;
  }
  if (filter_ != nullptr &&
      !filter_->Admit(key, Mix64(key), BucketOfKey(key, buckets_), count, version)) {
    ++counters_.refused_admission;
    return nullptr;
  }
  if (refuse_new_rows_) {
    ++counters_.refused_memory;
    return nullptr;
  }
  NoteNewRow(key, version);
  return index_.FindOrInsert(key, home, made);
}

void HashedTable::NoteNewRow(Key key, std::uint64_t version) {
  ++counters_.admitted;
  if (bucket_rows_max_ != 0) {
    const std::uint32_t bucket = BucketOfKey(key, buckets_);
    if (++bucket_rows_[bucket] > bucket_rows_max_ && !is_beyond_limit_[bucket]) {
      is_beyond_limit_[bucket] = true;
      beyond_limit_.push_back(bucket);
    }
  }
  if (!lately_evicted_.empty()) {
    const auto at = lately_evicted_.find(key);
    if (at != lately_evicted_.end() && version <= at->second + spec().staleness) {
      ++counters_.late_pushes;
    }
  }
}

std::uint32_t HashedTable::AddHandle() {
  const std::uint32_t handle = handles_.Allocate();
  CHECK_LT(handle, kColdPlace - 1) << "a table's rows in memory on one shard";
  if (spec().spills) {
    if (marks_.size() <= handle / 64) {
      marks_.resize(std::max<std::size_t>(16, marks_.size() + marks_.size() / 4));
      marks_.resize(std::max<std::size_t>(marks_.size(), handle / 64 + 1));
    }
    Mark(handle);
  }
  return handle;
}

bool HashedTable::TakeMark(std::uint32_t handle) {
  const std::uint64_t bit = std::uint64_t{1} << (handle % 64);
  const bool marked = (marks_[handle / 64] & bit) != 0;
  marks_[handle / 64] &= ~bit;
  return marked;
}

void HashedTable::UpdateCounts(const Block& block, std::uint32_t version) {
  const bool decayed =
      bucket_rows_max_ != 0 && spec().eviction.order == EvictionSpec::Order::kCount;
  for (std::size_t i = 0; i < block.rows.size; ++i) {
    std::uint32_t* count = store_.CountOf(block.handles[i]);
    if (decayed) {
      const float kept = FloatOf(*count) * decay_.Of(version - block.old_steps[i]);
      *count = BitsOf(kept + static_cast<float>(block.counts[i]));
    } else {
      *count = static_cast<std::uint32_t>(
          std::min<std::uint64_t>(std::uint64_t{*count} + block.counts[i], kCountMax));
    }
  }
}

}  // namespace plexus
