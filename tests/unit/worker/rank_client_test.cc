#include "worker/rank_client.h"

#include <cstring>
#include <string>
#include <vector>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "tests/unit/proto/test_plan.h"
#include "tests/unit/worker/memory_data.h"

namespace plexus {
namespace {

using testing::HasSubstr;
using testing::SizeIs;

constexpr std::uint32_t kRank = 1;
constexpr std::uint32_t kEpoch = 4;

class RankClientTest : public testing::Test {
 protected:
  RankClientTest() {
    phase_.set_number(1);
    phase_.set_first_step(1);
    StepKeysBuilder builder(*plan_, InitialBucketMap(plan_->buckets(), 2), 2);
    builder.Build(MemoryData(plan_).MakeBatch(proto::Phase::TRAINING, kRank, 0, 0), &keys_);
  }

  std::vector<Envelope> Take() { return client_.outbox().Take(); }
  void Answer(const Envelope& request, FrameType type, ReplyCode code, std::string_view body = {},
              std::uint64_t version = 0) {
    FrameHeader header = HeaderOf(request.frame);
    header.type = type;
    header.code = code;
    header.version = version;
    client_.OnMessage(request.peer, MakeFrame(header, body), 0);
  }
  // What a shard would say to the pull.
  void AnswerPull(const Envelope& request, std::uint64_t version) {
    const PullBody pull = DecodePull(*plan_, request.frame).value();
    const std::string body(PullReplyBytes(*plan_, pull, 0), '\0');
    Answer(request, FrameType::kPullReply, ReplyCode::kOk, body, version);
  }
  void AnswerPhase(const Envelope& request, std::uint32_t number, std::uint64_t next_step) {
    proto::Phase phase;
    phase.set_number(number);
    phase.set_first_step(1);
    FrameHeader header = HeaderOf(request.frame);
    header.type = FrameType::kPhaseReply;
    header.step = next_step;
    client_.OnMessage(request.peer, MakeFrame(header, phase.SerializeAsString()), 0);
  }

