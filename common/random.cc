#include "common/random.h"

#include <cmath>
#include <numbers>

namespace plexus {

double NormalDouble(const CounterRandom& random, std::uint64_t element) {
  const double u = 1.0 - random.UniformDouble(2 * element);  // (0, 1]
  const double v = random.UniformDouble(2 * element + 1);
  return std::sqrt(-2.0 * std::log(u)) * std::cos(2.0 * std::numbers::pi * v);
}

}  // namespace plexus
