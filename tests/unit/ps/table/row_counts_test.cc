#include "ps/table/row_counts.h"

#include <map>

#include <gtest/gtest.h>

#include "common/random.h"

namespace plexus {
namespace {

TEST(RowCountsTest, OccurrencesHaveThirtyTwoBits) {
  RowCounts counts(RowCounts::Kind::kOccurrences);
  std::map<std::uint32_t, std::uint64_t> naive;
  const CounterRandom random(1, 2, 3);
  for (std::uint64_t i = 0; i < 20000; ++i) {
    const auto handle = static_cast<std::uint32_t>(random.Below(4 * i, 500));
    const std::uint64_t bits = random.Below(4 * i + 1, 34);
    const std::uint64_t value = random.Below(4 * i + 2, std::uint64_t{1} << bits);
    counts.Touch(handle);
    if (random.Below(4 * i + 3, 3) == 0 || !naive.contains(handle)) {
      const auto set = static_cast<std::uint32_t>(value);
      counts.Set(handle, set);
      naive[handle] = set;
    } else {
      counts.Add(handle, value);
      naive[handle] = std::min<std::uint64_t>(naive[handle] + value, 0xffffffff);
    }
    ASSERT_EQ(counts.Get(handle), naive[handle]) << "seed 1, call " << i;
  }
  for (const auto& [handle, count] : naive) {
    EXPECT_EQ(counts.Get(handle), count);
  }
}

TEST(RowCountsTest, FloatsKeepTheirBits) {
  RowCounts counts(RowCounts::Kind::kFloats);
  for (std::uint32_t handle = 0; handle < 5000; ++handle) {
    counts.Touch(handle);
    counts.Set(handle, 0x3f800000 + handle * 977);
  }
  for (std::uint32_t handle = 0; handle < 5000; ++handle) {
    EXPECT_EQ(counts.Get(handle), 0x3f800000 + handle * 977);
  }
}

TEST(RowCountsTest, WhatWasReleasedIsForgotten) {
  RowCounts counts(RowCounts::Kind::kOccurrences);
  for (std::uint32_t handle = 0; handle < 10000; ++handle) {
    counts.Touch(handle);
    counts.Set(handle, 100000 + handle);
  }
  const std::uint64_t full = counts.memory_bytes();
  counts.ReleaseFrom(10);
  EXPECT_LT(counts.memory_bytes(), full);
  EXPECT_EQ(counts.Get(9), 100009u);
  counts.Touch(10);
  counts.Set(10, 7);
  EXPECT_EQ(counts.Get(10), 7u);
}

}  // namespace
}  // namespace plexus
