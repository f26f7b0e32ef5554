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

  std::uint32_t block_bytes = 4096;
  // Filters tell which of the sorted runs has a key's newest row, not whether there is one: the
  // last run has none.
  Filter filter = Filter::kBloom;
  Compression compression = Compression::kNone;
  // Of a file that a compaction writes.
  std::uint64_t file_bytes = std::uint64_t{32} << 20;
  // Files of a table as they came that begin a compaction; three times as many, and writes wait for
  // it.  About as many as hold the rows that are in memory: then each is rewritten together with
  // newer rows of the same keys.
  std::uint32_t fresh_files = 32;
  bool partitioned_index = true;
  bool hash_in_blocks = false;
  bool cache_rows = false;    // Blocks of rows go through the cache; if not, index blocks only.
  bool direct_reads = false;  // Around the kernel's page cache.
};

}  // namespace plexus
