// HandleAllocator: which 32-bit handles of a table's rows are in use.
//
// Allocate() gives the lowest free handle, so that rows stay together at the front.  While nothing
// was freed it only counts up and holds no memory.  Free handles are bits in chunks of 4096; a
// chunk exists while it has one, and two levels of summary bits lead to the lowest.
//
// Thread safety: none.
#pragma once

#include <array>
#include <cstdint>
#include <memory>
#include <vector>

namespace plexus {

class HandleAllocator {
 public:
  // The lowest handle not in use.  The caller sees to it that it has room for it: handles are not
  // limited here but by their 32 bits.
  std::uint32_t Allocate();
  // REQUIRES: `handle` is in use.
  void Free(std::uint32_t handle);

  std::uint64_t live() const { return high_water_ - free_; }
  // One past the highest handle in use; 0 if none is.
  std::uint64_t high_water() const { return high_water_; }
  // At most 0.14 a handle below high_water(), next to 256; 0 while nothing was ever freed.
  std::uint64_t memory_bytes() const;

 private:
  static constexpr std::uint32_t kChunkHandles = 4096;
  struct Chunk {
    std::uint64_t nonzero = 0;                 // Bit w: words[w] != 0.
    std::array<std::uint64_t, 64> words = {};  // Bit h: the handle is free.
  };

  // Clears `bits` (which are set) of a chunk's word; the chunk goes with its last one.
  void TakeFree(std::uint64_t chunk, std::uint32_t word, std::uint64_t bits);
  // Lowers high_water_ past free handles.
  void Trim();

  std::uint64_t high_water_ = 0;
  std::uint64_t free_ = 0;  // Below high_water_.
  std::vector<std::unique_ptr<Chunk>> chunks_;
  std::vector<std::uint64_t> chunk_bits_;  // Bit c: chunks_[c] exists.
  std::vector<std::uint64_t> top_bits_;    // Bit w: chunk_bits_[w] != 0.
  std::uint64_t chunk_count_ = 0;
};

}  // namespace plexus
