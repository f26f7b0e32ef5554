#include "common/precision/finite.h"

#include <cmath>
#include <cstring>

namespace plexus {
namespace {

// Words of one vector register.
using Words32 = std::uint32_t __attribute__((vector_size(32)));
using Words16 = std::uint16_t __attribute__((vector_size(32)));

// An exponent of ones, and nothing else, carries into the sign's place when its lowest bit is added
// to the magnitude.  Four registers at a time, or'ed.
template <typename Words, typename Word>
bool MagnitudesAreBelow(const std::uint8_t* from, std::size_t words, Word infinity) {
  constexpr std::size_t kUnroll = 4;
  constexpr std::size_t kLanes = sizeof(Words) / sizeof(Word);
  constexpr Word kSign = static_cast<Word>(Word{1} << (8 * sizeof(Word) - 1));
  constexpr Word kMagnitude = static_cast<Word>(~kSign);
  const Word carry = static_cast<Word>(kSign - infinity);
  Words seen[kUnroll] = {};
  std::size_t i = 0;
  for (; i + kUnroll * kLanes <= words; i += kUnroll * kLanes) {
    for (std::size_t u = 0; u < kUnroll; ++u) {
      Words block;
      std::memcpy(&block, from + (i + u * kLanes) * sizeof(Word), sizeof(block));
      seen[u] |= (block & kMagnitude) + carry;
    }
  }
  const Words together = (seen[0] | seen[1]) | (seen[2] | seen[3]);
  Word all = 0;
  for (std::size_t lane = 0; lane < kLanes; ++lane) {
    all |= together[lane];
  }
  for (; i < words; ++i) {
    Word word = 0;
    std::memcpy(&word, from + i * sizeof(Word), sizeof(word));
    all |= static_cast<Word>((word & kMagnitude) + carry);
  }
  return (all & kSign) == 0;
}

constexpr std::uint32_t kInfinityF32 = 0x7f800000;
constexpr std::uint16_t kInfinityBf16 = 0x7f80;
constexpr std::uint16_t kInfinityF16 = 0x7c00;

}  // namespace

bool AllFinite(const float* values, std::size_t n) {
  return MagnitudesAreBelow<Words32, std::uint32_t>(reinterpret_cast<const std::uint8_t*>(values),
                                                    n, kInfinityF32);
}

bool WireRowsAreFinite(Precision precision, const std::uint8_t* from, std::size_t rows,
                       std::size_t n) {
  const std::size_t bytes = rows * WireRowBytes(precision, n);
  switch (precision) {
    case Precision::kF32:
      return MagnitudesAreBelow<Words32, std::uint32_t>(from, bytes / 4, kInfinityF32);
    case Precision::kBf16:  // A row's padding is checked with it: zeros.
      return MagnitudesAreBelow<Words16, std::uint16_t>(from, bytes / 2, kInfinityBf16);
    case Precision::kF16:
      return MagnitudesAreBelow<Words16, std::uint16_t>(from, bytes / 2, kInfinityF16);
    case Precision::kInt8:
    case Precision::kInt4:
      break;
  }
  const auto integer = static_cast<float>(LargestInteger(precision));
  bool finite = true;
  for (std::size_t row = 0; row < rows; ++row) {
    float scale = 0;
    std::memcpy(&scale, from + row * WireRowBytes(precision, n), sizeof(scale));
    finite = finite && std::isfinite(scale * integer);
  }
  return finite;
}

}  // namespace plexus
