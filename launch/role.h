// Role programs: plexus-scheduler, plexus-ps and plexus-worker.
//
// With --scheduler (or, for the scheduler, --listen) a program takes part in a job by itself. Under
// mpirun, without these, it learns the rest over MPI (launch/bootstrap_mpi.h).
//
// Thread safety: called from main.
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "launch/flags.h"
#include "launch/node.h"
#include "proto/control.pb.h"

namespace plexus {

// main of a role program.
int RoleMain(proto::Role role, int argc, char** argv);

// Runs the role in this process until the job ends.
int RunRole(proto::Role role, std::shared_ptr<const JobPlan> plan, const Flags& flags,
            DenseExchange* exchange);

// The name of the role's keys in a key directory.
const char* KeyName(proto::Role role);
// The sentence is of a file in --curve_dir that is missing or wrong; OK without --curve_dir.
Status CheckKeys(proto::Role role, const Flags& flags);

// Where things are, for the command line of a role program.
struct RoleAddresses {
  std::string scheduler;  // tcp://host:port
  std::string listen;     // Scheduler and servers.
  int listen_fd = -1;
  std::string http_address;
  std::string curve_dir;
  std::uint64_t resume_version = 0;  // Scheduler.
};

// The command line that starts the role from RUN/job.textproto, supervised by this process.
std::vector<std::string> RoleCommand(proto::Role role, std::uint32_t index,
                                     const std::string& run_dir, const RoleAddresses& addresses,
                                     bool quiet);

const char* RoleName(proto::Role role);

// "host:0" of "host:port": the scheduler takes the port that was asked for, servers any free one.
std::string AnyPortOf(const std::string& http_address);

}  // namespace plexus
