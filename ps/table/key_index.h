// KeyIndex: key -> slot of a HASHED table: open addressing over groups of four 16-byte slots, one
// cache line each, grown and shrunk in place, a few groups at a time.
//
// A key's home group is Mix64(key) * groups / 2^64, so groups are in the order of buckets
// (BucketOfKey), and a bucket is one run of groups (but for what was displaced into the groups
// behind it).  A key lies in its home group or, if that was full, in the next group with room; a
// lookup ends at a group with an empty slot.  The array ends with spare groups instead of wrapping
// around.  Erase moves displaced keys back: there are no tombstones.
//
// Growing from G to about 5/4 G groups goes from the back to the front within the same memory
// (mremap at the end): groups before `frontier` are in the old layout, those behind it in the new
// one, and each insert carries a few groups over.  No call waits for more than that.  Shrinking is
// the same from the front to the back, and gives the memory at the end back to the kernel.
//
// A slot is empty by its place, never by its key: every 64-bit key is valid.
//
// Use: home = Prefetch(key); some keys later Find(key, home) or FindOrInsert(key, home).  Homes
// stay valid for ever; Slot pointers until the next insert, erase or Maintain.
//
// Thread safety: none.
#pragma once

#include <cstdint>

#include "common/hash.h"
#include "ps/table/mapped_memory.h"

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
  using Home = std::uint64_t;  // Mix64(key).

  KeyIndex();

  Home Prefetch(Key key) const;
  // nullptr if the key has no slot.
  const Slot* Find(Key key, Home home) const;
  Slot* Find(Key key, Home home);
  // The key's slot; a new one has place 0 and last_step 0, and the caller sets its place before any
  // other call.  *inserted says which.
  Slot* FindOrInsert(Key key, Home home, bool* inserted);
  void Erase(Slot* slot);

  // Calls visit(Slot&) for each slot of hashes in [first, last], ascending by group; visit may
  // change last_step and place (not to 0), and insert or erase nothing.
  template <typename Visit>
  void ForEachBetween(std::uint64_t first_hash, std::uint64_t last_hash, const Visit& visit);
  template <typename Visit>
  void ForEach(const Visit& visit) const;

  // Does a little of what growing or shrinking has left to do; call it now and then when nothing is
  // inserted.
  void Maintain();

  std::uint64_t row_count() const;
  std::uint64_t slot_count() const;
  std::uint64_t memory_bytes() const;  // As committed.
  // Groups that a lookup of each present key reads: sum over keys, and the largest.
  struct ProbeLengths {
    std::uint64_t sum = 0;
    std::uint32_t max = 0;
  };
  ProbeLengths MeasureProbes() const;
};

}  // namespace plexus
