// RowCounts: 32 bits a row: occurrences, or a decayed float.
//
// Occurrences take two bytes: few rows have 65,535 or more, and theirs lie in a map.  Floats need
// all their bits.
//
// Thread safety: none.
#pragma once

#include <algorithm>
#include <cstdint>
#include <unordered_map>

#include "common/prefetch.h"
#include "ps/table/row_slabs.h"

namespace plexus {

class RowCounts {
 public:
  enum class Kind { kOccurrences, kFloats };

  explicit RowCounts(Kind kind)
      : wide_(kind == Kind::kFloats),
        counts_(wide_ ? sizeof(std::uint32_t) : sizeof(std::uint16_t)) {}

  // Memory for a row, whose count is set next.  Idempotent.
  void Touch(std::uint32_t handle) { counts_.Touch(handle); }
  void Prefetch(std::uint32_t handle) const { PrefetchLine(counts_.At(handle)); }

  // REQUIRES, here and below: Touch(handle) was called, and no ReleaseFrom(handle or less) since.
  std::uint32_t Get(std::uint32_t handle) const {
    if (wide_) {
      return *WideAt(handle);
    }
    const std::uint16_t count = *NarrowAt(handle);
    return count != kLarge ? count : LargeAt(handle);
  }
  void Set(std::uint32_t handle, std::uint32_t count) {
    if (wide_) {
      *WideAt(handle) = count;
    } else if (std::uint16_t* narrow = NarrowAt(handle); count < kLarge && *narrow != kLarge) {
      *narrow = static_cast<std::uint16_t>(count);
    } else {
      SetLarge(handle, count);
    }
  }
  // Of occurrences, which stay at the largest that 32 bits hold.
  void Add(std::uint32_t handle, std::uint64_t count) {
    const std::uint64_t most = 0xffffffff;
    Set(handle, static_cast<std::uint32_t>(std::min(Get(handle) + std::min(count, most), most)));
  }

  void ReleaseFrom(std::uint32_t first_handle);
  std::uint64_t memory_bytes() const;

 private:
  static constexpr std::uint16_t kLarge = 0xffff;  // The count lies in large_.

  std::uint16_t* NarrowAt(std::uint32_t handle) const {
    return reinterpret_cast<std::uint16_t*>(counts_.At(handle));
  }
  std::uint32_t* WideAt(std::uint32_t handle) const {
    return reinterpret_cast<std::uint32_t*>(counts_.At(handle));
  }
  std::uint32_t LargeAt(std::uint32_t handle) const;
  void SetLarge(std::uint32_t handle, std::uint32_t count);

  const bool wide_;
  RowSlabs counts_;
  std::unordered_map<std::uint32_t, std::uint32_t> large_;  // By handle.
};

}  // namespace plexus
