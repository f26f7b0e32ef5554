#include "launch/role.h"

#include <cstdio>
#include <cstdlib>
#include <utility>

#include <glog/logging.h>
#include <unistd.h>

#include "common/files.h"
#include "launch/bootstrap_mpi.h"
#include "launch/run_setup.h"
#include "launch/supervisor.h"

namespace plexus {
namespace {

constexpr const char* kHelp =
    R"(A member of a Plexus job: plexus-scheduler, plexus-ps (server) or plexus-worker.

Under mpirun, one job:
  mpirun -n 1 plexus-scheduler --job=FILE [--set path=value]... [--run_dir=DIR] \
       : -n S plexus-ps : -n W plexus-worker
By hand, or in a cluster without MPI:
  plexus-scheduler --job=FILE --run_dir=DIR --listen=tcp://0.0.0.0:7000
  plexus-ps     --job=FILE --run_dir=DIR --scheduler=tcp://HOST:7000 --index=I \
                --listen=tcp://IP:7001      (or --listen=tcp://0.0.0.0:7001
                                             --advertise=tcp://HOST:7001)
  plexus-worker --job=FILE --run_dir=DIR --scheduler=tcp://HOST:7000 --index=I
All members need the same job file and the same --set.  --http_address=127.0.0.1:0 serves /metrics,
/healthz and /status of the scheduler and the servers.
--curve_dir=DIR, for all members (mpirun: for the scheduler, DIR lying on every host), encrypts what
they say to each other and admits only who has keys in DIR; `plexus keygen` makes them.
--resume, for the scheduler, goes on with the run in --run_dir from its newest checkpoint, with any
number of servers and workers, all of which read RUN/checkpoints.

Exit codes: 0 done, 1 failed, 2 bad job or usage, 3 restartable.
)";

// Logs go to RUN/logs; what is wrong also to the terminal.
void LogInto(const std::string& run_dir) {
  const std::string folder = run_dir + "/logs";
  if (MakeDirectories(folder).ok()) {
    FLAGS_log_dir = folder;
    FLAGS_logtostderr = false;
    FLAGS_stderrthreshold = google::GLOG_WARNING;
    FLAGS_logbufsecs = 0;
  }
}

}  // namespace

const char* RoleName(proto::Role role) {
  switch (role) {
    case proto::SCHEDULER:
      return "scheduler";
    case proto::SERVER:
      return "ps";
    case proto::WORKER:
      return "worker";
  }
  return "";
}

const char* KeyName(proto::Role role) {
  switch (role) {
    case proto::SCHEDULER:
      return kSchedulerKey;
    case proto::SERVER:
      return kServerKey;
    case proto::WORKER:
      return kWorkerKey;
  }
  return "";
}

Status CheckKeys(proto::Role role, const Flags& flags) {
  return flags.curve_dir.empty() ? OkStatus()
                                 : LoadCurveKeys(flags.curve_dir, KeyName(role)).status();
}

std::string AnyPortOf(const std::string& http_address) {
  const std::size_t colon = http_address.rfind(':');
  return colon == std::string::npos ? http_address : http_address.substr(0, colon) + ":0";
}

std::vector<std::string> RoleCommand(proto::Role role, std::uint32_t index,
                                     const std::string& run_dir, const RoleAddresses& addresses,
                                     bool quiet) {
  std::vector<std::string> argv = {
      ProgramFolder() + "/plexus-" + RoleName(role),
      "--job=" + run_dir + "/job.textproto",
      "--run_dir=" + run_dir,
      "--index=" + std::to_string(index),
      "--scheduler=" + addresses.scheduler,
      "--supervisor_pid=" + std::to_string(::getpid()),
  };
  if (!addresses.listen.empty()) {
    argv.push_back("--listen=" + addresses.listen);
    argv.push_back("--listen_fd=" + std::to_string(addresses.listen_fd));
  }
  if (!addresses.http_address.empty()) {
    argv.push_back("--http_address=" + addresses.http_address);
  }
  if (!addresses.curve_dir.empty()) {
    argv.push_back("--curve_dir=" + addresses.curve_dir);
  }
  if (role == proto::SCHEDULER && addresses.resume_version > 0) {
    argv.push_back("--resume_version=" + std::to_string(addresses.resume_version));
  }
  if (quiet) {
    argv.push_back("--quiet");
  }
  return argv;
}

