// RowView: a row as it is stored and restored.
//
// Thread safety: a value; the record belongs to someone else.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>

#include "common/hash.h"

namespace plexus {

struct RowView {
  Key key = 0;
  std::uint64_t last_step = 0;  // The last version that updated it.
  std::uint64_t count = 0;      // Occurrences so far, as 32 bits (order COUNT: of an f32).
  std::span<const std::byte> record;

  // Values, then state.  REQUIRES: the layout is plain().
  std::span<const float> floats() const {
    return {reinterpret_cast<const float*>(record.data()), record.size() / sizeof(float)};
  }
};

}  // namespace plexus
