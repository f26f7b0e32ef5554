#include "ps/table/hashed_table.h"

#include <algorithm>
#include <cstring>
#include <numeric>

#include <glog/logging.h>

namespace plexus {
namespace {

constexpr std::uint64_t kCountMax = 0xffffffff;

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
  pending_.Resize(kPending);
}

void HashedTable::Pull(std::span<const Key> keys, std::uint32_t dim, Precision precision,
                       std::uint8_t* out, PullHint* hints) const {
  switch (spec().precision == Precision::kF32 ? dim : 0) {
    case 1:
      return PullRows<1>(keys, dim, precision, out, hints);
    case 4:
      return PullRows<4>(keys, dim, precision, out, hints);
    case 8:
      return PullRows<8>(keys, dim, precision, out, hints);
    case 16:
      return PullRows<16>(keys, dim, precision, out, hints);
    case 32:
      return PullRows<32>(keys, dim, precision, out, hints);
    case 64:
      return PullRows<64>(keys, dim, precision, out, hints);
    default:
      return PullRows<0>(keys, dim, precision, out, hints);
  }
}

// kDim > 0: f32 rows of as many values.
template <std::uint32_t kDim>
void HashedTable::PullRows(std::span<const Key> keys, std::uint32_t dim, Precision precision,
                           std::uint8_t* out, PullHint* hints) const {
  const std::size_t out_bytes = WireRowBytes(precision, dim);
  if (kDim == 0 || precision == Precision::kF32) {
    VisitRows(keys, hints, [&](std::size_t i, const std::byte* record) {
      if (record == nullptr) {
        store_.WriteInitialWireRow(keys[i], dim, precision, out + i * out_bytes);
      } else if constexpr (kDim > 0) {
        std::memcpy(out + i * (kDim * sizeof(float)), record, kDim * sizeof(float));
      } else {
        store_.WriteWireRow(record, dim, precision, out + i * out_bytes);
      }
    });
    return;
  }
  // Copied as they are, and encoded some at a time.
  constexpr std::size_t kTogetherMax = 1024 / std::max(kDim, 1u);
  float values[kTogetherMax * kDim + 1];
  VisitRows(keys, hints, [&](std::size_t i, const std::byte* record) {
    const std::size_t at = i % kTogetherMax;
    if (record == nullptr) {
      store_.WriteInitialWireRow(keys[i], kDim, Precision::kF32,
                                 reinterpret_cast<std::uint8_t*>(values + at * kDim));
    } else {
      std::memcpy(values + at * kDim, record, kDim * sizeof(float));
    }
    if (at + 1 == kTogetherMax || i + 1 == keys.size()) {
      EncodeWireRows(precision, values, at + 1, kDim, out + (i - at) * out_bytes);
    }
  });
}

// Calls visit(i, the record of keys[i], or nullptr) for each key, with the record's values in the
// cache, and sets hints, if not null.
template <typename Visit>
void HashedTable::VisitRows(std::span<const Key> keys, PullHint* hints, const Visit& visit) const {
  const std::size_t n = keys.size();
  HomesAhead homes(index_, keys);
  const std::byte* records[kRing];
  const auto find = [&](std::size_t i) {
    const Slot* slot = index_.Find(keys[i], homes.Of(i));
    records[i % kRing] = nullptr;
    if (hints != nullptr) {
      hints[i] = slot == nullptr ? kNoHint : index_.HintOf(slot);
    }
    if (slot != nullptr) {
      CHECK_LT(slot->place, kColdPlace) << "pull of a row on disk, table " << spec().name;
      if (spec().spills) {
        Mark(slot->place - 1);
      }
      records[i % kRing] = store_.RecordOf(slot->place - 1);
    }
  };
  const std::size_t block = BlockOf(store_.layout().value_bytes());
  const auto visit_block = [&](std::size_t begin, std::size_t end) {
    for (std::size_t i = begin; i < end; ++i) {
      visit(i, records[i % kRing]);
    }
  };
  for (std::size_t begin = 0; begin < n; begin += block) {
    const std::size_t end = std::min(begin + block, n);
    for (std::size_t i = begin; i < end; ++i) {
      find(i);
    }
    for (std::size_t i = begin; i < end; ++i) {
      store_.PrefetchValues(records[i % kRing]);
    }
    visit_block(begin - std::min(begin, block), begin);
  }
  visit_block(n == 0 ? 0 : (n - 1) / block * block, n);
}

void HashedTable::ApplyStep(std::uint64_t version, std::span<const GradientPart> parts, float scale,
                            float rate_factor) {
  CHECK_LT(version, kCountMax) << "versions have 32 bits";
  version_ = version;
  const StepRates rates{version, scale, rate_factor};
  merger_.ForStep(parts, [&](const auto& source) {
    if (snapshot_.active()) {
      AddBeforeStep(source.keys());
    }
    if (source.hints().empty()) {
      UpdateFoundRows(rates, source);
    } else {
      UpdateHintedRows(rates, source);
    }
  });
  EvictBeyondLimits(version);
}

[[gnu::always_inline]] inline Slot* HashedTable::SlotFor(Key key, KeyIndex::Home home,
                                                         std::uint64_t count, std::uint64_t version,
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

[[gnu::noinline]] Slot* HashedTable::SlotForUnprefetched(Key key, std::uint64_t count,
                                                         std::uint64_t version, bool* made) {
  return SlotFor(key, index_.HomeOf(key), count, version, made);
}

// Makes the key's row if the slot is new.
[[gnu::always_inline]] inline void HashedTable::Locate(const StepRates& rates, Key key, Slot* slot,
                                                       bool made, std::uint64_t count,
                                                       const float* sums, std::uint32_t active,
                                                       std::size_t at) {
  const std::uint32_t handle = made ? AddHandle() : slot->place - 1;
  if (made) {
    store_.Make(key, handle);
  }
  std::byte* record = store_.RecordOf(handle);
  if (store_.counts()) {
    handles_of_[at] = handle;
    counts_of_[at] = static_cast<std::uint32_t>(std::min(count, kCountMax));
    old_steps_[at] = slot->last_step;
  }
  slot->place = handle + 1;
  slot->last_step = static_cast<std::uint32_t>(rates.version);
  pending_.Set(at, record, key, sums, active);
}

template <typename Source>
void HashedTable::UpdateFoundRows(const StepRates& rates, const Source& source) {
  HomesAhead homes(index_, source.keys());
  UpdateRows(rates, source, [&](std::size_t i, bool* made) {
    return SlotFor(source.keys()[i], homes.Of(i), source.count(i), rates.version, made);
  });
}

template <typename Source>
void HashedTable::UpdateHintedRows(const StepRates& rates, const Source& source) {
  constexpr std::size_t kHintsAhead = 64;
  constexpr std::size_t kHintsTogether = 32;
  const std::span<const Key> keys = source.keys();
  const std::span<const PullHint> hints = source.hints();
  const auto prefetch = [&](std::size_t begin, std::size_t end) {
    for (std::size_t i = begin; i < std::min(end, keys.size()); ++i) {
      index_.PrefetchHinted(hints[i]);
    }
  };
  prefetch(0, kHintsAhead);
  std::uint64_t hinted = 0;
  UpdateRows(rates, source, [&](std::size_t i, bool* made) {
    if (i % kHintsTogether == 0) {
      prefetch(i + kHintsAhead, i + kHintsAhead + kHintsTogether);
    }
    if (Slot* slot = index_.FindHinted(keys[i], hints[i]); slot != nullptr) {
      CHECK_LT(slot->place, kColdPlace) << "push to a row on disk, table " << spec().name;
      ++hinted;
      return slot;
    }
    return SlotForUnprefetched(keys[i], source.count(i), rates.version, made);
  });
  counters_.hinted += hinted;
}

// slot_of(i, &made): the slot of source.keys()[i], or nullptr: it has no row.
template <typename Source, typename SlotOf>
void HashedTable::UpdateRows(const StepRates& rates, const Source& source, const SlotOf& slot_of) {
  const std::size_t block =
      std::bit_floor(std::min(BlockOf(store_.layout().record_bytes()), store_.block_rows()));
  std::size_t located = 0;  // Rows.
  for (std::size_t i = 0; i < source.keys().size(); ++i) {
    bool made = false;
    Slot* slot = slot_of(i, &made);
    if (slot == nullptr) {
      continue;
    }
    Locate(rates, source.keys()[i], slot, made, source.count(i), source.gradients(i),
           source.active(i), located % kPending);
    if (++located % block == 0) {
      PrefetchPending(located - block, located);
      if (located > block) {
        UpdatePending(rates, located - 2 * block, located - block);
      }
    }
  }
  const std::size_t last = located / block * block;
  PrefetchPending(last, located);
  if (last > 0) {
    UpdatePending(rates, last - block, last);
  }
  UpdatePending(rates, last, located);
}

void HashedTable::PrefetchPending(std::size_t begin, std::size_t end) const {
  for (std::size_t i = begin; i < end; ++i) {
    store_.PrefetchRecord(reinterpret_cast<const std::byte*>(pending_.steps[i % kPending].row));
  }
  if (store_.counts()) {
    for (std::size_t i = begin; i < end; ++i) {
      store_.PrefetchCount(handles_of_[i % kPending]);
    }
  }
}

// Rows [begin, end) of the step, which do not go round the end of pending_.
void HashedTable::UpdatePending(const StepRates& rates, std::size_t begin, std::size_t end) {
  const std::size_t first = begin % kPending;
  const std::size_t last = first + (end - begin);
  if (store_.counts()) {
    UpdateCounts(first, last, static_cast<std::uint32_t>(rates.version));
  }
  store_.Update(pending_, first, last, rates);
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
    marks_.GrowFor(handle);
    Mark(handle);
    copied_.GrowFor(handle);
    (void)copied_.Take(handle);
  }
  return handle;
}

void HashedTable::UpdateCounts(std::size_t begin, std::size_t end, std::uint32_t version) {
  const bool decayed =
      bucket_rows_max_ != 0 && spec().eviction.order == EvictionSpec::Order::kCount;
  for (std::size_t i = begin; i < end; ++i) {
    if (decayed) {
      const float kept =
          FloatOf(store_.CountOf(handles_of_[i])) * decay_.Of(version - old_steps_[i]);
      store_.SetCount(handles_of_[i], BitsOf(kept + static_cast<float>(counts_of_[i])));
    } else {
      store_.AddCount(handles_of_[i], counts_of_[i]);
    }
  }
}

}  // namespace plexus
