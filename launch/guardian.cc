#include "launch/guardian.h"

#include <cerrno>
#include <csignal>
#include <cstdint>

#include <fcntl.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

namespace plexus {
namespace {

bool ReadAll(int fd, void* data, std::size_t size) {
  auto* at = static_cast<char*>(data);
  while (size > 0) {
    const ssize_t count = ::read(fd, at, size);
    if (count < 0 && errno == EINTR) {
      continue;
    }
    if (count <= 0) {
      return false;
    }
    at += count;
    size -= static_cast<std::size_t>(count);
  }
  return true;
}

Status WriteAll(int fd, const void* data, std::size_t size) {
  const auto* at = static_cast<const char*>(data);
  while (size > 0) {
    const ssize_t count = ::write(fd, at, size);
    if (count < 0 && errno == EINTR) {
      continue;
    }
    if (count < 0) {
      return ErrnoStatus("write to", "the guardian");
    }
    at += count;
    size -= static_cast<std::size_t>(count);
  }
  return OkStatus();
}

// Command lines go as: u32 strings; per string u32 bytes, bytes.  The last three are name, lost,
// "1" if restarted when killed.
[[noreturn]] void BeGuardian(int commands, int results) {
  std::uint32_t count = 0;
  if (!ReadAll(commands, &count, sizeof(count))) {
    ::_exit(0);  // Dismissed.
  }
  std::vector<std::string> strings(count);
  for (std::string& text : strings) {
    std::uint32_t size = 0;
    if (!ReadAll(commands, &size, sizeof(size))) {
      ::_exit(1);
    }
    text.resize(size);
    if (!ReadAll(commands, text.data(), size)) {
      ::_exit(1);
    }
  }
  ProgramSpec spec;
  spec.restart_when_killed = strings.back() == "1";
  strings.pop_back();
  spec.lost = strings.back();
  strings.pop_back();
  spec.name = strings.back();
  strings.pop_back();
  strings.push_back("--supervisor_pid=" + std::to_string(::getpid()));
  spec.argv = strings;
  spec.leader = true;
  std::int32_t code = 3;
  {
    Supervisor supervisor;
    const Status status = supervisor.Start(spec);
    if (status.ok()) {
      code = supervisor.Run();
    } else {
      LOG(ERROR) << status.message();
      code = 1;
    }
  }
  (void)WriteAll(results, &code, sizeof(code));
  ::_exit(0);
}

}  // namespace

StatusOr<Guardian> Guardian::Fork() {
  int commands[2];
  int results[2];
  if (::pipe2(commands, O_CLOEXEC) != 0 || ::pipe2(results, O_CLOEXEC) != 0) {
    return ErrnoStatus("make pipes for", "the guardian");
  }
  const pid_t parent = ::getpid();
  const pid_t pid = ::fork();
  if (pid < 0) {
    return ErrnoStatus("fork", "the guardian");
  }
  if (pid == 0) {
    ::prctl(PR_SET_PDEATHSIG, SIGKILL);
    if (::getppid() != parent) {
      ::_exit(1);
    }
    ::close(commands[1]);
    ::close(results[0]);
    BeGuardian(commands[0], results[1]);
  }
  ::close(commands[0]);
  ::close(results[1]);
  return Guardian(pid, commands[1], results[0]);
}

Status Guardian::Run(const ProgramSpec& spec) {
  std::vector<std::string> strings = spec.argv;
  strings.push_back(spec.name);
  strings.push_back(spec.lost);
  strings.emplace_back(spec.restart_when_killed ? "1" : "0");
  std::string bytes;
  const auto append = [&bytes](std::uint32_t value) {
    bytes.append(reinterpret_cast<const char*>(&value), sizeof(value));
  };
  append(static_cast<std::uint32_t>(strings.size()));
  for (const std::string& text : strings) {
    append(static_cast<std::uint32_t>(text.size()));
    bytes += text;
  }
  return WriteAll(commands_, bytes.data(), bytes.size());
}

void Guardian::Dismiss() {
  ::close(commands_);
  ::waitpid(pid_, nullptr, 0);
}

int Guardian::Wait() {
  std::int32_t code = 3;
  if (!ReadAll(results_, &code, sizeof(code))) {
    code = 3;
  }
  ::waitpid(pid_, nullptr, 0);
  return code;
}

}  // namespace plexus
