#include "common/files.h"

#include <cerrno>
#include <filesystem>
#include <system_error>

#include <fcntl.h>
#include <unistd.h>

#include "common/failpoint.h"

namespace plexus {
namespace {

// Closes on destruction.
class Descriptor {
 public:
  explicit Descriptor(int fd) : fd_(fd) {}
  ~Descriptor() {
    if (fd_ >= 0) {
      ::close(fd_);
    }
  }
  Descriptor(const Descriptor&) = delete;
  Descriptor& operator=(const Descriptor&) = delete;
  int fd() const { return fd_; }

 private:
  const int fd_;
};

Status WriteAll(int fd, std::string_view content, const std::string& path) {
  while (!content.empty()) {
    const ssize_t written = ::write(fd, content.data(), content.size());
    if (written < 0) {
      if (errno == EINTR) {
        continue;
      }
      return ErrnoStatus("write", path);
    }
    content.remove_prefix(static_cast<std::size_t>(written));
  }
  return OkStatus();
}

}  // namespace

Status SyncPath(const std::string& path) {
  const Descriptor file(::open(path.c_str(), O_RDONLY | O_CLOEXEC));
  if (file.fd() < 0) {
    return ErrnoStatus("open", path);
  }
  if (::fsync(file.fd()) != 0) {
    return ErrnoStatus("fsync", path);
  }
  return OkStatus();
}

Status WriteFileAtomically(const std::string& path, std::string_view content) {
  const std::string temporary = path + ".tmp";
  {
    const Descriptor file(
        ::open(temporary.c_str(), O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0644));
    if (file.fd() < 0) {
      return ErrnoStatus("open", temporary);
    }
    RETURN_IF_ERROR(WriteAll(file.fd(), content, temporary));
    if (::fsync(file.fd()) != 0) {
      return ErrnoStatus("fsync", temporary);
    }
  }
  Failpoint("file.unnamed");
  if (::rename(temporary.c_str(), path.c_str()) != 0) {
    return ErrnoStatus("rename", temporary);
  }
  const std::size_t slash = path.rfind('/');
  return SyncPath(slash == std::string::npos ? "." : path.substr(0, slash + 1));
}

StatusOr<std::string> ReadWholeFile(const std::string& path, std::uint64_t bytes_max) {
  const Descriptor file(::open(path.c_str(), O_RDONLY | O_CLOEXEC));
  if (file.fd() < 0) {
    return ErrnoStatus("open", path);
  }
  std::string content;
  char buffer[1 << 16];
  while (true) {
    const ssize_t count = ::read(file.fd(), buffer, sizeof(buffer));
    if (count < 0 && errno == EINTR) {
      continue;
    }
    if (count < 0) {
      return ErrnoStatus("read", path);
    }
    if (count == 0) {
      return content;
    }
    content.append(buffer, static_cast<std::size_t>(count));
    if (content.size() > bytes_max) {
      return ResourceExhausted(path + " is longer than " + std::to_string(bytes_max) + " bytes");
    }
  }
}

Status MakeDirectories(const std::string& path) {
  std::error_code error;
  std::filesystem::create_directories(path, error);
  if (error) {
    return FailedPrecondition("make directory " + path + ": " + error.message());
  }
  return OkStatus();
}

}  // namespace plexus
