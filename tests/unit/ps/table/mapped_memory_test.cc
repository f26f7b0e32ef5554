#include "ps/table/mapped_memory.h"

#include <cstdint>
#include <cstring>
#include <fstream>
#include <string>
#include <utility>
#include <vector>

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/mman.h>
#include <sys/prctl.h>

namespace plexus {
namespace {

constexpr std::size_t kMiB = std::size_t{1} << 20;

// Bytes of the range that are in memory.
std::size_t Resident(const MappedMemory& memory, std::size_t offset, std::size_t bytes) {
  std::vector<unsigned char> pages(bytes / kPageBytes);
  EXPECT_EQ(mincore(memory.data() + offset, bytes, pages.data()), 0);
  std::size_t resident = 0;
  for (const unsigned char page : pages) {
    resident += (page & 1) * kPageBytes;
  }
  return resident;
}

std::uint64_t Pattern(std::size_t i) { return i * 0x9e3779b97f4a7c15ULL + 1; }

void Fill(MappedMemory* memory, std::size_t begin, std::size_t end) {
  for (std::size_t i = begin; i < end; i += kPageBytes) {
    const std::uint64_t value = Pattern(i);
    std::memcpy(memory->data() + i, &value, sizeof(value));
  }
}

// Each page of [begin, end) begins with its pattern, or with zeros.
void ExpectFilled(const MappedMemory& memory, std::size_t begin, std::size_t end, bool zeros) {
  for (std::size_t i = begin; i < end; i += kPageBytes) {
    std::uint64_t value;
    std::memcpy(&value, memory.data() + i, sizeof(value));
    ASSERT_EQ(value, zeros ? 0 : Pattern(i)) << "at " << i;
  }
}

TEST(MappedMemoryTest, RoundsUpToPages) {
  EXPECT_EQ(MappedMemory(1).bytes(), 4096u);
  EXPECT_EQ(MappedMemory(4097).bytes(), 8192u);
  EXPECT_EQ(MappedMemory(2 * kMiB + 1).bytes(), 2 * kMiB + 4096);
  EXPECT_EQ(MappedMemory(8 * kMiB).bytes(), 8 * kMiB);
  EXPECT_EQ(MappedMemory(8 * kMiB + 1).bytes(), 8 * kMiB + 4096);
  EXPECT_EQ(MappedMemory(8 * kMiB).page_bytes(), kHugePageBytes);
  EXPECT_EQ(MappedMemory(8 * kMiB - 4096).page_bytes(), kPageBytes);
}

TEST(MappedMemoryTest, CommitsWhatIsTouched) {
  MappedMemory memory(kMiB);
  EXPECT_EQ(Resident(memory, 0, kMiB), 0u);
  memory.data()[5 * kPageBytes] = std::byte{1};
  EXPECT_EQ(Resident(memory, 0, kMiB), kPageBytes);
}

TEST(MappedMemoryTest, KeepsItsContentsThroughEverySize) {
  MappedMemory memory(kPageBytes);
  Fill(&memory, 0, memory.bytes());
  // Small and large, aligned or not before, up and down.
  const std::size_t sizes[] = {2 * kPageBytes, kMiB,      3 * kMiB, 9 * kMiB,   60 * kMiB,
                               12 * kMiB,      13 * kMiB, 5 * kMiB, kPageBytes, 49 * kMiB};
  for (const std::size_t size : sizes) {
    const std::size_t before = memory.bytes();
    memory.Resize(size);
    ASSERT_EQ(memory.bytes(), MappedMemory::RoundUp(size));
    ExpectFilled(memory, 0, std::min(before, memory.bytes()), false);
    if (memory.bytes() > before) {
      ExpectFilled(memory, before, memory.bytes(), true);
    }
    Fill(&memory, 0, memory.bytes());
    if (size >= kHugeBytesMin) {
      EXPECT_EQ(reinterpret_cast<std::uintptr_t>(memory.data()) % kHugePageBytes, 0u);
    }
  }
}

// The address space behind is taken, so that it has to move.
TEST(MappedMemoryTest, MovesWhereItCannotGrowInPlace) {
  std::vector<MappedMemory> all;
  for (int i = 0; i < 8; ++i) {
    all.emplace_back(32 * kMiB);
    Fill(&all.back(), 0, 64 * kPageBytes);
  }
  for (std::size_t size = 34 * kMiB; size <= 40 * kMiB; size += 2 * kMiB) {
    for (MappedMemory& memory : all) {
      memory.Resize(size);
      ASSERT_EQ(reinterpret_cast<std::uintptr_t>(memory.data()) % kHugePageBytes, 0u);
      ExpectFilled(memory, 0, 64 * kPageBytes, false);
      ExpectFilled(memory, size - 4 * kPageBytes, size, true);
    }
  }
}

TEST(MappedMemoryTest, ResizeMapsAnEmptyOne) {
  MappedMemory memory;
  EXPECT_EQ(memory.data(), nullptr);
  memory.Resize(100);
  EXPECT_EQ(memory.bytes(), kPageBytes);
  memory.data()[99] = std::byte{1};
}

TEST(MappedMemoryTest, GivesPagesBack) {
  MappedMemory memory(kMiB);
  Fill(&memory, 0, kMiB);
  EXPECT_EQ(Resident(memory, 0, kMiB), kMiB);
  memory.GiveBack(kMiB / 4, kMiB / 2);
  EXPECT_EQ(Resident(memory, kMiB / 4, kMiB / 2), 0u);
  ExpectFilled(memory, 0, kMiB / 4, false);
  ExpectFilled(memory, kMiB / 4, kMiB / 4 * 3, true);
  ExpectFilled(memory, kMiB / 4 * 3, kMiB, false);
}

TEST(MappedMemoryTest, ShrinkingGivesBack) {
  MappedMemory memory(kMiB);
  Fill(&memory, 0, kMiB);
  memory.Resize(kMiB / 2);
  memory.Resize(kMiB);
  ExpectFilled(memory, 0, kMiB / 2, false);
  ExpectFilled(memory, kMiB / 2, kMiB, true);
}

TEST(MappedMemoryTest, MovesAsAValue) {
  MappedMemory a(kPageBytes);
  a.data()[0] = std::byte{7};
  MappedMemory b(std::move(a));
  EXPECT_EQ(a.data(), nullptr);
  a = std::move(b);
  EXPECT_EQ(a.data()[0], std::byte{7});
}

HugePages LookAt(const std::string& setting) {
  const std::string path = testing::TempDir() + "mapped_memory_test_setting";
  std::ofstream(path) << setting;
  return LookForHugePagesIn(path);
}

TEST(HugePagesTest, ReadsTheKernelsSetting) {
  EXPECT_TRUE(LookAt("always [madvise] never\n").available);
  EXPECT_TRUE(LookAt("[always] madvise never\n").available);
  EXPECT_FALSE(LookAt("always madvise [never]\n").available);
  EXPECT_FALSE(LookAt("").available);
}

TEST(HugePagesTest, SaysWhatItLookedAtAndWhatToDo) {
  const HugePages never = LookAt("always madvise [never]\n");
  EXPECT_THAT(never.why, testing::HasSubstr("mapped_memory_test_setting is neither"));
  EXPECT_THAT(never.remedy, testing::HasSubstr("echo madvise > "));
  const HugePages absent = LookForHugePagesIn("/no/such/setting");
  EXPECT_FALSE(absent.available);
  EXPECT_THAT(absent.why, testing::HasSubstr("has no /no/such/setting"));
  EXPECT_THAT(absent.remedy, testing::HasSubstr("CONFIG_TRANSPARENT_HUGEPAGE"));
}

TEST(HugePagesTest, AProcessCanBeWithout) {
  ASSERT_EQ(prctl(PR_SET_THP_DISABLE, 1, 0, 0, 0), 0);
  const HugePages off = LookAt("[always] madvise never\n");
  ASSERT_EQ(prctl(PR_SET_THP_DISABLE, 0, 0, 0, 0), 0);
  EXPECT_FALSE(off.available);
  EXPECT_THAT(off.why, testing::HasSubstr("PR_SET_THP_DISABLE"));
  const HugePages here = LookForHugePages();
  EXPECT_EQ(here.available, here.why.empty());
  EXPECT_EQ(here.available, here.remedy.empty());
}

}  // namespace
}  // namespace plexus
