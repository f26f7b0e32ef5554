// SeenKeys: exact counts of the keys of one bucket that were seen lately and have no row.
//
// Open addressing with linear probing over 16-byte slots, at most 3/4 full; made at the first key,
// doubled up to what `capacity` keys need, never more.  Beyond `capacity` keys the quarter that was
// longest unseen is forgotten at once (ties: the smaller Mix64(key)), so that a forgotten key costs
// a handful of slots read.  What it holds is a pure function of the calls; the order of slots is
// not, and shows nowhere.
//
// Thread safety: none.
#pragma once

#include <cstdint>
#include <memory>
#include <vector>

#include "common/hash.h"

namespace plexus {

struct SeenKey {
  Key key = 0;
  std::uint32_t count = 0;  // Occurrences, saturating; 0: an empty slot.
  std::uint32_t last_version = 0;
};
static_assert(sizeof(SeenKey) == 16);

class SeenKeys {
 public:
  // The same in all calls.
  struct Limits {
    std::uint32_t threshold;  // > 0
    std::uint32_t capacity;   // Keys, in [4, 2^30].
  };

  // Adds `count` > 0 occurrences of `key` in `version`.  True: it has limits.threshold of them now,
  // and is forgotten.  `*forgotten` grows by the keys that had to make room.  REQUIRES: hash is
  // Mix64(key).
  bool Reaches(Key key, std::uint64_t hash, std::uint64_t count, std::uint32_t version,
               const Limits& limits, std::uint64_t* forgotten);

  // The keys that are remembered, ascending by Mix64(key).
  std::vector<SeenKey> Sorted() const;
  // Remembers exactly `keys`.  REQUIRES: they are distinct, counts > 0, at most `capacity` of them.
  void Assign(const std::vector<SeenKey>& keys, std::uint32_t capacity);

  std::uint32_t size() const { return size_; }
  std::uint64_t memory_bytes() const { return std::uint64_t{slot_count_} * sizeof(SeenKey); }

 private:
  std::uint32_t HomeOf(std::uint64_t hash) const {
    // Buckets are cut by the top bits, so a bucket's keys differ in the lower ones.
    return static_cast<std::uint32_t>((hash & 0xffffffff) * slot_count_ >> 32);
  }
  // The slot of `key`, or the empty one where it belongs.  REQUIRES: there are slots.
  SeenKey* SlotOf(Key key, std::uint64_t hash);
  void Erase(SeenKey* slot);
  void Resize(std::uint32_t slot_count);
  // Forgets all but the `keep` keys seen last.
  void KeepNewest(std::uint32_t keep);
  std::vector<SeenKey> Keys() const;

  std::unique_ptr<SeenKey[]> slots_;
  std::uint32_t slot_count_ = 0;
  std::uint32_t size_ = 0;
};

}  // namespace plexus
