// MakeMpiReducer: dense gradients reduced with MPI (dense_sync MPI): an all-to-all of chunks, a sum
// in rank order, an all-gather.
//
// Each process owns one chunk of the flat vector.  It receives that chunk from every rank of the
// job - one message a rank, never pre-summed - adds them in rank order and gives the sum to
// everyone: the bandwidth of a ring, and the same bits at any number of processes.  All operations
// are non-blocking and polled against a deadline.
//
// Thread safety: one call at a time.  MPI must have been initialised with MPI_THREAD_MULTIPLE.
#pragma once

#include <memory>

#include "common/status.h"
#include "worker/dense_replica.h"

namespace plexus {

// A collective over the job's worker processes; process p carries the ranks r with floor(r *
// processes / ranks) == p.  `communicator` is the Fortran handle of the workers' communicator.
std::unique_ptr<DenseReducer> MakeMpiReducer(int communicator, std::uint32_t ranks,
                                             double deadline_seconds);

}  // namespace plexus
