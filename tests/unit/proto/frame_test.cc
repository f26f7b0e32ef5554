#include "proto/frame.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "tests/unit/proto/frame_case.h"

namespace plexus {
namespace {

using testing::ElementsAre;
using testing::HasSubstr;

FrameHeader FullHeader() {
  FrameHeader header;
  header.type = FrameType::kPullReply;
  header.code = ReplyCode::kFenced;
  header.step = 0x1122334455667788;
  header.version = 0x0102030405060708;
  header.sequence = 9;
  header.phase = 10;
  header.rank = 11;
  header.epoch = 12;
  header.generation = 13;
  header.flags = kFlagDense | kFlagInexact;
  return header;
}

TEST(FrameTest, HeaderLiesAsTheTableSays) {
  const Bytes frame = MakeFrame(FullHeader(), "ab");
  ASSERT_EQ(frame.size(), 66u);
  const std::vector<std::uint8_t> bytes(frame.data(), frame.data() + frame.size());
  EXPECT_THAT(bytes, ElementsAre('P', 'L', 'X', '1',                              // magic
                                 2, 0, 3, 0,                                      // type, code
                                 0, 0, 0, 0, 0, 0, 0, 0,                          // checksum
                                 0x88, 0x77, 0x66, 0x55, 0x44, 0x33, 0x22, 0x11,  // step
                                 8, 7, 6, 5, 4, 3, 2, 1,                          // version
                                 9, 0, 0, 0, 0, 0, 0, 0,                          // sequence
                                 2, 0, 0, 0, 10, 0, 0, 0,                         // body, phase
                                 11, 0, 0, 0, 12, 0, 0, 0,                        // rank, epoch
                                 13, 0, 0, 0, 33, 0, 0, 0,                        // map, flags
                                 'a', 'b'));
}

TEST(FrameTest, ChecksumIsFixedForEver) {
  const Bytes frame = MakeFrame(FullHeader(), "ab");
  SealFrame(frame);
  EXPECT_EQ(HeaderOf(frame).checksum, 16719634135968982857ULL);
}

TEST(FrameTest, SealsOnceAndVerifies) {
  const Bytes frame = MakeFrame(FullHeader(), "body");
  EXPECT_EQ(VerifyFrame(frame).code(), StatusCode::kDataLoss) << "not sealed yet";
  SealFrame(frame);
  EXPECT_TRUE(VerifyFrame(frame).ok());
  const std::string sealed(frame.view());
  SealFrame(frame);
  EXPECT_EQ(frame.view(), sealed);
}

TEST(FrameTest, EachDamagedBitIsSeen) {
  const Bytes frame = MakeFrame(FullHeader(), "some body");
  SealFrame(frame);
  std::vector<std::uint8_t> bytes(frame.data(), frame.data() + frame.size());
  for (std::size_t bit = 0; bit < 8 * bytes.size(); ++bit) {
    bytes[bit / 8] ^= static_cast<std::uint8_t>(1u << (bit % 8));
    EXPECT_EQ(VerifyFrame(ExactBytes(bytes)).code(), StatusCode::kDataLoss) << "bit " << bit;
    bytes[bit / 8] ^= static_cast<std::uint8_t>(1u << (bit % 8));
  }
  EXPECT_TRUE(VerifyFrame(ExactBytes(bytes)).ok());
}

TEST(FrameTest, OtherLengthsAreSeen) {
  const Bytes frame = MakeFrame(FullHeader(), "some body");
  SealFrame(frame);
  const std::span<const std::uint8_t> all(frame.data(), frame.size());
  for (std::size_t size = 0; size < all.size(); ++size) {
    EXPECT_EQ(VerifyFrame(ExactBytes(all.first(size))).code(), StatusCode::kDataLoss) << size;
  }
  std::vector<std::uint8_t> longer(all.begin(), all.end());
  longer.push_back(0);
  EXPECT_THAT(VerifyFrame(ExactBytes(longer)).message(), HasSubstr("9 bytes of body and has 10"));
}

TEST(FrameTest, ALengthBeyondTheLimitIsNotBelieved) {
  FrameHeader header = FullHeader();
  header.body_bytes = kFrameBytesMax;
  const Bytes frame = MakeFrame(header);
  std::memcpy(const_cast<std::uint8_t*>(frame.data()), &header, sizeof(header));
  // Only the header may be read: the rest is not there.
  const Bytes huge({}, frame.data(), sizeof(header) + kFrameBytesMax);
  EXPECT_THAT(VerifyFrame(huge).message(), HasSubstr("too long"));
}

// A body of u32 words.
Bytes WordsFrame(FrameType type, std::vector<std::uint32_t> words, std::uint32_t flags = 0) {
  FrameHeader header;
  header.type = type;
  header.flags = flags;
  const Bytes frame = MakeFrame(header);
  return WithBody(frame, {reinterpret_cast<const std::uint8_t*>(words.data()), words.size() * 4});
}

JobPlan TwoGroups() {
  JobPlan plan;
  plan.tables.resize(3);
  plan.tables[0].dim = 2;
  plan.tables[1].dim = 1;
  plan.tables[2].dim = 512;
  plan.groups.resize(2);
  plan.groups[0].tables = {0, 1};
  plan.groups[0].dims = {2, 1};
  plan.groups[1].tables = {2};
  plan.groups[1].dims = {512};
  plan.groups[1].array_rows = 5;
  return plan;
}

std::string PullRefusal(std::vector<std::uint32_t> words) {
  return DecodePull(TwoGroups(), WordsFrame(FrameType::kPull, std::move(words))).status().message();
}

std::string PushRefusal(std::vector<std::uint32_t> words, std::uint32_t flags = 0,
                        const DenseExtent& dense = {}) {
  return DecodePush(TwoGroups(), dense, WordsFrame(FrameType::kPush, std::move(words), flags))
      .status()
      .message();
}

TEST(FrameTest, RefusesPullsThatLie) {
  constexpr std::uint32_t kHuge = 0xffffffff;
  EXPECT_THAT(PullRefusal({}), HasSubstr("without a head"));
  EXPECT_THAT(PullRefusal({kHuge, 0}), HasSubstr("more key groups"));
  EXPECT_THAT(PullRefusal({1, 0, 0, kHuge, 1, 2}), HasSubstr("keys are cut off"));
  EXPECT_THAT(PullRefusal({1, 0, 0, 0x20000000, 1, 2}), HasSubstr("keys are cut off"));
  EXPECT_THAT(PullRefusal({1, 0, 2, 0}), HasSubstr("not ascending, or unknown"));
  EXPECT_THAT(PullRefusal({2, 0, 1, 0, 0, 0}), HasSubstr("not ascending, or unknown"));
  EXPECT_THAT(PullRefusal({2, 0, 1, 0, 1, 0}), HasSubstr("not ascending, or unknown"));
  EXPECT_THAT(PullRefusal({1, 0, 1, 1, 5, 0}), HasSubstr("beyond the table's end"));
  EXPECT_THAT(PullRefusal({1, 0, 1, 1, 0, 1}), HasSubstr("beyond the table's end"));
  EXPECT_THAT(PullRefusal({1, 0, 1, 1, 4, 0, 0}), HasSubstr("bytes behind the end"));
  EXPECT_EQ(PullRefusal({1, 0, 1, 1, 4, 0}), "");
}

TEST(FrameTest, RefusesPushesThatLie) {
  constexpr std::uint32_t kHuge = 0xffffffff;
  EXPECT_THAT(PushRefusal({1, 0, 0}), HasSubstr("without a head"));
  EXPECT_THAT(PushRefusal({1, 1, 0, 0, 0, kHuge, 1, 2}), HasSubstr("keys are cut off"));
  EXPECT_THAT(PushRefusal({1, 1, 0, 0, 0, 1, 7, 7}), HasSubstr("counts are cut off"));
  EXPECT_THAT(PushRefusal({1, 1, 0, 0, 0, 1, 7, 7, 1, 0}), HasSubstr("gradients are cut off"));
  EXPECT_THAT(PushRefusal({1, 0, 0, 0}, kFlagDense, {.values = 1, .with_state = 2}),
              HasSubstr("dense gradients are cut off"));
  EXPECT_THAT(PushRefusal({1, 0, 0, 0}, kFlagDense, {.values = ~0ULL / 4 + 2, .with_state = 0}),
              HasSubstr("dense gradients are cut off"));
  EXPECT_THAT(PushRefusal({1, 0, 0, 0, 5}, kFlagDenseState, {.values = 1, .with_state = 2}),
              HasSubstr("dense state is cut off"));
  EXPECT_THAT(PushRefusal({1, 0, 0, 0, 5}), HasSubstr("bytes behind the end"));
  EXPECT_EQ(PushRefusal({1, 1, 0, 0, 0, 1, 7, 7, 1, 0, 1, 2, 3, 0}), "");
}

TEST(FrameTest, ReplySizeFollowsThePlan) {
  const std::vector<Key> keys = {1, 2, 3};
  PullBody pull;
  pull.groups.resize(2);
  pull.groups[0] = {.group = 0, .keys = keys, .counts = {}, .gradients = {}};
  pull.groups[1] = {.group = 1, .keys = keys, .counts = {}, .gradients = {}};
  EXPECT_EQ(PullReplyBytes(TwoGroups(), pull, 7), (3u * (2 + 1) + 3 * 512 + 7) * 4);
  JobPlan plan = TwoGroups();
  plan.groups[1].dims = {100};
  EXPECT_EQ(PullReplyBytes(plan, pull, 7), (3u * (2 + 1) + 3 * 100 + 7) * 4);
  plan.job.mutable_train()->set_pull_precision(proto::BF16);
  EXPECT_EQ(PullReplyBytes(plan, pull, 7), 3u * (4 + 4) + 3 * 200 + 7 * 4);
  plan.job.mutable_train()->set_pull_precision(proto::INT8);
  EXPECT_EQ(PullReplyBytes(plan, pull, 7), 3u * (8 + 8) + 3 * 104 + 7 * 4);
}

// A push of one key of group 0: dimensions 2 and 1.
TEST(FrameTest, GradientsAreRefusedAtAnyOtherLength) {
  for (const auto precision : {proto::F32, proto::BF16, proto::F16, proto::INT8}) {
    JobPlan plan = TwoGroups();
    plan.job.mutable_train()->set_push_precision(precision);
    const std::vector<Key> keys = {7};
    const std::vector<std::uint32_t> counts = {1};
    const std::vector<float> gradients = {1, -2};
    const std::vector<KeyBlock> blocks = {
        {.group = 0, .keys = keys, .counts = counts, .gradients = {}}};
    EXPECT_EQ(PushBytes(plan, blocks, 0), 16u + 8 + 8 + 8 + 2 * 8);
    FrameHeader header;
    header.type = FrameType::kPush;
    ByteWriter writer = StartFrame(header, PushBytes(plan, blocks, 0));
    EncodePush(writer, plan, 1, 0, blocks,
               [&gradients](std::size_t, std::size_t) { return gradients.data(); });
    const Bytes frame = writer.Finish();
    ASSERT_TRUE(DecodePush(plan, {}, frame).ok());
    const auto body = BodyOf(frame);
    for (std::size_t size = 0; size < body.size(); ++size) {
      EXPECT_FALSE(DecodePush(plan, {}, WithBody(frame, body.first(size))).ok()) << size;
    }
    std::vector<std::uint8_t> longer(body.begin(), body.end());
    longer.resize(body.size() + 8);
    EXPECT_FALSE(DecodePush(plan, {}, WithBody(frame, longer)).ok());
  }
}

}  // namespace
}  // namespace plexus
