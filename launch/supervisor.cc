#include "launch/supervisor.h"

#include <algorithm>
#include <csignal>
#include <cstring>
#include <ctime>
#include <utility>

#include <arpa/inet.h>
#include <netinet/in.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#include "common/clock.h"

namespace plexus {
namespace {

constexpr double kQuickSeconds = 5;
constexpr int kQuickDeathsMax = 10;
constexpr double kLeaveSeconds = 5;

sigset_t WatchedSignals() {
  sigset_t set;
  sigemptyset(&set);
  sigaddset(&set, SIGCHLD);
  sigaddset(&set, SIGINT);
  sigaddset(&set, SIGTERM);
  return set;
}

// Waits up to `millis` for a watched signal; 0 if none came.
int WaitForSignal(long millis) {
  const sigset_t set = WatchedSignals();
  const timespec timeout{millis / 1000, (millis % 1000) * 1000000};
  const int signal = ::sigtimedwait(&set, nullptr, &timeout);
  return signal > 0 ? signal : 0;
}

[[noreturn]] void BecomeProgram(const std::vector<std::string>& argv, pid_t parent) {
  ::prctl(PR_SET_PDEATHSIG, SIGKILL);
  if (::getppid() != parent) {
    ::_exit(127);  // The supervisor died in between.
  }
  ::setpgid(0, 0);  // The terminal's Ctrl-C is the supervisor's to pass on.
  sigset_t none;
  sigemptyset(&none);
  ::sigprocmask(SIG_SETMASK, &none, nullptr);
  std::vector<char*> pointers;
  for (const std::string& argument : argv) {
    pointers.push_back(const_cast<char*>(argument.c_str()));
  }
  pointers.push_back(nullptr);
  ::execv(pointers[0], pointers.data());
  std::fprintf(stderr, "start %s: %s\n", pointers[0], std::strerror(errno));
  ::_exit(127);
}

}  // namespace

Supervisor::Supervisor() {
  const sigset_t set = WatchedSignals();
  ::sigprocmask(SIG_BLOCK, &set, nullptr);
}

Supervisor::~Supervisor() {
  KillAll(SIGKILL);
  while (AnyRunning()) {
    Reap();
    WaitForSignal(10);
  }
}

Status Supervisor::Start(ProgramSpec spec) {
  programs_.push_back({.spec = std::move(spec)});
  return Spawn(programs_.back());
}

Status Supervisor::Spawn(Program& program) {
  const pid_t parent = ::getpid();
  const pid_t pid = ::fork();
  if (pid < 0) {
    return ErrnoStatus("start", program.spec.argv[0]);
  }
  if (pid == 0) {
    BecomeProgram(program.spec.argv, parent);
  }
  program.pid = pid;
  program.started = SteadySeconds();
  return OkStatus();
}

void Supervisor::OnDeath(Program& program, int wait_status) {
  const pid_t pid = std::exchange(program.pid, -1);
  const bool killed = WIFSIGNALED(wait_status);
  const std::string who = program.spec.name + " (pid " + std::to_string(pid) + ")";
  if (killed && program.spec.restart_when_killed && !ended_) {
    const bool quick = SteadySeconds() - program.started < kQuickSeconds;
    program.quick_deaths = quick ? program.quick_deaths + 1 : 0;
    LOG(WARNING) << who << " was ended by signal " << WTERMSIG(wait_status) << "; restarting it";
    if (program.quick_deaths < kQuickDeathsMax && Spawn(program).ok()) {
      if (program.spec.leader) {
        leader_restarted_ = program.started;
        ReturnWhoLeft();
      }
      return;
    }
    LOG(ERROR) << who << " keeps dying; it is not restarted any more";
  } else if (killed && !ended_) {
    LOG(ERROR) << who << " was ended by signal " << WTERMSIG(wait_status) << ": "
               << program.spec.lost;
  }
  // One that was brought back may have come for nothing, and find the job's logs gone.
  if (!program.spec.leader && !program.returned && !killed && WEXITSTATUS(wait_status) != 0 &&
      !ended_) {
    LOG(ERROR) << who << " ended with exit code " << WEXITSTATUS(wait_status);
    // The job cannot go on without it; the leader ends it in order, if it does not know already.
    if (std::exchange(member_exit_code_, WEXITSTATUS(wait_status)) == 0) {
      SignalLeader();  // Once: a third signal would kill it.
    }
  }
  if (!program.spec.leader && !killed && WEXITSTATUS(wait_status) == 0 && !ended_) {
    OnLeft(program);
  }
  if (program.spec.leader) {
    ended_ = true;
    exit_code_ = killed ? 3 : WEXITSTATUS(wait_status);
  }
}

void Supervisor::OnLeft(Program& program) {
  program.left = true;
  // Of two leaders the second may not know that the first had ended the job.
  if (program.started < leader_restarted_ && SteadySeconds() - leader_restarted_ < kLeaveSeconds) {
    ReturnWhoLeft();
  }
}

void Supervisor::ReturnWhoLeft() {
  for (Program& program : programs_) {
    if (program.left && Spawn(program).ok()) {
      program.left = false;
      program.returned = true;
    }
  }
}

void Supervisor::Reap() {
  for (Program& program : programs_) {
    int status = 0;
    if (program.pid > 0 && ::waitpid(program.pid, &status, WNOHANG) == program.pid) {
      OnDeath(program, status);
    }
  }
}

void Supervisor::KillAll(int signal) {
  for (const Program& program : programs_) {
    if (program.pid > 0) {
      ::kill(program.pid, signal);
    }
  }
}

void Supervisor::SignalLeader() {
  for (const Program& program : programs_) {
    if (program.spec.leader && program.pid > 0) {
      ::kill(program.pid, SIGTERM);
    }
  }
}

bool Supervisor::AnyRunning() const {
  return std::any_of(programs_.begin(), programs_.end(),
                     [](const Program& program) { return program.pid > 0; });
}

int Supervisor::Run() {
  while (!ended_) {
    const int signal = WaitForSignal(1000);
    if (signal == SIGINT || signal == SIGTERM) {
      if (++signals_ >= 3) {
        KillAll(SIGKILL);
      }
      SignalLeader();
    }
    Reap();
  }
  for (const Program& program : programs_) {
    if (program.returned && program.pid > 0) {
      ::kill(program.pid, SIGKILL);  // It may have come for nothing, and waits for the leader.
    }
  }
  const double deadline = SteadySeconds() + kLeaveSeconds;
  while (AnyRunning() && SteadySeconds() < deadline) {
    WaitForSignal(50);
    Reap();
  }
  return exit_code_ != 0 ? exit_code_ : member_exit_code_;
}

StatusOr<int> ListenOn(const std::string& host, int* port) {
  const int fd = ::socket(AF_INET, SOCK_STREAM, 0);
  if (fd < 0) {
    return ErrnoStatus("make a socket for", host);
  }
  sockaddr_in address{};
  address.sin_family = AF_INET;
  socklen_t size = sizeof(address);
  const int on = 1;
  ::setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &on, sizeof(on));
  if (::inet_pton(AF_INET, host.c_str(), &address.sin_addr) != 1 ||
      ::bind(fd, reinterpret_cast<sockaddr*>(&address), size) != 0 || ::listen(fd, 1024) != 0 ||
      ::getsockname(fd, reinterpret_cast<sockaddr*>(&address), &size) != 0) {
    const Status status = ErrnoStatus("listen on", host);
    ::close(fd);
    return status;
  }
  *port = ntohs(address.sin_port);
  return fd;
}

std::string ProgramFolder() {
  char path[4096];
  const ssize_t size = ::readlink("/proc/self/exe", path, sizeof(path));
  const std::string file(path, static_cast<std::size_t>(std::max<ssize_t>(size, 0)));
  return file.substr(0, file.rfind('/'));
}

}  // namespace plexus
