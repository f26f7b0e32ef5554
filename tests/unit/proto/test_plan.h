// Plans of jobs written in a test, made as every process makes them.
//
// Thread safety: pure functions.
#pragma once

#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "launch/plan.h"
#include "proto/job.h"
#include "proto/plan.h"

namespace plexus {

// A HASHED group, an ARRAY group, dense inputs and a small tower; two ranks.
inline constexpr char kSmallJob[] = R"(
data {
  train: "none"
  fields { name: "I1" kind: DENSE }
  fields { name: "C1" tables: "embedding" tables: "linear" }
  fields { name: "C2" tables: "embedding" tables: "linear" }
  fields { name: "C3" tables: "array" tables: "array_linear" }
}
tables { name: "embedding" dim: 3 optimizer { kind: ADAGRAD initial_accumulator: 0.1 } }
tables { name: "linear" role: LINEAR dim: 1 }
tables { name: "array" kind: ARRAY rows: 40 dim: 3 }
tables { name: "array_linear" kind: ARRAY rows: 40 role: LINEAR dim: 1 }
model { name: "deepfm" hidden: 4 }
train { ranks: 2 batch_size: 8 learning_rate: 0.1 }
cluster { servers: 1 workers: 1 buckets: 16 }
)";

inline std::shared_ptr<const JobPlan> PlanOf(const std::string& text,
                                             const std::vector<std::string>& overrides = {}) {
  StatusOr<proto::Job> job = ParseJob(text, "test", overrides);
  CHECK(job.ok()) << job.status().ToString();
  proto::Job resolved = *std::move(job);
  ResolveNumericProfile(&resolved);
  StatusOr<JobPlan> plan = MakePlan(resolved);
  CHECK(plan.ok()) << plan.status().ToString();
  return std::make_shared<const JobPlan>(*std::move(plan));
}

}  // namespace plexus
