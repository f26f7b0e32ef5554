// KeyIndex: key -> slot of a HASHED table: open addressing over groups of eight 16-byte slots, two
// neighbouring cache lines each, grown and shrunk in place, a few groups at a time.
//
// Two lines cost little more than one, since they share a DRAM page, and a full group is rarer: at
// load 0.8, 8 % of the keys lie outside their home group, with groups of four 16 %.
//
// A key's home group is its hash (Mix64(key), spread by OwnedHashes) * groups / 2^64, so groups are
// in the order of buckets (BucketOfKey), and a bucket is one run of groups (but for what was
// displaced into the groups behind it).  A key lies in its home group or, if that was full, in the
// next group with room; a lookup ends at a group with an empty slot.  The array ends with spare
// groups instead of wrapping around.  Erase moves displaced keys back: there are no tombstones.
//
// Growing from G to about 4/3 G groups goes from the back to the front within the same memory
// (mremap at the end): keys up to a hash are still in the old layout, those beyond it in the new
// one, and each insert carries a few groups over.  No call waits for more than that.  Shrinking is
// the same from the front to the back, and gives the memory at the end back to the kernel.
//
// Invariants, at any time and in either layout (they make lookups right however the layouts meet):
//  - slots of a group are occupied from its first one on, without gaps;
//  - every group from a key's home up to the one before that where it lies is full;
//  - the last group of the array is not full.
//
// A slot is empty by its place, never by its key: every 64-bit key is valid.
//
// Use: home = Prefetch(key); some keys later Find(key, home) or FindOrInsert(key, home).  Homes
// stay valid for ever; Slot pointers until the next insert, erase or Maintain.
//
// Thread safety: none.
#pragma once

#include <algorithm>
#include <bit>
#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

#include <immintrin.h>

#include "common/hash.h"
#include "common/prefetch.h"
#include "ps/table/mapped_memory.h"
#include "ps/table/owned_hashes.h"
#include "ps/table/pull_hint.h"

namespace plexus {

struct Slot {
  Key key;
  std::uint32_t last_step;
  // 0: empty.  1 .. 2^31 - 1: the row's handle plus 1.  From 2^31 on: the row is on disk, and the
  // lower 31 bits are what eviction needs to know of it (a count, or a non-negative float).
  std::uint32_t place;
};
static_assert(sizeof(Slot) == 16);

inline constexpr std::uint32_t kColdPlace = 0x80000000u;

class KeyIndex {
 public:
  using Home = std::uint64_t;  // The key's hash.

  // Of a shard that owns all buckets, or `owned`'s.
  KeyIndex() : KeyIndex(1, {}) {}
  KeyIndex(std::uint32_t buckets, const std::vector<std::uint32_t>& owned);

  const OwnedHashes& hashes() const { return hashes_; }
  Home HomeOf(Key key) const { return hashes_.Of(Mix64(key)); }
  KeyIndex(const KeyIndex&) = delete;
  KeyIndex& operator=(const KeyIndex&) = delete;

  Home Prefetch(Key key) const {
    const Home home = HomeOf(key);
    const Slot* group = slots_ + HomeGroup(home) * kGroupSlots;
    PrefetchLine(group);
    PrefetchLine(group + kGroupSlots / 2);
    return home;
  }

  // When what Prefetch asked for is there: asks for the next group if the key may lie in it.
  void PrefetchOn(Home home) const {
    const Slot* group = slots_ + HomeGroup(home) * kGroupSlots;
    const Slot* next = group + (IsFull(group) ? kGroupSlots : 0);
    PrefetchLine(next);
    PrefetchLine(next + kGroupSlots / 2);
  }

  // nullptr if the key has no slot.
  const Slot* Find(Key key, Home home) const {
    for (const Slot* group = slots_ + HomeGroup(home) * kGroupSlots;; group += kGroupSlots) {
      if (const std::uint32_t matches = Matches(group, key); matches != 0) {
        const Slot* slot = FirstOf(group, matches);
        return slot->place != 0 ? slot : nullptr;
      }
      if (!IsFull(group)) {
        return nullptr;
      }
    }
  }
  Slot* Find(Key key, Home home) {
    return const_cast<Slot*>(static_cast<const KeyIndex*>(this)->Find(key, home));
  }

