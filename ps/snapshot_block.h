// SnapshotBlock: a piece of a shard's snapshot on its way to a file, as plain data.
//
// Thread safety: a value.
#pragma once

#include <cstdint>
#include <string>

namespace plexus {

struct SnapshotBlock {
  enum class Kind {
    kRows,    // `count` rows of `table`: per row u64 key, u64 last step, u64 count, the record.
    kErased,  // `count` keys of `table`, u64 each, whose rows of older versions are gone.
    kFilter,  // Of `table`'s bucket `count`.
    kDense,   // The dense block `count`, an index into plan.dense.blocks(): f32 values, then state.
    kEnd,     // Nothing follows.
  };
  Kind kind = Kind::kEnd;
  std::uint32_t table = 0;  // Index in JobPlan::tables.
  std::uint32_t count = 0;
  std::string bytes;
};

}  // namespace plexus
