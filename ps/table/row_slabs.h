// RowSlabs: fixed-size records addressed by a 32-bit handle, in slabs that double, so that growing
// copies nothing and a record never moves.
//
// Slab 0 holds the handles below 2^k, slab s > 0 those whose bit width is k + s; an address is one
// shift, one bit scan and one load of the slab's base.  Slabs are page-aligned, records follow each
// other without padding.
//
// Thread safety: none.
#pragma once

#include <array>
#include <bit>
#include <cstddef>
#include <cstdint>
#include <vector>

#include "ps/table/mapped_memory.h"

namespace plexus {

class RowSlabs {
 public:
  explicit RowSlabs(std::size_t record_bytes);

  // Makes the zeroed memory of `handle` usable.  Idempotent.
  void Touch(std::uint32_t handle);

  // REQUIRES: Touch(handle) was called.
  std::byte* At(std::uint32_t handle) const {
    return reinterpret_cast<std::byte*>(bases_[std::bit_width(handle >> first_bits_)] +
                                        handle * record_bytes_);
  }

  std::size_t record_bytes() const { return record_bytes_; }
  // Pages that hold a touched record.
  std::uint64_t memory_bytes() const { return memory_bytes_; }

 private:
  struct Slab {
    MappedMemory memory;
    std::vector<bool>
        pages;  // Touched; empty for a slab below a huge page, which is counted whole.
  };

  const std::size_t record_bytes_;
  const std::uint32_t first_bits_;
  std::array<std::uintptr_t, 33> bases_{};  // The slab's address minus that of its first handle.
  std::array<Slab, 33> slabs_;
  std::uint64_t memory_bytes_ = 0;
};

}  // namespace plexus
