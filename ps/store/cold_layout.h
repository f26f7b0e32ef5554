// ColdLayout: how a ColdStore lays its rows out in RocksDB's files.
//
// The defaults are what bench/cold_bench measured as best (docs/cold-tier.md); the bench turns the
// rest.
//
// Thread safety: a value.
#pragma once

#include <cstdint>

namespace plexus {

struct ColdLayout {
  enum class Filter { kNone, kBloom, kRibbon };
  enum class Compression { kNone, kLz4, kZstd };
  enum class Compaction { kLeveled, kUniversal };

  std::uint32_t block_bytes = 4096;
  // Filters tell which of the sorted runs has a key's newest row, not whether there is one: the
  // last run has none.
  Filter filter = Filter::kBloom;
  Compression compression = Compression::kNone;
  Compaction compaction = Compaction::kLeveled;
  // Of each table; files of the last level.
  std::uint64_t file_bytes = std::uint64_t{32} << 20;
  // Files of a table as they came that begin a compaction: the more, the less often each row is
  // written again, and the more filters a read asks.
  std::uint32_t fresh_files = 16;
  bool partitioned_index = true;
  bool hash_in_blocks = false;
  bool cache_rows = false;    // Blocks of rows go through the cache; if not, index blocks only.
  bool direct_reads = false;  // Around the kernel's page cache.
};

}  // namespace plexus
