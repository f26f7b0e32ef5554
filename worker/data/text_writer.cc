#include "worker/data/text_writer.h"

#include <cerrno>
#include <cstdio>
#include <filesystem>
#include <system_error>
#include <utility>

#include <fcntl.h>
#include <unistd.h>

namespace plexus {
namespace {

constexpr std::size_t kBufferBytes = 1 << 20;

}  // namespace

StatusOr<std::unique_ptr<TextWriter>> TextWriter::Create(const std::string& path) {
  const std::filesystem::path folder = std::filesystem::path(path).parent_path();
  std::error_code error;
  if (!folder.empty()) {
    std::filesystem::create_directories(folder, error);
    if (error) {
      return InvalidArgument("make folder " + folder.string() + ": " + error.message());
    }
  }
  const std::string temporary = path + ".tmp";
  const int fd = ::open(temporary.c_str(), O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0666);
  if (fd < 0) {
    return ErrnoStatus("create", temporary);
  }
  return std::unique_ptr<TextWriter>(new TextWriter(path, fd));
}

TextWriter::TextWriter(std::string path, int fd) : path_(std::move(path)), fd_(fd) {
  buffer_.reserve(kBufferBytes);
}

TextWriter::~TextWriter() {
  if (fd_ >= 0) {
    ::close(fd_);
  }
  if (!finished_) {
    ::unlink((path_ + ".tmp").c_str());
  }
}

Status TextWriter::Flush() {
  std::string_view left = buffer_;
  while (!left.empty()) {
    const ssize_t wrote = ::write(fd_, left.data(), left.size());
    if (wrote < 0 && errno != EINTR) {
      return ErrnoStatus("write", path_ + ".tmp");
    }
    left.remove_prefix(wrote > 0 ? static_cast<std::size_t>(wrote) : 0);
  }
  bytes_ += buffer_.size();
  buffer_.clear();
  return OkStatus();
}

Status TextWriter::Append(std::string_view text) {
  buffer_ += text;
  return buffer_.size() >= kBufferBytes ? Flush() : OkStatus();
}

Status TextWriter::AppendLine(std::string_view text) {
  buffer_ += text;
  return Append("\n");
}

Status TextWriter::Finish() {
  RETURN_IF_ERROR(Flush());
  const int closed = ::close(fd_);
  fd_ = -1;
  if (closed != 0) {
    return ErrnoStatus("close", path_ + ".tmp");
  }
  if (std::rename((path_ + ".tmp").c_str(), path_.c_str()) != 0) {
    return ErrnoStatus("rename to", path_);
  }
  finished_ = true;
  return OkStatus();
}

}  // namespace plexus
