// The job's plan: what every process derives from the resolved job before it starts, with the
// checks that need the data's columns or the model.
//
// Thread safety: free functions without state.
#pragma once

#include <memory>

#include "common/status.h"
#include "proto/job.pb.h"
#include "proto/plan.h"
#include "worker/models/model.h"

namespace plexus {

// Plans a resolved job (proto/job.h).  The plan is the same in every process: it depends on the job
// alone.  Tables that the model does not read are left out.
//
// kInvalidArgument: no model of that name, or a job that the model cannot work on; the message says
// what it needs.
StatusOr<JobPlan> MakePlan(const proto::Job& job);

// What the plan's model is built for.
ModelShape ShapeOf(const JobPlan& plan);

// One rank's model.
StatusOr<std::unique_ptr<Model>> MakeModel(const JobPlan& plan);

// Replaces cluster.numeric_profile AUTO by the widest profile of this machine.  The process that
// starts the job calls it, once.
void ResolveNumericProfile(proto::Job* job);

// Whether this machine can compute what the job says.  kFailedPrecondition: it lacks an instruction
// set.  REQUIRES: a resolved numeric profile.
Status CheckMachine(const proto::Job& job);

}  // namespace plexus
