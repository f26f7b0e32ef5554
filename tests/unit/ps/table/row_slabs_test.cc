#include "ps/table/row_slabs.h"

#include <algorithm>
#include <cstring>
#include <vector>

#include <gtest/gtest.h>

#include "common/random.h"

namespace plexus {
namespace {

void Write(RowSlabs* slabs, std::uint32_t handle) {
  std::memset(slabs->At(handle), static_cast<int>(handle % 251 + 1), slabs->record_bytes());
}

bool Holds(const RowSlabs& slabs, std::uint32_t handle) {
  const std::byte* record = slabs.At(handle);
  return std::all_of(record, record + slabs.record_bytes(),
                     [&](std::byte b) { return b == static_cast<std::byte>(handle % 251 + 1); });
}

class RowSlabsSizeTest : public ::testing::TestWithParam<std::size_t> {};

TEST_P(RowSlabsSizeTest, RecordsKeepTheirPlaceAndDoNotOverlap) {
  RowSlabs slabs(GetParam());
  const auto count =
      static_cast<std::uint32_t>(std::min<std::size_t>(50000, (80u << 20) / GetParam()));
  std::vector<std::byte*> places;
  for (std::uint32_t handle = 0; handle < count; ++handle) {
    slabs.Touch(handle);
    const std::byte* record = slabs.At(handle);
    ASSERT_TRUE(
        std::all_of(record, record + GetParam(), [](std::byte b) { return b == std::byte{0}; }));
    Write(&slabs, handle);
    places.push_back(slabs.At(handle));
  }
  for (std::uint32_t handle = 0; handle < count; ++handle) {
    ASSERT_EQ(slabs.At(handle), places[handle]);
    ASSERT_TRUE(Holds(slabs, handle)) << handle;
  }
  const std::uint64_t payload = std::uint64_t{count} * GetParam();
  EXPECT_GE(slabs.memory_bytes(), payload);
  // A page a slab, and part of a huge page once slabs are large enough for them.
  EXPECT_LE(slabs.memory_bytes(),
            payload + 16 * kPageBytes + (payload < kHugeBytesMin ? 0 : kHugePageBytes));
}

INSTANTIATE_TEST_SUITE_P(RecordBytes, RowSlabsSizeTest,
                         ::testing::Values(4, 20, 64, 128, 132, 516, 4096, 6148));

TEST(RowSlabsTest, ASmallTableTakesOnePage) {
  RowSlabs slabs(128);
  EXPECT_EQ(slabs.memory_bytes(), 0u);
  for (std::uint32_t handle = 0; handle < 32; ++handle) {
    slabs.Touch(handle);
  }
  EXPECT_EQ(slabs.memory_bytes(), kPageBytes);
  slabs.Touch(32);
  EXPECT_EQ(slabs.memory_bytes(), 2 * kPageBytes);
}

TEST(RowSlabsTest, OnlyTouchedPagesCount) {
  RowSlabs slabs(128);
  slabs.Touch(1 << 20);  // A slab of 128 MiB.
  EXPECT_EQ(slabs.memory_bytes(), kHugePageBytes);
  slabs.Touch((1 << 20) + kHugePageBytes / 128 - 1);
  EXPECT_EQ(slabs.memory_bytes(), kHugePageBytes);
  slabs.Touch((1 << 20) + kHugePageBytes / 128);
  EXPECT_EQ(slabs.memory_bytes(), 2 * kHugePageBytes);
  slabs.Touch(5);
  EXPECT_EQ(slabs.memory_bytes(), 2 * kHugePageBytes + kPageBytes);
}

TEST(RowSlabsTest, ReleaseGivesBackAllButTheSharedPage) {
  RowSlabs slabs(100);
  constexpr std::uint32_t kCount = 400000;
  for (std::uint32_t handle = 0; handle < kCount; ++handle) {
    slabs.Touch(handle);
    Write(&slabs, handle);
  }
  const std::uint64_t full = slabs.memory_bytes();
  std::uint64_t before = full;
  for (const std::uint32_t kept :
       {399999u, 390000u, 262145u, 262144u, 100000u, 1000u, 41u, 40u, 1u}) {
    slabs.ReleaseFrom(kept);
    EXPECT_LE(slabs.memory_bytes(), before);
    before = slabs.memory_bytes();
    const std::uint64_t payload = std::uint64_t{kept} * 100;
    EXPECT_GE(before, payload);
    EXPECT_LE(before, payload + 16 * kPageBytes + (payload < kHugeBytesMin ? 0 : kHugePageBytes));
    for (std::uint32_t handle = 0; handle < kept; handle += 1 + kept / 1000) {
      ASSERT_TRUE(Holds(slabs, handle)) << handle << " of " << kept;
    }
    ASSERT_TRUE(Holds(slabs, kept - 1));
  }
  slabs.ReleaseFrom(0);
  EXPECT_EQ(slabs.memory_bytes(), 0u);
  // And all of it again.
  for (std::uint32_t handle = 0; handle < kCount; ++handle) {
    slabs.Touch(handle);
    Write(&slabs, handle);
  }
  EXPECT_EQ(slabs.memory_bytes(), full);
  ASSERT_TRUE(Holds(slabs, kCount / 2));
}

TEST(RowSlabsTest, ReleasedSparsePagesAreNotCountedTwice) {
  RowSlabs slabs(64);
  const CounterRandom random(1, 2);
  constexpr std::uint32_t kCount = 1 << 20;
  for (std::uint64_t i = 0; i < 300; ++i) {
    slabs.Touch(static_cast<std::uint32_t>(random.Below(i, kCount)));
  }
  for (std::uint32_t kept = kCount; kept > 0; kept /= 2) {
    slabs.ReleaseFrom(kept);
    slabs.ReleaseFrom(kept);
  }
  slabs.ReleaseFrom(0);
  EXPECT_EQ(slabs.memory_bytes(), 0u);
}

}  // namespace
}  // namespace plexus
