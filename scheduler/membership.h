// Membership: who is there, who was heard when, and who carries which rank.
//
// A member is (role, index); a new program in its place has another incarnation.  Worker states:
//   absent -> (Register) alive -> (lease over, or replaced) lost -> (Register) alive
// A rank whose carrier is lost is orphaned; it goes to the worker that comes back in the same
// place, or after a grace time to the one that carries least.  Every new carrier has a higher
// epoch; a carrier may begin only when all servers know the fence of its epoch.
//
// Thread safety: none; belongs to the scheduler.
#pragma once

#include <cstdint>
#include <optional>
#include <set>
#include <string>
#include <vector>

#include "common/outbox.h"
#include "proto/control.pb.h"

namespace plexus {

struct MemberState {
  proto::Register info;
  std::string peer;  // Routing id; empty = never came.
  bool alive = false;
  bool left = false;
  Millis heard = 0;
  proto::Heartbeat last;
  std::set<std::uint64_t> former;  // Incarnations that had its place.
};

class Membership {
 public:
  // `former_starts`: of schedulers, whose epochs and fences are older.  `servers_return`: a server
  // that was lost and is heard again is there again.
  Membership(std::uint32_t servers, std::uint32_t workers, std::uint32_t ranks, Millis lease_ms,
             std::uint32_t former_starts = 0, bool servers_return = false);

  // What a Register changed.  kReplaced: a server's rows are gone, or a worker died unnoticed.
  // kFormer: a late word of a program that was replaced since.
  enum class Change { kNone, kJoined, kReplaced, kUnknownMember, kFormer };
  Change OnRegister(const std::string& peer, const proto::Register& info, Millis now);
  // Never heard of, in this scheduler's life.
  bool IsUnknown(proto::Role role, std::uint32_t index);
  // False: an unknown or replaced incarnation, or a server that was lost.
  bool OnHeartbeat(const std::string& peer, const proto::Heartbeat& heartbeat, Millis now);

  // Members that became lost by `now`.
  struct Lost {
    proto::Role role;
    std::uint32_t index;
    Millis silent_ms;
  };
  // Servers that write the model (`saving`) may be silent for longer: a dead one is replaced, and
  // says so.
  std::vector<Lost> Expire(Millis now, bool saving);

  // Gives orphaned ranks to living workers; true if anything changed (then the fence is higher).
  bool AssignRanks(Millis now);

  bool all_servers() const;
  bool all_workers_came() const;
  bool any_worker_alive() const;
  // Every server knows the present fence.
  bool fence_known() const;
  bool everyone_left() const;
  std::uint64_t fence() const { return fence_; }
  const std::vector<std::uint32_t>& epochs() const { return epochs_; }
  const std::vector<MemberState>& servers() const { return servers_; }
  const std::vector<MemberState>& workers() const { return workers_; }
  // Carriers that worker `index` computes; empty until the fence of each is known to all servers.
  std::vector<proto::Carrier> CarriedBy(std::uint32_t index) const;

 private:
  MemberState* Find(proto::Role role, std::uint32_t index);
  void Orphan(std::uint32_t worker, Millis now);
  void NoteFence();

  struct Rank {
    std::optional<std::uint32_t> carrier;   // Worker index.
    std::optional<std::uint32_t> previous;  // Who may come back for it.
    Millis orphaned = 0;
    std::uint64_t fence = 0;  // Of its assignment.
  };

  std::vector<MemberState> servers_;
  std::vector<MemberState> workers_;
  std::vector<Rank> ranks_;
  std::vector<std::uint32_t> epochs_;
  const Millis lease_ms_;
  const bool servers_return_;
  std::uint64_t fence_;
  std::uint64_t known_fence_ = 0;  // To every server, at some time: its carriers may have begun.
};

}  // namespace plexus
