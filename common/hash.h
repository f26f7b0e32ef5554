// Hashing: values to keys, keys to buckets, bytes to checksums.  All of it is fixed for ever: keys
// and buckets are part of every checkpoint.  Test vectors: tests/unit/common/hash_test.cc.
//
// Thread safety: pure functions.
#pragma once

#include <cstdint>
#include <span>
#include <string_view>

namespace plexus {

// Key of a row: what a field's value hashes to.
using Key = std::uint64_t;

// XXH3_64 of the raw bytes with `seed`.
std::uint64_t HashBytes(std::string_view bytes, std::uint64_t seed);
// The same of the pieces one behind the other.
std::uint64_t HashPieces(std::span<const std::string_view> pieces, std::uint64_t seed);

// A bijective finalizer (splitmix64's): each output bit depends on each input bit.
inline std::uint64_t Mix64(std::uint64_t x) {
  x ^= x >> 30;
  x *= 0xbf58476d1ce4e5b9ULL;
  x ^= x >> 27;
  x *= 0x94d049bb133111ebULL;
  x ^= x >> 31;
  return x;
}

// The fixed virtual partition of a HASHED table's key: the top bits of Mix64(key), scaled to [0,
// buckets). An index ordered by Mix64(key) therefore holds each bucket as one contiguous range.
inline std::uint32_t BucketOfKey(Key key, std::uint32_t buckets) {
  return static_cast<std::uint32_t>((static_cast<unsigned __int128>(Mix64(key)) * buckets) >> 64);
}

// The partition of a physical row of an ARRAY table, and of a block of a dense parameter.
inline std::uint32_t BucketOfRow(std::uint64_t row, std::uint32_t buckets) {
  return static_cast<std::uint32_t>(row % buckets);
}

// 128 bits, added modulo 2^128: the accumulator of model_digest.
struct Digest128 {
  std::uint64_t low = 0;
  std::uint64_t high = 0;

  Digest128& operator+=(const Digest128& other) {
    const std::uint64_t sum = low + other.low;
    high += other.high + (sum < low ? 1 : 0);
    low = sum;
    return *this;
  }
  bool operator==(const Digest128&) const = default;
};

// XXH3_128 of the bytes.
Digest128 HashBytes128(std::string_view bytes);

}  // namespace plexus
