#include <cstdio>
#include <string>
#include <thread>
#include <vector>

#include <nlohmann/json.hpp>
#include <unistd.h>

#include "common/files.h"
#include "launch/commands.h"
#include "launch/node.h"
#include "launch/run_setup.h"

namespace plexus {
namespace {

// Everything as threads of this process.
int TrainLocally(const std::shared_ptr<const JobPlan>& plan, const Flags& flags) {
  NetContext context(1);
  NodeOptions base;
  base.run_dir = flags.run_dir;
  base.scheduler_address = "inproc://scheduler";
  base.http_address = flags.http_address;
  base.local = true;
  base.signals = &InstallSignalCounter();

  int exit_code = 1;
  std::vector<NodeOptions> servers(plan->shards(), base);
  std::vector<NodeOptions> workers(plan->job.cluster().workers(), base);
  std::vector<std::jthread> threads;
  NodeOptions scheduler = base;
  scheduler.progress = !flags.quiet && ::isatty(STDERR_FILENO) != 0;
  threads.emplace_back([&] { exit_code = RunSchedulerNode(plan, context, scheduler); });
  for (std::uint32_t i = 0; i < servers.size(); ++i) {
    servers[i].index = i;
    servers[i].data_address = "inproc://server-" + std::to_string(i);
    threads.emplace_back([&plan, &context, &options = servers[i]] {
      (void)RunServerNode(plan, context, options);  // Its reason comes through the scheduler.
    });
  }
  for (std::uint32_t i = 0; i < workers.size(); ++i) {
    workers[i].index = i;
    threads.emplace_back(
        [&plan, &context, &options = workers[i]] { (void)RunWorkerNode(plan, context, options); });
  }
  threads.clear();  // Joins.
  return exit_code;
}

// A few lines of result.json for a person.
void PrintSummary(const std::string& run_dir) {
  StatusOr<std::string> text = ReadWholeFile(run_dir + "/result.json", 1 << 24);
  if (!text.ok()) {
    return;
  }
  const auto json = nlohmann::json::parse(*text, nullptr, false);
  if (json.is_discarded()) {
    return;
  }
  const auto show = [&json](const char* name) {
    return json.contains(name) ? json[name].dump() : std::string("null");
  };
  std::printf("samples %s  samples/s %.0f  train log loss %s\n", show("samples").c_str(),
              json.value("samples_per_second", 0.0), show("train_logloss").c_str());
  std::printf("valid auc %s  test auc %s  test log loss %s\n", show("valid_auc").c_str(),
              show("test_auc").c_str(), show("test_logloss").c_str());
  std::printf("model_digest %s  version %s\n", show("model_digest").c_str(),
              show("version").c_str());
  std::printf("%s/result.json has the rest\n", run_dir.c_str());
}

}  // namespace

int TrainCommand(const Flags& flags) {
  StatusOr<std::shared_ptr<const JobPlan>> plan = LoadPlan(flags);
  if (!plan.ok()) {
    std::fprintf(stderr, "%s\n", plan.status().message().c_str());
    return 2;
  }
  Status prepared = PrepareRunDirectory(flags.run_dir, flags.overwrite, (*plan)->job);
  if (!prepared.ok()) {
    std::fprintf(stderr, "%s\n", prepared.message().c_str());
    return 2;
  }
  const int exit_code = TrainLocally(*plan, flags);
  if (!flags.quiet) {
    PrintSummary(flags.run_dir);
  }
  return exit_code;
}

}  // namespace plexus
