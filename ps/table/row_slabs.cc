#include "ps/table/row_slabs.h"

#include <algorithm>

namespace plexus {
namespace {

constexpr std::size_t kFirstSlabBytes = 16 << 10;

std::uint32_t FirstBits(std::size_t record_bytes) {
  return std::bit_width(std::max<std::size_t>(kFirstSlabBytes / record_bytes, 1)) - 1;
}

}  // namespace

RowSlabs::RowSlabs(std::size_t record_bytes)
    : record_bytes_(record_bytes), first_bits_(FirstBits(record_bytes)) {}

void RowSlabs::Touch(std::uint32_t handle) {
  const std::uint32_t index = std::bit_width(handle >> first_bits_);
  Slab& slab = slabs_[index];
  const std::uint64_t first = index == 0 ? 0 : std::uint64_t{1} << (first_bits_ + index - 1);
  if (slab.memory.data() == nullptr) {
    const std::uint64_t records = index == 0 ? std::uint64_t{1} << first_bits_ : first;
    slab.memory = MappedMemory(records * record_bytes_);
    bases_[index] = reinterpret_cast<std::uintptr_t>(slab.memory.data()) - first * record_bytes_;
    if (slab.memory.bytes() < kHugePageBytes) {
      memory_bytes_ += slab.memory.bytes();
    } else {
      slab.pages.resize(slab.memory.bytes() / kHugePageBytes);
    }
  }
  if (slab.pages.empty()) {
    return;
  }
  const std::uint64_t begin = (handle - first) * record_bytes_;
  const std::uint64_t last = begin + record_bytes_ - 1;
  for (std::uint64_t page = begin / kHugePageBytes; page <= last / kHugePageBytes; ++page) {
    if (!slab.pages[page]) {
      slab.pages[page] = true;
      memory_bytes_ += kHugePageBytes;
    }
  }
}

}  // namespace plexus
