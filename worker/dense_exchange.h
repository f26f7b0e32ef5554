// DenseExchange: how ranks that hold the dense parameters themselves (dense_sync MPI) reduce
// gradients.
//
// Gradients are summed in rank order, whatever the number of processes; every process then runs the
// same optimizer on the same bits.
//
// Thread safety: ranks of one process call Step() from their own threads; each call waits for all
// ranks of the job.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "common/status.h"

namespace plexus {

struct DenseStep {
  std::uint32_t rank = 0;
  std::uint64_t step = 0;
  std::uint32_t samples = 0;
  bool last = false;
  const float* gradients = nullptr;  // Flat vector of the layout; null: no samples.
  float rate_factor = 1.0f;
};

class DenseExchange {
 public:
  virtual ~DenseExchange() = default;

  // What all ranks said of the step, once its gradients are applied to values().
  struct Result {
    bool all_last = false;
  };
  virtual StatusOr<Result> Step(const DenseStep& step) = 0;

  // Every call that waits, and every later one, returns `reason`: a rank has failed or the job
  // stops. Thread-safe.
  virtual void Cancel(Status reason) = 0;

  // The flat vector; constant between the return of Step() and the same rank's next call.
  virtual std::span<const float> values() const = 0;

  // Values followed by state of the given blocks, as a shard stores them.
  virtual std::vector<float> BlockState(const std::vector<std::uint32_t>& blocks) const = 0;
};

}  // namespace plexus
