#include "worker/data/byte_source.h"

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <utility>
#include <vector>

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>
#include <zlib.h>

namespace plexus {
namespace {

constexpr std::size_t kCompressedChunkBytes = 256 << 10;
// windowBits 15, plus 16: a gzip header and trailer are expected.
constexpr int kGzipWindowBits = 15 + 16;

class FileSource final : public ByteSource {
 public:
  FileSource(std::string path, int fd) : path_(std::move(path)), fd_(fd) {}
  ~FileSource() override { ::close(fd_); }
  FileSource(const FileSource&) = delete;
  FileSource& operator=(const FileSource&) = delete;

  StatusOr<std::size_t> Read(char* data, std::size_t size) override {
    while (true) {
      const ssize_t got = ::read(fd_, data, size);
      if (got >= 0) {
        bytes_read_ += static_cast<std::uint64_t>(got);
        return static_cast<std::size_t>(got);
      }
      if (errno != EINTR) {
        return ErrnoStatus("read", path_);
      }
    }
  }

  std::uint64_t stored_bytes_read() const override { return bytes_read_; }

 private:
  std::string path_;
  int fd_;
  std::uint64_t bytes_read_ = 0;
};

class MemorySource final : public ByteSource {
 public:
  explicit MemorySource(std::string_view bytes) : bytes_(bytes) {}

  StatusOr<std::size_t> Read(char* data, std::size_t size) override {
    const std::size_t got = std::min(size, bytes_.size());
    if (got > 0) {
      std::memcpy(data, bytes_.data(), got);
      bytes_.remove_prefix(got);
      bytes_read_ += got;
    }
    return got;
  }

  std::uint64_t stored_bytes_read() const override { return bytes_read_; }

 private:
  std::string_view bytes_;
  std::uint64_t bytes_read_ = 0;
};

// Inflates one gzip member after another.  After the last, zero bytes are padding; anything else is
// damage.
class GzipSource final : public ByteSource {
 public:
  GzipSource(std::string name, std::unique_ptr<ByteSource> compressed)
      : name_(std::move(name)), compressed_(std::move(compressed)), input_(kCompressedChunkBytes) {}
  ~GzipSource() override {
    if (ready_) {
      inflateEnd(&stream_);
    }
  }
  GzipSource(const GzipSource&) = delete;
  GzipSource& operator=(const GzipSource&) = delete;

  Status Start() {
    if (inflateInit2(&stream_, kGzipWindowBits) != Z_OK) {
      return Internal("inflateInit2 " + name_ + ": out of memory");
    }
    ready_ = true;
    return OkStatus();
  }

  StatusOr<std::size_t> Read(char* data, std::size_t size) override {
    size = std::min<std::size_t>(size, std::size_t{1} << 30);
    stream_.next_out = reinterpret_cast<Bytef*>(data);
    stream_.avail_out = static_cast<uInt>(size);
    while (stream_.avail_out == size) {
      ASSIGN_OR_RETURN(const bool more, Refill());
      if (member_ended_) {
        ASSIGN_OR_RETURN(const bool another, NextMember());
        if (!another) {
          return std::size_t{0};
        }
      }
      if (!more && stream_.avail_in == 0) {
        return DataLoss("gunzip " + name_ + ": the file ends within a member (truncated)");
      }
      const int code = inflate(&stream_, Z_NO_FLUSH);
      if (code == Z_STREAM_END) {
        member_ended_ = true;
      } else if (code != Z_OK && code != Z_BUF_ERROR) {
        return DataLoss("gunzip " + name_ + ": " +
                        (stream_.msg != nullptr ? stream_.msg : "damaged"));
      }
    }
    return size - stream_.avail_out;
  }

  std::uint64_t stored_bytes_read() const override {
    return compressed_->stored_bytes_read() - stream_.avail_in;
  }

 private:
  // Sees to it that there is input; false at the end of the file.
  StatusOr<bool> Refill() {
    if (stream_.avail_in > 0) {
      return true;
    }
    ASSIGN_OR_RETURN(const std::size_t got, compressed_->Read(input_.data(), input_.size()));
    stream_.next_in = reinterpret_cast<Bytef*>(input_.data());
    stream_.avail_in = static_cast<uInt>(got);
    return got > 0;
  }

  // Begins the member after the one that ended; false if the file ends there.
  StatusOr<bool> NextMember() {
    while (true) {
      ASSIGN_OR_RETURN(const bool more, Refill());
      if (!more) {
        return false;
      }
      if (*stream_.next_in != 0) {
        break;
      }
      ++stream_.next_in;
      --stream_.avail_in;
    }
    if (inflateReset(&stream_) != Z_OK) {
      return Internal("inflateReset " + name_);
    }
    member_ended_ = false;
    return true;
  }

  std::string name_;
  std::unique_ptr<ByteSource> compressed_;
  std::vector<char> input_;
  z_stream stream_ = {};
  bool ready_ = false;
  bool member_ended_ = false;
};

bool HasGzipMagic(const char* bytes, std::size_t size) {
  return size >= 2 && static_cast<unsigned char>(bytes[0]) == 0x1f &&
         static_cast<unsigned char>(bytes[1]) == 0x8b;
}

}  // namespace

StatusOr<InputFile> InputFile::OfPath(const std::string& path) {
  struct stat info = {};
  if (::stat(path.c_str(), &info) != 0) {
    return ErrnoStatus("open", path);
  }
  if (!S_ISREG(info.st_mode)) {
    return InvalidArgument("open " + path + ": not a regular file");
  }
  InputFile file;
  file.name_ = path;
  file.size_bytes_ = static_cast<std::uint64_t>(info.st_size);
  ASSIGN_OR_RETURN(const auto source, file.OpenRaw(0));
  char magic[2] = {};
  ASSIGN_OR_RETURN(const std::size_t got, source->Read(magic, sizeof(magic)));
  file.gzip_ = HasGzipMagic(magic, got);
  return file;
}

InputFile InputFile::OfMemory(std::string name, std::string_view bytes) {
  InputFile file;
  file.name_ = std::move(name);
  file.memory_ = bytes;
  file.size_bytes_ = bytes.size();
  file.gzip_ = HasGzipMagic(bytes.data(), bytes.size());
  return file;
}

StatusOr<std::unique_ptr<ByteSource>> InputFile::OpenRaw(std::uint64_t offset) const {
  if (memory_.has_value()) {
    return std::unique_ptr<ByteSource>(
        std::make_unique<MemorySource>(memory_->substr(std::min(offset, size_bytes_))));
  }
  const int fd = ::open(name_.c_str(), O_RDONLY | O_CLOEXEC);
  if (fd < 0) {
    return ErrnoStatus("open", name_);
  }
  auto source = std::make_unique<FileSource>(name_, fd);
  if (offset > 0 && ::lseek(fd, static_cast<off_t>(offset), SEEK_SET) < 0) {
    return ErrnoStatus("seek", name_);
  }
  return std::unique_ptr<ByteSource>(std::move(source));
}

StatusOr<std::unique_ptr<ByteSource>> InputFile::Open(std::uint64_t offset) const {
  CHECK(!gzip_ || offset == 0) << "a gzip stream has no random access";
  ASSIGN_OR_RETURN(auto raw, OpenRaw(offset));
  if (!gzip_) {
    return raw;
  }
  auto source = std::make_unique<GzipSource>(name_, std::move(raw));
  RETURN_IF_ERROR(source->Start());
  return std::unique_ptr<ByteSource>(std::move(source));
}

}  // namespace plexus