  // Where a slot lies now.  After an insert, an erase or Maintain its key may lie elsewhere.
  PullHint HintOf(const Slot* slot) const {
    return static_cast<PullHint>(std::min<std::ptrdiff_t>(slot - slots_, kNoHint));
  }
  void PrefetchHinted(PullHint hint) const {
    if (hint < slot_count()) {
      PrefetchLine(slots_ + hint);
    }
  }
  // nullptr if the key does not lie there.
  Slot* FindHinted(Key key, PullHint hint) {
    Slot* slot = slots_ + hint;
    return hint < slot_count() && slot->key == key && slot->place != 0 ? slot : nullptr;
  }

  // The key's slot; a new one has place 0 and last_step 0, and the caller sets its place before any
  // other call.  *inserted says which.
  Slot* FindOrInsert(Key key, Home home, bool* inserted) {
    Slot* group = slots_ + HomeGroup(home) * kGroupSlots;
    for (;; group += kGroupSlots) {
      if (const std::uint32_t matches = Matches(group, key); matches != 0) {
        Slot* slot = FirstOf(group, matches);
        if (slot->place != 0) {
          *inserted = false;
          return slot;
        }
        break;
      }
      if (!IsFull(group)) {
        break;
      }
    }
    *inserted = true;
    if (row_count_ >= inserted_fast_below_ || group == last_group_) {
      return InsertCarrying(key, home);
    }
    ++row_count_;
    Slot* slot = group + Occupied(group);
    *slot = {key, 0, 0};
    return slot;
  }

  void Erase(Slot* slot);

  // As large as if so many keys had come.  Without it, keys that come in the order of their homes,
  // as another index's ForEach gives them, crowd at the front of an index that is yet small.
  // REQUIRES: it is empty.
  void Reserve(std::uint64_t keys);

  // Calls visit(Slot&) for each slot of hashes in [first, last], ascending by group (while a
  // migration is under way, by group within either layout); visit may change last_step and place
  // (not to 0), and insert or erase nothing.
  template <typename Visit>
  void ForEachBetween(std::uint64_t first_hash, std::uint64_t last_hash, const Visit& visit) {
    ForEachBetween(
        first_hash, last_hash, [](const Slot&) { return true; }, visit);
  }
  // Of those slots only for which wanted(const Slot&) is true; asked of some others too.
  template <typename Wanted, typename Visit>
  void ForEachBetween(std::uint64_t first_hash, std::uint64_t last_hash, const Wanted& wanted,
                      const Visit& visit) {
    if (first_hash <= low_last_) {
      ForEachOfLayout(first_hash, last_hash < low_last_ ? last_hash : low_last_, wanted, visit);
    }
    if (last_hash > low_last_) {
      ForEachOfLayout(first_hash > low_last_ ? first_hash : low_last_ + 1, last_hash, wanted,
                      visit);
    }
  }
  template <typename Visit>
  void ForEach(const Visit& visit) const {
    for (const Slot* group = slots_; group <= last_group_; group += kGroupSlots) {
      for (std::uint32_t i = 0; i < kGroupSlots && group[i].place != 0; ++i) {
        visit(group[i]);
      }
    }
  }

  // Does a little of what growing or shrinking has left to do; call it now and then when nothing is
  // inserted.
  void Maintain();
  bool migrating() const { return migration_ != Migration::kNone; }

