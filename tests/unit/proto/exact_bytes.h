// ExactBytes: for tests of decoders.
//
// Thread safety: pure functions.
#pragma once

#include <cstring>
#include <memory>
#include <new>
#include <span>

#include "common/bytes.h"

namespace plexus {

// Bytes that end where their allocation ends, so that AddressSanitizer sees a read beyond them.
inline Bytes ExactBytes(std::span<const std::uint8_t> data) {
  std::shared_ptr<std::uint8_t> owner(
      static_cast<std::uint8_t*>(::operator new(data.size() + (data.empty() ? 1 : 0))),
      [](std::uint8_t* p) { ::operator delete(p); });
  if (!data.empty()) {
    std::memcpy(owner.get(), data.data(), data.size());
  }
  const std::uint8_t* at = owner.get();
  return Bytes(std::move(owner), at, data.size());
}

}  // namespace plexus
