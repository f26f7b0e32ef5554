// Guardian: a process, forked before MPI_Init, that waits for one command line, runs it under a
// Supervisor, and says how it ended.
//
// Thread safety: none; make it before any thread.
#pragma once

#include <string>
#include <vector>

#include <sys/types.h>

#include "common/status.h"
#include "launch/supervisor.h"

namespace plexus {

class Guardian {
 public:
  // Forks the guardian.  In the guardian itself this call does not return.
  static StatusOr<Guardian> Fork();

  // Sends it the program to run.
  Status Run(const ProgramSpec& spec);
  // Lets it go without a program.
  void Dismiss();
  // Waits for the program's end; its exit code, or 3.
  int Wait();
  pid_t pid() const { return pid_; }

 private:
  Guardian(pid_t pid, int commands, int results)
      : pid_(pid), commands_(commands), results_(results) {}

  pid_t pid_;
  int commands_;  // Write end.
  int results_;   // Read end.
};

}  // namespace plexus