  std::uint64_t row_count() const { return row_count_; }
  std::uint64_t slot_count() const { return memory_.bytes() / sizeof(Slot); }
  std::uint64_t memory_bytes() const {  // As committed.
    return memory_.bytes() + scratch_.capacity() * sizeof(Slot);
  }
  // By how much memory_bytes() rises if so many keys come; growing takes it within a step.
  std::uint64_t growth_bytes(std::uint64_t keys) const {
    return migration_ == Migration::kNone && row_count_ + keys >= row_count_max_
               ? GrowthOf(memory_.bytes())
               : 0;
  }
  // Groups that a lookup of each present key reads: sum over keys, and the largest.
  struct ProbeLengths {
    std::uint64_t sum = 0;
    std::uint32_t max = 0;
  };
  ProbeLengths MeasureProbes() const;

 private:
  static constexpr std::uint32_t kGroupSlots = 8;
  enum class Migration { kNone, kGrowing, kShrinking };

  // By how much an index of so many bytes grows.
  static std::uint64_t GrowthOf(std::uint64_t bytes) { return bytes / 3; }
  static std::uint64_t Scale(std::uint64_t hash, std::uint64_t groups) {
    return static_cast<std::uint64_t>((static_cast<unsigned __int128>(hash) * groups) >> 64);
  }
  std::uint64_t HomeGroup(std::uint64_t hash) const {
    return Scale(hash, hash > low_last_ ? high_groups_ : low_groups_);
  }

  // Bit 2 i: slot i of the group holds the key, or is empty and held it or never held any.  The
  // lowest bit decides: occupied slots come first, and at most one of them has the key.
  static std::uint32_t Matches(const Slot* group, Key key) {
    const __m256i wanted = _mm256_set1_epi64x(static_cast<long long>(key));
    const auto* pairs = reinterpret_cast<const __m256i*>(group);
    const auto equal = [wanted](__m256i pair) {
      const __m256i same = _mm256_cmpeq_epi64(wanted, pair);
      return static_cast<std::uint32_t>(_mm256_movemask_pd(_mm256_castsi256_pd(same))) & 5u;
    };
    return equal(_mm256_load_si256(pairs)) | equal(_mm256_load_si256(pairs + 1)) << 4 |
           equal(_mm256_load_si256(pairs + 2)) << 8 | equal(_mm256_load_si256(pairs + 3)) << 12;
  }
  template <typename S>
  static S* FirstOf(S* group, std::uint32_t matches) {
    return group + std::countr_zero(matches) / 2;
  }
  static bool IsFull(const Slot* group) { return group[kGroupSlots - 1].place != 0; }
  static std::uint32_t Occupied(const Slot* group) {
    const auto* pairs = reinterpret_cast<const __m256i*>(group);
    // Bits 3 and 7: the places of a pair's two slots are 0.
    const auto empty = [](__m256i pair) {
      const __m256i zero = _mm256_cmpeq_epi32(pair, _mm256_setzero_si256());
      return static_cast<std::uint32_t>(_mm256_movemask_ps(_mm256_castsi256_ps(zero))) & 0x88u;
    };
    const std::uint32_t first =
        empty(_mm256_load_si256(pairs)) | empty(_mm256_load_si256(pairs + 1)) << 8 |
        empty(_mm256_load_si256(pairs + 2)) << 16 | empty(_mm256_load_si256(pairs + 3)) << 24;
    return static_cast<std::uint32_t>(std::countr_zero(first)) / 4;  // Of none: 32.
  }
  Slot* GroupAt(std::uint64_t group) const { return slots_ + group * kGroupSlots; }
  // The first group from `group` on that is not full.
  std::uint64_t RoomFrom(std::uint64_t group) const;

  // All hashes are in the same layout.
  template <typename Wanted, typename Visit>
  void ForEachOfLayout(std::uint64_t first_hash, std::uint64_t last_hash, const Wanted& wanted,
                       const Visit& visit) {
    const std::uint64_t last = HomeGroup(last_hash);
    for (std::uint64_t g = HomeGroup(first_hash);; ++g) {
      Slot* group = GroupAt(g);
      for (std::uint32_t i = 0; i < kGroupSlots && group[i].place != 0; ++i) {
        if (!wanted(group[i])) {
          continue;
        }
        const std::uint64_t hash = HomeOf(group[i].key);
        if (hash >= first_hash && hash <= last_hash) {
          visit(group[i]);
        }
      }
      if (g >= last && !IsFull(group)) {
        return;
      }
    }
  }