int RunRole(proto::Role role, std::shared_ptr<const JobPlan> plan, const Flags& flags,
            DenseExchange* exchange) {
  NodeOptions options;
  options.index = flags.index;
  options.scheduler_address = role == proto::SCHEDULER ? flags.listen : flags.scheduler;
  options.data_address = flags.listen;
  options.listen_fd = flags.listen_fd;
  options.advertise_address = flags.advertise;
  options.http_address = flags.http_address == "none" ? "" : flags.http_address;
  options.run_dir = flags.run_dir;
  options.supervisor_pid = flags.supervisor_pid;
  options.signals = &InstallSignalCounter();
  options.exchange = exchange;
  options.progress = !flags.quiet;
  options.resume_version = flags.resume_version;
  std::unique_ptr<NetContext> context;
  if (flags.curve_dir.empty()) {
    context = std::make_unique<NetContext>(1);
  } else {
    StatusOr<CurveKeys> keys = LoadCurveKeys(flags.curve_dir, KeyName(role));
    if (!keys.ok()) {
      std::fprintf(stderr, "%s\n", keys.status().message().c_str());
      return 2;
    }
    context = std::make_unique<NetContext>(1, *keys);
  }
  switch (role) {
    case proto::SCHEDULER:
      return RunSchedulerNode(std::move(plan), *context, options);
    case proto::SERVER:
      return RunServerNode(std::move(plan), *context, options);
    case proto::WORKER:
      return RunWorkerNode(std::move(plan), *context, options);
  }
  return 2;
}

int RoleMain(proto::Role role, int argc, char** argv) {
  FLAGS_logtostderr = true;
  google::InitGoogleLogging(argv[0]);
  google::InstallFailureSignalHandler();
  Flags flags = ParseCommandLine(argc, argv, kHelp);
  const bool alone = role == proto::SCHEDULER ? flags.listen.empty() : flags.scheduler.empty();
  if (alone && UnderMpirun()) {
    return RunUnderMpi(role, flags);
  }
  if (alone || (role == proto::SERVER && flags.listen.empty())) {
    std::fprintf(stderr,
                 "plexus-%s needs its addresses (--scheduler, --listen), or mpirun; see --help\n",
                 RoleName(role));
    return 2;
  }
  if (Status status = CheckKeys(role, flags); !status.ok()) {
    std::fprintf(stderr, "%s\n", status.message().c_str());
    return 2;
  }
  const bool everywhere = flags.listen.find("//0.0.0.0:") != std::string::npos ||
                          flags.listen.find("//*:") != std::string::npos;
  if (role == proto::SERVER && everywhere && flags.advertise.empty()) {
    std::fprintf(
        stderr,
        "--listen=%s is no address that a worker can connect to: add --advertise=tcp://HOST:PORT\n",
        flags.listen.c_str());
    return 2;
  }
  StatusOr<std::shared_ptr<const JobPlan>> plan = LoadPlan(flags, role == proto::WORKER);
  if (!plan.ok()) {
    std::fprintf(stderr, "%s\n", plan.status().message().c_str());
    return 2;
  }
  if (!(*plan)->dense_on_servers() && (role == proto::WORKER || flags.supervisor_pid == 0)) {
    std::fprintf(stderr, "train.dense_sync MPI needs mpirun: see launch/mpirun.sh\n");
    return 2;
  }
  if (role == proto::SCHEDULER && flags.supervisor_pid == 0) {
    // Started by hand: nobody has made the run directory.
    const StatusOr<std::uint64_t> resume_version = PrepareRunDirectory(flags, **plan);
    if (!resume_version.ok()) {
      std::fprintf(stderr, "%s\n", resume_version.status().message().c_str());
      return 2;
    }
    flags.resume_version = *resume_version;
  }
  LogInto(flags.run_dir);
  return RunRole(role, *plan, flags, nullptr);
}

}  // namespace plexus
