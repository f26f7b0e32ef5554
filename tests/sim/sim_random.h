// SimRandom: numbers drawn in sequence from a seed and a stream; all that the simulator decides
// comes from here, so that one seed is one run.
//
// Thread safety: none.
#pragma once

#include <cstdint>

#include "common/random.h"

namespace plexus::sim {

class SimRandom {
 public:
  SimRandom(std::uint64_t seed, std::uint64_t stream) : random_(seed, stream) {}

  std::uint64_t Bits() { return random_.Bits(next_++); }
  // Uniform in [0, bound).  REQUIRES: bound > 0.
  std::uint64_t Below(std::uint64_t bound) { return random_.Below(next_++, bound); }
  // Uniform in [low, high].
  std::int64_t Between(std::int64_t low, std::int64_t high) {
    return low + static_cast<std::int64_t>(Below(static_cast<std::uint64_t>(high - low) + 1));
  }
  bool Chance(double probability) { return random_.UniformDouble(next_++) < probability; }

 private:
  CounterRandom random_;
  std::uint64_t next_ = 0;
};

}  // namespace plexus::sim
