// From a command line to a plan and a run directory: what every start of a job does first.
//
// Thread safety: called from main, before any thread.
#pragma once

#include <atomic>
#include <memory>
#include <string>

#include "common/status.h"
#include "launch/flags.h"
#include "proto/plan.h"

namespace plexus {

// Loads --job with the overrides, resolves, checks the machine, plans.  Everything wrong is a bad
// job (exit code 2).
// `reads_data`: the data files must be readable here.
StatusOr<std::shared_ptr<const JobPlan>> LoadPlan(const Flags& flags, bool reads_data);
// The plan of a job that is resolved already, from a file such as RUN/job.textproto.
StatusOr<std::shared_ptr<const JobPlan>> LoadResolvedPlan(const std::string& path);

// Makes the run directory and writes job.textproto.  With --resume: what the run in it goes on with
// stays, and the version of the newest whole checkpoint is returned, or 0: there is none.
// kUnavailable: a job is running in it.  kFailedPrecondition: it holds a run, and neither
// --overwrite nor --resume is there; or --resume, and the run is of another job.
StatusOr<std::uint64_t> PrepareRunDirectory(const Flags& flags, const JobPlan& plan);

// Counts SIGINT and SIGTERM from now on; a third one kills.
const std::atomic<int>& InstallSignalCounter();

}  // namespace plexus
