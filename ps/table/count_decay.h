// CountDecay: 2^(-versions / half_life), the same bits on every machine (no libm).
//
// Thread safety: immutable after construction.
#pragma once

#include <cmath>
#include <cstdint>
#include <cstring>

#include "common/optimizer/step_power.h"

namespace plexus {

// A float as a row's 32-bit count holds it.
inline float FloatOf(std::uint32_t bits) {
  float value;
  std::memcpy(&value, &bits, sizeof(value));
  return value;
}
inline std::uint32_t BitsOf(float value) {
  std::uint32_t bits;
  std::memcpy(&bits, &value, sizeof(bits));
  return bits;
}

class CountDecay {
 public:
  // `half_life` in versions; 0: no decay.
  explicit CountDecay(std::uint64_t half_life) : power_(Factor(half_life)) {}

  float Of(std::uint32_t versions) const { return static_cast<float>(power_.Of(versions)); }

 private:
  // 2^(-1 / half_life): the product of 2^(-2^-k) over the binary digits k of 1 / half_life, each
  // the square root of the one before.
  static double Factor(std::uint64_t half_life) {
    if (half_life == 0) {
      return 1.0;
    }
    double factor = 1.0;
    double root = 0.5;  // 2^(-2^0)
    double rest = 1.0 / static_cast<double>(half_life);
    for (double digit = 1.0; rest > 0 && digit > 0x1p-60; digit *= 0.5) {
      if (rest >= digit) {
        factor *= root;
        rest -= digit;
      }
      root = std::sqrt(root);
    }
    return factor;
  }

  const StepPower power_;
};

}  // namespace plexus
