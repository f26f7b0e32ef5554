#include <cstdio>
#include <string>
#include <thread>
#include <vector>

#include <glog/logging.h>
#include <nlohmann/json.hpp>
#include <unistd.h>

#include "common/files.h"
#include "launch/commands.h"
#include "launch/node.h"
#include "launch/role.h"
#include "launch/run_setup.h"
#include "launch/supervisor.h"
#include "worker/dense_replica.h"

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

  std::unique_ptr<DenseReplica> replica;
  if (!plan->dense_on_servers()) {
    replica = std::make_unique<DenseReplica>(plan, plan->ranks(), MakeLocalReducer());
    base.exchange = replica.get();
  }

  int exit_code = 1;
  std::vector<NodeOptions> servers(plan->shards(), base);
  std::vector<NodeOptions> workers(plan->job.cluster().workers(), base);
  std::vector<std::jthread> threads;
  NodeOptions scheduler = base;
  scheduler.progress = !flags.quiet;
  scheduler.resume_version = flags.resume_version;
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

// The same numbers of supervised processes on this machine, over TCP.
int TrainInProcesses(const JobPlan& plan, const Flags& flags) {
  if (!plan.dense_on_servers()) {
    std::fprintf(
        stderr,
        "train.dense_sync MPI needs mpirun (launch/mpirun.sh), or --local; without MPI use "
        "train.dense_sync SERVERS\n");
    return 2;
  }
  const std::string http = flags.http_address.empty() ? "127.0.0.1:0" : flags.http_address;
  const std::string host = "127.0.0.1";
  Supervisor supervisor;
  RoleAddresses scheduler;
  scheduler.curve_dir = flags.curve_dir;
  const auto start = [&](proto::Role role, std::uint32_t index) -> Status {
    RoleAddresses addresses = scheduler;
    ProgramSpec spec;
    spec.name = std::string(RoleName(role)) + " " + std::to_string(index);
    if (role != proto::WORKER) {
      int port = 0;
      ASSIGN_OR_RETURN(addresses.listen_fd, ListenOn(host, &port));
      addresses.listen = "tcp://" + host + ":" + std::to_string(port);
      addresses.http_address = role == proto::SERVER ? AnyPortOf(http) : http;
    }
    if (role == proto::SCHEDULER) {
      addresses.scheduler = addresses.listen;
      addresses.resume_version = flags.resume_version;
      scheduler.scheduler = addresses.listen;
      spec.lost = "the committed step is lost with it; start the job again";
    }
    spec.leader = role == proto::SCHEDULER;
    spec.restart_when_killed = role != proto::SCHEDULER || plan.durable();
    spec.argv = RoleCommand(role, index, flags.run_dir, addresses, flags.quiet);
    return supervisor.Start(std::move(spec));
  };
  Status status = start(proto::SCHEDULER, 0);
  for (std::uint32_t i = 0; i < plan.shards() && status.ok(); ++i) {
    status = start(proto::SERVER, i);
  }
  for (std::uint32_t i = 0; i < plan.job.cluster().workers() && status.ok(); ++i) {
    status = start(proto::WORKER, i);
  }
  if (!status.ok()) {
    std::fprintf(stderr, "%s\n", status.message().c_str());
    return 1;
  }
  return supervisor.Run();
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

// Exit code 3 says that starting the job again may help.  With logs that loses nothing.
int TrainWithRestarts(const std::shared_ptr<const JobPlan>& plan, Flags flags) {
  for (std::uint32_t restarts = 0;; ++restarts) {
    const StatusOr<std::uint64_t> resume_version = PrepareRunDirectory(flags, *plan);
    if (!resume_version.ok()) {
      std::fprintf(stderr, "%s\n", resume_version.status().message().c_str());
      return 2;
    }
    flags.resume_version = *resume_version;
    const int exit_code = flags.local ? TrainLocally(plan, flags) : TrainInProcesses(*plan, flags);
    if (exit_code != 3 || !plan->durable() || restarts == flags.restarts) {
      return exit_code;
    }
    LOG(WARNING) << "the job ended with 3 and is started again, as with --resume: " << restarts + 1
                 << " of " << flags.restarts;
    flags.resume = true;
    flags.overwrite = false;
  }
}

}  // namespace

int TrainCommand(const Flags& flags) {
  if (flags.local && !flags.curve_dir.empty()) {
    std::fprintf(stderr, "--curve_dir has no use with --local: nothing leaves the process\n");
    return 2;
  }
  for (const proto::Role role : {proto::SCHEDULER, proto::SERVER, proto::WORKER}) {
    if (Status status = CheckKeys(role, flags); !status.ok()) {
      std::fprintf(stderr, "%s\n", status.message().c_str());
      return 2;
    }
  }
  StatusOr<std::shared_ptr<const JobPlan>> plan = LoadPlan(flags, true);
  if (!plan.ok()) {
    std::fprintf(stderr, "%s\n", plan.status().message().c_str());
    return 2;
  }
  const int exit_code = TrainWithRestarts(*plan, flags);
  if (!flags.quiet) {
    PrintSummary(flags.run_dir);
  }
  return exit_code;
}

}  // namespace plexus
