#include "worker/nn/arena.h"

#include <cstdint>
#include <cstring>

#include <gtest/gtest.h>

namespace plexus {
namespace {

TEST(ArenaTest, AlignsEveryAllocation) {
  Arena arena;
  for (std::size_t bytes : {0, 1, 63, 64, 65, 1000}) {
    EXPECT_EQ(reinterpret_cast<std::uintptr_t>(arena.Allocate(bytes)) % Arena::kAlignment, 0U);
  }
}

TEST(ArenaTest, ReusesItsMemoryFromTheSecondStepOn) {
  Arena arena;
  const auto step = [&arena] {
    arena.Reset();
    void* first = nullptr;
    for (int i = 0; i < 10; ++i) {
      void* const block = arena.Allocate(std::size_t{1} << 20);
      std::memset(block, 1, std::size_t{1} << 20);
      first = first == nullptr ? block : first;
    }
    return first;
  };
  step();
  void* const second = step();
  const std::size_t reserved = arena.bytes_reserved();
  for (int i = 0; i < 5; ++i) {
    EXPECT_EQ(step(), second);
    EXPECT_EQ(arena.bytes_reserved(), reserved);
  }
}

}  // namespace
}  // namespace plexus
