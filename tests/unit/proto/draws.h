// Draws: random numbers in sequence, for tests against oracles.  Repeat a run with
// --gtest_random_seed=N.
//
// Thread safety: none.
#pragma once

#include <cstdint>
#include <string>

#include <gtest/gtest.h>

#include "common/random.h"

namespace plexus {

inline std::uint64_t TestSeed() {
  const int seed = ::testing::UnitTest::GetInstance()->random_seed();
  return seed == 0 ? 1 : static_cast<std::uint64_t>(seed);
}

// For SCOPED_TRACE.
inline std::string SeedNote() { return "--gtest_random_seed=" + std::to_string(TestSeed()); }

class Draws {
 public:
  explicit Draws(std::uint64_t stream) : random_(TestSeed(), stream) {}
  std::uint64_t Bits() { return random_.Bits(next_++); }
  std::uint64_t Below(std::uint64_t bound) { return random_.Below(next_++, bound); }
  bool OneIn(std::uint64_t n) { return Below(n) == 0; }
  float Float() { return 2 * random_.Uniform(next_++) - 1; }

 private:
  CounterRandom random_;
  std::uint64_t next_ = 0;
};

}  // namespace plexus
