#include "ps/table/hybrid_addresses.h"

#include <algorithm>

#include <glog/logging.h>

namespace plexus {

HybridAddresses::Share::Share(std::uint64_t rows, std::uint32_t buckets) {
  CHECK(rows > 0 && rows < std::uint64_t{1} << 31) << "rows of a HYBRID table: " << rows;
  const std::uint64_t total = std::max<std::uint64_t>(rows, buckets);
  whole = static_cast<std::uint32_t>(total / buckets);
  rest = static_cast<std::uint32_t>(total % buckets);
}

HybridAddresses::HybridAddresses(const HybridSpec& spec, std::uint32_t buckets)
    : buckets_(buckets),
      exact_(spec.exact_rows, buckets),
      shared_(spec.shared_rows, buckets),
      first_hash_(buckets) {
  // BucketOfKey(key) >= b from hash ceil(b 2^64 / V) on.
  const unsigned __int128 whole = static_cast<unsigned __int128>(1) << 64;
  for (std::uint32_t bucket = 0; bucket < buckets; ++bucket) {
    first_hash_[bucket] = static_cast<std::uint64_t>((whole * bucket + buckets - 1) / buckets);
  }
}

}  // namespace plexus
