#include "common/bytes.h"

#include <array>
#include <string>
#include <vector>

#include <gtest/gtest.h>

namespace plexus {
namespace {

std::string Text(const Bytes& bytes) { return std::string(bytes.view()); }

TEST(BytesTest, CopiesAreAlignedAndKeepTheirMemory) {
  std::vector<std::uint8_t> data = {'a', 'b', 'c'};
  const Bytes copy = Bytes::Copy(data);
  data[0] = 'x';
  EXPECT_EQ(Text(copy), "abc");
  EXPECT_EQ(reinterpret_cast<std::uintptr_t>(copy.data()) % kCacheLine, 0u);
  Bytes other = copy;
  EXPECT_EQ(other.data(), copy.data()) << "shared, not copied";
  EXPECT_TRUE(Bytes().empty());
  EXPECT_EQ(Bytes::Copy({}).size(), 0u);
}

TEST(BytesTest, BorrowsFromAnOwnerAsLongAsItLives) {
  const auto owner = std::make_shared<std::string>("owned");
  const std::weak_ptr<std::string> watch = owner;
  Bytes bytes(owner, reinterpret_cast<const std::uint8_t*>(owner->data()), owner->size());
  EXPECT_EQ(watch.use_count(), 2);
  bytes = Bytes();
  EXPECT_EQ(watch.use_count(), 1);
}

TEST(ByteWriterTest, WritesInOrderWithPadding) {
  ByteWriter writer(24);
  writer.Put(std::uint32_t{0x04030201});
  const std::array<std::uint16_t, 1> array = {0x0605};
  writer.PutArray(std::span<const std::uint16_t>(array));
  writer.PutArray(std::span<const std::uint16_t>());
  writer.Align(8);
  writer.Align(8);
  EXPECT_EQ(writer.position(), 8u);
  writer.Put(std::uint64_t{7});
  std::memset(writer.Reserve(8), 9, 8);
  const Bytes bytes = writer.Finish();
  EXPECT_EQ(Text(bytes),
            std::string("\1\2\3\4\5\6\0\0\7\0\0\0\0\0\0\0\11\11\11\11\11\11\11\11", 24));
}

TEST(ByteWriterDeathTest, AFrameMustBeWrittenWhole) {
  EXPECT_DEATH(ByteWriter(8).Finish(), "sized wrongly");
}

TEST(ByteReaderTest, ReadsWhatIsThereAndNothingMore) {
  alignas(8) const std::uint8_t data[20] = {1, 0, 0, 0, 2, 0, 3, 0, 9};
  ByteReader reader(data, sizeof(data));
  std::uint32_t first = 0;
  ASSERT_TRUE(reader.Get(&first));
  EXPECT_EQ(first, 1u);
  std::span<const std::uint16_t> pair;
  ASSERT_TRUE(reader.GetArray(2, &pair));
  EXPECT_EQ(pair[1], 3u);
  std::uint8_t nine = 0;
  ASSERT_TRUE(reader.Get(&nine));
  ASSERT_TRUE(reader.Align(8));
  EXPECT_EQ(reader.remaining(), 4u);
  std::uint64_t eight = 0;
  EXPECT_FALSE(reader.Get(&eight));
  EXPECT_EQ(reader.remaining(), 4u) << "a failure takes nothing";
  ASSERT_TRUE(reader.Get(&first));
  EXPECT_FALSE(reader.Get(&nine));
  EXPECT_FALSE(reader.Align(8));
}

TEST(ByteReaderTest, RefusesLengthsThatOverflowAndMisalignedArrays) {
  alignas(8) const std::uint8_t data[16] = {};
  ByteReader reader(data, sizeof(data));
  std::span<const std::uint64_t> words;
  EXPECT_FALSE(reader.GetArray(~0ULL, &words));
  EXPECT_FALSE(reader.GetArray(1ULL << 61, &words));
  EXPECT_FALSE(reader.GetArray(3, &words));
  EXPECT_TRUE(reader.GetArray(2, &words));
  ByteReader odd(data + 1, 15);
  EXPECT_FALSE(odd.GetArray(1, &words));
  std::span<const std::uint8_t> bytes;
  EXPECT_TRUE(odd.GetArray(15, &bytes));
}

}  // namespace
}  // namespace plexus
