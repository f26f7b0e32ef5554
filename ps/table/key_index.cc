#include "ps/table/key_index.h"

#include <algorithm>
#include <cstring>

#include <glog/logging.h>

#include "common/prefetch.h"

namespace plexus {
namespace {

constexpr std::uint64_t kGroupBytes = 128;
constexpr std::uint64_t kFirstBytes = kPageBytes;  // 32 groups.
// Of the slots of all but the spare groups.  At load 0.60 (just grown), 0.70 and 0.82 a present key
// is found in 1.03, 1.06 and 1.18 groups; looking up what is absent takes 1.4, 1.9 and 3.5 times as
// long as a present key (bench/store_bench --only=find).
constexpr std::uint64_t kLoadPercent = 88;
// A migration carries so many groups over with each insert or erase.  Growing by a third from G
// groups leaves 2.3 G inserts until the next time, and is done after G / 16.
constexpr std::uint64_t kCarriedGroups = 16;
constexpr std::uint64_t kMaintainedGroups = 256;
// The last groups of a migration are carried at once.
constexpr std::uint64_t kLastGroups = 32;
// Shrinking leaves the load at this share of what it may be.
constexpr std::uint64_t kShrunkLoadPercent = 85;

constexpr std::uint64_t kAllHashes = ~std::uint64_t{0};

// Groups at the end for keys displaced from the last homes.
std::uint64_t SpareGroups(std::uint64_t groups) {
  return std::clamp<std::uint64_t>(groups / 16, 2, 32);
}
std::uint64_t HomeGroupsIn(std::uint64_t bytes) {
  const std::uint64_t groups = bytes / kGroupBytes;
  return groups - SpareGroups(groups);
}
std::uint64_t RowsMaxOf(std::uint64_t home_groups) {
  return home_groups * (kGroupBytes / sizeof(Slot)) * kLoadPercent / 100;
}

// The lowest hash whose home is `group` of `groups`.
std::uint64_t FirstHash(std::uint64_t group, std::uint64_t groups) {
  const unsigned __int128 scaled = static_cast<unsigned __int128>(group) << 64;
  return static_cast<std::uint64_t>((scaled + groups - 1) / groups);
}

}  // namespace

KeyIndex::KeyIndex(std::uint32_t buckets, const std::vector<std::uint32_t>& owned)
    : hashes_(buckets, owned) {
  Remap(kFirstBytes);
  Settle(HomeGroupsIn(kFirstBytes));
}

void KeyIndex::Remap(std::uint64_t bytes) {
  memory_.Resize(bytes);
  slots_ = reinterpret_cast<Slot*>(memory_.data());
  last_group_ = GroupAt(memory_.bytes() / kGroupBytes - 1);
}

void KeyIndex::Settle(std::uint64_t groups) {
  migration_ = Migration::kNone;
  low_groups_ = groups;
  high_groups_ = groups;
  low_last_ = kAllHashes;
  row_count_max_ = RowsMaxOf(groups);
  inserted_fast_below_ = row_count_max_;
  // To somewhat more than half, or one page less.
  const std::uint64_t bytes = groups * kGroupBytes;
  shrunk_bytes_ = MappedMemory::RoundUp(bytes / 2 + bytes / 16);
  if (shrunk_bytes_ + kPageBytes > bytes) {
    shrunk_bytes_ = std::max(kFirstBytes, bytes / kPageBytes * kPageBytes);
  }
  shrink_below_ = groups <= HomeGroupsIn(kFirstBytes)
                      ? 0
                      : RowsMaxOf(HomeGroupsIn(shrunk_bytes_)) * kShrunkLoadPercent / 100;
}

std::uint64_t KeyIndex::RoomFrom(std::uint64_t group) const {
  while (IsFull(GroupAt(group))) {
    ++group;
  }
  return group;
}

Slot* KeyIndex::NewSlot(std::uint64_t hash) {
  const std::uint64_t room = RoomFrom(HomeGroup(hash));
  if (GroupAt(room) == last_group_ && Occupied(last_group_) == kGroupSlots - 1) {
    Remap(memory_.bytes() + std::max<std::uint64_t>(kPageBytes, memory_.bytes() / 64));
  }
  Slot* group = GroupAt(room);
  return group + Occupied(group);
}

Slot* KeyIndex::InsertCarrying(Key key, Home home) {
  if (row_count_ >= row_count_max_ && migration_ == Migration::kNone) {
    StartGrowing();
  }
  Carry(kCarriedGroups);
  ++row_count_;
  Slot* slot = NewSlot(home);
  *slot = {key, 0, 0};
  return slot;
}

Slot* KeyIndex::FindDisplaced(std::uint64_t group) {
  for (std::uint64_t g = group + 1;; ++g) {
    Slot* slots = GroupAt(g);
    for (std::uint32_t i = 0; i < kGroupSlots && slots[i].place != 0; ++i) {
      if (HomeGroup(HomeOf(slots[i].key)) <= group) {
        return slots + i;
      }
    }
    if (!IsFull(slots)) {
      return nullptr;
    }
  }
}

void KeyIndex::Erase(Slot* slot) {
  std::uint64_t g = static_cast<std::uint64_t>(slot - slots_) / kGroupSlots;
  while (true) {
    Slot* group = GroupAt(g);
    const bool was_full = IsFull(group);
    Slot* last = group + Occupied(group) - 1;
    *slot = *last;
    *last = Slot{};
    // Where nothing passed over a group, or nothing that did lies behind it, all is well.
    Slot* displaced = was_full ? FindDisplaced(g) : nullptr;
    if (displaced == nullptr) {
      break;
    }
    *last = *displaced;
    slot = displaced;
    g = static_cast<std::uint64_t>(slot - slots_) / kGroupSlots;
  }
  --row_count_;
  if (migration_ == Migration::kNone && row_count_ < shrink_below_) {
    StartShrinking();
  } else {
    Carry(kCarriedGroups);
  }
}

void KeyIndex::Maintain() {
  if (migration_ == Migration::kNone && row_count_ < shrink_below_) {
    StartShrinking();
  }
  Carry(kMaintainedGroups);
}

void KeyIndex::Reserve(std::uint64_t keys) {
  CHECK_EQ(row_count_, 0u) << "reserve of an index with keys";
  std::uint64_t bytes = memory_.bytes();
  while (RowsMaxOf(HomeGroupsIn(bytes)) <= keys) {
    bytes += GrowthOf(bytes);
    bytes = MappedMemory::RoundUp(bytes);
  }
  Remap(bytes);
  Settle(HomeGroupsIn(memory_.bytes()));
}

void KeyIndex::StartGrowing() {
  Remap(memory_.bytes() + GrowthOf(memory_.bytes()));
  migration_ = Migration::kGrowing;
  high_groups_ = HomeGroupsIn(memory_.bytes());
  low_last_ = kAllHashes;
  frontier_ = low_groups_;
  inserted_fast_below_ = 0;
}

void KeyIndex::StartShrinking() {
  migration_ = Migration::kShrinking;
  low_groups_ = HomeGroupsIn(shrunk_bytes_);
  frontier_ = 0;
  inserted_fast_below_ = 0;
  CarryToFront(kCarriedGroups);  // Sets low_last_.
}

void KeyIndex::Carry(std::uint64_t groups) {
  if (migration_ == Migration::kGrowing) {
    CarryToBack(groups);
  } else if (migration_ == Migration::kShrinking) {
    CarryToFront(groups);
  }
}

// Both take whole groups out, up to one that is not full: no key behind it has its way through
// them. A key in them whose home lies before them goes back to where it was, since its way there is
// full.

void KeyIndex::CarryToBack(std::uint64_t groups) {
  std::uint64_t begin = frontier_ > groups + kLastGroups ? frontier_ - groups : 0;
  // A run of full groups goes as a whole, or its end would be taken out with each of its parts.
  while (begin > 0 && IsFull(GroupAt(begin - 1))) {
    --begin;
  }
  TakeOut(begin, RoomFrom(frontier_ - 1) + 1);
  frontier_ = begin;
  if (begin > 0) {
    low_last_ = FirstHash(begin, low_groups_) - 1;
    PutBack();
    // The next call's way goes backwards, which the processor does not foresee.
    const std::uint64_t next = begin - std::min(begin, groups);
    PrefetchGroups(next, begin);
    PrefetchGroups(next + next * (high_groups_ - low_groups_) / low_groups_,
                   begin + begin * (high_groups_ - low_groups_) / low_groups_);
    return;
  }
  Settle(high_groups_);
  PutBack();
  scratch_ = std::vector<Slot>();
}

void KeyIndex::CarryToFront(std::uint64_t groups) {
  std::uint64_t end = std::min(high_groups_, frontier_ + groups);
  while (end < high_groups_ && IsFull(GroupAt(end - 1))) {
    ++end;
  }
  const bool finished = end + kLastGroups >= high_groups_;
  if (finished) {
    end = RoomFrom(high_groups_ - 1) + 1;
  }
  TakeOut(frontier_, end);
  frontier_ = end;
  if (!finished) {
    low_last_ = FirstHash(end, high_groups_) - 1;
    PutBack();
    return;
  }
  const std::uint64_t bytes = shrunk_bytes_;
  Settle(low_groups_);
  PutBack();
  scratch_ = std::vector<Slot>();
  // Keys displaced beyond the spare groups keep them.
  Remap(std::max(bytes, (RoomFrom(low_groups_ - 1) + 1) * kGroupBytes));
}

void KeyIndex::PrefetchGroups(std::uint64_t begin, std::uint64_t end) const {
  for (std::uint64_t g = begin; g < end; ++g) {
    PrefetchLine(GroupAt(g));
    PrefetchLine(GroupAt(g) + kGroupSlots / 2);
  }
}

void KeyIndex::TakeOut(std::uint64_t begin, std::uint64_t end) {
  scratch_.resize((end - begin) * kGroupSlots);
  std::size_t size = 0;
  for (std::uint64_t g = begin; g < end; ++g) {
    // Whole groups; the next one overwrites what was empty.
    std::memcpy(scratch_.data() + size, GroupAt(g), kGroupBytes);
    size += Occupied(GroupAt(g));
  }
  scratch_.resize(size);
  std::memset(static_cast<void*>(GroupAt(begin)), 0, (end - begin) * kGroupBytes);
}

void KeyIndex::PutBack() {
  // How full the groups are that were written last: to count again what was just stored would wait
  // for the stores.
  struct Filled {
    Slot* group = nullptr;
    std::uint32_t slots = 0;
  };
  constexpr std::uint64_t kRemembered = 8;
  Filled filled[kRemembered];
  for (const Slot& slot : scratch_) {
    const std::uint64_t hash = HomeOf(slot.key);
    Filled* at;
    for (std::uint64_t g = HomeGroup(hash);; ++g) {
      at = &filled[g % kRemembered];
      if (Slot* group = GroupAt(g); at->group != group) {
        *at = {group, Occupied(group)};
      }
      if (at->slots < kGroupSlots) {
        break;
      }
    }
    if (at->group == last_group_) {
      *NewSlot(hash) = slot;
      std::fill_n(filled, kRemembered, Filled{});  // The array may lie elsewhere now.
    } else {
      at->group[at->slots++] = slot;
    }
  }
}

KeyIndex::ProbeLengths KeyIndex::MeasureProbes() const {
  ProbeLengths lengths;
  ForEach([&](const Slot& slot) {
    const std::uint64_t at = static_cast<std::uint64_t>(&slot - slots_) / kGroupSlots;
    const std::uint64_t groups = at - HomeGroup(HomeOf(slot.key)) + 1;
    lengths.sum += groups;
    lengths.max = std::max(lengths.max, static_cast<std::uint32_t>(groups));
  });
  return lengths;
}

}  // namespace plexus
