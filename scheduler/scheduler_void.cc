// Scheduler: parts of a step that are not finite; shards agree on them before its commit.
#include <algorithm>
#include <map>
#include <set>
#include <vector>

#include "scheduler/scheduler.h"

namespace plexus {

std::vector<std::uint32_t> Scheduler::VoidRanks() const {
  std::set<std::uint32_t> ranks;
  for (const auto& [shard, complete] : completes_) {
    ranks.insert(complete.void_ranks().begin(), complete.void_ranks().end());
  }
  return {ranks.begin(), ranks.end()};
}

void Scheduler::AgreeOnVoidParts() {
  const std::vector<std::uint32_t> ranks = VoidRanks();
  proto::Control control;
  control.mutable_void_parts()->set_step(version_ + 1);
  control.mutable_void_parts()->set_phase(phase_.number());
  control.mutable_void_parts()->mutable_ranks()->Add(ranks.begin(), ranks.end());
  std::erase_if(completes_, [&](const auto& entry) {
    const bool lacks = entry.second.void_ranks_size() < static_cast<int>(ranks.size());
    if (lacks) {  // Its sums have parts that others take as empty; it says them again without.
      outbox_.Send(membership_.servers()[entry.first].peer, ControlFrame(control));
    }
    return lacks;
  });
}

void Scheduler::CountVoid(const proto::Commit& commit) {
  std::map<std::uint32_t, std::uint64_t> pushes;
  for (const std::uint32_t rank : commit.void_ranks()) {
    pushes[rank] = 1;
  }
  for (const auto& [shard, complete] : completes_) {
    for (const proto::VoidPushes& seen : complete.void_pushes()) {  // ASP: shards may differ.
      pushes[seen.rank()] = std::max<std::uint64_t>(pushes[seen.rank()], seen.pushes());
    }
  }
  for (const auto& [rank, count] : pushes) {
    totals_.void_pushes[rank] += count;
    SchedulerEvent& event = AddEvent(SchedulerEvent::Kind::kVoidPushes);
    event.step = commit.step();
    event.rank = rank;
    event.pushes = count;
  }
}

}  // namespace plexus
