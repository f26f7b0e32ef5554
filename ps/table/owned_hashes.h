// OwnedHashes: the hashes of the buckets that a shard owns, spread over all 64 bits, so that an
// index ordered by them is evenly full whatever buckets those are.
//
// With n of V buckets, the hashes of the k-th owned bucket (k = 0 .. n - 1) become those from
// k 2^64 / n on, in the same order.  A shard that owns all buckets changes nothing.
//
// Thread safety: immutable after construction.
#pragma once

#include <cstdint>
#include <utility>
#include <vector>

namespace plexus {

class OwnedHashes {
 public:
  // `owned` ascending; empty: all of them.  REQUIRES: buckets > 0.
  OwnedHashes(std::uint32_t buckets, const std::vector<std::uint32_t>& owned)
      : buckets_(buckets), all_(owned.empty() || owned.size() == buckets) {
    if (all_) {
      return;
    }
    width_ = ~std::uint64_t{0} / owned.size();
    first_.resize(buckets, 0);  // A key of another shard's bucket lies anywhere.
    for (std::size_t k = 0; k < owned.size(); ++k) {
      first_[owned[k]] = k * width_;
    }
  }

  // Of Mix64(key).
  std::uint64_t Of(std::uint64_t hash) const {
    if (all_) {
      return hash;
    }
    const unsigned __int128 scaled = static_cast<unsigned __int128>(hash) * buckets_;
    const auto bucket = static_cast<std::uint32_t>(scaled >> 64);
    const auto within = static_cast<std::uint64_t>(scaled);
    return first_[bucket] +
           static_cast<std::uint64_t>((static_cast<unsigned __int128>(within) * width_) >> 64);
  }

  // The first and the last of a bucket's spread hashes.  REQUIRES: the bucket is owned.
  std::pair<std::uint64_t, std::uint64_t> RangeOf(std::uint32_t bucket) const {
    if (!all_) {
      return {first_[bucket], first_[bucket] + width_ - 1};
    }
    const auto first_of = [this](std::uint32_t b) {
      const unsigned __int128 whole = static_cast<unsigned __int128>(1) << 64;
      return (whole * b + buckets_ - 1) / buckets_;
    };
    return {static_cast<std::uint64_t>(first_of(bucket)),
            static_cast<std::uint64_t>(first_of(bucket + 1) - 1)};
  }

 private:
  const std::uint32_t buckets_;
  const bool all_;
  std::uint64_t width_ = 0;
  std::vector<std::uint64_t> first_;  // By bucket.
};

}  // namespace plexus
