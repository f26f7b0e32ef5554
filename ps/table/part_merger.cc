#include "ps/table/part_merger.h"

#include <algorithm>
#include <bit>

#include <glog/logging.h>

#include "common/prefetch.h"

namespace plexus {

void PartMerger::Merge(std::span<const GradientPart> parts) {
  std::size_t total = 0;
  bool hinted = false;
  for (const GradientPart& part : parts) {
    total += part.keys.size();
    hinted = hinted || !part.hints.empty();
  }
  CHECK_LT(total, std::size_t{1} << 31) << "keys of one step";
  const std::uint32_t bits = std::bit_width(total) + 1;  // Between 2 and 4 slots a key.
  shift_ = 64 - bits;
  slots_.assign(std::size_t{1} << bits, 0);
  keys_.clear();
  counts_.clear();
  gradients_.clear();
  active_.clear();
  hints_.clear();
  sums_of_.clear();
  sums_.clear();

  constexpr std::size_t kAhead = 12;
  for (const GradientPart& part : parts) {
    DCHECK_EQ(part.keys.size(), part.counts.size());
    const std::uint32_t part_dim = part.dim == 0 ? dim_ : part.dim;
    for (std::size_t i = 0; i < part.keys.size(); ++i) {
      if (i + kAhead < part.keys.size()) {
        PrefetchLine(&slots_[Mix64(part.keys[i + kAhead]) >> shift_]);
      }
      const std::uint32_t index = IndexOf(part.keys[i], Mix64(part.keys[i]));
      const float* gradients = part.gradients + i * part_dim;
      if (index == gradients_.size()) {
        counts_.push_back(part.counts[i]);
        gradients_.push_back(gradients);
        active_.push_back(part_dim);
        sums_of_.push_back(kNoSum);
        if (hinted) {
          hints_.push_back(part.hints.empty() ? kNoHint : part.hints[i]);
        }
      } else {
        counts_[index] += part.counts[i];
        AddTo(index, gradients, part_dim);
      }
    }
  }
}

std::uint32_t PartMerger::IndexOf(Key key, std::uint64_t hash) {
  // The slot's number comes from the top bits, so the tag is taken from the low ones.
  const std::uint64_t tag = hash << 32;
  for (std::uint64_t i = hash >> shift_;; i = (i + 1) & (slots_.size() - 1)) {
    const std::uint64_t slot = slots_[i];
    if (slot == 0) {
      keys_.push_back(key);
      slots_[i] = tag | keys_.size();
      return static_cast<std::uint32_t>(keys_.size() - 1);
    }
    const std::uint32_t index = static_cast<std::uint32_t>(slot) - 1;
    if (((slot ^ tag) >> 32) == 0 && keys_[index] == key) {
      return index;
    }
  }
}

void PartMerger::AddTo(std::uint32_t index, const float* gradients, std::uint32_t part_dim) {
  if (sums_of_[index] == kNoSum) {
    sums_of_[index] = sums_.size();
    sums_.insert(sums_.end(), gradients_[index], gradients_[index] + active_[index]);
    sums_.resize(sums_of_[index] + dim_, 0.0f);
  }
  active_[index] = std::max(active_[index], part_dim);
  float* sum = sums_.data() + sums_of_[index];
  for (std::uint32_t e = 0; e < part_dim; ++e) {
    sum[e] += gradients[e];
  }
}

}  // namespace plexus
