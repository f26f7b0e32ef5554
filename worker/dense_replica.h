// DenseReplica: the DenseExchange of a process: it holds all dense parameters, gathers the steps of
// its ranks, has them reduced with the other processes', and runs the optimizer.
//
// What crosses processes is behind DenseReducer: nothing in a single process, MPI in
// worker/collective.
//
// Thread safety: Step() from the ranks' threads; the last rank of a step does the work while the
// others wait.
#pragma once

#include <condition_variable>
#include <cstdint>
#include <memory>
#include <mutex>
#include <span>
#include <vector>

#include "proto/dense_store.h"
#include "proto/plan.h"
#include "worker/dense_exchange.h"

namespace plexus {

// What a rank says of a step beside its gradients.
struct RankNote {
  std::uint32_t samples = 0;
  std::uint32_t last = 0;
  std::uint32_t has_gradients = 0;
};

class DenseReducer {
 public:
  virtual ~DenseReducer() = default;

  // `local` are the steps of this process' ranks, in rank order.  `notes` receives one entry a rank
  // of the job; `sum` the flat vector of gradients, summed over all ranks in rank order.
  virtual Status Reduce(std::span<const DenseStep> local, std::vector<RankNote>* notes,
                        std::span<float> sum) = 0;

  // A Reduce that waits for other processes returns soon.  Thread-safe.
  virtual void Cancel() {}
};

// The reducer of a job whose ranks are all in this process.
std::unique_ptr<DenseReducer> MakeLocalReducer();

class DenseReplica final : public DenseExchange {
 public:
  // Carries `local_ranks` of the job's ranks in this process.
  DenseReplica(std::shared_ptr<const JobPlan> plan, std::uint32_t local_ranks,
               std::unique_ptr<DenseReducer> reducer);

  StatusOr<Result> Step(const DenseStep& step) override;
  void Cancel(Status reason) override;
  std::span<const float> values() const override { return values_; }
  std::vector<float> BlockState(const std::vector<std::uint32_t>& blocks) const override;

 private:
  Status ReduceAndApply();

  const std::shared_ptr<const JobPlan> plan_;
  const std::uint32_t local_ranks_;
  const std::unique_ptr<DenseReducer> reducer_;

  std::mutex mutex_;
  std::condition_variable done_;
  // Guarded by mutex_; the last rank of a step owns all of it while the others wait.
  std::vector<DenseStep> steps_;
  std::uint64_t round_ = 0;
  Status status_;
  Result result_;
  DenseStore store_;
  std::vector<float> values_;
  std::vector<float> sum_;
};

}  // namespace plexus