  const std::shared_ptr<const JobPlan> plan_ = PlanOf(kSmallJob, {"cluster.servers=2"});
  RankClient client_{plan_, kRank, kEpoch, 100};
  proto::Phase phase_;
  StepKeys keys_;
};

TEST_F(RankClientTest, PullsAskEachShardForItsKeys) {
  const std::uint64_t pull = client_.Pull(phase_, 7, kFlagReadOnly, &keys_, 0);
  const std::vector<Envelope> sent = Take();
  ASSERT_THAT(sent, SizeIs(2));
  for (std::uint32_t s = 0; s < 2; ++s) {
    EXPECT_EQ(sent[s].peer, ShardPeer(s));
    const FrameHeader header = HeaderOf(sent[s].frame);
    EXPECT_EQ(header.type, FrameType::kPull);
    EXPECT_EQ(header.rank, kRank);
    EXPECT_EQ(header.epoch, kEpoch);
    EXPECT_EQ(header.step, 7u);
    EXPECT_EQ(header.phase, 1u);
    EXPECT_EQ(header.sequence, pull);
    const PullBody body = DecodePull(*plan_, sent[s].frame).value();
    ASSERT_EQ(body.groups.size(), 2u);
    for (std::size_t g = 0; g < 2; ++g) {
      const GroupKeys& keys = keys_.groups[g];
      EXPECT_EQ(std::vector<Key>(body.groups[g].keys.begin(), body.groups[g].keys.end()),
                std::vector<Key>(keys.keys.begin() + keys.shard_begin[s],
                                 keys.keys.begin() + keys.shard_begin[s + 1]));
    }
  }
}

TEST_F(RankClientTest, APullIsWholeWhenAllShardsAnswered) {
  const std::uint64_t pull = client_.Pull(phase_, 1, 0, &keys_, 0);
  const std::vector<Envelope> sent = Take();
  AnswerPull(sent[1], 9);
  AnswerPull(sent[1], 9);
  EXPECT_FALSE(client_.TakePulled(pull).has_value()) << "one shard answered twice";
  AnswerPull(sent[0], 8);
  const auto pulled = client_.TakePulled(pull);
  ASSERT_TRUE(pulled.has_value());
  EXPECT_EQ(pulled->version, 8u) << "the oldest";
  EXPECT_EQ(HeaderOf(pulled->replies[1]).version, 9u);
  EXPECT_FALSE(client_.TakePulled(pull).has_value()) << "taken once";
  AnswerPull(sent[0], 8);  // Late.
  EXPECT_EQ(client_.failure(), "");
}

TEST_F(RankClientTest, APullFailsAtTheFirstShardThatSaysSo) {
  const std::uint64_t pull = client_.Pull(phase_, 1, 0, &keys_, 0);
  const std::vector<Envelope> sent = Take();
  Answer(sent[0], FrameType::kPullReply, ReplyCode::kPhaseEnded);
  EXPECT_EQ(client_.TakePulled(pull)->code, ReplyCode::kPhaseEnded);
}

TEST_F(RankClientTest, AReplyOfAnotherSizeIsRefused) {
  const std::uint64_t pull = client_.Pull(phase_, 1, 0, &keys_, 0);
  const std::vector<Envelope> sent = Take();
  AnswerPull(sent[0], 0);
  Answer(sent[1], FrameType::kPullReply, ReplyCode::kOk, "shor");
  EXPECT_FALSE(client_.TakePulled(pull).has_value());
  EXPECT_THAT(client_.failure(), HasSubstr("server 1 answered a pull with 4 bytes"));
}

TEST_F(RankClientTest, SaysAgainWhatIsNotAnswered) {
  client_.Pull(phase_, 1, 0, &keys_, 0);
  client_.Push(phase_, 1, 0, {}, 50);
  const std::vector<Envelope> sent = Take();
  AnswerPull(sent[0], 0);
  client_.OnTimer(99);
  EXPECT_THAT(Take(), SizeIs(0));
  client_.OnTimer(100);
  const std::vector<Envelope> again = Take();
  ASSERT_THAT(again, SizeIs(1));
  EXPECT_EQ(again[0].peer, ShardPeer(1));
  EXPECT_EQ(again[0].frame.data(), sent[1].frame.data()) << "the same frame, not a copy";
  client_.OnTimer(150);
  EXPECT_THAT(Take(), SizeIs(2)) << "the push";
  EXPECT_EQ(client_.unacknowledged(), 1u);
  Answer(sent[2], FrameType::kPushReply, ReplyCode::kOk);
  Answer(sent[2], FrameType::kPushReply, ReplyCode::kOk);
  EXPECT_EQ(client_.unacknowledged(), 1u);
  Answer(sent[3], FrameType::kPushReply, ReplyCode::kPhaseEnded);
  EXPECT_EQ(client_.unacknowledged(), 0u);
}

using GradientFloats = std::vector<std::vector<std::vector<float>>>;  // [group][table]

GradientFloats FloatsOf(const JobPlan& plan, const StepKeys& keys) {
  GradientFloats floats(plan.groups.size());
  for (std::size_t g = 0; g < plan.groups.size(); ++g) {
    for (const std::uint32_t dim : plan.groups[g].dims) {
      std::vector<float>& all = floats[g].emplace_back();
      for (std::size_t i = 0; i < keys.groups[g].keys.size() * dim; ++i) {
        all.push_back(static_cast<float>(100 * floats[g].size() + i) / 3);
      }
    }
  }
  return floats;
}

std::vector<std::vector<const float*>> PointersTo(const GradientFloats& floats) {
  std::vector<std::vector<const float*>> pointers;
  for (const auto& group : floats) {
    auto& tables = pointers.emplace_back();
    for (const auto& all : group) {
      tables.push_back(all.data());
    }
  }
  return pointers;
}

TEST_F(RankClientTest, PushesCarryEachShardsPart) {
  std::vector<float> dense(plan_->dense.size());
  for (std::size_t i = 0; i < dense.size(); ++i) {
    dense[i] = static_cast<float>(i);
  }
  const GradientFloats floats = FloatsOf(*plan_, keys_);
  RankClient::Gradients gradients;
  gradients.groups = PointersTo(floats);
  gradients.keys = &keys_;
  gradients.dense = dense.data();
  gradients.samples = 3;
  gradients.loss_sum = 0.5;
  client_.Push(phase_, 2, kFlagLast, gradients, 0);
  const std::vector<Envelope> sent = Take();
  for (std::uint32_t s = 0; s < 2; ++s) {
    EXPECT_EQ(HeaderOf(sent[s].frame).flags, kFlagLast | kFlagDense);
    DenseExtent extent;
    for (const std::uint32_t b : client_.shard_blocks()[s]) {
      extent.values += plan_->dense.blocks()[b].count;
    }
    const PushBody body = DecodePush(*plan_, extent, sent[s].frame).value();
    EXPECT_EQ(body.samples, 3u);
    EXPECT_EQ(body.loss_sum, 0.5);
    std::size_t at = 0;
    for (const std::uint32_t b : client_.shard_blocks()[s]) {
      const DenseBlock& block = plan_->dense.blocks()[b];
      for (std::uint32_t i = 0; i < block.count; ++i) {
        ASSERT_EQ(body.dense[at++], dense[block.offset + i]);
      }
    }
    for (std::size_t g = 0; g < 2; ++g) {
      for (std::size_t t = 0; t < floats[g].size(); ++t) {
        const std::uint32_t dim = plan_->tables[plan_->groups[g].tables[t]].dim;
        const std::size_t first = std::size_t{keys_.groups[g].shard_begin[s]} * dim;
        const std::span<const std::uint8_t> bytes = body.groups[g].gradients[t];
        ASSERT_EQ(bytes.size(), body.groups[g].keys.size() * dim * sizeof(float));
        ASSERT_TRUE(bytes.empty() ||
                    std::memcmp(bytes.data(), &floats[g][t][first], bytes.size()) == 0);
      }
    }
  }
}

TEST_F(RankClientTest, GradientsTravelInThePushPrecisionAndTheFieldsDimension) {
  for (const std::string precision : {"F32", "BF16", "F16", "INT8"}) {
    const auto plan = PlanOf(kSmallJob, {"cluster.servers=2", "data.fields.C2.dim=2",
                                         "train.push_precision=" + precision});
    ASSERT_EQ(plan->groups[1].dims[0], 2u) << "narrower than its table";
    StepKeys keys;
    StepKeysBuilder builder(*plan, InitialBucketMap(plan->buckets(), 2), 2);
    builder.Build(MemoryData(plan).MakeBatch(proto::Phase::TRAINING, kRank, 0, 0), &keys);
    const GradientFloats floats = FloatsOf(*plan, keys);
    RankClient::Gradients gradients;
    gradients.keys = &keys;
    gradients.groups = PointersTo(floats);
    RankClient client(plan, kRank, kEpoch, 100);
    client.Push(phase_, 2, 0, gradients, 0);
    const std::vector<Envelope> sent = client.outbox().Take();
    ASSERT_THAT(sent, SizeIs(2));
    for (std::uint32_t s = 0; s < 2; ++s) {
      const PushBody body = DecodePush(*plan, {}, sent[s].frame).value();
      for (std::size_t g = 0; g < plan->groups.size(); ++g) {
        for (std::size_t t = 0; t < floats[g].size(); ++t) {
          const std::uint32_t dim = plan->groups[g].dims[t];
          const std::size_t row_bytes = WireRowBytes(PushPrecision(*plan), dim);
          std::vector<std::uint8_t> expected(body.groups[g].keys.size() * row_bytes);
          for (std::size_t i = 0; i < body.groups[g].keys.size(); ++i) {
            EncodeWireRow(PushPrecision(*plan),
                          &floats[g][t][(keys.groups[g].shard_begin[s] + i) * dim], dim,
                          &expected[i * row_bytes]);
          }
          const std::span<const std::uint8_t> got = body.groups[g].gradients[t];
          ASSERT_EQ(std::vector<std::uint8_t>(got.begin(), got.end()), expected) << precision;
        }
      }
    }
  }
}

TEST_F(RankClientTest, GoesOnWithTheOldestStepOfThePhase) {
  client_.QueryPhase(0, 0);
  const std::vector<Envelope> sent = Take();
  AnswerPhase(sent[0], 1, 6);
  EXPECT_FALSE(client_.TakePhase().has_value());
  AnswerPhase(sent[1], 1, 5);
  EXPECT_EQ(client_.TakePhase()->next_step, 5u);
  EXPECT_FALSE(client_.TakePhase().has_value());
}

TEST_F(RankClientTest, AsksAgainWhenShardsAreInDifferentPhases) {
  client_.QueryPhase(0, 0);
  const std::vector<Envelope> sent = Take();
  AnswerPhase(sent[0], 1, 6);
  AnswerPhase(sent[1], 3, 9);
  const std::vector<Envelope> again = Take();
  ASSERT_THAT(again, SizeIs(2));
  EXPECT_EQ(HeaderOf(again[0].frame).phase, 2u) << "what comes after phase 2";
  EXPECT_FALSE(client_.TakePhase().has_value());
  AnswerPhase(again[0], 3, 9);
  AnswerPhase(again[1], 3, 9);
  EXPECT_EQ(client_.TakePhase()->phase.number(), 3u);
}

TEST_F(RankClientTest, ReportsUntilThePhaseIsOver) {
  proto::EvaluationReport report;
  report.set_step(3);
  client_.Report(report, 0);
  client_.OnTimer(100);
  EXPECT_THAT(Take(), SizeIs(2));
  client_.QueryPhase(1, 100);
  const std::vector<Envelope> sent = Take();
  AnswerPhase(sent[0], 2, 4);
  AnswerPhase(sent[1], 2, 4);
  ASSERT_TRUE(client_.TakePhase().has_value());
  client_.OnTimer(1000);
  EXPECT_THAT(Take(), SizeIs(0));
}

TEST_F(RankClientTest, RefusalsAreKept) {
  client_.Pull(phase_, 1, 0, &keys_, 0);
  const std::vector<Envelope> sent = Take();
  Answer(sent[1], FrameType::kError, ReplyCode::kBadRequest, "no good");
  EXPECT_EQ(client_.failure(), "server 1 refused a request of rank 1 at step 1: no good");
  EXPECT_FALSE(client_.fenced());
  Answer(sent[1], FrameType::kError, ReplyCode::kFenced);
  EXPECT_TRUE(client_.fenced());
}

TEST_F(RankClientTest, IgnoresWhatIsNotForIt) {
  const std::uint64_t pull = client_.Pull(phase_, 1, 0, nullptr, 0);
  const std::vector<Envelope> sent = Take();
  FrameHeader header = HeaderOf(sent[0].frame);
  header.type = FrameType::kPullReply;
  header.epoch = kEpoch + 1;
  client_.OnMessage(ShardPeer(0), MakeFrame(header), 0);
  header.epoch = kEpoch;
  header.rank = 0;
  client_.OnMessage(ShardPeer(0), MakeFrame(header), 0);
  header.rank = kRank;
  client_.OnMessage(ShardPeer(2), MakeFrame(header), 0);
  client_.OnMessage("scheduler", MakeFrame(header), 0);
  header.sequence += 5;
  client_.OnMessage(ShardPeer(0), MakeFrame(header), 0);
  AnswerPull(sent[1], 0);
  EXPECT_FALSE(client_.TakePulled(pull).has_value());
}

}  // namespace
}  // namespace plexus
