#include "tests/sim/scenario.h"

#include <algorithm>
#include <sstream>

#include <glog/logging.h>

#include "launch/plan.h"
#include "proto/job.h"
#include "tests/sim/processes.h"
#include "tests/sim/sim_random.h"

namespace plexus::sim {
namespace {

constexpr std::uint64_t kScenarioStream = 0x7363656e6172696f;
constexpr std::uint64_t kDiskStream = 0x6469736b5f39;
constexpr Micros kMillisecond = 1000;
// Messages and records to one that a worker sends, about.
constexpr std::uint64_t kActsPerMessage = 4;

std::uint32_t Draw(SimRandom& random, std::uint32_t low, std::uint32_t high) {
  return static_cast<std::uint32_t>(random.Between(low, high));
}

void DrawJob(SimRandom& random, Scenario* s) {
  s->ranks = Draw(random, 1, 6);
  s->servers = Draw(random, 1, 4);
  s->workers = Draw(random, 1, std::min(4U, s->ranks));
  s->buckets = Draw(random, s->servers, 16);
  switch (random.Below(5)) {
    case 0:
      s->staleness = -1;
      break;
    case 1:
      s->staleness = static_cast<std::int32_t>(random.Between(1, 3));
      break;
    case 2:
      s->staleness = static_cast<std::int32_t>(random.Between(1, 3));
      s->deterministic = true;
      break;
    default:
      s->staleness = 0;
  }
  s->epochs = Draw(random, 1, 3);
  s->valid = random.Chance(0.4);
  s->test = random.Chance(0.4);
  s->evaluate_every_steps = random.Chance(0.3) ? Draw(random, 1, 5) : 0;
  s->patience = random.Chance(0.2) ? Draw(random, 1, 2) : 0;
  s->data.seed = s->seed;
  s->data.fields = Draw(random, 1, 3);
  s->data.batches_max = Draw(random, 1, 6);
  s->data.samples_max = Draw(random, 1, 4);
  s->data.keys = Draw(random, 2, 30);
  s->data.jagged = random.Chance(0.3);
  s->shared_table = random.Chance(0.3);
  s->array_tables = random.Chance(0.4) ? Draw(random, 1, s->data.fields) : 0;
}

void DrawNetwork(SimRandom& random, Scenario* s) {
  NetworkOptions& network = s->network;
  network.delay_us_min = random.Between(1, 200);
  network.delay_us_max = network.delay_us_min + random.Between(0, 5000);
  s->resend_ms = random.Between(200, 1500);
  s->compute_us_max = random.Between(0, 20 * kMillisecond);
  s->save_us_max = random.Between(1, 1000) * kMillisecond;
  s->lease_ms = random.Between(5000, 10000);
  const std::uint64_t kind = random.Below(4);
  network.in_order = kind <= 1;
  if (kind >= 1 && random.Chance(0.7)) {
    network.slow = 0.001 * static_cast<double>(random.Between(1, 100));
    network.slow_us_max = network.delay_us_max + random.Between(1, 3000) * kMillisecond;
  }
  if (kind >= 2) {
    network.drop = 0.001 * static_cast<double>(random.Between(0, 120));
    network.duplicate = 0.001 * static_cast<double>(random.Between(0, 200));
  }
}

Cut DrawCut(SimRandom& random, const Scenario& s, Micros* length_us) {
  Cut cut;
  const std::uint64_t scheduler = 1ULL << kSchedulerPlace;
  std::uint64_t servers = 0;
  std::uint64_t workers = 0;
  for (std::uint32_t server = 0; server < s.servers; ++server) {
    servers |= random.Chance(0.5) ? 1ULL << ServerPlace(server) : 0;
  }
  for (std::uint32_t worker = 0; worker < s.workers; ++worker) {
    workers |= random.Chance(0.5) ? 1ULL << WorkerPlace(s.servers, worker) : 0;
  }
  *length_us = random.Between(10, 3 * s.lease_ms) * kMillisecond;
  switch (random.Below(3)) {
    case 0:
      cut = {.from = workers, .to = servers};
      break;
    case 1:
      cut = {.from = workers, .to = scheduler};
      break;
    default:
      // A server that is not heard for its lease ends the job.
      cut = {.from = servers, .to = scheduler};
      *length_us = std::min(*length_us, s.lease_ms / 3 * kMillisecond);
  }
  if (random.Chance(0.4)) {
    std::swap(cut.from, cut.to);
  } else if (random.Chance(0.5)) {
    cut.from = cut.to = cut.from | cut.to;  // Both ways.
  }
  cut.hold = random.Chance(0.5);
  return cut;
}

void DrawFaults(SimRandom& random, std::uint64_t messages, Scenario* s) {
  const std::uint64_t count = random.Chance(0.2) ? 0 : random.Below(7);
  for (std::uint64_t i = 0; i < count; ++i) {
    Fault fault;
    fault.after_messages = random.Below(messages + messages / 8 + 4);
    const std::uint64_t kind = random.Below(10);
    fault.kind = kind < 4   ? Fault::Kind::kKill
                 : kind < 6 ? Fault::Kind::kSuspend
                 : kind < 8 ? Fault::Kind::kReplace
                            : Fault::Kind::kCut;
    const std::uint64_t back = random.Below(10);
    fault.back_us = back == 0  ? -1
                    : back < 6 ? random.Between(10, 1500) * kMillisecond
                               : random.Between(1, 3 * s->lease_ms) * kMillisecond;
    fault.length_us = random.Between(1, 5 * s->lease_ms / 2) * kMillisecond;
    if (fault.kind == Fault::Kind::kCut) {
      fault.cut = DrawCut(random, *s, &fault.length_us);
    }
    s->faults.push_back(fault);
  }
  std::sort(s->faults.begin(), s->faults.end(),
            [](const Fault& a, const Fault& b) { return a.after_messages < b.after_messages; });
}

DiskFault DrawDiskFault(SimRandom& random, const Scenario& s, std::uint64_t acts) {
  DiskFault fault;
  fault.after_acts = random.Below(acts);
  const std::uint64_t kind = random.Below(10);
  fault.kind = kind < 6   ? DiskFault::Kind::kKill
               : kind < 8 ? DiskFault::Kind::kPower
                          : DiskFault::Kind::kSuspend;
  const std::uint64_t target = random.Below(10);
  fault.target = target < 2   ? DiskFault::Target::kActor
                 : target < 4 ? DiskFault::Target::kWriter
                 : target < 6 ? DiskFault::Target::kServer
                 : target < 8 ? DiskFault::Target::kScheduler
                              : DiskFault::Target::kAll;
  fault.server = Draw(random, 0, s.servers - 1);
  fault.back_us = random.Chance(0.7) ? random.Between(10, 1500) * kMillisecond
                                     : random.Between(1, 2 * s.lease_ms) * kMillisecond;
  fault.length_us = random.Between(1, 2 * s.lease_ms) * kMillisecond;
  return fault;
}

void DrawDisk(std::uint64_t messages, Scenario* s) {
  SimRandom random(s->seed, kDiskStream);
  if (!s->bsp() || random.Chance(0.3)) {
    return;
  }
  s->durability = random.Chance(0.5) ? proto::Checkpoint::SYNC : proto::Checkpoint::ASYNC;
  s->checkpoint_every = random.Chance(0.6) ? Draw(random, 1, 4) : 0;
  s->checkpoint_keep = Draw(random, 1, 2);
  s->log_limit_bytes = random.Chance(0.2) ? Draw(random, 300, 3000) : 0;
  for (std::uint64_t i = random.Below(6); i > 0; --i) {
    s->disk_faults.push_back(
        DrawDiskFault(random, *s, kActsPerMessage * messages + 60 * (1 + s->servers)));
  }
  std::sort(s->disk_faults.begin(), s->disk_faults.end(),
            [](const DiskFault& a, const DiskFault& b) { return a.after_acts < b.after_acts; });
}

}  // namespace

Scenario DrawScenario(std::uint64_t seed) {
  SimRandom random(seed, kScenarioStream);
  Scenario scenario;
  scenario.seed = seed;
  DrawJob(random, &scenario);
  DrawNetwork(random, &scenario);
  // A pull and a push to each shard.
  const std::uint64_t steps = std::uint64_t{scenario.epochs} * scenario.data.batches_max;
  const std::uint64_t messages = 2 * steps * scenario.ranks * scenario.servers;
  DrawFaults(random, messages, &scenario);
  scenario.interrupt_after_messages = random.Chance(0.08) ? 1 + random.Below(messages) : 0;
  if (scenario.faults.empty() && random.Chance(0.5)) {
    // Out of order, but nothing asked twice: deterministic runs stay exact.
    scenario.network = {.delay_us_min = scenario.network.delay_us_min,
                        .delay_us_max = scenario.network.delay_us_max,
                        .slow = 0.1,
                        .slow_us_max = scenario.resend_ms * 1000 / kHarmlessLateness};
  }
  DrawDisk(messages, &scenario);
  scenario.data.poison = random.Chance(0.25) ? 0.01 * static_cast<double>(random.Below(60)) : 0;
  if (!scenario.durable()) {
    scenario.checkpoint_every = scenario.bsp() && random.Chance(0.5) ? Draw(random, 1, 4) : 0;
  }
  return scenario;
}

Scenario ReferenceOf(const Scenario& scenario) {
  SimRandom random(scenario.seed, kScenarioStream + 1);
  Scenario reference = scenario;
  reference.servers = Draw(random, 1, std::min(4U, scenario.buckets));
  reference.workers = Draw(random, 1, std::min(4U, scenario.ranks));
  reference.network = NetworkOptions();
  reference.resend_ms = 1500;
  reference.save_us_max = 1000;
  reference.faults.clear();
  reference.durability = proto::Checkpoint::NONE;
  reference.checkpoint_every = 0;
  reference.disk_faults.clear();
  reference.interrupt_after_messages = 0;
  return reference;
}

JobPlan PlanOf(const Scenario& s) {
  std::ostringstream text;
  text << "data { format: DELIMITED train: \"train\"";
  text << (s.valid ? " valid: \"valid\"" : "") << (s.test ? " test: \"test\"" : "");
  text << " columns: \"label\"";
  for (std::uint32_t f = 0; f < s.data.fields; ++f) {
    text << " columns: \"f" << f << "\"";
  }
  for (std::uint32_t f = 0; f < s.data.fields; ++f) {
    text << " fields { name: \"f" << f << "\" tables: \"t" << (s.shared_table ? 0 : f) << "\""
         << (s.data.jagged ? " kind: MULTI_VALUED" : "") << " }";
  }
  text << " }\n";
  for (std::uint32_t t = 0; t < (s.shared_table ? 1 : s.data.fields); ++t) {
    text << "tables { name: \"t" << t << "\" dim: " << s.ranks << " reduction: SUM"
         << (t < s.array_tables ? " kind: ARRAY rows: 19" : "")
         << " init { kind: CONSTANT scale: 100 } optimizer { kind: SGD learning_rate: 1 } }\n";
  }
  text << "model { name: \"counter\" }\ntrain { ranks: " << s.ranks
       << " batch_size: " << s.ranks * s.data.samples_max << " epochs: " << s.epochs
       << " seed: " << s.seed << " staleness: " << s.staleness
       << (s.deterministic ? " deterministic: true" : "")
       << " dense_optimizer { kind: SGD learning_rate: 1 }"
       << " evaluate_every_steps: " << (s.valid ? s.evaluate_every_steps : 0)
       << " early_stop_patience: " << (s.valid ? s.patience : 0) << " }\n";
  text << "cluster { servers: " << s.servers << " workers: " << s.workers
       << " buckets: " << s.buckets << " lease_ms: " << s.lease_ms << " }\n";
  text << "checkpoint { every_steps: " << s.checkpoint_every << " full_every: 3";
  if (s.durable()) {
    text << " durability: " << proto::Checkpoint::Durability_Name(s.durability)
         << " keep: " << s.checkpoint_keep;
    if (s.log_limit_bytes > 0) {
      text << " log_limit: \"" << s.log_limit_bytes << "\"";
    }
  }
  text << " }\n";
  StatusOr<proto::Job> job = ParseJob(text.str(), "scenario", {});
  CHECK(job.ok()) << job.status().message() << "\n" << text.str();
  StatusOr<JobPlan> plan = MakePlan(*job);
  CHECK(plan.ok()) << plan.status().message() << "\n" << text.str();
  return *std::move(plan);
}

std::string Describe(const Scenario& s) {
  std::ostringstream text;
  text << s.ranks << " ranks, " << s.workers << " workers, " << s.servers << " servers, "
       << (s.asp()   ? "ASP"
           : s.bsp() ? "BSP"
                     : "SSP " + std::to_string(s.staleness))
       << (s.deterministic ? " deterministic" : "") << ", " << s.epochs << " epochs"
       << (s.valid ? ", validation" : "") << (s.test ? ", test" : "");
  if (s.valid && s.evaluate_every_steps > 0) {
    text << ", evaluated every " << s.evaluate_every_steps << " steps";
  }
  text << "; drop " << s.network.drop << ", duplicate " << s.network.duplicate << ", slow "
       << s.network.slow << (s.network.in_order ? ", in order" : "") << "; lease " << s.lease_ms
       << " ms, resend " << s.resend_ms << " ms; faults:";
  for (const Fault& fault : s.faults) {
    const char* const names[] = {"kill", "suspend", "replace", "cut"};
    text << " " << names[static_cast<int>(fault.kind)] << "@" << fault.after_messages;
  }
  if (s.durable()) {
    text << "; " << proto::Checkpoint::Durability_Name(s.durability) << ", checkpoints every "
         << s.checkpoint_every << " steps, " << s.checkpoint_keep << " kept; disk faults:";
  }
  for (const DiskFault& fault : s.disk_faults) {
    const char* const names[] = {"kill", "power", "suspend"};
    const char* const targets[] = {"actor", "writer", "server", "scheduler", "all"};
    text << " " << names[static_cast<int>(fault.kind)] << ":"
         << targets[static_cast<int>(fault.target)] << "@" << fault.after_acts;
  }
  if (s.data.poison > 0) {
    text << "; not finite " << s.data.poison;
  }
  if (s.interrupt_after_messages > 0) {
    text << "; interrupted@" << s.interrupt_after_messages;
  }
  return text.str();
}

}  // namespace plexus::sim
