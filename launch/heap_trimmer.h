// HeapTrimmer: gives what malloc keeps of freed memory back to the kernel, as memory fills up: it
// is tuned to keep much (common/net/zmq_endpoint.cc), and rows can use it.
//
// Thread safety: none.
#pragma once

#include <cstdint>

#include <malloc.h>

#include "common/outbox.h"
#include "ps/memory_governor.h"

namespace plexus {

class HeapTrimmer {
 public:
  explicit HeapTrimmer(std::uint64_t limit_bytes) : limit_bytes_(limit_bytes) {}

  void Trim(const MemoryUse& use, Millis now) {
    // Half a millisecond at 100 MiB, and the pages have to be cleared when they are used again.
    if (use.resident() > limit_bytes_ / 4 * 3 && now >= next_) {
      next_ = now + kTrimMillis;
      ::malloc_trim(0);
    }
  }

 private:
  static constexpr Millis kTrimMillis = 500;

  const std::uint64_t limit_bytes_;
  Millis next_ = 0;
};

}  // namespace plexus
