// RankHints: the hints of answered pulls, by rank and step, until the step's push was applied.
//
// Thread safety: none.
#pragma once

#include <cstddef>
#include <cstdint>
#include <iterator>
#include <map>
#include <vector>

#include "ps/table/pull_hint.h"

namespace plexus {

class RankHints {
 public:
  explicit RankHints(std::uint32_t ranks) : of_(ranks) {}

  // For the answer to a pull to fill.
  PullHints* Make(std::uint32_t rank, std::uint64_t step) {
    auto& of_rank = of_[rank];
    PullHints* hints = &of_rank[step];
    if (of_rank.size() > kStepsPerRankMax) {  // Pulls that no push follows.
      of_rank.erase(of_rank.begin()->first == step ? std::next(of_rank.begin()) : of_rank.begin());
    }
    return hints;
  }
  // nullptr: there are none.
  const PullHints* Find(std::uint32_t rank, std::uint64_t step) const {
    const auto at = of_[rank].find(step);
    return at == of_[rank].end() ? nullptr : &at->second;
  }
  void Drop(std::uint32_t rank, std::uint64_t step) { of_[rank].erase(step); }
  // Of all ranks: steps up to `step`.
  void DropThrough(std::uint64_t step) {
    for (auto& of_rank : of_) {
      of_rank.erase(of_rank.begin(), of_rank.upper_bound(step));
    }
  }
  void Clear() { DropThrough(~std::uint64_t{0}); }
  std::uint64_t bytes() const {
    std::uint64_t bytes = 0;
    for (const auto& of_rank : of_) {
      for (const auto& [step, hints] : of_rank) {
        for (const PullHints::Entry& entry : hints.entries) {
          bytes += entry.hints.capacity() * sizeof(PullHint);
        }
      }
    }
    return bytes;
  }

 private:
  static constexpr std::size_t kStepsPerRankMax = 64;

  std::vector<std::map<std::uint64_t, PullHints>> of_;
};

}  // namespace plexus
