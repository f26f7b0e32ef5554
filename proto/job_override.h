// Overrides of a job's values: "--set PATH=VALUE".
//
// Thread safety: free functions without state.
#pragma once

#include <string>

#include "common/status.h"
#include "proto/job.pb.h"
#include "proto/job_source.h"

namespace plexus {

// Applies one override, "train.ranks=4", to the unresolved `job`, and tells `source`.
// kInvalidArgument: "--set ...: ..."; the job may then be changed in part.
Status ApplyOverride(const std::string& text, proto::Job* job, JobSource* source);

// "a, b, c": the members of a message type, for messages.
std::string MemberNames(const google::protobuf::Descriptor& type);

}  // namespace plexus
