// CounterRandom: random numbers that are a pure function of (seed, stream, key, version, element).
//
// Nothing is drawn in sequence, so a row's initial value, a dropout mask or a shuffle is the same
// whichever process computes it, and in whatever order.
//
// Thread safety: immutable value.
#pragma once

#include <cstddef>
#include <cstdint>

#include "common/hash.h"

namespace plexus {

class CounterRandom {
 public:
  // `stream` separates uses (a table's name hashed, dropout, shuffle); `key` and `version` what is
  // drawn for.
  constexpr CounterRandom(std::uint64_t seed, std::uint64_t stream, std::uint64_t key = 0,
                          std::uint64_t version = 0)
      : base_(Absorb(Absorb(Absorb(Absorb(0x706c65787573ULL, seed), stream), key), version)) {}

  // 64 uniform bits of `element`.
  constexpr std::uint64_t Bits(std::uint64_t element) const {
    return MixBits(base_ + (element + 1) * kGolden);
  }

  // Uniform in [0, 1), a multiple of 2^-24.
  constexpr float Uniform(std::uint64_t element) const {
    return static_cast<float>(Bits(element) >> 40) * 0x1p-24f;
  }

  // to[e] = (2 Uniform(e) - 1) * bound for e in [0, n), four at a time.
  void Symmetric(float bound, std::size_t n, float* to) const;

  // Uniform in [0, 1), a multiple of 2^-53.
  constexpr double UniformDouble(std::uint64_t element) const {
    return static_cast<double>(Bits(element) >> 11) * 0x1p-53;
  }

  // Uniform in [0, bound) by multiplication; the bias is below bound / 2^64.  REQUIRES: bound > 0.
  constexpr std::uint64_t Below(std::uint64_t element, std::uint64_t bound) const {
    return static_cast<std::uint64_t>((static_cast<unsigned __int128>(Bits(element)) * bound) >>
                                      64);
  }

 private:
  static constexpr std::uint64_t kGolden = 0x9e3779b97f4a7c15ULL;

  template <typename Word>  // std::uint64_t, or a vector of them.
  static constexpr Word MixBits(Word x) {
    x ^= x >> 30;
    x *= 0xbf58476d1ce4e5b9ULL;
    x ^= x >> 27;
    x *= 0x94d049bb133111ebULL;
    x ^= x >> 31;
    return x;
  }
  static constexpr std::uint64_t Absorb(std::uint64_t state, std::uint64_t word) {
    return MixBits(state + kGolden + MixBits(word + 0x632be59bd9b4e019ULL));
  }

  std::uint64_t base_;
};

// Standard normal by the Box-Muller transform of elements 2e and 2e+1.
double NormalDouble(const CounterRandom& random, std::uint64_t element);

}  // namespace plexus
