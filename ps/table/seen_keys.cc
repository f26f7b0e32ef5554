#include "ps/table/seen_keys.h"

#include <algorithm>

namespace plexus {
namespace {

constexpr std::uint32_t kSlotsMin = 8;

// Slots for `keys` keys at a load of 3/4.
std::uint32_t SlotsFor(std::uint32_t keys) { return keys + (keys + 2) / 3; }

}  // namespace

bool SeenKeys::Reaches(Key key, std::uint64_t hash, std::uint64_t count, std::uint32_t version,
                       const Limits& limits, std::uint64_t* forgotten) {
  const auto [threshold, capacity] = limits;
  SeenKey* slot = slot_count_ == 0 ? nullptr : SlotOf(key, hash);
  const bool known = slot != nullptr && slot->count != 0;
  const std::uint64_t total = count + (known ? slot->count : 0);
  if (total >= threshold) {
    if (known) {
      Erase(slot);
    }
    return true;
  }
  if (!known) {
    if (size_ == capacity) {
      const std::uint32_t keep = capacity - capacity / 4;
      *forgotten += size_ - keep;
      KeepNewest(keep);
      slot = SlotOf(key, hash);
    } else if (slot_count_ == 0 || SlotsFor(size_ + 1) > slot_count_) {
      Resize(std::min(SlotsFor(capacity), std::max(kSlotsMin, 2 * slot_count_)));
      slot = SlotOf(key, hash);
    }
    ++size_;
  }
  // Below a 32-bit threshold.
  *slot = {key, static_cast<std::uint32_t>(total), version};
  return false;
}

SeenKey* SeenKeys::SlotOf(Key key, std::uint64_t hash) {
  for (std::uint32_t at = HomeOf(hash);; at = at + 1 == slot_count_ ? 0 : at + 1) {
    SeenKey& slot = slots_[at];
    if (slot.count == 0 || slot.key == key) {
      return &slot;
    }
  }
}

// Moves back what was displaced over the slot, so that no lookup ends too early.
void SeenKeys::Erase(SeenKey* slot) {
  auto hole = static_cast<std::uint32_t>(slot - slots_.get());
  const auto distance = [this](std::uint32_t from, std::uint32_t to) {
    return to >= from ? to - from : to + slot_count_ - from;
  };
  for (std::uint32_t at = hole;;) {
    at = at + 1 == slot_count_ ? 0 : at + 1;
    if (slots_[at].count == 0) {
      break;
    }
    const std::uint32_t home = HomeOf(Mix64(slots_[at].key));
    if (distance(home, at) >= distance(hole, at)) {
      slots_[hole] = slots_[at];
      hole = at;
    }
  }
  slots_[hole] = SeenKey{};
  --size_;
}

std::vector<SeenKey> SeenKeys::Keys() const {
  std::vector<SeenKey> keys;
  keys.reserve(size_);
  for (std::uint32_t i = 0; i < slot_count_; ++i) {
    if (slots_[i].count != 0) {
      keys.push_back(slots_[i]);
    }
  }
  return keys;
}

void SeenKeys::Resize(std::uint32_t slot_count) {
  const std::vector<SeenKey> keys = Keys();
  slots_ = std::make_unique<SeenKey[]>(slot_count);
  slot_count_ = slot_count;
  for (const SeenKey& key : keys) {
    *SlotOf(key.key, Mix64(key.key)) = key;
  }
}

void SeenKeys::KeepNewest(std::uint32_t keep) {
  std::vector<SeenKey> keys = Keys();
  std::nth_element(keys.begin(), keys.begin() + keep, keys.end(),
                   [](const SeenKey& a, const SeenKey& b) {
                     return a.last_version != b.last_version ? a.last_version > b.last_version
                                                             : Mix64(a.key) > Mix64(b.key);
                   });
  std::fill_n(slots_.get(), slot_count_, SeenKey{});
  for (std::uint32_t i = 0; i < keep; ++i) {
    *SlotOf(keys[i].key, Mix64(keys[i].key)) = keys[i];
  }
  size_ = keep;
}

std::vector<SeenKey> SeenKeys::Sorted() const {
  std::vector<SeenKey> keys = Keys();
  std::sort(keys.begin(), keys.end(),
            [](const SeenKey& a, const SeenKey& b) { return Mix64(a.key) < Mix64(b.key); });
  return keys;
}

void SeenKeys::Assign(const std::vector<SeenKey>& keys, std::uint32_t capacity) {
  slots_.reset();
  slot_count_ = 0;
  size_ = static_cast<std::uint32_t>(keys.size());
  if (keys.empty()) {
    return;
  }
  const std::uint32_t slots = std::min(SlotsFor(capacity), std::max(kSlotsMin, SlotsFor(size_)));
  slots_ = std::make_unique<SeenKey[]>(slots);
  slot_count_ = slots;
  for (const SeenKey& key : keys) {
    *SlotOf(key.key, Mix64(key.key)) = key;
  }
}

}  // namespace plexus
