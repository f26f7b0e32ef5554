// PartMerger: one step's gradient parts as one list of distinct keys, each with the sum of its
// gradients in the order of parts.
//
// A key of one part only is not copied: its gradients are read where the part holds them.  Memory
// is kept from step to step.
//
// Thread safety: none.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "ps/table/table.h"

namespace plexus {

// A step's gradients where one part has all of them, with the shape of PartMerger.
struct OnePart {
  const GradientPart& part;
  const std::uint32_t dim;

  std::span<const Key> keys() const { return part.keys; }
  std::uint64_t count(std::size_t i) const { return part.counts[i]; }
  const float* gradients(std::size_t i) const { return part.gradients + i * dim; }
  std::uint32_t active(std::size_t) const { return dim; }
  std::span<const PullHint> hints() const { return part.hints; }
};

class PartMerger {
 public:
  explicit PartMerger(std::uint32_t dim) : dim_(dim) {}

  // Calls visit(source) with what has each key of the parts once: a OnePart, or this PartMerger
  // after Merge; not at all if there are no keys.
  template <typename Visit>
  void ForStep(std::span<const GradientPart> parts, const Visit& visit) {
    const GradientPart* only = nullptr;
    std::size_t parts_with_keys = 0;
    for (const GradientPart& part : parts) {
      if (!part.keys.empty()) {
        only = &part;
        ++parts_with_keys;
      }
    }
    if (parts_with_keys == 1) {
      visit(OnePart{*only, only->dim == 0 ? dim_ : only->dim});
    } else if (parts_with_keys > 1) {
      Merge(parts);
      visit(static_cast<const PartMerger&>(*this));
    }
  }

  // The results hold until the next Merge, and while the parts live.
  void Merge(std::span<const GradientPart> parts);

  std::span<const Key> keys() const { return keys_; }
  // Occurrences in all parts.
  std::uint64_t count(std::size_t i) const { return counts_[i]; }
  // The summed gradients of keys()[i].
  const float* gradients(std::size_t i) const {
    return sums_of_[i] == kNoSum ? gradients_[i] : sums_.data() + sums_of_[i];
  }
  // How many of them there are: the most that any part has.
  std::uint32_t active(std::size_t i) const { return active_[i]; }
  // Of the first part that has the key; empty: no part has any.
  std::span<const PullHint> hints() const { return hints_; }

 private:
  static constexpr std::uint64_t kNoSum = ~std::uint64_t{0};

  // The index of `key` in keys_, appended if new.
  std::uint32_t IndexOf(Key key, std::uint64_t hash);
  void AddTo(std::uint32_t index, const float* gradients, std::uint32_t part_dim);

  const std::uint32_t dim_;
  std::vector<Key> keys_;
  std::vector<std::uint64_t> counts_;
  std::vector<const float*> gradients_;  // Of the first part that has the key.
  std::vector<std::uint32_t> active_;
  std::vector<PullHint> hints_;
  std::vector<std::uint64_t> sums_of_;  // Offset in sums_, or kNoSum.
  std::vector<float> sums_;
  std::vector<std::uint64_t> slots_;  // Open addressing: hash's high half, index + 1; 0 = empty.
  std::uint32_t shift_ = 0;
};

}  // namespace plexus
