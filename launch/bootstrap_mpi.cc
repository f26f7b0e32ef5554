#include "launch/bootstrap_mpi.h"

#include <algorithm>
#include <csignal>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include <arpa/inet.h>
#include <ifaddrs.h>
#include <mpi.h>
#include <net/if.h>
#include <netinet/in.h>
#include <poll.h>
#include <unistd.h>

#include "common/clock.h"
#include "common/files.h"
#include "launch/guardian.h"
#include "launch/role.h"
#include "launch/run_setup.h"
#include "proto/job.h"
#include "worker/collective_mpi.h"
#include "worker/dense_replica.h"

namespace plexus {
namespace {

// Others hear of a failure from the scheduler; after this a rank ends the job by itself.
constexpr int kVerdictMillis = 15000;
constexpr double kCollectiveSeconds = 120;

// What each MPI rank says of itself.
struct Hello {
  std::int32_t role = 0;
  std::int32_t port = 0;
  char host[128] = {};
  char ip[64] = {};
};

// What the scheduler's rank says to all.
struct Verdict {
  std::int32_t exit_code = 0;
  std::int32_t quiet = 0;
  char run_dir[1024] = {};
  char http_address[128] = {};
  char curve_dir[1024] = {};
  std::uint32_t job_bytes = 0;
  std::uint64_t resume_version = 0;
};

volatile std::sig_atomic_t guarded_pid = 0;

void PassSignal(int signal) {
  if (guarded_pid > 0) {
    ::kill(static_cast<pid_t>(guarded_pid), signal);
  }
}

// The first address of this machine that is not the loopback's.
std::string OwnAddress() {
  std::string address = "127.0.0.1";
  ifaddrs* all = nullptr;
  if (::getifaddrs(&all) != 0) {
    return address;
  }
  for (const ifaddrs* at = all; at != nullptr; at = at->ifa_next) {
    if (at->ifa_addr != nullptr && at->ifa_addr->sa_family == AF_INET &&
        (at->ifa_flags & IFF_LOOPBACK) == 0 && (at->ifa_flags & IFF_UP) != 0) {
      char text[INET_ADDRSTRLEN] = {};
      const auto* inet = reinterpret_cast<const sockaddr_in*>(at->ifa_addr);
      ::inet_ntop(AF_INET, &inet->sin_addr, text, sizeof(text));
      address = text;
      break;
    }
  }
  ::freeifaddrs(all);
  return address;
}

// The members of the job as MPI ranks, once all have said hello.
class Roster {
 public:
  explicit Roster(const Hello& self) {
    int size = 0;
    MPI_Comm_size(MPI_COMM_WORLD, &size);
    MPI_Comm_rank(MPI_COMM_WORLD, &self_);
    hellos_.resize(static_cast<std::size_t>(size));
    MPI_Allgather(&self, sizeof(Hello), MPI_BYTE, hellos_.data(), sizeof(Hello), MPI_BYTE,
                  MPI_COMM_WORLD);
  }

  int self() const { return self_; }
  int Count(proto::Role role) const {
    return static_cast<int>(std::count_if(hellos_.begin(), hellos_.end(),
                                          [&](const Hello& h) { return h.role == role; }));
  }
  // Position of this rank among those of its role.
  std::uint32_t index() const {
    const auto end = hellos_.begin() + self_;
    return static_cast<std::uint32_t>(std::count_if(hellos_.begin(), end, [&](const Hello& h) {
      return h.role == hellos_[static_cast<std::size_t>(self_)].role;
    }));
  }
  int SchedulerRank() const {
    for (std::size_t i = 0; i < hellos_.size(); ++i) {
      if (hellos_[i].role == proto::SCHEDULER) {
        return static_cast<int>(i);
      }
    }
    return -1;
  }
  std::string AddressOf(int rank) const {
    const bool one_host = std::all_of(hellos_.begin(), hellos_.end(), [&](const Hello& h) {
      return std::strcmp(h.host, hellos_[0].host) == 0;
    });
    const Hello& hello = hellos_[static_cast<std::size_t>(rank)];
    return "tcp://" + std::string(one_host ? "127.0.0.1" : hello.ip) + ":" +
           std::to_string(hello.port);
  }

