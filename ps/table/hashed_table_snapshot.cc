// HashedTable: snapshots; see TableSnapshot.  The walk goes by hash, as the index lies: its places
// are the index's homes.
#include <algorithm>
#include <limits>

#include "ps/table/hashed_table.h"

namespace plexus {
namespace {

// Slots that are looked at together, and by a slice at most: with none of their rows to gather,
// 2 MiB of the index.
constexpr std::uint64_t kSlotsTogether = 2048;
constexpr std::uint64_t kSlotsPerSlice = 1 << 17;
// Buckets whose filters a slice adds at most.
constexpr std::uint32_t kFiltersPerSlice = 64;

}  // namespace

RowView HashedTable::ViewOf(const Slot& slot) const {
  const std::uint32_t handle = slot.place - 1;
  return {slot.key,
          slot.last_step,
          store_.counts() ? store_.CountOf(handle) : 0,
          {store_.RecordOf(handle), store_.layout().record_bytes()}};
}

void HashedTable::AddToSnapshot(const Slot& slot) {
  if (!snapshot_.Holds(slot.last_step)) {
    return;
  }
  if (slot.place >= kColdPlace) {
    snapshot_.AddCold(slot.key, cold_record_bytes_);
  } else {
    snapshot_.Add(ViewOf(slot));
  }
}

void HashedTable::AddBeforeStep(std::span<const Key> keys) {
  HomesAhead homes(index_, keys);
  const std::size_t n = keys.size();
  Slot found[kRing];  // Place 0: nothing to add.
  const std::size_t ahead = BlockOf(store_.layout().record_bytes());
  for (std::size_t i = 0; i < n + ahead; ++i) {
    if (i >= ahead && found[(i - ahead) % kRing].place != 0) {
      snapshot_.Add(ViewOf(found[(i - ahead) % kRing]));
    }
    if (i >= n) {
      continue;
    }
    const KeyIndex::Home home = homes.Of(i);
    const Slot* slot = index_.Find(keys[i], home);
    found[i % kRing].place = 0;
    if (slot == nullptr) {
      if (filter_ != nullptr) {
        const std::uint32_t bucket = BucketOfKey(keys[i], buckets_);
        AddFilters(bucket, bucket + 1);
      }
    } else if (snapshot_.IsAhead(home) && snapshot_.Holds(slot->last_step)) {
      found[i % kRing] = *slot;
      store_.PrefetchRow(slot->place - 1);
    }
  }
}

void HashedTable::AddFilters(std::uint32_t begin, std::uint32_t end) {
  std::string bytes;
  for (std::uint32_t bucket = begin; bucket < end; ++bucket) {
    if (!snapshot_.ClaimFilter(bucket)) {
      continue;
    }
    filter_->Save(bucket, &bytes);
    if (!bytes.empty()) {
      snapshot_.AddFilter(bucket, bytes);
    }
  }
}

// Of the next `slots` slots, about.
void HashedTable::GatherSlots(std::uint64_t slots) {
  const std::uint64_t first = snapshot_.next();
  const std::uint64_t all = std::numeric_limits<std::uint64_t>::max();
  const std::uint64_t width = all / std::max<std::uint64_t>(1, index_.slot_count() / slots);
  const std::uint64_t last = all - first <= width ? all : first + width;
  gathered_.clear();
  // Of an incremental one few slots are wanted: their hashes alone are computed.
  const auto wanted = [this](const Slot& slot) { return snapshot_.Holds(slot.last_step); };
  index_.ForEachBetween(first, last, wanted, [this](const Slot& slot) {
    if (slot.place >= kColdPlace) {
      snapshot_.AddCold(slot.key, cold_record_bytes_);
    } else {
      gathered_.push_back(slot);
    }
  });
  const std::size_t ahead = BlockOf(store_.layout().record_bytes());
  for (std::size_t i = 0; i < gathered_.size() + ahead; ++i) {
    if (i < gathered_.size()) {
      store_.PrefetchRow(gathered_[i].place - 1);
    }
    if (i >= ahead) {
      snapshot_.Add(ViewOf(gathered_[i - ahead]));
    }
  }
  if (last == all) {
    snapshot_.MoveTo(0);  // From here on of filters' buckets.
    snapshot_.FinishWalk();
  } else {
    snapshot_.MoveTo(last + 1);
  }
}

bool HashedTable::GatherSlice(std::uint64_t bytes) {
  const std::uint64_t enough = snapshot_.bytes() + bytes;
  const std::uint64_t together =
      std::clamp<std::uint64_t>(bytes / cold_record_bytes_, 1, kSlotsTogether);
  std::uint64_t slots = 0;
  while (!snapshot_.walked() && snapshot_.bytes() < enough && slots < kSlotsPerSlice) {
    slots += together;
    GatherSlots(together);
  }
  if (!snapshot_.walked() || filter_ == nullptr) {
    return !snapshot_.walked();
  }
  auto bucket = static_cast<std::uint32_t>(snapshot_.next());
  const std::uint32_t end = std::min(buckets_, bucket + kFiltersPerSlice);
  for (; bucket < end && snapshot_.bytes() < enough; ++bucket) {
    AddFilters(bucket, bucket + 1);
  }
  snapshot_.MoveTo(bucket);
  return bucket < buckets_;
}

}  // namespace plexus
