#include "common/file_lock.h"

#include <algorithm>
#include <cerrno>
#include <utility>

#include <fcntl.h>
#include <glog/logging.h>
#include <poll.h>
#include <sys/file.h>
#include <unistd.h>

#include "common/files.h"

namespace plexus {
namespace {

constexpr int kLookMillis = 20;

// Who wrote its process id into the file last.
std::string HolderOf(const std::string& path) {
  const StatusOr<std::string> holder = ReadWholeFile(path, 64);
  return holder.ok() && !holder->empty() ? " (process " + *holder + ")" : "";
}

}  // namespace

FileLock::~FileLock() {
  if (fd_ >= 0) {
    ::close(fd_);
  }
}

FileLock::FileLock(FileLock&& other) noexcept : fd_(std::exchange(other.fd_, -1)) {}

FileLock& FileLock::operator=(FileLock&& other) noexcept {
  std::swap(fd_, other.fd_);
  return *this;
}

StatusOr<FileLock> FileLock::Acquire(const std::string& path, int wait_ms) {
  FileLock lock;
  lock.fd_ = ::open(path.c_str(), O_RDWR | O_CREAT | O_CLOEXEC, 0644);
  if (lock.fd_ < 0) {
    return ErrnoStatus("open", path);
  }
  for (int waited = 0; ::flock(lock.fd_, LOCK_EX | LOCK_NB) != 0; waited += kLookMillis) {
    if (errno != EWOULDBLOCK && errno != EINTR) {
      LOG_FIRST_N(WARNING, 1) << ErrnoStatus("lock", path).message()
                              << ": nothing keeps a second job out of this directory";
      return lock;
    }
    if (waited >= wait_ms) {
      return Unavailable(path + " is held by another process" + HolderOf(path));
    }
    ::poll(nullptr, 0, kLookMillis);
  }
  const std::string pid = std::to_string(::getpid());
  if (::ftruncate(lock.fd_, 0) == 0) {
    (void)!::pwrite(lock.fd_, pid.data(), pid.size(), 0);  // For messages only.
  }
  return lock;
}

}  // namespace plexus
