// How the cold store writes a key and its record: the key as its big-endian Mix64, so that bytes
// sort as a table's index does; the record with a check of its own behind it, which covers table,
// key and record.
//
// Thread safety: pure functions.
#pragma once

#include <cstddef>
#include <cstdint>
#include <cstring>
#include <string_view>

#include "common/hash.h"

namespace plexus {

inline constexpr std::size_t kColdKeyBytes = 8;
inline constexpr std::size_t kColdCheckBytes = 4;

// The inverse of Mix64: each xor-shift is undone by repeating it, each factor by its inverse modulo
// 2^64.
inline Key KeyOfMix64(std::uint64_t x) {
  x ^= x >> 31 ^ x >> 62;
  x *= 0x319642b2d24d8ec3ULL;
  x ^= x >> 27 ^ x >> 54;
  x *= 0x96de1b173f119089ULL;
  x ^= x >> 30 ^ x >> 60;
  return x;
}

inline void EncodeColdKey(std::uint64_t hash, char* to) {
  const std::uint64_t big_endian = __builtin_bswap64(hash);
  std::memcpy(to, &big_endian, kColdKeyBytes);
}

inline std::uint64_t DecodeColdKey(const char* from) {
  std::uint64_t big_endian;
  std::memcpy(&big_endian, from, kColdKeyBytes);
  return __builtin_bswap64(big_endian);
}

// The lower half of XXH3_64; `table_seed` is a hash of the table's name.
inline std::uint32_t ColdCheck(std::uint64_t table_seed, std::uint64_t hash, const void* record,
                               std::size_t bytes) {
  return static_cast<std::uint32_t>(
      HashBytes({static_cast<const char*>(record), bytes}, table_seed ^ hash));
}

}  // namespace plexus
