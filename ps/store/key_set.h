// KeySet: a set of keys, 8 bytes a slot, half full at most.
//
// Thread safety: none.
#pragma once

#include <cstdint>
#include <utility>
#include <vector>

#include "common/hash.h"

namespace plexus {

class KeySet {
 public:
  bool Contains(Key key) const {
    return key == 0 ? has_zero_ : !slots_.empty() && slots_[SlotOf(key)] == key;
  }

  // False: it was there.
  bool Insert(Key key) {
    if (key == 0) {
      return !std::exchange(has_zero_, true);
    }
    if (2 * (count_ + 1) > slots_.size()) {
      Grow();
    }
    Key& slot = slots_[SlotOf(key)];
    const bool is_new = slot != key;
    count_ += is_new ? 1 : 0;
    slot = key;
    return is_new;
  }

 private:
  std::size_t SlotOf(Key key) const {
    const std::size_t mask = slots_.size() - 1;
    std::size_t at = Mix64(key) & mask;
    while (slots_[at] != 0 && slots_[at] != key) {
      at = (at + 1) & mask;
    }
    return at;
  }

  void Grow() {
    const std::vector<Key> old = std::exchange(slots_, {});
    slots_.resize(old.empty() ? 1024 : 2 * old.size());
    for (const Key key : old) {
      if (key != 0) {
        slots_[SlotOf(key)] = key;
      }
    }
  }

  std::vector<Key> slots_;  // A power of two; 0: empty.
  std::size_t count_ = 0;
  bool has_zero_ = false;
};

}  // namespace plexus
