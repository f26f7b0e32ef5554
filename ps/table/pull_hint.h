// Pull hints: a pull says where it found each key's row, so that the push of the same keys need not
// look for it again: one cache line a key instead of two, and no hashing.  What a hint says may
// have become wrong since; whoever uses one checks it.  It decides nothing.
#pragma once

#include <cstdint>
#include <vector>

namespace plexus {

using PullHint = std::uint32_t;
inline constexpr PullHint kNoHint = 0xffffffff;

// Of one pull.
struct PullHints {
  struct Entry {
    std::uint32_t group = 0;  // Of the job's key groups,
    std::uint32_t table = 0;  // and the position of the table in it.
    std::vector<PullHint> hints;
  };
  std::vector<Entry> entries;
};

}  // namespace plexus
