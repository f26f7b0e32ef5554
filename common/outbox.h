// Outbox: what a protocol object wants sent.  Protocol code is sans-IO: it is called with messages
// and timers and leaves envelopes here; a runtime sends them over ZeroMQ, the simulator through its
// network.
//
// Thread safety: none; belongs to the protocol object.
#pragma once

#include <cstdint>
#include <string>
#include <utility>
#include <vector>

#include "common/bytes.h"

namespace plexus {

// Milliseconds of the runtime's (or the simulator's) steady clock.  Protocol objects never read a
// clock.
using Millis = std::int64_t;

struct Envelope {
  std::string
      peer;  // A logical name ("scheduler", "shard/2"), or the routing id that a request came from.
  Bytes frame;
};

class Outbox {
 public:
  void Send(std::string peer, Bytes frame) {
    envelopes_.push_back({std::move(peer), std::move(frame)});
  }
  std::vector<Envelope> Take() { return std::exchange(envelopes_, {}); }
  bool empty() const { return envelopes_.empty(); }

 private:
  std::vector<Envelope> envelopes_;
};

inline constexpr const char* kSchedulerPeer = "scheduler";
inline std::string ShardPeer(std::uint32_t shard) { return "shard/" + std::to_string(shard); }

}  // namespace plexus
