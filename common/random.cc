#include "common/random.h"

#include <cmath>
#include <cstring>
#include <numbers>

namespace plexus {
namespace {

using Words = std::uint64_t __attribute__((vector_size(32)));
using Ints = std::int32_t __attribute__((vector_size(16)));
using Floats = float __attribute__((vector_size(16)));

}  // namespace

void CounterRandom::Symmetric(float bound, std::size_t n, float* to) const {
  std::size_t e = 0;
  Words counter = base_ + Words{1, 2, 3, 4} * kGolden;
  for (; e + 4 <= n; e += 4) {
    const Ints bits = __builtin_convertvector(MixBits(counter) >> 40, Ints);  // 24 of them.
    const Floats uniform = __builtin_convertvector(bits, Floats) * 0x1p-24f;
    const Floats value = (2.0f * uniform - 1.0f) * bound;  // Only the last product is rounded.
    std::memcpy(to + e, &value, sizeof(value));
    counter += 4 * kGolden;
  }
  for (; e < n; ++e) {
    to[e] = (2.0f * Uniform(e) - 1.0f) * bound;
  }
}

double NormalDouble(const CounterRandom& random, std::uint64_t element) {
  const double u = 1.0 - random.UniformDouble(2 * element);  // (0, 1]
  const double v = random.UniformDouble(2 * element + 1);
  return std::sqrt(-2.0 * std::log(u)) * std::cos(2.0 * std::numbers::pi * v);
}

}  // namespace plexus
