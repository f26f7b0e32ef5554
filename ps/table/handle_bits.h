// HandleBits: one bit a handle.
//
// Thread safety: none; a value.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <vector>

namespace plexus {

class HandleBits {
 public:
  // Room for `handle`; new bits are 0.  REQUIRED once before a handle is used.
  void GrowFor(std::uint32_t handle) {
    if (words_.size() <= handle / 64) {
      words_.resize(std::max<std::size_t>(16, words_.size() + words_.size() / 4));
      words_.resize(std::max<std::size_t>(words_.size(), handle / 64 + 1));
    }
  }
  void Set(std::uint32_t handle) { words_[handle / 64] |= BitOf(handle); }
  // The bit, which is 0 afterwards.
  bool Take(std::uint32_t handle) {
    const bool was = (words_[handle / 64] & BitOf(handle)) != 0;
    words_[handle / 64] &= ~BitOf(handle);
    return was;
  }
  std::uint64_t memory_bytes() const { return words_.capacity() * sizeof(std::uint64_t); }

 private:
  static std::uint64_t BitOf(std::uint32_t handle) { return std::uint64_t{1} << (handle % 64); }

  std::vector<std::uint64_t> words_;
};

}  // namespace plexus
