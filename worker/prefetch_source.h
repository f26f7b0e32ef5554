// OpenPrefetchSource: the BatchSource of real data: a thread that reads, hashes and groups keys
// ahead of the rank.
//
// Thread safety: the source belongs to one caller; its thread is its own.
#pragma once

#include <memory>

#include "proto/plan.h"
#include "worker/batch_source.h"

namespace plexus {

// Reads what the phase asks for: the epoch's training data, validation or test data.  Errors of the
// files come with the first Next().
StatusOr<std::unique_ptr<BatchSource>> OpenPrefetchSource(std::shared_ptr<const JobPlan> plan,
                                                          std::uint32_t rank,
                                                          const proto::Phase& phase,
                                                          std::uint64_t skip);

}  // namespace plexus
