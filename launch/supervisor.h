// Supervisor: starts programs, restarts those that were killed, and dies with them.
//
// A program that exits is done; one that a signal ended is started again in its place where the
// spec says so, with the same arguments and the same listening socket.  A leader that is started
// again needs the others: those that had left in order, or do so on a word of the leader before it,
// are started again too.  Programs die when the
// supervisor dies.  SIGINT and SIGTERM are passed on to the leader (the scheduler), which ends the
// job in order; a third one kills.
//
// Thread safety: none; one supervisor a process, used by the thread that made it, which must live
// as long (the kernel ties a child's death signal to that thread).
#pragma once

#include <string>
#include <vector>

#include <sys/types.h>

#include "common/status.h"

namespace plexus {

struct ProgramSpec {
  std::string name;               // For messages: "server 1".
  std::vector<std::string> argv;  // argv[0] is a path.
  bool restart_when_killed = false;
  bool leader = false;  // Its end is the end of all; exactly one.
  std::string lost;     // What a death by signal loses, if it is not restarted.
};

class Supervisor {
 public:
  Supervisor();
  ~Supervisor();
  Supervisor(const Supervisor&) = delete;
  Supervisor& operator=(const Supervisor&) = delete;

  Status Start(ProgramSpec spec);

  // Waits for the leader's end - a member that exits with an error has it end the job - then for
  // the others' (5 s, then they are killed).  Returns the leader's exit code, or 3 if it was
  // killed.
  int Run();

 private:
  struct Program {
    ProgramSpec spec;
    pid_t pid = -1;
    double started = 0;
    int quick_deaths = 0;   // In a row, each within seconds of its start.
    bool left = false;      // It exited with 0.
    bool returned = false;  // And was started again.
  };

  Status Spawn(Program& program);
  void OnDeath(Program& program, int wait_status);
  void OnLeft(Program& program);
  void ReturnWhoLeft();
  void Reap();
  void KillAll(int signal);
  void SignalLeader();
  bool AnyRunning() const;

  std::vector<Program> programs_;
  bool ended_ = false;
  double leader_restarted_ = 0;  // When; 0: it was not.
  int exit_code_ = 3;
  int member_exit_code_ = 0;  // Of a member that failed before the leader's end.
  int signals_ = 0;
};

// A TCP socket that listens on `host`, any port; not closed on exec.  Fills in the port.
StatusOr<int> ListenOn(const std::string& host, int* port);

// The folder of this program's file.
std::string ProgramFolder();

}  // namespace plexus
