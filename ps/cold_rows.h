// Rows on their way between a shard and the disk, as plain data: the state machine names rows, the
// runtime moves them.
//
// Thread safety: values.
#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

#include "common/hash.h"

namespace plexus {

// Rows that a shard lets go, or that came back: records[i * record_bytes ...] is the row of
// keys[i].
struct ColdBatch {
  std::uint32_t table = 0;  // Index in JobPlan::tables.
  std::uint32_t record_bytes = 0;
  std::vector<Key> keys;  // Ascending by Mix64, unique.
  std::vector<std::byte> records;

  std::uint64_t bytes() const { return records.size() + keys.size() * sizeof(Key); }
};

// Rows that a shard needs.
struct ColdKeys {
  std::uint32_t table = 0;
  std::vector<Key> keys;  // Ascending by Mix64, unique.
};

}  // namespace plexus