  // Where a new key goes; the array is made longer if it would fill the last group.
  Slot* NewSlot(std::uint64_t hash);
  Slot* InsertCarrying(Key key, Home home);
  // A key that lies behind `group` and passed over it; nullptr: there is none.
  Slot* FindDisplaced(std::uint64_t group);

  void StartGrowing();
  void StartShrinking();
  // Carries about `groups` groups over.
  void Carry(std::uint64_t groups);
  void CarryToBack(std::uint64_t groups);
  void CarryToFront(std::uint64_t groups);
  // Takes all keys out of groups [begin, end) into scratch_, and puts them where they belong.
  void TakeOut(std::uint64_t begin, std::uint64_t end);
  void PutBack();
  void PrefetchGroups(std::uint64_t begin, std::uint64_t end) const;
  void Remap(std::uint64_t bytes);
  // One layout of `groups` groups for all keys.
  void Settle(std::uint64_t groups);

  const OwnedHashes hashes_;
  MappedMemory memory_;
  Slot* slots_ = nullptr;       // [groups x kGroupSlots].
  Slot* last_group_ = nullptr;  // Of the array.
  // Keys with hashes up to low_last_ are in a layout of low_groups_ groups, others in one of
  // high_groups_; low_groups_ <= high_groups_, equal when no migration is under way.
  std::uint64_t low_last_ = 0;
  std::uint64_t low_groups_ = 0;
  std::uint64_t high_groups_ = 0;
  std::uint64_t row_count_ = 0;
  std::uint64_t inserted_fast_below_ = 0;  // Rows; 0 while a migration is under way.

  Migration migration_ = Migration::kNone;
  // Growing: homes of keys in the old layout are below it.  Shrinking: not below it.
  std::uint64_t frontier_ = 0;
  std::uint64_t row_count_max_ = 0;  // Grow beyond.
  std::uint64_t shrink_below_ = 0;   // Rows.
  std::uint64_t shrunk_bytes_ = 0;   // What it shrinks to then.
  std::vector<Slot> scratch_;
};

// The homes of a batch's keys, one after the other; what each will need is on its way well before:
// its group, and once this is there, the next one if the group is full.
//
// Thread safety: none.
class HomesAhead {
 public:
  // Keys between a prefetch and its use.  About a cache miss at the rate at which batches are gone
  // through: more is in flight than a core holds open misses.
  static constexpr std::size_t kAhead = 64;

  HomesAhead(const KeyIndex& index, std::span<const Key> keys) : index_(index), keys_(keys) {
    Prefetch(0, kAhead);
  }

  // Of keys[i].  REQUIRES: called for 0, 1, 2 and so on.
  KeyIndex::Home Of(std::size_t i) {
    if (i % kTogether == 0) {
      Prefetch(i + kAhead, i + kAhead + kTogether);
      const std::size_t next = std::min(i + kAhead / 2 + kTogether, keys_.size());
      for (std::size_t k = i + kAhead / 2; k < next; ++k) {
        index_.PrefetchOn(homes_[k % kRing]);
      }
    }
    return homes_[i % kRing];
  }

 private:
  // Prefetches that follow one another closely wait for what translates their addresses at the same
  // time; see HashedTable.
  static constexpr std::size_t kTogether = 32;
  static constexpr std::size_t kRing = 128;  // A power of two, at least kAhead + kTogether.

  void Prefetch(std::size_t begin, std::size_t end) {
    for (std::size_t k = begin; k < std::min(end, keys_.size()); ++k) {
      homes_[k % kRing] = index_.Prefetch(keys_[k]);
    }
  }

  const KeyIndex& index_;
  const std::span<const Key> keys_;
  KeyIndex::Home homes_[kRing];
};

}  // namespace plexus
