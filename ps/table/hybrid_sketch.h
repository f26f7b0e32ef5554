// HybridSketch: which keys of one bucket of a HYBRID table matter enough for a row of their own:
// HotSketch of CAFE (Zhang et al., "CAFE: Towards Compact, Adaptive, and Fast Embedding for
// Large-scale Recommendation Models", SIGMOD 2024, section 3.2).
//
// Groups of 4 slots, one cache line each, ordered by falling score; a key belongs to one group.
// Add() raises a key's score by its importance; a new key takes an empty slot, else (SpaceSaving;
// Metwally et al., "Efficient Computation of Frequent and Top-k Elements in Data Streams", 2005)
// the last one with its score, if that is below the threshold, else none.  A key whose score
// reaches the threshold may get an exact row, while the bucket has one left; keys with a row are
// never displaced.  As many groups as exact rows, as in the paper: 64 bytes an exact row.
//
// A score that was taken over is an overestimate, by less than the threshold: a newcomer may reach
// it early, in the extreme at its first occurrence.  The paper accepts that, and so do we: an error
// that is not kept needs no memory, and a key that does not live up to its score loses its row as
// scores decay.
//
// Decay: once the bucket has seen importance of 10 * groups * threshold since the last time, all
// scores are multiplied by `decay`, and keys that fall below the threshold lose their row.
//
// Importance of a gradient: its L2 norm over the mean norm of an occurrence in this bucket, so that
// an occurrence adds 1 on average and thresholds mean the same for either kind of importance.  The
// paper divides by the mean of the minibatch, which no shard knows; a bucket's running mean (sum of
// norms / occurrences, both halved after every 10 * groups * threshold occurrences, so that it
// follows the gradients) is the same whoever has the bucket.
//
// Thread safety: none.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <string>

#include "common/hash.h"
#include "common/prefetch.h"
#include "common/status.h"
#include "ps/table/hybrid_addresses.h"

namespace plexus {

// What all buckets of a table have in common.
struct HybridSketchOptions {
  float threshold = 10;  // > 0
  float decay = 0.99f;   // In (0, 1].
};

class HybridSketch {
 public:
  struct Slot {
    Key key;
    float score;          // 0: empty.
    std::uint32_t place;  // Of the exact row, as the table numbers it from 1 on; 0: none.
  };
  static_assert(sizeof(Slot) == 16);
  static constexpr std::uint32_t kGroupSlots = 4;

  // For a bucket of so many groups and exact rows > 0.  Takes no memory before the first Add.
  HybridSketch(std::uint32_t groups, const HybridSketchOptions* options)
      : groups_count_(groups), options_(options) {}

  void Prefetch(std::uint32_t group) const {
    if (groups_ != nullptr) {
      PrefetchLine(&groups_[group]);
    }
  }

  // nullptr if no slot has the key.
  const Slot* Find(Key key, std::uint32_t group) const {
    for (std::uint32_t i = 0; groups_ != nullptr && i < kGroupSlots; ++i) {
      const Slot& slot = groups_[group].slots[i];
      if (slot.key == key && slot.score > 0) {
        return &slot;
      }
    }
    return nullptr;
  }

  // GRADIENT_NORM: the importance of `occurrences` with a summed gradient of this norm, which
  // becomes part of the mean.  0 for a norm that is 0 or not finite.
  float ImportanceOf(float norm, std::uint64_t occurrences);
  // Adds `importance`, at least 0 and finite.  The key's slot, until the next Add; nullptr: it has
  // none.
  Slot* Add(Key key, std::uint32_t group, float importance);
  // The slot's key may have an exact row now.
  bool MayPromote(const Slot& slot) const {
    return slot.place == 0 && slot.score >= options_->threshold && exact_count_ < groups_count_;
  }
  // REQUIRES: MayPromote(*slot); place > 0.
  void Promote(Slot* slot, std::uint32_t place);

  // Enough importance has come for Decay().
  bool DecayIsDue() const { return importance_ > period(); }
  // Calls demote(slot) for each key that loses its row, the slot still with it.
  void Decay(const std::function<void(const Slot&)>& demote);

  // For a row from a saved model whose sketch is yet to come: gives the key a slot with this row.
  // False: there is no room.
  bool AddExact(Key key, std::uint32_t group, std::uint32_t place);

  // Calls visit(slot) for each slot that has an exact row.
  void ForEachExact(const std::function<void(const Slot&)>& visit) const;
  std::uint32_t exact_count() const { return exact_count_; }

  // The state replaces `bytes`; none for a bucket that saw nothing.  Equal states give equal bytes:
  // that a key has a row is part of it, which row is not.
  void Save(std::string* bytes) const;
  // Replaces the state by what Save gave; exact rows get their places from place_of(key).
  // kFailedPrecondition: another number of groups; kDataLoss: not what a bucket's Save gave.  On
  // error the state stays.
  Status Load(const std::string& bytes, const HybridAddresses& addresses, std::uint32_t bucket,
              const std::function<std::uint32_t(Key)>& place_of);

  std::uint64_t memory_bytes() const {
    return groups_ == nullptr ? 0 : std::uint64_t{groups_count_} * sizeof(Group);
  }

 private:
  struct alignas(64) Group {
    Slot slots[kGroupSlots];
  };

  // Of scores in importance, of the mean norm in occurrences.
  double period() const { return 10.0 * groups_count_ * static_cast<double>(options_->threshold); }
  // The key's slot, or the one that it takes over; nullptr: none.
  Slot* SlotFor(Key key, Group* group) const;
  Slot* Raise(Key key, std::uint32_t group, float score);
  // Appends a slot to its group; false: it cannot be one of this bucket.
  static bool Append(const Slot& slot, std::uint32_t group_index, float threshold, Group* groups);

  std::unique_ptr<Group[]> groups_;
  std::uint32_t groups_count_;
  std::uint32_t exact_count_ = 0;
  const HybridSketchOptions* options_;
  double importance_ = 0;   // Since scores last decayed.
  double norm_sum_ = 0;     // For the mean norm of an occurrence:
  double occurrences_ = 0;  // both are halved once they are beyond the period.
};

}  // namespace plexus
