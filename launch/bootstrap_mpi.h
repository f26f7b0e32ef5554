// The start of a job under mpirun (MPMD: one plexus-scheduler, S plexus-ps, W plexus-worker).
//
// mpirun kills a job when one rank dies.  Therefore the MPI rank of a scheduler or a server (and of
// a worker under dense_sync SERVERS) only exchanges addresses and waits; the program itself runs as
// the child of a guardian, forked before MPI_Init, that restarts it in place.  Guardian and program
// die with the MPI rank.  Under dense_sync MPI a worker computes inside its MPI rank.
//
// Thread safety: called from main, before any thread.
#pragma once

#include "launch/flags.h"
#include "proto/control.pb.h"

namespace plexus {

// Whether this process was started by mpirun.
bool UnderMpirun();

// Returns the exit code of the program.
int RunUnderMpi(proto::Role role, const Flags& flags);

}  // namespace plexus
