#include "tests/sim/world.h"

#include <algorithm>
#include <utility>

#include <glog/logging.h>

namespace plexus::sim {
namespace {

constexpr std::uint64_t kNetworkStream = 0x6e6574;

}  // namespace

World::World(std::uint64_t seed, const NetworkOptions& network)
    : network_(network), random_(seed, kNetworkStream) {}

ProcessId World::StartProcess(std::uint32_t place, Millis clock_offset) {
  processes_.push_back(
      {.place = place, .clock_offset = clock_offset, .endpoints = {}, .unsent = {}});
  return static_cast<ProcessId>(processes_.size() - 1);
}

void World::EndProcess(ProcessId process) {
  processes_[process].alive = false;
  for (const EndpointId endpoint : std::exchange(processes_[process].endpoints, {})) {
    Close(endpoint);
  }
}

void World::Suspend(ProcessId process) { processes_[process].suspended = true; }

void World::Resume(ProcessId process) {
  processes_[process].suspended = false;
  for (const auto& [endpoint, envelope] : std::exchange(processes_[process].unsent, {})) {
    Route(endpoint, envelope);
  }
  for (const EndpointId endpoint : processes_[process].endpoints) {
    if (endpoints_[endpoint].actor != nullptr) {
      Arm(endpoint, now_us_);
    }
  }
}

EndpointId World::Open(ProcessId process, std::string identity, std::string name, Actor* actor) {
  const auto id = static_cast<EndpointId>(endpoints_.size());
  CHECK(identities_.emplace(identity, id).second) << "identity " << identity << " was used before";
  if (!name.empty()) {
    names_[name] = id;
  }
  Endpoint& endpoint = endpoints_.emplace_back();
  endpoint.process = process;
  endpoint.identity = std::move(identity);
  endpoint.name = std::move(name);
  endpoint.actor = actor;
  processes_[process].endpoints.push_back(id);
  Arm(id, now_us_);
  return id;
}

void World::Close(EndpointId id) {
  Endpoint& endpoint = endpoints_[id];
  if (endpoint.actor == nullptr) {
    return;
  }
  endpoint.actor = nullptr;
  endpoint.inbox.clear();
  if (!endpoint.name.empty()) {
    names_.erase(endpoint.name);
  }
}

void World::Push(Micros at_us, Kind kind, EndpointId endpoint, std::uint32_t slot) {
  queue_.push({at_us, ++order_, kind, endpoint, slot});
}

void World::Arm(EndpointId id, Micros due_us) {
  Endpoint& endpoint = endpoints_[id];
  endpoint.due_us = due_us;
  if (endpoint.armed_us < 0 || endpoint.armed_us > due_us) {
    endpoint.armed_us = due_us;
    Push(due_us, Kind::kWake, id, 0);
  }
}

void World::At(Micros at_us, std::function<void()> call) {
  calls_.push_back(std::move(call));
  Push(at_us, Kind::kCall, 0, static_cast<std::uint32_t>(calls_.size() - 1));
}

Micros World::DrawDelay() {
  if (network_.slow > 0 && random_.Chance(network_.slow)) {
    ++traffic_.late;
    return random_.Between(network_.delay_us_max,
                           std::max(network_.delay_us_max, network_.slow_us_max));
  }
  return random_.Between(network_.delay_us_min, network_.delay_us_max);
}

bool World::Act(ProcessId process, bool writes) {
  if (processes_[process].alive && on_act) {
    on_act(process, writes);
  }
  return processes_[process].alive;
}

bool World::Send(EndpointId from, const Envelope& envelope) {
  const ProcessId process = endpoints_[from].process;
  if (!Act(process, false)) {
    return false;
  }
  if (on_send) {
    on_send(process, envelope.frame);
    if (!processes_[process].alive) {
      return false;
    }
  }
  if (processes_[process].suspended) {
    processes_[process].unsent.emplace_back(from, envelope);
  } else {
    Route(from, envelope);
  }
  return true;
}

void World::Route(EndpointId from, const Envelope& envelope) {
  ++traffic_.sent;
  const auto named = names_.find(envelope.peer);
  if (named != names_.end()) {
    Carry(from, named->second, endpoints_[from].identity, envelope.frame);
    return;
  }
  const auto routed = identities_.find(envelope.peer);
  if (routed == identities_.end() || endpoints_[routed->second].actor == nullptr) {
    ++traffic_.unroutable;
    return;
  }
  Carry(from, routed->second, endpoints_[from].name, envelope.frame);
}

void World::Carry(EndpointId from, EndpointId to, const std::string& peer, const Bytes& frame) {
  Micros earliest_us = now_us_;
  if (!cuts_.empty()) {
    std::erase_if(cuts_, [&](const Cut& cut) { return cut.until_us <= now_us_; });
    const std::uint64_t from_bit = 1ULL << processes_[endpoints_[from].process].place;
    const std::uint64_t to_bit = 1ULL << processes_[endpoints_[to].process].place;
    for (const Cut& cut : cuts_) {
      if ((cut.from & from_bit) == 0 || (cut.to & to_bit) == 0) {
        continue;
      }
      ++traffic_.cut;
      if (!cut.hold) {
        return;
      }
      earliest_us = std::max(earliest_us, cut.until_us);
    }
  }
  if (network_.drop > 0 && random_.Chance(network_.drop)) {
    ++traffic_.dropped;
    return;
  }
  int copies = 1;
  if (network_.duplicate > 0 && random_.Chance(network_.duplicate)) {
    ++traffic_.duplicated;
    copies = 2;
  }
  for (int copy = 0; copy < copies; ++copy) {
    Micros at_us = earliest_us + DrawDelay();
    if (network_.in_order) {
      Micros& last_us = last_arrival_us_[(std::uint64_t{from} << 32) | to];
      at_us = last_us = std::max(at_us, last_us);
    }
    std::uint32_t slot = static_cast<std::uint32_t>(messages_.size());
    if (free_messages_.empty()) {
      messages_.push_back({peer, frame});
    } else {
      slot = free_messages_.back();
      free_messages_.pop_back();
      messages_[slot] = {peer, frame};
    }
    Push(at_us, Kind::kMessage, to, slot);
  }
}

void World::Arrive(EndpointId id, Delivery delivery) {
  Endpoint& endpoint = endpoints_[id];
  if (endpoint.actor == nullptr) {
    ++traffic_.unroutable;
    return;
  }
  if (on_arrive) {
    on_arrive(endpoint.identity, delivery);
  }
  endpoint.inbox.push_back(std::move(delivery));
  if (!endpoint.busy && !processes_[endpoint.process].suspended) {
    RunActor(id);
  }
}

void World::RunActor(EndpointId id) {
  Actor* actor = endpoints_[id].actor;
  const Rest rest =
      actor->Run(std::exchange(endpoints_[id].inbox, {}), ClockOf(endpoints_[id].process));
  Endpoint& endpoint = endpoints_[id];  // The actor may have opened others.
  if (endpoint.actor == nullptr) {
    return;
  }
  endpoint.busy = rest.busy;
  Arm(id, now_us_ + rest.pause_us);
}

bool World::Step() {
  buried_.clear();
  if (queue_.empty()) {
    return false;
  }
  const Event event = queue_.top();
  queue_.pop();
  now_us_ = event.at_us;
  ++events_;
  if (event.kind == Kind::kCall) {
    const std::function<void()> call = std::move(calls_[event.slot]);
    call();
    return true;
  }
  if (event.kind == Kind::kMessage) {
    Delivery delivery = std::move(messages_[event.slot]);
    messages_[event.slot] = {};
    free_messages_.push_back(event.slot);
    Arrive(event.endpoint, std::move(delivery));
    return true;
  }
  Endpoint& endpoint = endpoints_[event.endpoint];
  if (endpoint.actor == nullptr || endpoint.armed_us != event.at_us) {
    return true;
  }
  endpoint.armed_us = -1;
  if (processes_[endpoint.process].suspended) {
    return true;
  }
  if (endpoint.due_us > now_us_) {
    Arm(event.endpoint, endpoint.due_us);
    return true;
  }
  RunActor(event.endpoint);
  return true;
}

}  // namespace plexus::sim
