// BatchSource: where a rank's prepared minibatches come from, in order.
//
// Thread safety: one caller.
#pragma once

#include <functional>
#include <memory>

#include "common/status.h"
#include "proto/control.pb.h"
#include "worker/data/batch.h"
#include "worker/step_keys.h"

namespace plexus {

struct PreparedBatch {
  Batch batch;
  StepKeys keys;
  bool last = false;    // Nothing comes after it.
  double progress = 0;  // Share of the source's data up to its end, in [0, 1]; 0: not known.
};

class BatchSource {
 public:
  virtual ~BatchSource() = default;

  // The next batch, or null at the end.  May wait for reading.
  virtual StatusOr<std::unique_ptr<PreparedBatch>> Next() = 0;

  // Gives a batch's memory back for reuse.
  virtual void Recycle(std::unique_ptr<PreparedBatch> batch) = 0;

  // Malformed lines so far.
  virtual std::uint64_t bad_lines() const = 0;
};

// Opens the source of a rank for a phase, positioned behind its first `skip` batches.
using OpenSource = std::function<StatusOr<std::unique_ptr<BatchSource>>(
    std::uint32_t rank, const proto::Phase& phase, std::uint64_t skip)>;

}  // namespace plexus
