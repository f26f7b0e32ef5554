// RowSlabs: fixed-size records addressed by a 32-bit handle, in slabs that double, so that growing
// copies nothing and a record never moves.
//
// Slab 0 holds the handles below 2^k, slab s > 0 those whose bit width is k + s; an address is one
// shift, one bit scan and one load of the slab's base.  Slabs are page-aligned, records follow each
// other without padding.  The first slab is one page (or one record); of a slab only pages with a
// touched record are committed.
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

  // Makes the memory of `handle` usable: zeros if it is touched for the first time; what a record
  // holds that is touched again after ReleaseFrom is unspecified.  Idempotent.
  void Touch(std::uint32_t handle) {
    if (handle >= touched_end_) {
      TouchPages(handle);
    }
  }

  // REQUIRES: Touch(handle) was called, and no ReleaseFrom(handle or less) since.
  std::byte* At(std::uint32_t handle) const {
    return reinterpret_cast<std::byte*>(bases_[std::bit_width(handle >> first_bits_)] +
                                        handle * record_bytes_);
  }

  // The memory of all records from `first_handle` on goes back to the kernel, but for the page that
  // it shares with the record before.  They can be touched again.
  void ReleaseFrom(std::uint32_t first_handle);

  std::size_t record_bytes() const { return record_bytes_; }
  // Pages that hold a touched record.
  std::uint64_t memory_bytes() const { return memory_bytes_; }

 private:
  struct Slab {
    MappedMemory memory;
    std::vector<bool> pages;  // Touched.
    std::uint64_t PageBytes(std::uint64_t page) const;
  };

  std::uint64_t FirstHandle(std::uint32_t slab) const {
    return slab == 0 ? 0 : std::uint64_t{1} << (first_bits_ + slab - 1);
  }
  void TouchPages(std::uint32_t handle);
  void MapSlab(std::uint32_t slab);
  // Pages from `first_page` on go back to the kernel.
  void GiveBackFrom(std::uint64_t first_page, Slab* slab);

  const std::size_t record_bytes_;
  const std::uint32_t first_bits_;
  std::array<std::uintptr_t, 33> bases_{};  // The slab's address minus that of its first handle.
  std::array<Slab, 33> slabs_;
  std::uint64_t memory_bytes_ = 0;
  std::uint32_t touched_end_ = 0;  // The pages of all records below it are touched.
};

}  // namespace plexus
