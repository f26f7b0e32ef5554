// RankSeconds: what the seconds of ranks went to; RankSecondsSum: the same of a job, over workers
// that come and go.
//
// Thread safety: values.
#pragma once

#include <map>
#include <utility>

#include "scheduler/membership.h"
#include "worker/rank_trainer.h"

namespace plexus {

// read + exchange + compute + wait = lived, up to what is under way.
struct RankSeconds {
  double read = 0;
  double exchange = 0;
  double compute = 0;
  double wait = 0;
  double lived = 0;

  static RankSeconds Of(const RankTimes& times) {
    return {.read = times.read.load(std::memory_order_relaxed),
            .exchange = times.exchange.load(std::memory_order_relaxed),
            .compute = times.compute.load(std::memory_order_relaxed),
            .wait = times.wait.load(std::memory_order_relaxed)};
  }
  static RankSeconds Of(const proto::Heartbeat& heartbeat) {
    return {.read = heartbeat.read_seconds(),
            .exchange = heartbeat.exchange_seconds(),
            .compute = heartbeat.compute_seconds(),
            .wait = heartbeat.wait_seconds(),
            .lived = heartbeat.rank_seconds()};
  }
  double spent() const { return read + exchange + compute + wait; }
  void Add(const RankSeconds& other, double sign = 1) {
    read += sign * other.read;
    exchange += sign * other.exchange;
    compute += sign * other.compute;
    wait += sign * other.wait;
    lived += sign * other.lived;
  }
};

// A worker's heartbeat has the sums of its program; another program in its place begins at zero.
class RankSecondsSum {
 public:
  // Call at least once a heartbeat.
  void Update(const Membership& membership) {
    for (const MemberState& worker : membership.workers()) {
      const RankSeconds now = RankSeconds::Of(worker.last);
      if (now.lived > 0) {
        RankSeconds& before = seen_[{worker.info.index(), worker.last.incarnation()}];
        total_.Add(now);
        total_.Add(before, -1);
        before = now;
      }
    }
  }
  const RankSeconds& total() const { return total_; }

 private:
  std::map<std::pair<std::uint32_t, std::uint64_t>, RankSeconds> seen_;
  RankSeconds total_;
};

}  // namespace plexus
