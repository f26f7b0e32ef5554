// HybridAddresses: where the keys of a HYBRID table lie, as arithmetic on Mix64(key).
//
// Every bucket has its share of the exact rows (and as many groups of sketch slots) and of the
// shared rows, at least one of each; a key's group and its shared row lie in the key's own bucket.
// So a key is looked up on the shard that has its bucket, and where it lies does not depend on the
// number of servers.
//
// A shared row has a key of its own, by which it is saved, initialized and rounded: the j-th row of
// a bucket that of the bucket's j-th hash.  A key of the data that happens to be one (shared_rows
// of 2^64 are) is never given an exact row, so that a row's key says what it is.
//
// Thread safety: immutable after construction.
#pragma once

#include <cstdint>
#include <vector>

#include "common/hash.h"
#include "proto/table_spec.h"

namespace plexus {

// Key whose Mix64 is `hash`.
inline Key UnmixHash(std::uint64_t hash) {
  hash ^= hash >> 31 ^ hash >> 62;
  hash *= 0x319642b2d24d8ec3ULL;  // The inverses modulo 2^64 of Mix64's factors.
  hash ^= hash >> 27 ^ hash >> 54;
  hash *= 0x96de1b173f119089ULL;
  hash ^= hash >> 30 ^ hash >> 60;
  return hash;
}

class HybridAddresses {
 public:
  // REQUIRES: 0 < spec.exact_rows, spec.shared_rows < 2^31; 0 < buckets.
  HybridAddresses(const HybridSpec& spec, std::uint32_t buckets);

  struct Address {
    std::uint32_t bucket;
    std::uint32_t group;   // Of the bucket's sketch.
    std::uint32_t shared;  // Of the bucket's shared rows.
  };
  // `hash` is Mix64(key).
  Address Of(std::uint64_t hash) const {
    const auto product = static_cast<unsigned __int128>(hash) * buckets_;
    Address address;
    address.bucket = static_cast<std::uint32_t>(product >> 64);
    address.group = Scale(static_cast<std::uint64_t>(product), exact_rows(address.bucket));
    address.shared = Scale(Mix64(hash ^ kSharedSalt), shared_rows(address.bucket));
    return address;
  }

  std::uint32_t buckets() const { return buckets_; }
  // Rows of the bucket.
  std::uint32_t exact_rows(std::uint32_t bucket) const { return exact_.Of(bucket); }
  std::uint32_t shared_rows(std::uint32_t bucket) const { return shared_.Of(bucket); }
  // Shared rows of the buckets before it: shared row j of the bucket has number first_shared + j.
  std::uint32_t first_shared(std::uint32_t bucket) const { return shared_.Before(bucket); }

  Key SharedKey(std::uint32_t bucket, std::uint32_t row) const {
    return UnmixHash(first_hash_[bucket] + row);
  }
  // `hash` is that of a shared row's key.
  bool IsShared(std::uint64_t hash, std::uint32_t bucket) const {
    return hash - first_hash_[bucket] < shared_rows(bucket);
  }
  // Of IsShared hashes: the row.
  std::uint32_t SharedRow(std::uint64_t hash, std::uint32_t bucket) const {
    return static_cast<std::uint32_t>(hash - first_hash_[bucket]);
  }

 private:
  static constexpr std::uint64_t kSharedSalt = 0x6a09e667f3bcc908ULL;

  // `rows` spread over the buckets: the first ones have one more.
  struct Share {
    Share(std::uint64_t rows, std::uint32_t buckets);
    std::uint32_t Of(std::uint32_t bucket) const { return whole + (bucket < rest ? 1 : 0); }
    std::uint32_t Before(std::uint32_t bucket) const {
      return bucket * whole + (bucket < rest ? bucket : rest);
    }
    std::uint32_t whole;
    std::uint32_t rest;
  };

  static std::uint32_t Scale(std::uint64_t fraction, std::uint32_t range) {
    return static_cast<std::uint32_t>(static_cast<unsigned __int128>(fraction) * range >> 64);
  }

  const std::uint32_t buckets_;
  const Share exact_;
  const Share shared_;
  std::vector<std::uint64_t> first_hash_;  // Of each bucket.
};

}  // namespace plexus
