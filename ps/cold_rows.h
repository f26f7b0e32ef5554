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

// Rows that a shard needs, or those that it will never ask for again.
struct ColdKeys {
  std::uint32_t table = 0;
  std::vector<Key> keys;  // Ascending by Mix64, unique.
};

// What a shard wants of the disk.  Requests that name the same key hold in the order in which the
// shard made them: a row that is forgotten, made anew and spilled is there, one that is spilled and
// forgotten is not.
struct ColdRequest {
  // kCopy: the rows as they are when it is asked for, whatever is spilled or forgotten after it.
  enum class Kind { kSpill, kRead, kForget, kCopy };
  Kind kind = Kind::kRead;
  ColdBatch rows;  // kSpill.
  ColdKeys keys;   // kRead, kForget, kCopy.
};

}  // namespace plexus
