// PrefetchLine: asks for the cache line of an address, which is read or written soon.
// PrefetchLines: for each line of a range, once.
//
// The address may be of memory that was never touched, or of none: nothing is read.  This is no
// __builtin_prefetch, because GCC 12 takes a function that does nothing but prefetch for
// one without effect, and deletes its calls.
//
// Thread safety: pure functions.
#pragma once

#include <cstddef>
#include <cstdint>

namespace plexus {

inline void PrefetchLine(const void* address) { asm volatile("prefetcht0 (%0)" : : "r"(address)); }

inline void PrefetchLines(const void* begin, std::size_t bytes) {
  const auto first = reinterpret_cast<std::uintptr_t>(begin);
  for (std::uintptr_t line = first / 64 * 64; line < first + bytes; line += 64) {
    PrefetchLine(reinterpret_cast<const void*>(line));
  }
}

}  // namespace plexus
