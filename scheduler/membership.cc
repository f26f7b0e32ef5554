#include "scheduler/membership.h"

#include <algorithm>
#include <utility>

namespace plexus {

namespace {

// Of one scheduler's life, at most so many.
constexpr std::uint32_t kEpochsPerStart = 1U << 16;

}  // namespace

Membership::Membership(std::uint32_t servers, std::uint32_t workers, std::uint32_t ranks,
                       Millis lease_ms, std::uint32_t former_starts, bool servers_return)
    : servers_(servers),
      workers_(workers),
      ranks_(ranks),
      epochs_(ranks, former_starts * kEpochsPerStart),
      lease_ms_(lease_ms),
      servers_return_(servers_return),
      fence_(std::uint64_t{former_starts} * kEpochsPerStart) {
  // Contiguous pieces, so that one process carries neighbours.
  for (std::uint32_t rank = 0; rank < ranks; ++rank) {
    ranks_[rank].previous =
        static_cast<std::uint32_t>(static_cast<std::uint64_t>(rank) * workers / ranks);
  }
}

MemberState* Membership::Find(proto::Role role, std::uint32_t index) {
  auto& members = role == proto::SERVER ? servers_ : workers_;
  if ((role != proto::SERVER && role != proto::WORKER) || index >= members.size()) {
    return nullptr;
  }
  return &members[index];
}

Membership::Change Membership::OnRegister(const std::string& peer, const proto::Register& info,
                                          Millis now) {
  MemberState* member = Find(info.role(), info.index());
  if (member == nullptr) {
    return Change::kUnknownMember;
  }
  if (member->former.contains(info.incarnation())) {
    return Change::kFormer;
  }
  const bool came = !member->peer.empty();
  const bool same = came && member->info.incarnation() == info.incarnation();
  if (same && member->alive) {
    member->peer = peer;
    member->heard = now;
    return Change::kNone;
  }
  if (came && info.role() == proto::WORKER && member->alive) {
    Orphan(info.index(), now);
  }
  const bool replaced = came && (member->alive || info.role() == proto::SERVER);
  std::set<std::uint64_t> former = std::move(member->former);
  if (came && !same) {
    former.insert(member->info.incarnation());
  }
  *member = MemberState{.info = info,
                        .peer = peer,
                        .alive = true,
                        .left = false,
                        .heard = now,
                        .last = {},
                        .former = std::move(former)};
  return replaced ? Change::kReplaced : Change::kJoined;
}

bool Membership::IsUnknown(proto::Role role, std::uint32_t index) {
  const MemberState* member = Find(role, index);
  return member != nullptr && member->peer.empty();
}

bool Membership::OnHeartbeat(const std::string& peer, const proto::Heartbeat& heartbeat,
                             Millis now) {
  MemberState* member = Find(heartbeat.role(), heartbeat.index());
  if (member == nullptr || member->peer.empty() ||
      member->info.incarnation() != heartbeat.incarnation() ||
      (!member->alive && !servers_return_ && heartbeat.role() == proto::SERVER)) {
    return false;
  }
  member->alive =
      true;  // A worker that was thought lost (stopped, cut off) is free for other ranks.
  member->peer = peer;
  member->heard = now;
  // Heartbeats may overtake one another; a fence that is known stays known.
  const std::uint64_t fence = std::max(member->last.fence(), heartbeat.fence());
  member->last = heartbeat;
  member->last.set_fence(fence);
  member->left = member->left || heartbeat.leaving();
  NoteFence();
  return true;
}

// A server that comes back knows no fence at first, which takes no rank from its carrier.
void Membership::NoteFence() {
  std::uint64_t fence = fence_;
  for (const MemberState& server : servers_) {
    fence = std::min(fence, server.last.fence());
  }
  known_fence_ = std::max(known_fence_, fence);
}

std::vector<Membership::Lost> Membership::Expire(Millis now, bool saving) {
  std::vector<Lost> lost;
  for (auto* members : {&servers_, &workers_}) {
    for (MemberState& member : *members) {
      if (saving && members == &servers_) {
        member.heard = now;
      }
      if (member.alive && !member.left && now - member.heard > lease_ms_) {
        member.alive = false;
        lost.push_back({member.info.role(), member.info.index(), now - member.heard});
        if (member.info.role() == proto::WORKER) {
          Orphan(member.info.index(), now);
        }
      }
    }
  }
  return lost;
}

void Membership::Orphan(std::uint32_t worker, Millis now) {
  for (Rank& rank : ranks_) {
    if (rank.carrier == worker) {
      rank.previous = worker;
      rank.carrier.reset();
      rank.orphaned = now;
    }
  }
}

bool Membership::AssignRanks(Millis now) {
  std::vector<std::uint32_t> load(workers_.size(), 0);
  for (const Rank& rank : ranks_) {
    if (rank.carrier.has_value()) {
      ++load[*rank.carrier];
    }
  }
  bool changed = false;
  for (std::uint32_t r = 0; r < ranks_.size(); ++r) {
    Rank& rank = ranks_[r];
    if (rank.carrier.has_value()) {
      continue;
    }
    std::optional<std::uint32_t> carrier;
    if (workers_[*rank.previous].alive) {
      carrier = rank.previous;
    } else if (now - rank.orphaned > lease_ms_ / 2) {
      for (std::uint32_t w = 0; w < workers_.size(); ++w) {
        if (workers_[w].alive && (!carrier.has_value() || load[w] < load[*carrier])) {
          carrier = w;
        }
      }
    }
    if (carrier.has_value()) {
      rank.carrier = carrier;
      rank.fence = fence_ + 1;
      ++epochs_[r];
      ++load[*carrier];
      changed = true;
    }
  }
  fence_ += changed ? 1 : 0;
  return changed;
}

bool Membership::all_servers() const {
  return std::all_of(servers_.begin(), servers_.end(),
                     [](const MemberState& m) { return m.alive; });
}

bool Membership::all_workers_came() const {
  return std::all_of(workers_.begin(), workers_.end(),
                     [](const MemberState& m) { return !m.peer.empty(); });
}

bool Membership::any_worker_alive() const {
  return std::any_of(workers_.begin(), workers_.end(),
                     [](const MemberState& m) { return m.alive; });
}

bool Membership::fence_known() const {
  return std::all_of(servers_.begin(), servers_.end(),
                     [this](const MemberState& m) { return m.last.fence() >= fence_; });
}

bool Membership::everyone_left() const {
  const auto gone = [](const MemberState& m) { return m.left || !m.alive; };
  return std::all_of(servers_.begin(), servers_.end(), gone) &&
         std::all_of(workers_.begin(), workers_.end(), gone);
}

std::vector<proto::Carrier> Membership::CarriedBy(std::uint32_t index) const {
  std::vector<proto::Carrier> carried;
  for (std::uint32_t r = 0; r < ranks_.size(); ++r) {
    if (ranks_[r].carrier == index && ranks_[r].fence <= known_fence_) {
      proto::Carrier carrier;
      carrier.set_rank(r);
      carrier.set_epoch(epochs_[r]);
      carried.push_back(carrier);
    }
  }
  return carried;
}

}  // namespace plexus
