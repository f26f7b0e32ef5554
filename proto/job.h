// The job file: reading, overriding, checking and printing it.
//
// A job is one file in protobuf text format (schema: proto/job.proto).  ParseJob and LoadJob return
// a *resolved* job: the overrides are applied, every default is written out, and no contradiction
// is left, so that nothing else checks it again.  What depends on models or data is checked in
// launch/plan.
//
// Every refusal is kInvalidArgument, one line a mistake, and names its place: "FILE:LINE:COLUMN:
// ..." or "--set PATH=VALUE: ...".
//
// Thread safety: free functions without state.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "common/status.h"
#include "proto/job.pb.h"

namespace plexus {

// Reads the job file at `path` and applies `overrides` ("train.ranks=4") in order.
//
// The path of an override names members of the schema, separated by dots; tables and fields are
// named by their names: "tables.embedding.dim=8".  A list is replaced by the comma-separated value
// ("data.train=a.tsv,b.tsv"), emptied by an empty one.
//
// kInvalidArgument: the file or an override is wrong.  Other codes: the file cannot be read.
StatusOr<proto::Job> LoadJob(const std::string& path, const std::vector<std::string>& overrides);

// The same of `text`; `name` stands for the file in messages.
StatusOr<proto::Job> ParseJob(const std::string& text, const std::string& name,
                              const std::vector<std::string>& overrides);

// Whether the job says everything that training needs (a job file may leave data.train to --set).
Status CheckRunnable(const proto::Job& job);

// The job in text format; ParseJob of a printed resolved job gives an equal one.
std::string PrintJob(const proto::Job& job);

// "4096", "512KiB", "64MiB" or "2GiB" in bytes.  kInvalidArgument: anything else, or more than 2^63
// - 1.
StatusOr<std::uint64_t> ParseByteSize(std::string_view text);

}  // namespace plexus
