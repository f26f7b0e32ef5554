#include "ps/table/hash_index.h"

#include <utility>

#include <glog/logging.h>

namespace plexus {
namespace {

constexpr std::uint32_t kFirstBits = 8;  // 256 slots of 16 B: one page.

}  // namespace

HashIndex::HashIndex() { Allocate(kFirstBits); }

void HashIndex::Allocate(std::uint32_t bits) {
  const std::uint64_t slots = std::uint64_t{1} << bits;
  memory_ = MappedMemory(slots * sizeof(Slot));
  slots_ = reinterpret_cast<Slot*>(memory_.data());
  mask_ = slots - 1;
  shift_ = 64 - bits;
  row_count_max_ = slots / 4 * 3;  // At 3/4 a hit looks at 2.5 slots on average, 4 a cache line.
}

std::uint32_t HashIndex::Insert(Key key, Home home, std::uint64_t empty_slot) {
  std::uint64_t i = empty_slot;
  if (row_count_ == row_count_max_) {
    Grow();
    for (i = home >> shift_; slots_[i].handle_plus_1 != 0;) {
      i = (i + 1) & mask_;
    }
  }
  CHECK_LT(row_count_, kNoRow - 1) << "a table's part on one shard is full";
  slots_[i].key = key;
  slots_[i].handle_plus_1 = static_cast<std::uint32_t>(++row_count_);
  return slots_[i].handle_plus_1 - 1;
}

void HashIndex::Grow() {
  const MappedMemory old_memory = std::move(memory_);
  memory_ = MappedMemory();
  const Slot* old = slots_;
  const std::uint64_t old_mask = mask_;
  Allocate(64 - shift_ + 1);
  for (std::uint64_t from = 0; from <= old_mask; ++from) {
    if (old[from].handle_plus_1 == 0) {
      continue;
    }
    std::uint64_t to = Mix64(old[from].key) >> shift_;
    while (slots_[to].handle_plus_1 != 0) {
      to = (to + 1) & mask_;
    }
    slots_[to] = old[from];
  }
}

}  // namespace plexus
