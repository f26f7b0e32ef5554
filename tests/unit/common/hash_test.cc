// Test vectors: keys, buckets and digests are part of every checkpoint, so none of these may ever
// change.
#include "common/hash.h"

#include <gtest/gtest.h>

namespace plexus {
namespace {

constexpr std::string_view kLong =
    "The quick brown fox jumps over the lazy dog, then over a sleeping cat, a wall, and out of "
    "sight.";

TEST(HashTest, BytesAreFixedForEver) {
  EXPECT_EQ(HashBytes("", 0), 0x2d06800538d394c2ULL);  // As published with XXH3.
  EXPECT_EQ(HashBytes("", 42), 0xb029411ff43d84d2ULL);
  EXPECT_EQ(HashBytes("a", 0), 0xe6c632b61e964e1fULL);
  EXPECT_EQ(HashBytes("68fd1e64", 0), 0x00b0431058060b4dULL);
  EXPECT_EQ(HashBytes("68fd1e64", 42), 0xd3f475b82e9465c5ULL);
  EXPECT_EQ(HashBytes("plexus", 0), 0x71eb68fec96b9f46ULL);
  EXPECT_EQ(HashBytes(kLong, 0), 0x48f9c24461b5e6f2ULL);
  EXPECT_EQ(HashBytes(kLong, 42), 0xf88a8d5eecdb6215ULL);
}

TEST(HashTest, DigestsAreFixedForEver) {
  EXPECT_EQ(HashBytes128(""), (Digest128{0x6001c324468d497fULL, 0x99aa06d3014798d8ULL}));
  EXPECT_EQ(HashBytes128("plexus"), (Digest128{0xc8ed0de2702aa23dULL, 0xe6b92d415022cb93ULL}));
  EXPECT_EQ(HashBytes128(kLong), (Digest128{0xb830f6760275ad98ULL, 0xbd4a66493d9f0bcaULL}));
}

TEST(HashTest, MixIsFixedForEver) {
  EXPECT_EQ(Mix64(0), 0u);
  EXPECT_EQ(Mix64(1), 0x5692161d100b05e5ULL);
  EXPECT_EQ(Mix64(2), 0xdbd238973a2b148aULL);
  EXPECT_EQ(Mix64(0x123456789abcdefULL), 0xb2c058e4ebb5112cULL);
  EXPECT_EQ(Mix64(~0ULL), 0xb4d055fcf2cbbd7bULL);
}

TEST(HashTest, BucketsAreFixedForEver) {
  EXPECT_EQ(BucketOfKey(0, 1024), 0u);
  EXPECT_EQ(BucketOfKey(1, 1024), 346u);
  EXPECT_EQ(BucketOfKey(1, 1000), 338u);
  EXPECT_EQ(BucketOfKey(~0ULL, 1024), 723u);
  EXPECT_EQ(BucketOfKey(~0ULL, 1000), 706u);
  EXPECT_EQ(BucketOfKey(12345, 1), 0u);
  EXPECT_EQ(BucketOfRow(1025, 1024), 1u);
}

TEST(HashTest, BucketsFollowTheOrderOfMix64) {
  for (Key a = 0; a < 200; ++a) {
    for (Key b = 0; b < 200; ++b) {
      if (Mix64(a) < Mix64(b)) {
        EXPECT_LE(BucketOfKey(a, 37), BucketOfKey(b, 37));
      }
    }
  }
}

TEST(HashTest, BucketsAreEvenlyFilled) {
  constexpr std::uint32_t kBuckets = 100;
  std::uint32_t filled[kBuckets] = {};
  for (Key key = 0; key < 100000; ++key) {
    ++filled[BucketOfKey(key, kBuckets)];
  }
  for (const std::uint32_t count : filled) {
    EXPECT_NEAR(count, 1000, 200);  // 6 standard deviations.
  }
}

TEST(DigestTest, AddsModuloTwoToThe128) {
  Digest128 digest{~0ULL, 5};
  digest += {1, 7};
  EXPECT_EQ(digest, (Digest128{0, 13}));
  digest = {1, ~0ULL};
  digest += {~0ULL, 0};
  EXPECT_EQ(digest, (Digest128{0, 0}));
}

}  // namespace
}  // namespace plexus
