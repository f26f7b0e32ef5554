// What comes back from files trains on as if it had never been away: tables of every kind, at every
// number of shards.
#include <cmath>
#include <filesystem>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include <gtest/gtest.h>

#include "ps/store/model_file.h"
#include "tests/unit/ps/shard_testing.h"

namespace plexus {
namespace {

// Whatever decides which rows exist.
constexpr char kJob[] = R"(
data {
  train: "none"
  fields { name: "I1" kind: DENSE }
  fields { name: "C1" tables: "plain" }
  fields { name: "C2" tables: "seen" }
  fields { name: "C3" tables: "sketched" }
  fields { name: "C4" tables: "chosen" }
  fields { name: "C5" tables: "hottest" }
  fields { name: "C6" tables: "largest" }
  fields { name: "C7" tables: "newest" }
  fields { name: "C8" tables: "array" }
  fields { name: "C9" tables: "hybrid" }
  fields { name: "C10" tables: "hybrid_by_norm" }
}
tables { name: "plain" dim: 4 precision: INT8 learned_scale: true optimizer { kind: ADAM } }
tables { name: "seen" dim: 4 admission { kind: COUNT threshold: 3 filter_keys: 256 }
         eviction { unseen_versions: 5 sweep_versions: 3 } }
tables { name: "sketched" dim: 4
         admission { kind: SKETCH threshold: 3 sketch_width: 512 window_versions: 6 } }
tables { name: "chosen" dim: 4 precision: BF16
         admission { kind: COUNT_PROBABILITY threshold: 3 } }
tables { name: "hottest" dim: 4 max_rows: 96 eviction { order: COUNT half_life_versions: 7 } }
tables { name: "largest" dim: 4 max_rows: 96 eviction { order: NORM } }
tables { name: "newest" dim: 4 max_rows: 96 eviction { order: OLDEST }
         optimizer { kind: ROW_WISE_ADAGRAD } }
tables { name: "array" kind: ARRAY rows: 100 dim: 4 }
tables { name: "hybrid" kind: HYBRID dim: 4
         hybrid { exact_rows: 64 shared_rows: 64 threshold: 2 decay: 0.5 } }
tables { name: "hybrid_by_norm" kind: HYBRID dim: 4
         hybrid { exact_rows: 64 shared_rows: 64 threshold: 2 decay: 0.5
                  importance: GRADIENT_NORM } }
model { name: "fnn" hidden: 4 batch_norm: true }
train { ranks: 2 batch_size: 8 learning_rate: 0.1 dense_optimizer { kind: ADAM } }
cluster { servers: 1 workers: 1 buckets: 16 }
)";

// One rank's push of a step, of which `shard` of `shards` gets its keys.
OwnedPush PushOf(const JobPlan& plan, std::uint64_t step, std::uint32_t rank, std::uint32_t shard,
                 std::uint32_t shards) {
  Draws draws(step * 2 + rank);
  OwnedPush push;
  push.rank = rank;
  push.samples = 8;
  for (const KeyGroup& group : plan.groups) {
    std::map<Key, std::uint32_t> counts;
    for (int n = 0; n < 60; ++n) {
      // Some keys often, most rarely.
      const std::uint64_t draw = draws.Below(draws.OneIn(2) ? 30 : 3000);
      ++counts[group.array_rows > 0 ? draw % group.array_rows : Mix64(draw)];
    }
    auto& keys = push.keys.emplace_back();
    auto& key_counts = push.counts.emplace_back();
    auto& gradients = push.gradients.emplace_back(group.tables.size());
    for (const auto& [key, count] : counts) {
      const std::uint32_t bucket = group.array_rows > 0 ? BucketOfRow(key, plan.buckets())
                                                        : BucketOfKey(key, plan.buckets());
      const bool mine = bucket % shards == shard;
      if (mine) {
        keys.push_back(key);
        key_counts.push_back(count);
      }
      for (std::size_t t = 0; t < group.tables.size(); ++t) {
        for (std::uint32_t e = 0; e < group.dims[t]; ++e) {
          const float gradient = draws.Float() * static_cast<float>(count);
          if (mine) {
            gradients[t].push_back(gradient);
          }
        }
      }
    }
  }
  return push;
}

class Cluster {
 public:
  Cluster(std::shared_ptr<const JobPlan> plan, std::uint32_t shards) : plan_(std::move(plan)) {
    for (std::uint32_t s = 0; s < shards; ++s) {
      states_.push_back(std::make_unique<ShardState>(plan_, s, shards));
    }
  }

