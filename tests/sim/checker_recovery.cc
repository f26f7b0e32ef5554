// Checker: programs of durable jobs that come back, and what must be there of them.
#include <algorithm>
#include <utility>

#include "tests/sim/checker.h"

namespace plexus::sim {

void Checker::SetShard(std::uint32_t index, const Shard* shard) {
  shards_[index] = shard;
  Twin& twin = twins_[index];
  if (shard == nullptr) {
    return;
  }
  twin.epochs.clear();
  twin.pulls.clear();
  twin.waiting.clear();
  twin.taken.clear();
  twin.phase_before = proto::Phase();
  twin.rows.clear();
  twin.samples = 0;
}

void Checker::RememberVersion(std::uint64_t version, Twin* twin) {
  twin->versions[version] = {twin->samples, twin->rows};
}

void Checker::OnRecovered(const Shard& shard, std::uint32_t index) {
  Twin& twin = twins_[index];
  const std::uint64_t version = shard.version();
  const auto at = twin.versions.find(version);
  if (at == twin.versions.end() && version > 0) {
    Fail("shard " + std::to_string(index) + " recovered version " + std::to_string(version) +
         ", which it never was");
    return;
  }
  twin.samples = version > 0 ? at->second.samples : 0;
  twin.rows = version > 0 ? at->second.rows : RowMap();
  twin.phase_before = shard.phase();
  for (const auto& [part, unused] : twin.parts) {
    if (part.first <= version) {
      twin.taken.insert(part);
    }
  }
  if (shard.complete_version() == version || shard.phase().kind() != proto::Phase::TRAIN) {
    return;
  }
  for (std::uint32_t rank = 0; rank < plan_->ranks(); ++rank) {
    const StepRank part(version + 1, rank);
    const auto taken = twin.parts.find(part);
    if (taken == twin.parts.end()) {
      Fail("shard " + std::to_string(index) + " recovered a part of step " +
           std::to_string(version + 1) + " that it never took");
      return;
    }
    twin.waiting[part] = taken->second;
    twin.taken.insert(part);
  }
}

void Checker::OnResumed(const Scheduler& scheduler) {
  resuming_ = false;
  const std::uint64_t version = scheduler.version();
  if (version < committed_ && !loss_allowed_) {
    Fail("version " + std::to_string(committed_) + " was committed, and the job goes on from " +
         std::to_string(version));
  }
  loss_allowed_ = false;
  committed_ = version;
  phase_ = scheduler.phase();
  std::erase_if(evaluations_,
                [version](const Evaluated& evaluated) { return evaluated.version > version; });
}

void Checker::CheckRows(const ExpectedRun& expected) {
  RowMap taken;
  std::vector<const ShardState*> states;
  Digest128 digest;
  for (std::uint32_t index = 0; index < shards_.size(); ++index) {
    const Shard* shard = shards_[index];
    const bool ended = shard != nullptr && shard->version() == expected.versions;
    if (!plan_->asp() && !ended && !plan_->durable()) {
      Fail("shard " + std::to_string(index) + " ended at version " +
           std::to_string(shard->version()) + ", not " + std::to_string(expected.versions));
    }
    if (plan_->asp() || ended) {
      states.push_back(&shard->state());
      digest += shard->state().Digest();
    }
    RowMap rows = twins_[index].rows;
    if (plan_->durable()) {
      rows = twins_[index].versions[expected.versions].rows;
    }
    taken.merge(rows);
  }
  if (states.size() < shards_.size()) {
    return;  // A durable job: a server was gone when the last had written the model.
  }
  if (const std::string why = CompareRows(*plan_, taken, states); !why.empty()) {
    Fail("of the pushes that were taken: " + why);
  }
  if (plan_->job.train().staleness() == 0) {
    if (const std::string why = CompareRows(*plan_, expected.rows, states); !why.empty()) {
      Fail("of the job as one process computes it: " + why);
    }
  }
  if (!(saved_ == digest)) {
    Fail("the digest that was saved is not the shards'");
  }
}

}  // namespace plexus::sim
