// StepPower: beta^t for a row's own step count t, the same bits everywhere (no libm), and the
// counter itself.
//
// The count lies in the row's state as the bit pattern of a float: exact, and finite as a float, so
// that code which moves or checks floats needs no exception for it. It stays at kStepMax (2.1e9),
// where beta^t is 0 for any usable beta.
//
// Thread safety: immutable after construction.
#pragma once

#include <cstdint>
#include <cstring>

namespace plexus {

inline constexpr std::uint32_t kStepMax = 0x7f7fffff;  // The pattern of the largest finite float.

// Adds one step to the count at `slot` and returns it.
inline std::uint32_t NextStep(float* slot) {
  std::uint32_t step;
  std::memcpy(&step, slot, sizeof(step));
  step += step < kStepMax ? 1 : 0;
  std::memcpy(slot, &step, sizeof(step));
  return step;
}

class StepPower {
 public:
  explicit StepPower(double beta) {
    double base = beta;  // beta^(16^level)
    for (auto& level : powers_) {
      level[0] = 1.0;
      for (int digit = 1; digit < 16; ++digit) {
        level[digit] = level[digit - 1] * base;
      }
      base = level[15] * base;
    }
  }

  // beta^t as the product over t's hexadecimal digits, lowest first.
  double Of(std::uint32_t t) const {
    double power = 1.0;
    for (int level = 0; t != 0; ++level, t >>= 4) {
      power *= powers_[level][t & 15];
    }
    return power;
  }

 private:
  double powers_[8][16];
};

}  // namespace plexus
