// FilterDigest: a bucket's part of a table's digest for what decides which rows exist (admission
// filters, sketches).
//
// Thread safety: pure functions.
#pragma once

#include <cstdint>
#include <string>

#include "common/hash.h"

namespace plexus {

// XXH3_128 of (table, a zero byte, "filter", bucket as little-endian u32, `bytes`); the sum over
// buckets does not depend on who has them.  Zero for no bytes: an untouched bucket counts nothing.
inline Digest128 FilterDigest(const std::string& table, std::uint32_t bucket,
                              const std::string& bytes) {
  if (bytes.empty()) {
    return {};
  }
  std::string text = table;
  text.push_back('\0');
  text += "filter";
  for (int shift = 0; shift < 32; shift += 8) {
    text.push_back(static_cast<char>(bucket >> shift));
  }
  text += bytes;
  return HashBytes128(text);
}

}  // namespace plexus
