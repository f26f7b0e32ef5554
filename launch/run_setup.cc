#include "launch/run_setup.h"

#include <csignal>
#include <filesystem>
#include <initializer_list>
#include <optional>
#include <system_error>
#include <utility>

#include <glog/logging.h>
#include <unistd.h>

#include "common/files.h"
#include "launch/checkpoints.h"
#include "launch/commit_log.h"
#include "launch/plan.h"
#include "launch/run_lock.h"
#include "proto/job.h"
#include "proto/job_identity.h"
#include "ps/store/model_file.h"
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

Status Remove(const std::string& run_dir, std::initializer_list<const char*> names) {
  std::error_code error;
  for (const char* name : names) {
    std::filesystem::remove_all(run_dir + "/" + name, error);
    if (error) {
      return FailedPrecondition("remove " + run_dir + "/" + name + ": " + error.message());
    }
  }
  return OkStatus();
}

// The version of the checkpoint to go on from; 0: the beginning, or that of the logs.
// `by_hand`: servers may live on, and have written files of a checkpoint that is yet to be
// finished.
StatusOr<std::uint64_t> PrepareResume(const std::string& run_dir, bool holds_run,
                                      const JobPlan& plan, bool by_hand) {
  if (holds_run) {
    ASSIGN_OR_RETURN(const proto::Job before, LoadJob(run_dir + "/job.textproto", {}));
    if (const std::string differences = TrainingDifferences(before, plan.job);
        !differences.empty()) {
      return FailedPrecondition("--resume: the run in --run_dir=" + run_dir +
                                " is of another job; what differs (run -> this job):\n" +
                                differences);
    }
  }
  const bool logged = plan.durable() && CommitLog::IsThere(run_dir);
  ASSIGN_OR_RETURN(
      const std::optional<proto::Manifest> found,
      FindCheckpoint(plan, run_dir, by_hand && logged ? Unfinished::kKeep : Unfinished::kDelete));
  if (!found.has_value()) {
    LOG_IF(WARNING, holds_run && !logged)
        << "--resume: " << run_dir << " has no checkpoint: the job starts from the beginning";
    return 0;
  }
  const std::uint64_t best = found->scheduler().planner().best_version();
  if (best > 0 && !ReadManifest(run_dir + "/model/best").ok()) {
    LOG(WARNING) << "--resume: the best model so far, of version " << best << ", is not in "
                 << run_dir << "/model/best any more; only a better one will be written there";
  }
  return found->version();
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

StatusOr<std::uint64_t> PrepareRunDirectory(const Flags& flags, const JobPlan& plan) {
  RETURN_IF_ERROR(MakeDirectories(flags.run_dir));
  const std::string job_path = flags.run_dir + "/job.textproto";
  const bool holds_run = ::access(job_path.c_str(), F_OK) == 0;
  if (flags.resume && flags.overwrite) {
    return InvalidArgument(
        "--resume keeps the run in --run_dir, --overwrite replaces it: not both");
  }
  if (holds_run && !flags.overwrite && !flags.resume) {
    return FailedPrecondition("--run_dir=" + flags.run_dir +
                              " holds a run; name another directory, or add --resume to go on "
                              "with it, or --overwrite to replace it");
  }
  const bool by_hand = !flags.listen.empty();
  if (!by_hand) {
    RETURN_IF_ERROR(WaitForFormerJob(flags.run_dir, kFormerLifeMillis));
  } else {
    // This job's servers may have come before its scheduler, or wait for it to come back.
    RETURN_IF_ERROR(LockRun(flags.run_dir, kSchedulerLock, kFormerLifeMillis).status());
  }
  std::uint64_t version = 0;
  if (flags.resume) {
    ASSIGN_OR_RETURN(version, PrepareResume(flags.run_dir, holds_run, plan, by_hand));
  }
  RETURN_IF_ERROR(Remove(flags.run_dir, {"result.json", "members.json", "servers"}));
  const bool logged = flags.resume && plan.durable() && CommitLog::IsThere(flags.run_dir);
  if (!logged) {
    // Servers that are there have opened their logs, and begin them anew.
    RETURN_IF_ERROR(Remove(flags.run_dir, {by_hand ? "log/scheduler" : "log"}));
  }
  if (version == 0 && !logged) {
    RETURN_IF_ERROR(
        Remove(flags.run_dir, {"job.textproto", "metrics.jsonl", "model", "checkpoints"}));
  }
  RETURN_IF_ERROR(WriteFileAtomically(job_path, PrintJob(plan.job)));
  return version;
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
