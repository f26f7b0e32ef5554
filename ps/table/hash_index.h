// HashIndex: key -> row handle of a HASHED table, by open addressing with linear probing.
//
// A key's home slot is the top bits of Mix64(key), so that slots are in the order of buckets
// (BucketOfKey) and a table of twice the size is filled from front to back. A slot is empty by its
// handle, never by its key: every 64-bit key is valid.
//
// Use: home = Prefetch(key); some keys later Find(key, home) or FindOrInsert(key, home).  A home
// stays valid until the index grows; FindOrInsert takes care of that itself.
//
// Thread safety: none.
#pragma once

#include <cstdint>

#include "common/hash.h"
#include "ps/table/mapped_memory.h"

namespace plexus {

inline constexpr std::uint32_t kNoRow = 0xffffffff;

class HashIndex {
 public:
  using Home = std::uint64_t;  // Mix64(key).

  HashIndex();

  Home Prefetch(Key key) const {
    const Home home = Mix64(key);
    __builtin_prefetch(slots_ + (home >> shift_));
    return home;
  }

  // The handle of `key`, or kNoRow.
  std::uint32_t Find(Key key, Home home) const {
    for (std::uint64_t i = home >> shift_;; i = (i + 1) & mask_) {
      const Slot& slot = slots_[i];
      if (slot.key == key) {
        return slot.handle_plus_1 - 1;  // kNoRow where an empty slot's 0 equals the key.
      }
      if (slot.handle_plus_1 == 0) {
        return kNoRow;
      }
    }
  }

  // The handle of `key`, a new one if it had none (handles count up from 0).
  std::uint32_t FindOrInsert(Key key, Home home) {
    for (std::uint64_t i = home >> shift_;; i = (i + 1) & mask_) {
      Slot& slot = slots_[i];
      if (slot.handle_plus_1 == 0) {
        return Insert(key, home, i);
      }
      if (slot.key == key) {
        return slot.handle_plus_1 - 1;
      }
    }
  }

  // Calls visit(key, handle) for each row, in the order of slots.
  template <typename Visit>
  void ForEach(const Visit& visit) const {
    for (std::uint64_t i = 0; i <= mask_; ++i) {
      if (slots_[i].handle_plus_1 != 0) {
        visit(slots_[i].key, slots_[i].handle_plus_1 - 1);
      }
    }
  }

  std::uint64_t row_count() const { return row_count_; }
  std::uint64_t memory_bytes() const { return memory_.bytes(); }

 private:
  struct Slot {
    Key key;
    std::uint32_t handle_plus_1;
    std::uint32_t unused;
  };
  static_assert(sizeof(Slot) == 16);

  std::uint32_t Insert(Key key, Home home, std::uint64_t empty_slot);
  void Allocate(std::uint32_t bits);
  void Grow();

  MappedMemory memory_;
  Slot* slots_ = nullptr;
  std::uint64_t mask_ = 0;
  std::uint32_t shift_ = 0;
  std::uint64_t row_count_ = 0;
  std::uint64_t row_count_max_ = 0;  // Grow beyond.
};

}  // namespace plexus
