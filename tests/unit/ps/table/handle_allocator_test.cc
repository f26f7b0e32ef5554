#include "ps/table/handle_allocator.h"

#include <algorithm>
#include <set>
#include <vector>

#include <gtest/gtest.h>

#include "common/random.h"

namespace plexus {
namespace {

TEST(HandleAllocatorTest, CountsUpWithoutMemoryWhileNothingIsFreed) {
  HandleAllocator handles;
  for (std::uint32_t h = 0; h < 100000; ++h) {
    ASSERT_EQ(handles.Allocate(), h);
  }
  EXPECT_EQ(handles.live(), 100000u);
  EXPECT_EQ(handles.high_water(), 100000u);
  EXPECT_EQ(handles.memory_bytes(), 0u);
}

TEST(HandleAllocatorTest, GivesTheLowestFreeHandle) {
  HandleAllocator handles;
  for (int i = 0; i < 1000000; ++i) {
    handles.Allocate();
  }
  for (const std::uint32_t h : {700000u, 4096u, 3u, 64u, 699999u}) {
    handles.Free(h);
  }
  EXPECT_EQ(handles.live(), 999995u);
  for (const std::uint32_t h : {3u, 64u, 4096u, 699999u, 700000u, 1000000u}) {
    EXPECT_EQ(handles.Allocate(), h);
  }
}

TEST(HandleAllocatorTest, HighWaterFallsPastFreeHandles) {
  HandleAllocator handles;
  for (int i = 0; i < 300000; ++i) {
    handles.Allocate();
  }
  for (std::uint32_t h = 100; h < 299999; ++h) {
    handles.Free(h);
  }
  EXPECT_EQ(handles.high_water(), 300000u);
  handles.Free(299999);
  EXPECT_EQ(handles.high_water(), 100u);
  EXPECT_EQ(handles.live(), 100u);
  EXPECT_EQ(handles.Allocate(), 100u);
  for (std::uint32_t h = 0; h <= 100; ++h) {
    handles.Free(h);
  }
  EXPECT_EQ(handles.high_water(), 0u);
  EXPECT_EQ(handles.live(), 0u);
}

TEST(HandleAllocatorTest, TakesAnEighthOfAByteAHandleAtWorst) {
  HandleAllocator handles;
  constexpr std::uint32_t kHandles = 1 << 20;
  for (std::uint32_t h = 0; h < kHandles; ++h) {
    handles.Allocate();
  }
  for (std::uint32_t h = 0; h + 1 < kHandles; h += 2) {
    handles.Free(h);
  }
  EXPECT_LT(static_cast<double>(handles.memory_bytes()), 0.14 * kHandles + 256);
  EXPECT_GT(handles.memory_bytes(), kHandles / 8);
  for (std::uint32_t h = 0; h + 1 < kHandles; h += 2) {
    ASSERT_EQ(handles.Allocate(), h);
  }
  EXPECT_LT(handles.memory_bytes(), 8192u);  // What leads to chunks.
}

// All of it against a set, with phases that mostly fill and mostly empty.
TEST(HandleAllocatorTest, EqualsASet) {
  constexpr std::uint32_t kMost = 20000;
  const CounterRandom random(1, 1);
  HandleAllocator handles;
  std::set<std::uint32_t> free;
  for (std::uint32_t h = 0; h < kMost; ++h) {
    free.insert(h);
  }
  std::vector<std::uint32_t> used;
  for (std::uint64_t i = 0; i < 200000; ++i) {
    const std::uint64_t share = i / 40000 % 2 == 0 ? 70 : 20;
    if (used.empty() || (!free.empty() && random.Below(2 * i, 100) < share)) {
      const std::uint32_t handle = handles.Allocate();
      ASSERT_EQ(handle, *free.begin());
      free.erase(free.begin());
      used.push_back(handle);
    } else {
      std::swap(used[random.Below(2 * i + 1, used.size())], used.back());
      handles.Free(used.back());
      free.insert(used.back());
      used.pop_back();
    }
    ASSERT_EQ(handles.live(), used.size());
    if (i % 500 == 0) {
      const auto highest = std::max_element(used.begin(), used.end());
      ASSERT_EQ(handles.high_water(), highest == used.end() ? 0 : *highest + 1);
    }
  }
}

}  // namespace
}  // namespace plexus
