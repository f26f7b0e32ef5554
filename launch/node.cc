#include "launch/node.h"

#include <fstream>

#include <sys/resource.h>
#include <unistd.h>

#include "common/clock.h"
#include "proto/frame.h"
#include "proto/job.h"

namespace plexus {

std::uint64_t JobHash(const proto::Job& job) { return HashBytes(PrintJob(job), 0); }

proto::Register MakeRegistration(const JobPlan& plan, proto::Role role, const NodeOptions& options,
                                 const std::string& data_address, const std::string& http_address) {
  proto::Register info;
  info.set_role(role);
  info.set_index(options.index);
  // Who lives in a place now: differs at every start, means nothing else.
  const auto nanos = static_cast<std::uint64_t>(SteadySeconds() * 1e9);
  info.set_incarnation(Mix64(nanos ^ (static_cast<std::uint64_t>(::getpid()) << 40) ^
                             (static_cast<std::uint64_t>(role) << 36) ^
                             (static_cast<std::uint64_t>(options.index) << 20)));
  info.set_pid(::getpid());
  info.set_supervisor_pid(options.supervisor_pid);
  info.set_data_address(data_address);
  info.set_http_address(http_address);
  info.set_job_hash(JobHash(plan.job));
  return info;
}

FrameGuard PlexusFrameGuard() {
  return {.seal = &SealFrame, .verify = &VerifyFrame, .frame_bytes_max = kFrameBytesMax};
}

std::string KeysHint(const NetContext& context) {
  return context.has_keys()
             ? "; do all members have --curve_dir, with keys of one making? (docs/security.md)"
             : "; if it was started with --curve_dir, this member needs it too";
}

std::uint64_t PeakRssBytes() {
  rusage usage{};
  ::getrusage(RUSAGE_SELF, &usage);
  return static_cast<std::uint64_t>(usage.ru_maxrss) * 1024;
}

std::uint64_t RssBytes() {
  std::uint64_t size = 0;
  std::uint64_t resident = 0;  // In pages.
  std::ifstream("/proc/self/statm") >> size >> resident;
  return resident * static_cast<std::uint64_t>(::sysconf(_SC_PAGESIZE));
}

}  // namespace plexus
