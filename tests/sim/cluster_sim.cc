// cluster_sim: runs the cluster simulator over one seed or many; docs/simulation.md.
#include <cstdio>
#include <map>
#include <string>

#include <gflags/gflags.h>
#include <glog/logging.h>

#include "common/clock.h"
#include "tests/sim/cluster.h"
#include "tests/sim/count.h"

DEFINE_uint64(seed, 0, "first seed; 0: from 1");
DEFINE_uint64(seeds, 0, "how many seeds; 0: one if --seed is given, else 200");
DEFINE_string(canary, "",
              "plant a bug: apply_twice, commit_before_complete, ack_before_log, "
              "no_dedup_after_restart or manifest_before_data");
DEFINE_bool(verbose, false, "say what each seed is and came to");
DEFINE_bool(trace, false, "print each message that arrives");
DEFINE_bool(count, false, "count messages and bytes a step instead, and print JSON");
DEFINE_uint32(ranks, 4, "--count: ranks");
DEFINE_uint32(servers, 2, "--count: servers");
DEFINE_uint32(workers, 2, "--count: worker processes");
DEFINE_uint32(keys, 1000, "--count: unique keys of a rank's step");
DEFINE_uint32(dim, 16, "--count: floats a row");
DEFINE_uint32(dense, 0, "--count: dense parameters");

namespace plexus::sim {
namespace {

// Empty if all went well.
std::string RunSeed(std::uint64_t seed, const ClusterOptions& options, RunResult* result) {
  const Scenario scenario = DrawScenario(seed);
  if (FLAGS_verbose) {
    std::printf("seed %llu: %s\n", static_cast<unsigned long long>(seed),
                Describe(scenario).c_str());
    std::fflush(stdout);
  }
  *result = Cluster(scenario, options).Run();
  if (!result->failure.empty()) {
    return result->failure;
  }
  if (result->inexact && scenario.calm()) {
    return "a deterministic run without faults says that it is inexact";
  }
  // The same bits at another size, whatever happened: always in BSP, in deterministic SSP if no
  // pull was answered late.
  if (result->interrupted) {
    return "";  // In BSP the oracle has compared its rows.
  }
  if (!scenario.bsp() && (!scenario.deterministic || result->inexact)) {
    return "";
  }
  const Scenario reference = ReferenceOf(scenario);
  const RunResult other = Cluster(reference, {}).Run();
  if (!other.failure.empty()) {
    return "of the reference, " + Describe(reference) + ": " + other.failure;
  }
  if (other.inexact || !(other.digest == result->digest)) {
    return "digest " + DigestHex(result->digest) + ", but " + DigestHex(other.digest) + " with " +
           Describe(reference) + (other.inexact ? " (inexact)" : "");
  }
  return "";
}

void Add(const RunResult& one, RunResult* sum) {
  sum->events += one.events;
  sum->kills += one.kills;
  sum->suspensions += one.suspensions;
  sum->cuts += one.cuts;
  sum->server_kills += one.server_kills;
  sum->scheduler_kills += one.scheduler_kills;
  sum->power_cuts += one.power_cuts;
  sum->server_suspensions += one.server_suspensions;
  sum->restarts += one.restarts;
  sum->simulated_seconds += one.simulated_seconds;
  sum->traffic.sent += one.traffic.sent;
  sum->traffic.dropped += one.traffic.dropped;
  sum->traffic.duplicated += one.traffic.duplicated;
  sum->traffic.late += one.traffic.late;
  sum->traffic.cut += one.traffic.cut;
  sum->traffic.unroutable += one.traffic.unroutable;
}

int RunSeeds(std::uint64_t first, std::uint64_t count, const ClusterOptions& options) {
  const double began = SteadySeconds();
  RunResult sum;
  for (std::uint64_t seed = first; seed < first + count; ++seed) {
    RunResult result;
    const std::string failure = RunSeed(seed, options, &result);
    Add(result, &sum);
    if (!failure.empty()) {
      const std::string canary = FLAGS_canary.empty() ? "" : " --canary=" + FLAGS_canary;
      std::printf("seed %llu: %s\n  %s\nrepeat: ./dev sim --seed=%llu%s\n",
                  static_cast<unsigned long long>(seed), Describe(DrawScenario(seed)).c_str(),
                  failure.c_str(), static_cast<unsigned long long>(seed), canary.c_str());
      return 1;
    }
    if (FLAGS_verbose) {
      std::printf("  ended after %.1f simulated s, %llu events, digest %s\n",
                  result.simulated_seconds, static_cast<unsigned long long>(result.events),
                  DigestHex(result.digest).c_str());
    }
  }
  const Traffic& t = sum.traffic;
  const auto n = [](std::uint64_t value) { return static_cast<unsigned long long>(value); };
  std::printf(
      "%llu seeds from %llu: all well\n"
      "  %llu events; %llu messages: %llu dropped, %llu duplicated, %llu late, %llu cut off, %llu "
      "to or from programs that were gone\n"
      "  %llu workers killed, %llu suspended, %llu cuts; %llu servers and %llu schedulers killed, "
      "%llu suspended, %llu power cuts, %llu times all was started again; %.0f simulated s in %.1f "
      "s\n",
      n(count), n(first), n(sum.events), n(t.sent), n(t.dropped), n(t.duplicated), n(t.late),
      n(t.cut), n(t.unroutable), n(sum.kills), n(sum.suspensions), n(sum.cuts), n(sum.server_kills),
      n(sum.scheduler_kills), n(sum.server_suspensions), n(sum.power_cuts), n(sum.restarts),
      sum.simulated_seconds, SteadySeconds() - began);
  return 0;
}

int Main() {
  if (FLAGS_count) {
    CountShape shape;
    shape.ranks = FLAGS_ranks;
    shape.servers = FLAGS_servers;
    shape.workers = FLAGS_workers;
    shape.keys = FLAGS_keys;
    shape.dim = FLAGS_dim;
    shape.dense = FLAGS_dense;
    return CountMessages(shape);
  }
  ClusterOptions options;
  options.trace = FLAGS_trace;
  const std::map<std::string, bool*> canaries = {
      {"apply_twice", &options.apply_twice},
      {"commit_before_complete", &options.commit_before_complete},
      {"ack_before_log", &options.ack_before_log},
      {"no_dedup_after_restart", &options.no_dedup_after_restart},
      {"manifest_before_data", &options.manifest_before_data}};
  if (!FLAGS_canary.empty()) {
    const auto canary = canaries.find(FLAGS_canary);
    if (canary == canaries.end()) {
      std::fprintf(stderr, "cluster_sim: no canary %s; there are:", FLAGS_canary.c_str());
      for (const auto& [name, unused] : canaries) {
        std::fprintf(stderr, " %s", name.c_str());
      }
      std::fprintf(stderr, "\n");
      return 2;
    }
    *canary->second = true;
  }
  const std::uint64_t count = FLAGS_seeds != 0 ? FLAGS_seeds : FLAGS_seed != 0 ? 1 : 200;
  return RunSeeds(FLAGS_seed != 0 ? FLAGS_seed : 1, count, options);
}

}  // namespace
}  // namespace plexus::sim

int main(int argc, char** argv) {
  google::InitGoogleLogging(argv[0]);
  FLAGS_logtostderr = true;
  FLAGS_minloglevel = google::GLOG_ERROR;  // Programs warn of what scenarios do to them.
  gflags::SetUsageMessage("[--seed=N] [--seeds=K] [--canary=apply_twice] [--verbose] | --count");
  gflags::ParseCommandLineFlags(&argc, &argv, true);
  return plexus::sim::Main();
}