  void Train(std::uint64_t step) {
    const auto shards = static_cast<std::uint32_t>(states_.size());
    for (std::uint32_t s = 0; s < shards; ++s) {
      const OwnedPush first = PushOf(*plan_, step, 0, s, shards);
      const OwnedPush second = PushOf(*plan_, step, 1, s, shards);
      PushBody bodies[] = {first.Body(), second.Body()};
      const std::vector<float> dense(states_[s]->dense_extent().values,
                                     std::sin(static_cast<float>(step)));
      bodies[0].dense = dense;
      const PushBody* parts[] = {&bodies[0], &bodies[1]};
      states_[s]->ApplyStep(step, parts, 1, 1);
    }
  }

  void Write(const std::string& directory, std::uint64_t version) const {
    proto::Manifest manifest;
    manifest.set_model(plan_->job.model().name());
    manifest.set_version(version);
    manifest.set_shards(static_cast<std::uint32_t>(states_.size()));
    for (std::uint32_t s = 0; s < states_.size(); ++s) {
      Digest128 digest;
      StatusOr<proto::SavedFile> saved =
          WriteModelFile(*plan_, *states_[s], s, version, directory, nullptr, &digest);
      ASSERT_TRUE(saved.ok()) << saved.status().ToString();
      *manifest.add_files() = *saved;
    }
    ASSERT_TRUE(WriteManifest(manifest, directory).ok());
  }

  void Read(const std::string& directory) {
    for (const auto& state : states_) {
      const Status status = ReadModel(*plan_, directory, state.get()).status();
      ASSERT_TRUE(status.ok()) << status.ToString();
    }
  }

  Digest128 Digest() const {
    Digest128 digest;
    for (const auto& state : states_) {
      digest += state->Digest();
    }
    return digest;
  }
  // By table, so that a failure names one.
  std::map<std::string, std::string> Digests() const {
    std::map<std::string, std::string> digests;
    for (std::uint32_t t = 0; t < plan_->tables.size(); ++t) {
      Digest128 digest;
      for (const auto& state : states_) {
        digest += state->table(t).Digest();
      }
      digests[plan_->tables[t].name] = DigestHex(digest);
    }
    return digests;
  }
  std::uint64_t Sum(std::uint64_t TableCounters::*counter) const {
    std::uint64_t sum = 0;
    for (const auto& state : states_) {
      for (std::uint32_t t = 0; t < state->table_count(); ++t) {
        sum += state->table(t).counters().*counter;
      }
    }
    return sum;
  }

 private:
  const std::shared_ptr<const JobPlan> plan_;
  std::vector<std::unique_ptr<ShardState>> states_;
};

TEST(RestoredStateTest, TrainsOnAsIfItHadNeverBeenAway) {
  SCOPED_TRACE(SeedNote());
  const std::shared_ptr<const JobPlan> plan = PlanOf(kJob);
  const std::string directory = testing::TempDir() + "restored_state_test";
  std::filesystem::remove_all(directory);
  constexpr std::uint64_t kVersion = 23;
  Cluster undisturbed(plan, 2);
  for (std::uint64_t step = 1; step <= kVersion; ++step) {
    undisturbed.Train(step);
  }
  for (const auto counter :
       {&TableCounters::evicted_unseen, &TableCounters::evicted_limit,
        &TableCounters::refused_admission, &TableCounters::promoted, &TableCounters::demoted}) {
    ASSERT_GT(undisturbed.Sum(counter), 0u) << "the job has to try all";
  }
  undisturbed.Write(directory, kVersion);
  std::vector<std::unique_ptr<Cluster>> restored;
  for (const std::uint32_t shards : {1u, 2u, 5u}) {
    restored.push_back(std::make_unique<Cluster>(plan, shards));
    restored.back()->Read(directory);
    EXPECT_EQ(restored.back()->Digests(), undisturbed.Digests());
    EXPECT_EQ(restored.back()->Digest(), undisturbed.Digest());
  }
  for (std::uint64_t step = kVersion + 1; step <= 2 * kVersion; ++step) {
    undisturbed.Train(step);
    for (const auto& cluster : restored) {
      cluster->Train(step);
      ASSERT_EQ(cluster->Digests(), undisturbed.Digests()) << "step " << step;
      ASSERT_EQ(cluster->Digest(), undisturbed.Digest()) << "step " << step;
    }
  }
  std::filesystem::remove_all(directory);
}

}  // namespace
}  // namespace plexus
