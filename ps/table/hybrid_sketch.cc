#include "ps/table/hybrid_sketch.h"

#include <cmath>
#include <cstring>
#include <utility>
#include <vector>

#include <glog/logging.h>

namespace plexus {
namespace {

// Saved state: this, then `slots` slots, group by group, in the order of their scores; place is 1
// for a key with an exact row, else 0.
struct SavedHead {
  std::uint32_t groups;
  std::uint32_t slots;
  double importance;
  double norm_sum;
  double occurrences;
};
static_assert(sizeof(SavedHead) == 32);

void AppendTo(std::string* bytes, const void* data, std::size_t size) {
  bytes->append(static_cast<const char*>(data), size);
}

bool IsSum(double x) { return std::isfinite(x) && x >= 0; }

}  // namespace

float HybridSketch::ImportanceOf(float norm, std::uint64_t occurrences) {
  if (occurrences_ > period()) {
    occurrences_ *= 0.5;
    norm_sum_ *= 0.5;
  }
  occurrences_ += static_cast<double>(occurrences);
  if (!std::isfinite(norm) || !(norm > 0)) {
    return 0;
  }
  norm_sum_ += norm;
  // At most all occurrences, since no norm is more than the sum.
  return static_cast<float>(norm * occurrences_ / norm_sum_);
}

HybridSketch::Slot* HybridSketch::SlotFor(Key key, Group* group) const {
  for (Slot& slot : group->slots) {
    if (slot.score == 0) {
      slot.key = key;
      return &slot;
    }
    if (slot.key == key) {
      return &slot;
    }
  }
  Slot* weakest = &group->slots[kGroupSlots - 1];
  if (weakest->score >= options_->threshold) {
    return nullptr;
  }
  DCHECK_EQ(weakest->place, 0u);
  weakest->key = key;
  return weakest;
}

HybridSketch::Slot* HybridSketch::Raise(Key key, std::uint32_t group, float score) {
  if (groups_ == nullptr) {
    groups_ = std::make_unique<Group[]>(groups_count_);
  }
  Slot* first = groups_[group].slots;
  Slot* slot = SlotFor(key, &groups_[group]);
  if (slot == nullptr) {
    return nullptr;
  }
  slot->score += score;
  for (; slot != first && slot[-1].score < slot->score; --slot) {
    std::swap(slot[-1], slot[0]);
  }
  return slot;
}

HybridSketch::Slot* HybridSketch::Add(Key key, std::uint32_t group, float importance) {
  if (!(importance > 0)) {
    return nullptr;
  }
  importance_ += importance;
  return Raise(key, group, importance);
}

void HybridSketch::Promote(Slot* slot, std::uint32_t place) {
  DCHECK(MayPromote(*slot) && place > 0);
  slot->place = place;
  ++exact_count_;
}

void HybridSketch::Decay(const std::function<void(const Slot&)>& demote) {
  importance_ = 0;
  for (std::uint32_t g = 0; groups_ != nullptr && g < groups_count_; ++g) {
    for (Slot& slot : groups_[g].slots) {
      slot.score *= options_->decay;
      if (slot.place != 0 && slot.score < options_->threshold) {
        demote(slot);
        slot.place = 0;
        --exact_count_;
      }
    }
  }
}

bool HybridSketch::AddExact(Key key, std::uint32_t group, std::uint32_t place) {
  Slot* slot = Raise(key, group, options_->threshold);
  if (slot == nullptr || !MayPromote(*slot)) {
    return false;
  }
  Promote(slot, place);
  return true;
}

void HybridSketch::ForEachExact(const std::function<void(const Slot&)>& visit) const {
  for (std::uint32_t g = 0; exact_count_ > 0 && g < groups_count_; ++g) {
    for (const Slot& slot : groups_[g].slots) {
      if (slot.place != 0) {
        visit(slot);
      }
    }
  }
}

void HybridSketch::Save(std::string* bytes) const {
  bytes->clear();
  if (groups_ == nullptr && occurrences_ == 0) {
    return;
  }
  SavedHead head{groups_count_, 0, importance_, norm_sum_, occurrences_};
  AppendTo(bytes, &head, sizeof(head));
  for (std::uint32_t g = 0; groups_ != nullptr && g < groups_count_; ++g) {
    for (Slot slot : groups_[g].slots) {
      if (slot.score > 0) {
        slot.place = slot.place == 0 ? 0 : 1;
        AppendTo(bytes, &slot, sizeof(slot));
        ++head.slots;
      }
    }
  }
  std::memcpy(bytes->data(), &head, sizeof(head));
}

bool HybridSketch::Append(const Slot& slot, std::uint32_t group_index, float threshold,
                          Group* groups) {
  if (!std::isfinite(slot.score) || !(slot.score > 0) || slot.place > 1 ||
      (slot.place == 1 && slot.score < threshold)) {
    return false;
  }
  float last = slot.score;
  for (Slot& at : groups[group_index].slots) {
    if (at.score == 0) {
      at = slot;
      return slot.score <= last;
    }
    if (at.key == slot.key) {
      return false;
    }
    last = at.score;
  }
  return false;
}

Status HybridSketch::Load(const std::string& bytes, const HybridAddresses& addresses,
                          std::uint32_t bucket, const std::function<std::uint32_t(Key)>& place_of) {
  const std::string what = "sketch of bucket " + std::to_string(bucket);
  SavedHead head{groups_count_, 0, 0, 0, 0};
  if (!bytes.empty()) {
    if (bytes.size() < sizeof(head)) {
      return DataLoss(what + " is cut off");
    }
    std::memcpy(&head, bytes.data(), sizeof(head));
    if (bytes.size() != sizeof(head) + std::size_t{head.slots} * sizeof(Slot)) {
      return DataLoss(what + " is cut off");
    }
  }
  if (head.groups != groups_count_) {
    return FailedPrecondition(what + " has " + std::to_string(head.groups) +
                              " groups, and hybrid.exact_rows gives " +
                              std::to_string(groups_count_));
  }
  std::unique_ptr<Group[]> groups;
  if (head.slots > 0) {
    groups = std::make_unique<Group[]>(groups_count_);
  }
  bool ok = IsSum(head.importance) && IsSum(head.norm_sum) && IsSum(head.occurrences);
  std::uint32_t exact = 0;
  for (std::uint32_t i = 0; ok && i < head.slots; ++i) {
    Slot slot;
    std::memcpy(&slot, bytes.data() + sizeof(head) + i * sizeof(slot), sizeof(slot));
    const HybridAddresses::Address address = addresses.Of(Mix64(slot.key));
    ok = address.bucket == bucket && Append(slot, address.group, options_->threshold, groups.get());
    exact += slot.place;
  }
  if (!ok || exact > groups_count_) {
    return DataLoss(what + " has slots that it cannot have");
  }
  for (std::uint32_t g = 0; groups != nullptr && g < groups_count_; ++g) {
    for (Slot& slot : groups[g].slots) {
      slot.place = slot.place == 0 ? 0 : place_of(slot.key);
    }
  }
  groups_ = std::move(groups);
  exact_count_ = exact;
  importance_ = head.importance;
  norm_sum_ = head.norm_sum;
  occurrences_ = head.occurrences;
  return OkStatus();
}

}  // namespace plexus
