// World: the simulated clock, processes and network.
//
// A process has endpoints (one a thread that would own a socket); an endpoint's actor runs when
// messages come, when its pause is over, and never while it is busy.  Peers are named as over
// ZeroMQ: one sends to a name that another endpoint has bound ("scheduler", "shard/1") and is known
// to it by an identity that no other endpoint ever had; the answer comes from the name.
// Messages may be lost, doubled, late and out of order; links may be cut and heal.
//
// Thread safety: none; everything runs on the caller's thread.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <queue>
#include <string>
#include <unordered_map>
#include <utility>
#include <vector>

#include "common/outbox.h"
#include "tests/sim/sim_random.h"

namespace plexus::sim {

using Micros = std::int64_t;
using ProcessId = std::uint32_t;
using EndpointId = std::uint32_t;

struct Delivery {
  std::string peer;
  Bytes frame;
};

// How long an actor need not run: until then it reacts to messages, or (busy) to nothing.
struct Rest {
  Micros pause_us = 0;
  bool busy = false;
};

class Actor {
 public:
  virtual ~Actor() = default;
  // `now` is the process' own clock.
  virtual Rest Run(std::vector<Delivery> inbox, Millis now) = 0;
};

struct NetworkOptions {
  Micros delay_us_min = 50;
  Micros delay_us_max = 400;
  double drop = 0;
  double duplicate = 0;
  double slow = 0;  // Share of messages that take up to slow_us_max.
  Micros slow_us_max = 0;
  bool in_order = false;  // Per pair of endpoints, as TCP.
};

// A cut between places (bits of the masks), one way.
struct Cut {
  std::uint64_t from = 0;
  std::uint64_t to = 0;
  Micros until_us = 0;
  bool hold = false;  // Messages come when it heals, instead of being lost.
};

struct Traffic {
  std::uint64_t sent = 0;
  std::uint64_t dropped = 0;
  std::uint64_t duplicated = 0;
  std::uint64_t late = 0;
  std::uint64_t cut = 0;
  std::uint64_t unroutable = 0;  // To or from a process that is gone.
};

class World {
 public:
  World(std::uint64_t seed, const NetworkOptions& network);
  World(const World&) = delete;
  World& operator=(const World&) = delete;

  Micros now_us() const { return now_us_; }
  std::uint64_t events() const { return events_; }
  const Traffic& traffic() const { return traffic_; }

  // `place` is the bit that a cut names.
  ProcessId StartProcess(std::uint32_t place, Millis clock_offset);
  // What it sent stays under way.
  void EndProcess(ProcessId process);
  // It handles nothing and loses nothing.
  void Suspend(ProcessId process);
  void Resume(ProcessId process);
  bool IsAlive(ProcessId process) const { return processes_[process].alive; }
  bool IsSuspended(ProcessId process) const { return processes_[process].suspended; }
  Millis ClockOf(ProcessId process) const {
    return now_us_ / 1000 + processes_[process].clock_offset;
  }

  // `name` is empty for an endpoint that only connects.  The actor first runs at once.
  EndpointId Open(ProcessId process, std::string identity, std::string name, Actor* actor);
  void Close(EndpointId endpoint);
  // A process is about to do something that others will see.  False: it is gone (`on_act` may end
  // or suspend it).
  bool Act(ProcessId process, bool writes);
  // Called before each act: sending a message, or writing to a disk.
  std::function<void(ProcessId process, bool writes)> on_act;
  // False: the sending process is gone (`on_act` and `on_send` may end or suspend it).
  bool Send(EndpointId endpoint, const Envelope& envelope);
  // Called before each message is sent.
  std::function<void(ProcessId from, const Bytes& frame)> on_send;

  // Called before a message is handed over.
  std::function<void(const std::string& to, const Delivery& delivery)> on_arrive;

  void At(Micros at_us, std::function<void()> call);
  void AddCut(const Cut& cut) { cuts_.push_back(cut); }
  // Destroys `object` when no actor runs.
  void Bury(std::shared_ptr<void> object) { buried_.push_back(std::move(object)); }

  // Handles the next event; false if there is none.
  bool Step();

 private:
  struct Process {
    std::uint32_t place = 0;
    Millis clock_offset = 0;
    bool alive = true;
    bool suspended = false;
    std::vector<EndpointId> endpoints;
    std::vector<std::pair<EndpointId, Envelope>> unsent;  // Of a suspended process.
  };
  struct Endpoint {
    ProcessId process = 0;
    std::string identity;
    std::string name;
    Actor* actor = nullptr;  // Null: closed.
    std::vector<Delivery> inbox;
    Micros due_us = 0;
    Micros armed_us = -1;  // Time of the event that will wake it.
    bool busy = false;
  };
  enum class Kind : std::uint8_t { kMessage, kWake, kCall };
  struct Event {
    Micros at_us;
    std::uint64_t order;
    Kind kind;
    EndpointId endpoint;
    std::uint32_t slot;
    bool operator>(const Event& other) const {
      return at_us != other.at_us ? at_us > other.at_us : order > other.order;
    }
  };

  void Push(Micros at_us, Kind kind, EndpointId endpoint, std::uint32_t slot);
  void Arm(EndpointId id, Micros due_us);
  void RunActor(EndpointId id);
  void Arrive(EndpointId id, Delivery delivery);
  void Route(EndpointId from, const Envelope& envelope);
  void Carry(EndpointId from, EndpointId to, const std::string& peer, const Bytes& frame);
  Micros DrawDelay();

  NetworkOptions network_;
  SimRandom random_;
  Micros now_us_ = 0;
  std::uint64_t events_ = 0;
  std::uint64_t order_ = 0;
  Traffic traffic_;
  std::vector<Process> processes_;
  std::vector<Endpoint> endpoints_;
  std::unordered_map<std::string, EndpointId> names_;
  std::unordered_map<std::string, EndpointId> identities_;
  std::priority_queue<Event, std::vector<Event>, std::greater<>> queue_;
  std::vector<Delivery> messages_;  // By slot.
  std::vector<std::uint32_t> free_messages_;
  std::vector<std::function<void()>> calls_;
  std::vector<Cut> cuts_;
  std::unordered_map<std::uint64_t, Micros> last_arrival_us_;  // in_order: by pair of endpoints.
  std::vector<std::shared_ptr<void>> buried_;
};

}  // namespace plexus::sim
