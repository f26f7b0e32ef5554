// Random plans and bodies: what is encoded is decoded; what is damaged is refused or stays in
// bounds.
#include <cstring>
#include <numeric>
#include <string>
#include <vector>

#include <gtest/gtest.h>

#include "proto/control.h"
#include "tests/unit/proto/frame_case.h"

namespace plexus {
namespace {

constexpr std::uint32_t kFlagSets[] = {0, kFlagDense, kFlagDenseState,
                                       kFlagDense | kFlagDenseState};

template <typename T>
std::vector<T> Copy(std::span<const T> span) {
  return {span.begin(), span.end()};
}

void ExpectKeys(const FrameCase& sent, const std::vector<KeyBlock>& got) {
  ASSERT_EQ(got.size(), sent.blocks.size());
  for (std::size_t b = 0; b < got.size(); ++b) {
    EXPECT_EQ(got[b].group, sent.blocks[b].group);
    EXPECT_EQ(Copy(got[b].keys), sent.keys[b]);
  }
}

TEST(FrameProperty, PullsRoundTrip) {
  SCOPED_TRACE(SeedNote());
  for (std::uint64_t i = 0; i < 200; ++i) {
    Draws draws(i);
    const FrameCase sent(&draws);
    const Bytes frame = sent.Pull();  // The body borrows from it.
    const StatusOr<PullBody> got = DecodePull(sent.plan, frame);
    ASSERT_TRUE(got.ok()) << got.status().ToString();
    ExpectKeys(sent, got->groups);
  }
}

// `frame` with bytes of ones at `at`: a NaN in every precision, where a row or a float begins.
Bytes WithOnes(const Bytes& frame, const std::uint8_t* at, std::size_t count) {
  std::vector<std::uint8_t> bytes(frame.data(), frame.data() + frame.size());
  std::fill_n(bytes.begin() + (at - frame.data()), count, 0xff);
  return ExactBytes(bytes);
}

TEST(FrameProperty, FindsWhatIsNotFiniteWhereverItLies) {
  SCOPED_TRACE(SeedNote());
  for (std::uint64_t i = 0; i < 200; ++i) {
    Draws draws(i);
    const FrameCase sent(&draws);
    const Bytes frame = sent.Push(kFlagDense | kFlagDenseState);
    const StatusOr<PushBody> got = DecodePush(sent.plan, sent.dense, frame);
    ASSERT_TRUE(got.ok());
    ASSERT_TRUE(PushIsFinite(sent.plan, *got));
    const auto is_finite = [&sent](const Bytes& damaged) {
      return PushIsFinite(sent.plan, DecodePush(sent.plan, sent.dense, damaged).value());
    };
    EXPECT_FALSE(is_finite(WithOnes(frame, BodyOf(frame).data() + 8, 8))) << "the loss";
    for (const KeyBlock& block : got->groups) {
      for (const auto& rows : block.gradients) {
        for (std::size_t row = 0; row < block.keys.size(); ++row) {
          const std::uint8_t* at = rows.data() + row * (rows.size() / block.keys.size());
          EXPECT_FALSE(is_finite(WithOnes(frame, at, 4)));
        }
      }
    }
    for (const float& value : got->dense) {
      EXPECT_FALSE(is_finite(WithOnes(frame, reinterpret_cast<const std::uint8_t*>(&value), 4)));
    }
    for (const float& value : got->dense_state) {
      EXPECT_TRUE(is_finite(WithOnes(frame, reinterpret_cast<const std::uint8_t*>(&value), 4)))
          << "no gradient";
    }
  }
}

TEST(FrameProperty, PushesRoundTrip) {
  SCOPED_TRACE(SeedNote());
  for (std::uint64_t i = 0; i < 200; ++i) {
    Draws draws(i);
    const FrameCase sent(&draws);
    for (const std::uint32_t flags : kFlagSets) {
      const Bytes frame = sent.Push(flags);
      const StatusOr<PushBody> got = DecodePush(sent.plan, sent.dense, frame);
      ASSERT_TRUE(got.ok()) << got.status().ToString();
      ExpectKeys(sent, got->groups);
      EXPECT_EQ(got->samples, 17u);
      EXPECT_EQ(got->loss_sum, -2.5);
      for (std::size_t b = 0; b < got->groups.size(); ++b) {
        EXPECT_EQ(Copy(got->groups[b].counts), sent.counts[b]);
        ASSERT_EQ(got->groups[b].gradients.size(), sent.gradients[b].size());
        for (std::size_t t = 0; t < sent.gradients[b].size(); ++t) {
          const std::span<const std::uint8_t> wire = got->groups[b].gradients[t];
          EXPECT_EQ(Copy(wire), sent.wire_gradients[b][t]);
          EXPECT_EQ((wire.data() - frame.data()) % 8, 0);
          if (PushPrecision(sent.plan) == Precision::kF32) {
            const std::vector<float>& floats = sent.gradients[b][t];
            EXPECT_TRUE(floats.empty() ||
                        std::memcmp(wire.data(), floats.data(), 4 * floats.size()) == 0);
          }
        }
      }
      const bool dense = (flags & kFlagDense) != 0;
      const bool state = (flags & kFlagDenseState) != 0;
      EXPECT_EQ(Copy(got->dense), dense ? sent.dense_gradients : std::vector<float>());
      EXPECT_EQ(Copy(got->dense_state), state ? sent.dense_state : std::vector<float>());
    }
  }
}

TEST(FrameProperty, EachTruncationIsRefused) {
  SCOPED_TRACE(SeedNote());
  for (std::uint64_t i = 0; i < 40; ++i) {
    Draws draws(1000 + i);
    const FrameCase sent(&draws);
    const Bytes pull = sent.Pull();
    for (std::size_t size = 0; size < BodyOf(pull).size(); ++size) {
      EXPECT_FALSE(DecodePull(sent.plan, WithBody(pull, BodyOf(pull).first(size))).ok()) << size;
    }
    const Bytes push = sent.Push(kFlagDense | kFlagDenseState);
    for (std::size_t size = 0; size < BodyOf(push).size(); ++size) {
      EXPECT_FALSE(DecodePush(sent.plan, sent.dense, WithBody(push, BodyOf(push).first(size))).ok())
          << size;
    }
  }
}

// Reads all that a block claims to have.
void ExpectInBounds(const JobPlan& plan, const Bytes& frame, const KeyBlock& block, bool push) {
  ASSERT_LT(block.group, plan.groups.size());
  const auto inside = [&frame](const auto& span) {
    const auto* begin = reinterpret_cast<const std::uint8_t*>(span.data());
    return span.empty() ||
           (begin >= frame.data() && begin + span.size_bytes() <= frame.data() + frame.size());
  };
  const KeyGroup& group = plan.groups[block.group];
  ASSERT_TRUE(inside(block.keys));
  for (const Key key : block.keys) {
    ASSERT_TRUE(group.array_rows == 0 || key < group.array_rows);
  }
  if (!push) {
    return;
  }
  ASSERT_EQ(block.counts.size(), block.keys.size());
  ASSERT_TRUE(inside(block.counts));
  ASSERT_EQ(block.gradients.size(), group.tables.size());
  for (std::size_t t = 0; t < group.tables.size(); ++t) {
    ASSERT_EQ(block.gradients[t].size(),
              block.keys.size() * WireRowBytes(PushPrecision(plan), group.dims[t]));
    ASSERT_TRUE(inside(block.gradients[t]));
  }
}

TEST(FrameProperty, DamagedBodiesAreRefusedOrStayInBounds) {
  SCOPED_TRACE(SeedNote());
  std::uint64_t refused = 0;
  for (std::uint64_t i = 0; i < 3000; ++i) {
    Draws draws(5000 + i);
    const FrameCase sent(&draws);
    const bool push = draws.OneIn(2);
    const Bytes whole = push ? sent.Push(kFlagSets[draws.Below(4)]) : sent.Pull();
    std::vector<std::uint8_t> body(BodyOf(whole).begin(), BodyOf(whole).end());
    for (std::uint64_t n = 1 + draws.Below(4); n > 0; --n) {
      // Mostly small numbers near the front, where sizes are.
      const std::size_t at =
          draws.Below(draws.OneIn(2) ? body.size() : std::min<std::size_t>(body.size(), 24));
      body[at] = static_cast<std::uint8_t>(draws.Below(draws.OneIn(2) ? 256 : 4));
    }
    const Bytes frame = WithBody(whole, body);
    std::vector<KeyBlock> groups;
    if (push) {
      StatusOr<PushBody> got = DecodePush(sent.plan, sent.dense, frame);
      refused += got.ok() ? 0 : 1;
      groups = got.ok() ? got->groups : groups;
    } else {
      StatusOr<PullBody> got = DecodePull(sent.plan, frame);
      refused += got.ok() ? 0 : 1;
      groups = got.ok() ? got->groups : groups;
    }
    for (const KeyBlock& block : groups) {
      ASSERT_NO_FATAL_FAILURE(ExpectInBounds(sent.plan, frame, block, push));
    }
  }
  EXPECT_GT(refused, 300u);
}

TEST(FrameProperty, RandomControlBodiesDoNoHarm) {
  SCOPED_TRACE(SeedNote());
  proto::Control control;
  control.mutable_complete()->set_step(7);
  control.mutable_complete()->add_norms()->set_sum_of_squares(2);
  const Bytes whole = ControlFrame(control);
  EXPECT_EQ(DecodeControl(whole)->complete().step(), 7u);
  Draws draws(9);
  for (int i = 0; i < 2000; ++i) {
    std::vector<std::uint8_t> body(BodyOf(whole).begin(), BodyOf(whole).end());
    body[draws.Below(body.size())] = static_cast<std::uint8_t>(draws.Below(256));
    body.resize(draws.Below(body.size() + 1));
    (void)DecodeControl(WithBody(whole, body));
  }
}

}  // namespace
}  // namespace plexus
