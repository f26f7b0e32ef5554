#include "launch/run_setup.h"

#include <csignal>
#include <filesystem>
#include <system_error>
#include <utility>

#include <unistd.h>

#include "common/files.h"
#include "launch/plan.h"
#include "proto/job.h"
#include "worker/nn/gemm.h"

namespace plexus {
namespace {

std::atomic<int> signal_count{0};

void CountSignal(int signal) {
  if (signal_count.fetch_add(1) >= 2) {
    std::signal(signal, SIG_DFL);
    std::raise(signal);
  }
}

Status CheckFiles(const proto::Data& data) {
  for (const auto* files : {&data.train(), &data.valid(), &data.test()}) {
    for (const std::string& file : *files) {
      if (::access(file.c_str(), R_OK) != 0) {
        return InvalidArgument(ErrnoStatus("read data file", file).message());
      }
    }
  }
  return OkStatus();
}

StatusOr<std::shared_ptr<const JobPlan>> PlanOf(const proto::Job& job) {
  RETURN_IF_ERROR(CheckMachine(job));
  RETURN_IF_ERROR(SetNumericProfile(job.cluster().numeric_profile() == proto::Cluster::AVX512
                                        ? NumericProfile::kAvx512
                                        : NumericProfile::kAvx2));
  ASSIGN_OR_RETURN(JobPlan plan, MakePlan(job));
  return std::shared_ptr<const JobPlan>(std::make_shared<JobPlan>(std::move(plan)));
}

}  // namespace

StatusOr<std::shared_ptr<const JobPlan>> LoadPlan(const Flags& flags, bool reads_data) {
  if (flags.job.empty()) {
    return InvalidArgument("--job=FILE is needed; see --help");
  }
  ASSIGN_OR_RETURN(proto::Job job, LoadJob(flags.job, flags.overrides));
  ResolveNumericProfile(&job);
  RETURN_IF_ERROR(CheckRunnable(job));
  if (reads_data) {
    RETURN_IF_ERROR(CheckFiles(job.data()));
  }
  return PlanOf(job);
}

StatusOr<std::shared_ptr<const JobPlan>> LoadResolvedPlan(const std::string& path) {
  ASSIGN_OR_RETURN(const proto::Job job, LoadJob(path, {}));
  return PlanOf(job);
}

Status PrepareRunDirectory(const std::string& run_dir, bool overwrite, const proto::Job& job) {
  RETURN_IF_ERROR(MakeDirectories(run_dir));
  const std::string job_path = run_dir + "/job.textproto";
  if (::access(job_path.c_str(), F_OK) == 0 && !overwrite) {
    return FailedPrecondition("--run_dir=" + run_dir +
                              " holds a run; name another directory, or add --overwrite");
  }
  std::error_code error;
  for (const char* name :
       {"job.textproto", "result.json", "metrics.jsonl", "members.json", "model", "servers"}) {
    std::filesystem::remove_all(run_dir + "/" + name, error);
    if (error) {
      return FailedPrecondition("remove " + run_dir + "/" + name + ": " + error.message());
    }
  }
  return WriteFileAtomically(job_path, PrintJob(job));
}

const std::atomic<int>& InstallSignalCounter() {
  struct sigaction action {};
  action.sa_handler = &CountSignal;
  action.sa_flags = SA_RESTART;
  ::sigaction(SIGINT, &action, nullptr);
  ::sigaction(SIGTERM, &action, nullptr);
  return signal_count;
}

}  // namespace plexus
