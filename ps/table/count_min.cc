#include "ps/table/count_min.h"

#include <algorithm>

#include "common/hash.h"

namespace plexus {
namespace {

// The key's counter in each row: rows' hashes are the 32-bit halves of two mixes.
struct Columns {
  Columns(std::uint64_t hash, std::uint32_t width) {
    const std::uint64_t words[2] = {Mix64(hash + 0x9e3779b97f4a7c15ULL),
                                    Mix64(hash + 0x3c6ef372fe94f82aULL)};
    for (std::uint32_t row = 0; row < CountMin::kRows; ++row) {
      const std::uint64_t half = row % 2 == 0 ? words[row / 2] >> 32 : words[row / 2] & 0xffffffff;
      at[row] = std::size_t{row} * width + (half * width >> 32);
    }
  }

  std::uint32_t Least(const std::uint16_t* counters) const {
    std::uint32_t least = CountMin::kCountMax;
    for (const std::size_t i : at) {
      least = std::min<std::uint32_t>(least, counters[i]);
    }
    return least;
  }

  std::size_t at[CountMin::kRows];
};

}  // namespace

bool CountMin::Reaches(std::uint64_t hash, std::uint64_t count, std::uint32_t threshold,
                       std::uint32_t width) {
  if (counters_ == nullptr) {
    if (count >= threshold) {
      return true;
    }
    counters_ = std::make_unique<std::uint16_t[]>(std::size_t{kRows} * width);
  }
  const Columns columns(hash, width);
  const std::uint64_t estimate = columns.Least(counters_.get()) + count;
  if (estimate >= threshold) {
    return true;
  }
  for (const std::size_t at : columns.at) {
    counters_[at] = std::max(counters_[at], static_cast<std::uint16_t>(estimate));
  }
  return false;
}

std::uint32_t CountMin::Estimate(std::uint64_t hash, std::uint32_t width) const {
  return counters_ == nullptr ? 0 : Columns(hash, width).Least(counters_.get());
}

void CountMin::Halve(std::uint32_t width) {
  if (counters_ == nullptr) {
    return;
  }
  std::uint16_t any = 0;
  for (std::size_t i = 0; i < std::size_t{kRows} * width; ++i) {
    counters_[i] = static_cast<std::uint16_t>(counters_[i] >> 1);
    any |= counters_[i];
  }
  if (any == 0) {
    counters_.reset();
  }
}

void CountMin::Assign(std::span<const std::uint16_t> counters) {
  counters_.reset();
  if (std::any_of(counters.begin(), counters.end(), [](std::uint16_t c) { return c != 0; })) {
    counters_ = std::make_unique<std::uint16_t[]>(counters.size());
    std::copy(counters.begin(), counters.end(), counters_.get());
  }
}

}  // namespace plexus
