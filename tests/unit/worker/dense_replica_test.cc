#include "worker/dense_replica.h"

#include <thread>

#include <gtest/gtest.h>

#include "proto/control.h"
#include "ps/shard_state.h"
#include "tests/unit/proto/draws.h"
#include "tests/unit/proto/test_plan.h"

namespace plexus {
namespace {

constexpr std::uint32_t kRanks = 3;

std::shared_ptr<const JobPlan> Plan(const std::vector<std::string>& more) {
  std::vector<std::string> overrides = {"train.ranks=3", "train.batch_size=12"};
  overrides.insert(overrides.end(), more.begin(), more.end());
  return PlanOf(kSmallJob, overrides);
}

// Gradients of each rank; a rank may have none.
struct Round {
  std::vector<std::vector<float>> gradients;
  std::vector<std::uint32_t> samples;
};

Round RandomRound(Draws* draws, const JobPlan& plan) {
  Round round;
  for (std::uint32_t rank = 0; rank < kRanks; ++rank) {
    const bool none = draws->OneIn(4);
    round.samples.push_back(none ? 0 : static_cast<std::uint32_t>(1 + draws->Below(9)));
    std::vector<float>& floats = round.gradients.emplace_back(none ? 0 : plan.dense.size());
    const float scales[] = {1e-4f, 1.0f, 3e3f};
    for (const DenseBlock& block : plan.dense.blocks()) {
      for (std::uint32_t i = 0; i < block.count && !none; ++i) {
        floats[block.offset + i] = draws->Float() * scales[draws->Below(3)];
      }
    }
  }
  return round;
}

// The step as the shard of a job without replicas makes it.
void ApplyOnShard(const JobPlan& plan, const Round& round, std::uint64_t step, ShardState* state) {
  std::vector<std::vector<float>> packed(kRanks);
  std::vector<PushBody> bodies(kRanks);
  std::vector<const PushBody*> parts;
  for (std::uint32_t rank = 0; rank < kRanks; ++rank) {
    for (const DenseBlock& block : plan.dense.blocks()) {
      if (!round.gradients[rank].empty()) {
        const float* from = round.gradients[rank].data() + block.offset;
        packed[rank].insert(packed[rank].end(), from, from + block.count);
      }
    }
    bodies[rank].samples = round.samples[rank];
    bodies[rank].dense = packed[rank];
    parts.push_back(&bodies[rank]);
  }
  double squares = 0;
  for (const proto::BlockNorm& norm : state->DenseNorms(parts)) {
    squares += norm.sum_of_squares();
  }
  state->ApplyStep(step, parts, RateFactor(plan.job.train().schedule(), step),
                   ClipScale(squares, plan.job.train().clip_dense_norm()));
}

// The same by a replica whose ranks call from their own threads, `rotated` in who comes first.
void ApplyOnReplica(const JobPlan& plan, const Round& round, std::uint64_t step, bool last,
                    DenseReplica* replica) {
  std::vector<std::jthread> ranks;
  for (std::uint32_t i = 0; i < kRanks; ++i) {
    const auto rank = static_cast<std::uint32_t>((i + step) % kRanks);
    ranks.emplace_back([&plan, &round, rank, step, last, replica] {
      DenseStep mine;
      mine.rank = rank;
      mine.step = step;
      mine.samples = round.samples[rank];
      mine.last = last || rank == 1;
      mine.gradients = round.gradients[rank].empty() ? nullptr : round.gradients[rank].data();
      mine.rate_factor = RateFactor(plan.job.train().schedule(), step);
      const StatusOr<DenseExchange::Result> result = replica->Step(mine);
      ASSERT_TRUE(result.ok());
      EXPECT_EQ(result->all_last, last);
    });
  }
}

TEST(DenseReplicaTest, HasTheShardsBits) {
  SCOPED_TRACE(SeedNote());
  for (const std::vector<std::string>& more :
       {std::vector<std::string>{},
        {"train.clip_dense_norm=0.5"},
        {"model.batch_norm=true"},
        {"train.schedule.warmup_steps=5", "train.clip_dense_norm=0.01"}}) {
    const auto plan = Plan(more);
    ShardState state(plan, 0, 1);
    DenseReplica replica(plan, kRanks, MakeLocalReducer());
    std::vector<std::uint32_t> all;
    for (std::uint32_t b = 0; b < plan->dense.blocks().size(); ++b) {
      all.push_back(b);
    }
    Draws draws(7);
    for (std::uint64_t step = 1; step <= 12; ++step) {
      const Round round = RandomRound(&draws, *plan);
      ApplyOnShard(*plan, round, step, &state);
      ApplyOnReplica(*plan, round, step, step == 12, &replica);
      const std::vector<float> floats = replica.BlockState(all);
      ASSERT_EQ(floats, std::vector<float>(state.dense().everything().begin(),
                                           state.dense().everything().end()))
          << "step " << step;
    }
    for (std::size_t b = 0; b < all.size(); ++b) {
      const DenseBlock& block = plan->dense.blocks()[b];
      for (std::uint32_t i = 0; i < block.count; ++i) {
        ASSERT_EQ(replica.values()[block.offset + i], state.dense().at(b)[i]);
      }
    }
  }
}

// A reducer whose network is gone.
class BrokenReducer final : public DenseReducer {
 public:
  Status Reduce(std::span<const DenseStep>, std::vector<RankNote>*, std::span<float>) override {
    return Unavailable("rank 7 is gone");
  }
};

TEST(DenseReplicaTest, AFailureReachesEveryRankAndStays) {
  const auto plan = Plan({});
  DenseReplica replica(plan, kRanks, std::make_unique<BrokenReducer>());
  for (int round = 0; round < 2; ++round) {
    std::vector<std::jthread> ranks;
    for (std::uint32_t rank = 0; rank < kRanks; ++rank) {
      ranks.emplace_back([rank, &replica] {
        DenseStep step;
        step.rank = rank;
        EXPECT_EQ(replica.Step(step).status().code(), StatusCode::kUnavailable);
      });
    }
  }
}

}  // namespace
}  // namespace plexus
