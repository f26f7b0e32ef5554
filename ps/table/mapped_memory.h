// MappedMemory: zeroed memory straight from the kernel, committed when it is first touched; in huge
// pages where it is large enough for one.
//
// Thread safety: none; a move-only value.
#pragma once

#include <cstddef>

namespace plexus {

inline constexpr std::size_t kHugePageBytes = std::size_t{2} << 20;

class MappedMemory {
 public:
  MappedMemory() = default;
  // The process ends if the address space is exhausted.  REQUIRES: bytes > 0.
  explicit MappedMemory(std::size_t bytes);
  ~MappedMemory();
  MappedMemory(MappedMemory&& other) noexcept;
  MappedMemory& operator=(MappedMemory&& other) noexcept;

  // Page-aligned; nullptr if default-constructed.
  std::byte* data() const { return data_; }
  std::size_t bytes() const { return bytes_; }

 private:
  std::byte* data_ = nullptr;
  std::size_t bytes_ = 0;
};

}  // namespace plexus
