#include "proto/job_identity.h"

#include <google/protobuf/util/message_differencer.h>

#include "common/hash.h"
#include "proto/job.h"

namespace plexus {
namespace {

proto::Job WhatDecidesTheModel(proto::Job job) {
  proto::Cluster& cluster = *job.mutable_cluster();
  cluster.clear_servers();
  cluster.clear_workers();
  cluster.clear_memory_limit();
  cluster.clear_on_memory_limit();
  cluster.clear_spill();
  cluster.clear_spill_dir();
  cluster.clear_lease_ms();
  job.clear_checkpoint();
  return job;
}

}  // namespace

std::uint64_t TrainingHash(const proto::Job& job) {
  return HashBytes(PrintJob(WhatDecidesTheModel(job)), 0);
}

std::string TrainingDifferences(const proto::Job& old_job, const proto::Job& new_job) {
  std::string differences;
  google::protobuf::util::MessageDifferencer differencer;
  differencer.ReportDifferencesToString(&differences);
  (void)differencer.Compare(WhatDecidesTheModel(old_job), WhatDecidesTheModel(new_job));
  return differences;
}

}  // namespace plexus
