#include "ps/table/row_slabs.h"

#include <algorithm>

namespace plexus {
namespace {

std::uint32_t FirstBits(std::size_t record_bytes) {
  return std::bit_width(std::max<std::size_t>(kPageBytes / record_bytes, 1)) - 1;
}

}  // namespace

RowSlabs::RowSlabs(std::size_t record_bytes)
    : record_bytes_(record_bytes), first_bits_(FirstBits(record_bytes)) {}

std::uint64_t RowSlabs::Slab::PageBytes(std::uint64_t page) const {
  return std::min<std::uint64_t>(memory.page_bytes(), memory.bytes() - page * memory.page_bytes());
}

void RowSlabs::MapSlab(std::uint32_t index) {
  Slab& slab = slabs_[index];
  const std::uint64_t first = FirstHandle(index);
  const std::uint64_t records = index == 0 ? std::uint64_t{1} << first_bits_ : first;
  slab.memory = MappedMemory(records * record_bytes_);
  const std::size_t page_bytes = slab.memory.page_bytes();
  slab.pages.assign((slab.memory.bytes() + page_bytes - 1) / page_bytes, false);
  bases_[index] = reinterpret_cast<std::uintptr_t>(slab.memory.data()) - first * record_bytes_;
}

void RowSlabs::TouchPages(std::uint32_t handle) {
  const std::uint32_t index = std::bit_width(handle >> first_bits_);
  Slab& slab = slabs_[index];
  if (slab.memory.data() == nullptr) {
    MapSlab(index);
  }
  const std::uint64_t begin = (handle - FirstHandle(index)) * record_bytes_;
  const std::uint64_t last = begin + record_bytes_ - 1;
  const std::size_t page_bytes = slab.memory.page_bytes();
  for (std::uint64_t page = begin / page_bytes; page <= last / page_bytes; ++page) {
    if (!slab.pages[page]) {
      slab.pages[page] = true;
      memory_bytes_ += slab.PageBytes(page);
    }
  }
  if (handle == touched_end_) {
    // All records that end on the last page touched.
    const std::uint64_t end =
        std::min<std::uint64_t>((last / page_bytes + 1) * page_bytes, slab.memory.bytes());
    const std::uint64_t slab_end =
        index == 0 ? std::uint64_t{1} << first_bits_ : 2 * FirstHandle(index);
    touched_end_ = static_cast<std::uint32_t>(
        std::min<std::uint64_t>({FirstHandle(index) + end / record_bytes_, slab_end, 0xffffffff}));
  }
}

void RowSlabs::GiveBackFrom(std::uint64_t first_page, Slab* slab) {
  bool any = false;
  for (std::uint64_t page = first_page; page < slab->pages.size(); ++page) {
    if (slab->pages[page]) {
      slab->pages[page] = false;
      memory_bytes_ -= slab->PageBytes(page);
      any = true;
    }
  }
  if (any) {
    const std::uint64_t offset = first_page * slab->memory.page_bytes();
    slab->memory.GiveBack(offset, slab->memory.bytes() - offset);
  }
}

void RowSlabs::ReleaseFrom(std::uint32_t first_handle) {
  touched_end_ = std::min(touched_end_, first_handle);
  for (std::uint32_t index = 0; index < slabs_.size(); ++index) {
    Slab& slab = slabs_[index];
    if (slab.memory.data() == nullptr) {
      continue;
    }
    const std::uint64_t first = FirstHandle(index);
    if (first_handle <= first) {
      GiveBackFrom(0, &slab);
      slab = Slab();
      bases_[index] = 0;
      continue;
    }
    const std::uint64_t kept = (first_handle - first) * record_bytes_;
    const std::size_t page_bytes = slab.memory.page_bytes();
    GiveBackFrom(std::min<std::uint64_t>((kept + page_bytes - 1) / page_bytes, slab.pages.size()),
                 &slab);
  }
}

}  // namespace plexus
