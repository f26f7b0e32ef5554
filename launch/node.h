// Nodes: the runtimes that drive scheduler, shards and ranks over ZeroMQ, in this process.
//
// A role program runs one of them; the local mode runs all of them as threads of one process, over
// inproc.
//
// Thread safety: each Run function uses the calling thread until the job ends; several may run at
// once.
#pragma once

#include <atomic>
#include <cstdint>
#include <memory>
#include <string>

#include <sys/types.h>

#include "common/net/zmq_endpoint.h"
#include "proto/control.pb.h"
#include "proto/plan.h"
#include "worker/batch_source.h"
#include "worker/dense_exchange.h"
#include "worker/rank_trainer.h"

namespace plexus {

struct NodeOptions {
  std::uint32_t index = 0;
  std::string scheduler_address;  // Where the scheduler is, or is to be.
  std::string data_address;       // Servers: where to bind.
  int listen_fd = -1;             // A listening socket of that address, or -1.
  std::string advertise_address;  // Servers: where workers reach it; empty: where it is bound.
  std::string http_address;       // Empty: no HTTP.
  std::string run_dir;
  pid_t supervisor_pid = 0;
  std::uint64_t resume_version = 0;  // Scheduler: of the checkpoint to go on from; 0: none.
  bool local = false;                // All nodes are threads of this process.
  bool progress = false;             // Scheduler: draw a progress bar on stderr.
  const std::atomic<int>* signals = nullptr;  // Counts SIGINT and SIGTERM.
  DenseExchange* exchange = nullptr;          // Workers under dense_sync MPI.
  OpenSource open_source;           // Workers: samples of another origin than the job's files.
  RankTimes* rank_times = nullptr;  // Workers: receives what each rank's seconds went to, by rank.
};

// Names of the roles' keys in a key directory.
inline constexpr const char* kSchedulerKey = "scheduler";
inline constexpr const char* kServerKey = "server";
inline constexpr const char* kWorkerKey = "worker";

// A member that has not had a word from the scheduler waits for it this long: it may be starting.
inline constexpr Millis kFirstWordMillis = 60000;
// A member whose key is refused gives up after this.
inline constexpr Millis kRefusedMillis = 10000;

// What to look at when members do not find each other.
std::string KeysHint(const NetContext& context);

// Exit codes: 0 done, 1 failed, 2 bad job or usage, 3 restartable.  The reason was logged.
int RunSchedulerNode(std::shared_ptr<const JobPlan> plan, NetContext& context,
                     const NodeOptions& options);
int RunServerNode(std::shared_ptr<const JobPlan> plan, NetContext& context,
                  const NodeOptions& options);
int RunWorkerNode(std::shared_ptr<const JobPlan> plan, NetContext& context,
                  const NodeOptions& options);

// What a member says of itself.
proto::Register MakeRegistration(const JobPlan& plan, proto::Role role, const NodeOptions& options,
                                 const std::string& data_address, const std::string& http_address);

// XXH3_64 of the resolved job, without what may differ between members.
std::uint64_t JobHash(const proto::Job& job);

FrameGuard PlexusFrameGuard();

// Of this process: the most so far, and now.
std::uint64_t PeakRssBytes();
std::uint64_t RssBytes();

}  // namespace plexus
