// Scenario: the job, the cluster, the network and the faults that one seed stands for.
//
// Thread safety: values.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "proto/plan.h"
#include "tests/sim/sim_data.h"
#include "tests/sim/world.h"

namespace plexus::sim {

// Strikes when the workers have sent so many messages: between two messages of one step, as well
// as anywhere else.  The worker that is sending is the one that is meant.
struct Fault {
  enum class Kind {
    kKill,     // Ends at once; another program takes its place later, or never.
    kSuspend,  // Handles nothing for a while.
    kReplace,  // Is suspended, its place is taken, and then it wakes.
    kCut,      // Links are cut.
  };
  Kind kind = Kind::kKill;
  std::uint64_t after_messages = 0;
  Micros back_us = -1;   // kKill, kReplace: until the place is taken; -1 = never.
  Micros length_us = 0;  // Others: how long it lasts.
  Cut cut;               // kCut.
};

// Of a durable job: strikes when the programs have done so many acts (messages sent, records
// written): between a record and the messages that depend on it, as well as anywhere else.
struct DiskFault {
  enum class Kind {
    kKill,     // A program ends at once; nothing that it wrote is lost.
    kPower,    // The same, and what was not synced is lost.
    kSuspend,  // It handles nothing for a while, shorter or longer than its lease.
  };
  enum class Target {
    kActor,   // Who is about to act; of a worker, the server below.
    kWriter,  // Who is about to write next.
    kServer,
    kScheduler,
    kAll,  // Workers too.
  };
  Kind kind = Kind::kKill;
  Target target = Target::kActor;
  std::uint32_t server = 0;
  std::uint64_t after_acts = 0;
  Micros back_us = 0;    // kKill, kPower: until the place is taken again; kAll: at most.
  Micros length_us = 0;  // kSuspend.
};

// A pull may wait for several commits of several messages each: those that are late by less than
// this part of the time to ask again do not make it that late.
inline constexpr Micros kHarmlessLateness = 40;

struct Scenario {
  std::uint64_t seed = 1;
  std::uint32_t ranks = 1;
  std::uint32_t servers = 1;
  std::uint32_t workers = 1;
  std::uint32_t buckets = 4;
  std::int32_t staleness = 0;
  bool deterministic = false;
  std::uint32_t epochs = 1;
  bool valid = false;
  bool test = false;
  std::uint32_t evaluate_every_steps = 0;
  std::uint32_t patience = 0;
  std::uint32_t array_tables = 0;  // Of the fields' tables, the first so many are ARRAY.
  bool shared_table = false;       // All fields read the first table.
  DataShape data;
  Millis lease_ms = 6000;
  Millis resend_ms = 500;
  Micros compute_us_max = 1000;
  Micros save_us_max = 100000;
  NetworkOptions network;
  std::vector<Fault> faults;
  proto::Checkpoint::Durability durability = proto::Checkpoint::NONE;
  std::uint32_t checkpoint_every = 0;  // Steps; BSP.
  std::uint32_t checkpoint_keep = 1;
  std::uint32_t log_limit_bytes = 0;  // 0: none.
  std::vector<DiskFault> disk_faults;
  // The user interrupts the job when workers have sent so many messages; 0 = never.
  std::uint64_t interrupt_after_messages = 0;

  bool bsp() const { return staleness == 0; }
  bool durable() const { return durability != proto::Checkpoint::NONE; }
  bool asp() const { return staleness < 0; }
  // Nothing is lost, doubled or so late that it is asked again, and nobody dies.
  bool calm() const {
    return faults.empty() && disk_faults.empty() && network.drop == 0 && network.duplicate == 0 &&
           network.slow_us_max <= resend_ms * 1000 / kHarmlessLateness;
  }
};

Scenario DrawScenario(std::uint64_t seed);
// The same job on a quiet cluster of another size.
Scenario ReferenceOf(const Scenario& scenario);
JobPlan PlanOf(const Scenario& scenario);
// Two lines at most.
std::string Describe(const Scenario& scenario);

}  // namespace plexus::sim
