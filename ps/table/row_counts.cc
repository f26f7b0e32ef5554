#include "ps/table/row_counts.h"

namespace plexus {

std::uint32_t RowCounts::LargeAt(std::uint32_t handle) const {
  const auto at = large_.find(handle);
  return at == large_.end() ? kLarge : at->second;
}

void RowCounts::SetLarge(std::uint32_t handle, std::uint32_t count) {
  if (count < kLarge) {
    large_.erase(handle);
    *NarrowAt(handle) = static_cast<std::uint16_t>(count);
  } else {
    large_[handle] = count;
    *NarrowAt(handle) = kLarge;
  }
}

void RowCounts::ReleaseFrom(std::uint32_t first_handle) {
  counts_.ReleaseFrom(first_handle);
  std::erase_if(large_, [&](const auto& entry) { return entry.first >= first_handle; });
}

std::uint64_t RowCounts::memory_bytes() const {
  constexpr std::uint64_t kNodeBytes = 32;  // As malloc gives it, with its place in the table.
  return counts_.memory_bytes() + (large_.size() + large_.bucket_count()) * kNodeBytes;
}

}  // namespace plexus
