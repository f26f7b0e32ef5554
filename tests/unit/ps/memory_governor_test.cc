#include "ps/memory_governor.h"

#include <gtest/gtest.h>

namespace plexus {
namespace {

constexpr std::uint64_t kMiB = std::uint64_t{1} << 20;

MemoryUse Used(std::uint64_t bytes) { return {.committed = bytes}; }

// The least use at which rows go to disk.
std::uint64_t SpillsFrom(std::uint64_t limit, std::uint64_t swing = MemoryUse::kUnknownSwing) {
  std::uint64_t mib = 0;
  while (MemoryGovernor(limit).BytesToSpill({.committed = mib * kMiB, .swing = swing}, 0) == 0) {
    ++mib;
  }
  return mib;
}

TEST(MemoryGovernorTest, KeepsAReserveWhereRowsCanGoToDisk) {
  EXPECT_EQ(SpillsFrom(192 * kMiB), 149u);   // Above 0.93 of 160.
  EXPECT_EQ(SpillsFrom(1000 * kMiB), 901u);  // Of 968: not more than 32 MiB are kept.
}

TEST(MemoryGovernorTest, TheReserveIsWhatWasSeenToComeAndGo) {
  EXPECT_EQ(SpillsFrom(192 * kMiB, 16 * kMiB), 160u);   // Above 0.93 of 192 - 20.
  EXPECT_EQ(SpillsFrom(192 * kMiB, 0), 164u);           // Of 176: half of the most, at least.
  EXPECT_EQ(SpillsFrom(192 * kMiB, 100 * kMiB), 149u);  // As long as there was no look.
}

TEST(MemoryGovernorTest, SpillsDownToItsTarget) {
  // 0.91 of 968 MiB.
  EXPECT_EQ(MemoryGovernor(1000 * kMiB).BytesToSpill(Used(930 * kMiB), 0),
            930 * kMiB - static_cast<std::uint64_t>(static_cast<double>(968 * kMiB) * 0.91));
}

TEST(MemoryGovernorTest, WhatFitsIsOfTheWholeLimit) {
  const MemoryGovernor governor(100 * kMiB);
  EXPECT_TRUE(governor.Fits(Used(90 * kMiB), 4 * kMiB));
  EXPECT_FALSE(governor.Fits(Used(90 * kMiB), 6 * kMiB));
}

TEST(MemoryGovernorTest, AnEmergencyIsOfTheWholeLimit) {
  const MemoryGovernor governor(100 * kMiB);
  EXPECT_FALSE(governor.IsEmergency(Used(94 * kMiB), false, false));
  EXPECT_TRUE(governor.IsEmergency(Used(96 * kMiB), false, false));
  EXPECT_FALSE(governor.IsEmergency(Used(101 * kMiB), false, true)) << "the disk helps";
  EXPECT_TRUE(governor.IsEmergency(Used(103 * kMiB), false, true));
  EXPECT_TRUE(governor.IsEmergency(Used(89 * kMiB), true, false));
  EXPECT_FALSE(governor.IsEmergency(Used(87 * kMiB), true, false));
}

TEST(MemoryGovernorTest, WhatIsComingCanBeTooMuch) {
  const MemoryGovernor governor(100 * kMiB);
  EXPECT_FALSE(governor.IsHopeless(Used(60 * kMiB), 41 * kMiB));
  EXPECT_TRUE(governor.IsHopeless(Used(60 * kMiB), 43 * kMiB));
  EXPECT_FALSE(governor.IsHopeless(Used(103 * kMiB), 0)) << "nothing is coming";
}

TEST(MemoryGovernorTest, NoLimitIsNever) {
  const MemoryGovernor governor(0);
  const MemoryUse much = Used(~std::uint64_t{0} / 2);
  EXPECT_EQ(governor.BytesToSpill(much, 0), 0u);
  EXPECT_TRUE(governor.Fits(much, 0));
  EXPECT_FALSE(governor.ShouldRelease(much, 0));
  EXPECT_FALSE(governor.IsHopeless(much, kMiB));
  EXPECT_FALSE(governor.IsEmergency(much, true, false));
}

}  // namespace
}  // namespace plexus