 private:
  std::vector<Hello> hellos_;
  int self_ = 0;
};

// The job with mpirun's counts, and the checkpoint that it goes on from; a --set that contradicts
// them is refused.
StatusOr<std::string> ResolveJob(const Roster& roster, Flags flags, std::uint64_t* resume_version) {
  if (roster.Count(proto::SCHEDULER) != 1 || roster.Count(proto::SERVER) < 1 ||
      roster.Count(proto::WORKER) < 1) {
    return InvalidArgument(
        "mpirun must start one plexus-scheduler, and at least one plexus-ps and plexus-worker");
  }
  for (const auto& [path, count] :
       {std::pair<std::string, int>{"cluster.servers", roster.Count(proto::SERVER)},
        std::pair<std::string, int>{"cluster.workers", roster.Count(proto::WORKER)}}) {
    for (const std::string& override_text : flags.overrides) {
      if (override_text.starts_with(path + "=") &&
          override_text != path + "=" + std::to_string(count)) {
        return InvalidArgument("--set " + override_text + " contradicts mpirun, which started " +
                               std::to_string(count));
      }
    }
    flags.overrides.push_back(path + "=" + std::to_string(count));
  }
  RETURN_IF_ERROR(CheckKeys(proto::SCHEDULER, flags));
  ASSIGN_OR_RETURN(const std::shared_ptr<const JobPlan> plan, LoadPlan(flags, false));
  ASSIGN_OR_RETURN(*resume_version, PrepareRunDirectory(flags, *plan));
  return PrintJob(plan->job);
}

// The scheduler's rank resolves the job, and all get it.
Verdict AgreeOnJob(const Roster& roster, const Flags& flags, std::string* job) {
  Verdict verdict;
  const int root = std::max(roster.SchedulerRank(), 0);
  if (roster.self() == root) {
    StatusOr<std::string> resolved = ResolveJob(roster, flags, &verdict.resume_version);
    if (resolved.ok()) {
      *job = *resolved;
      verdict.job_bytes = static_cast<std::uint32_t>(job->size());
    } else {
      std::fprintf(stderr, "%s\n", resolved.status().message().c_str());
      verdict.exit_code = 2;
    }
    verdict.quiet = flags.quiet ? 1 : 0;
    std::snprintf(verdict.run_dir, sizeof(verdict.run_dir), "%s", flags.run_dir.c_str());
    std::snprintf(verdict.http_address, sizeof(verdict.http_address), "%s",
                  flags.http_address.empty() ? "127.0.0.1:0" : flags.http_address.c_str());
    std::snprintf(verdict.curve_dir, sizeof(verdict.curve_dir), "%s", flags.curve_dir.c_str());
  }
  MPI_Bcast(&verdict, sizeof(verdict), MPI_BYTE, root, MPI_COMM_WORLD);
  job->resize(verdict.job_bytes);
  MPI_Bcast(job->data(), static_cast<int>(verdict.job_bytes), MPI_BYTE, root, MPI_COMM_WORLD);
  return verdict;
}

// A machine that does not share the run directory gets its own.
Status KeepJob(const std::string& run_dir, const std::string& job) {
  const std::string path = run_dir + "/job.textproto";
  StatusOr<std::string> present = ReadWholeFile(path, 1 << 24);
  if (present.ok() && *present == job) {
    return OkStatus();
  }
  RETURN_IF_ERROR(MakeDirectories(run_dir));
  return WriteFileAtomically(path, job);
}

// Dense gradients over MPI: the worker computes in this very process.
int RunInside(const Roster& roster, const Flags& flags, const Verdict& verdict, MPI_Comm workers) {
  Flags own = flags;
  own.job = std::string(verdict.run_dir) + "/job.textproto";
  own.run_dir = verdict.run_dir;
  own.curve_dir = verdict.curve_dir;
  own.index = roster.index();
  own.scheduler = roster.AddressOf(roster.SchedulerRank());
  StatusOr<std::shared_ptr<const JobPlan>> plan = LoadResolvedPlan(own.job);
  if (!plan.ok()) {
    std::fprintf(stderr, "%s\n", plan.status().message().c_str());
    return 2;
  }
  const std::uint32_t ranks = (*plan)->ranks();
  const std::uint32_t processes = (*plan)->job.cluster().workers();
  std::uint32_t local = 0;
  for (std::uint32_t rank = 0; rank < ranks; ++rank) {
    local += static_cast<std::uint64_t>(rank) * processes / ranks == own.index ? 1 : 0;
  }
  DenseReplica replica(*plan, local,
                       MakeMpiReducer(MPI_Comm_c2f(workers), ranks, kCollectiveSeconds));
  return RunRole(proto::WORKER, *plan, own, &replica);
}

ProgramSpec SpecOf(proto::Role role, const Roster& roster, const Verdict& verdict, int listen_fd,
                   bool durable) {
  RoleAddresses addresses;
  addresses.scheduler = roster.AddressOf(roster.SchedulerRank());
  addresses.curve_dir = verdict.curve_dir;
  addresses.resume_version = verdict.resume_version;
  if (role != proto::WORKER) {
    addresses.listen = roster.AddressOf(roster.self());
    addresses.listen_fd = listen_fd;
    addresses.http_address = verdict.http_address;
  }
  ProgramSpec spec;
  spec.name = std::string(RoleName(role)) + " " + std::to_string(roster.index());
  if (role == proto::SERVER) {
    addresses.http_address = AnyPortOf(addresses.http_address);
  }
  spec.argv = RoleCommand(role, roster.index(), verdict.run_dir, addresses, verdict.quiet != 0);
  spec.restart_when_killed = role != proto::SCHEDULER || durable;
  spec.lost = "the committed step is lost with it";
  return spec;
}

// The end of this rank: the scheduler's verdict decides, the others wait for it.
int Leave(proto::Role role, int exit_code) {
  if (exit_code == 0) {
    MPI_Finalize();
    return 0;
  }
  if (role != proto::SCHEDULER) {
    ::poll(nullptr, 0, kVerdictMillis);  // The scheduler's MPI_Abort ends this wait.
  }
  MPI_Abort(MPI_COMM_WORLD, exit_code);
  return exit_code;
}

}  // namespace

bool UnderMpirun() {
  return std::getenv("OMPI_COMM_WORLD_SIZE") != nullptr || std::getenv("PMI_SIZE") != nullptr;
}

int RunUnderMpi(proto::Role role, const Flags& flags) {
  Hello hello;
  hello.role = role;
  int listen_fd = -1;
  if (role != proto::WORKER) {
    int port = 0;
    StatusOr<int> fd = ListenOn("0.0.0.0", &port);
    if (!fd.ok()) {
      std::fprintf(stderr, "%s\n", fd.status().message().c_str());
      return 1;
    }
    listen_fd = *fd;
    hello.port = port;
  }
  StatusOr<Guardian> guardian = Guardian::Fork();
  if (!guardian.ok()) {
    std::fprintf(stderr, "%s\n", guardian.status().message().c_str());
    return 1;
  }
  ::gethostname(hello.host, sizeof(hello.host) - 1);
  std::snprintf(hello.ip, sizeof(hello.ip), "%s", OwnAddress().c_str());
  int provided = 0;
  MPI_Init_thread(nullptr, nullptr, MPI_THREAD_MULTIPLE, &provided);
  const Roster roster(hello);
  std::string job;
  const Verdict verdict = AgreeOnJob(roster, flags, &job);
  MPI_Comm workers = MPI_COMM_NULL;
  MPI_Comm_split(MPI_COMM_WORLD, role, roster.self(), &workers);
  if (verdict.exit_code != 0) {
    guardian->Dismiss();
    MPI_Finalize();
    return verdict.exit_code;
  }
  if (Status status = KeepJob(verdict.run_dir, job); !status.ok()) {
    std::fprintf(stderr, "%s\n", status.message().c_str());
    return Leave(role, 1);
  }
  StatusOr<proto::Job> parsed = ParseJob(job, "job", {});
  const bool inside =
      role == proto::WORKER && parsed.ok() && parsed->train().dense_sync() == proto::Train::MPI;
  int exit_code = 1;
  if (inside) {
    guardian->Dismiss();
    exit_code = RunInside(roster, flags, verdict, workers);
  } else {
    guarded_pid = guardian->pid();
    std::signal(SIGTERM, &PassSignal);
    std::signal(SIGINT, &PassSignal);
    const bool durable =
        parsed.ok() && parsed->checkpoint().durability() != proto::Checkpoint::NONE;
    if (guardian->Run(SpecOf(role, roster, verdict, listen_fd, durable)).ok()) {
      exit_code = guardian->Wait();
    }
  }
  return Leave(role, exit_code);
}

}  // namespace plexus
