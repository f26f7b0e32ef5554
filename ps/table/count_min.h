// CountMin: a count-min sketch of one bucket's keys that have no row (Cormode & Muthukrishnan, "An
// Improved Data Stream Summary: The Count-Min Sketch and its Applications", 2005), with
// conservative update (Estan & Varghese, "New Directions in Traffic Measurement and Accounting",
// 2002).
//
// 4 rows of `width` 16-bit counters, which stay at 65535; made at the first key that is refused.
// An estimate is never below the key's occurrences since the sketch was made (each Halve() halves
// them, rounding down), and with probability at least 1 - e^-4 at most e N / width above them, N
// the occurrences that were refused, of all keys.
//
// Thread safety: none.
#pragma once

#include <cstdint>
#include <memory>
#include <span>

namespace plexus {

class CountMin {
 public:
  static constexpr std::uint32_t kRows = 4;
  static constexpr std::uint32_t kCountMax = 65535;

  // Adds `count` > 0 occurrences of the key of `hash`.  True: the estimate reaches `threshold`, and
  // nothing was added, so that what is let in does not make others look more frequent.  REQUIRES:
  // hash is uniform; 0 < threshold <= kCountMax; width, of all calls the same, is not 0.
  bool Reaches(std::uint64_t hash, std::uint64_t count, std::uint32_t threshold,
               std::uint32_t width);
  // Occurrences of the key of `hash`, as far as the sketch knows.
  std::uint32_t Estimate(std::uint64_t hash, std::uint32_t width) const;
  // Gives its memory back when all counters are 0.
  void Halve(std::uint32_t width);

  // [kRows x width], or empty: all are 0.
  std::span<const std::uint16_t> counters(std::uint32_t width) const {
    return {counters_.get(), counters_ == nullptr ? 0 : std::size_t{kRows} * width};
  }
  // REQUIRES: [kRows x width].
  void Assign(std::span<const std::uint16_t> counters);

  std::uint64_t memory_bytes(std::uint32_t width) const {
    return counters(width).size() * sizeof(std::uint16_t);
  }

 private:
  std::unique_ptr<std::uint16_t[]> counters_;
};

}  // namespace plexus
