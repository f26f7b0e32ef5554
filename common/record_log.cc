#include "common/record_log.h"

#include <algorithm>
#include <cerrno>
#include <charconv>
#include <cstdio>
#include <cstring>
#include <filesystem>
#include <string_view>
#include <system_error>
#include <utility>

#include <fcntl.h>
#include <sys/uio.h>
#include <unistd.h>

#include "common/failpoint.h"
#include "common/files.h"
#include "common/hash.h"

namespace plexus {
namespace {

namespace fs = std::filesystem;

constexpr std::string_view kMagic = "PLXRECS1";
constexpr std::uint64_t kHeadBytes = 16;  // Magic and name.
constexpr std::string_view kSuffix = ".log";
constexpr std::size_t kVectorsMax = 512;  // Of one writev; the kernel takes 1024.

struct RecordHead {
  std::uint32_t kind = 0;
  std::uint32_t zero = 0;
  std::uint64_t bytes = 0;
  std::uint64_t check = 0;
};
static_assert(sizeof(RecordHead) == 24);

// What a check covers of the head: all but itself.
std::string_view Checked(const RecordHead& head) {
  return {reinterpret_cast<const char*>(&head), 16};
}

std::uint64_t Padding(std::uint64_t bytes) { return (8 - bytes % 8) % 8; }

std::optional<std::uint64_t> NameOf(const fs::path& path) {
  const std::string file = path.filename().string();
  if (!file.ends_with(kSuffix)) {
    return std::nullopt;
  }
  const char* const end = file.data() + file.size() - kSuffix.size();
  std::uint64_t name = 0;
  const auto [stop, bad] = std::from_chars(file.data(), end, name);
  return bad == std::errc() && stop == end ? std::optional(name) : std::nullopt;
}

Status WriteVectors(int fd, std::vector<iovec> vectors, const std::string& path) {
  for (std::size_t at = 0; at < vectors.size();) {
    const std::size_t count = std::min(kVectorsMax, vectors.size() - at);
    const ssize_t written = ::writev(fd, &vectors[at], static_cast<int>(count));
    if (written < 0) {
      if (errno == EINTR) {
        continue;
      }
      return ErrnoStatus("append to", path);
    }
    auto left = static_cast<std::size_t>(written);
    while (at < vectors.size() && left >= vectors[at].iov_len) {
      left -= vectors[at++].iov_len;
    }
    if (left > 0) {
      vectors[at].iov_base = static_cast<char*>(vectors[at].iov_base) + left;
      vectors[at].iov_len -= left;
    }
  }
  return OkStatus();
}

// One segment, from its beginning.
class Reader {
 public:
  Reader(std::string path, std::uint64_t segment)
      : path_(std::move(path)), file_(std::fopen(path_.c_str(), "re")) {
    at_ = {.segment = segment, .offset = kHeadBytes, .check = segment};
  }
  ~Reader() {
    if (file_ != nullptr) {
      std::fclose(file_);
    }
  }
  Reader(const Reader&) = delete;
  Reader& operator=(const Reader&) = delete;

  // Errors of the disk; *why: the segment's head is not one.
  Status ReadHead(std::string* why) {
    if (file_ == nullptr) {
      return ErrnoStatus("open", path_);
    }
    char magic[8];
    std::uint64_t name = 0;
    if (std::fread(magic, sizeof(magic), 1, file_) != 1 ||
        std::fread(&name, sizeof(name), 1, file_) != 1 ||
        std::string_view(magic, sizeof(magic)) != kMagic || name != at_.segment) {
      *why = path_ + ": is not a segment of a log";
    }
    std::error_code error;
    size_ = fs::file_size(path_, error);
    return error ? FailedPrecondition("stat " + path_ + ": " + error.message()) : OkStatus();
  }

  // False: no record any more; *why is empty at the end of the file.
  bool Next(RecordLog::Record* record, std::string* why) {
    if (at_.offset == size_) {
      return false;
    }
    RecordHead head;
    if (std::fread(&head, sizeof(head), 1, file_) != 1) {
      *why = Where() + "a record is cut off";
      return false;
    }
    const std::uint64_t behind = size_ - at_.offset - sizeof(head);
    if (head.bytes > behind || head.bytes + Padding(head.bytes) > behind) {
      *why = Where() + "a record is cut off";
      return false;
    }
    ByteWriter writer(head.bytes);
    std::uint8_t* const data = writer.Reserve(head.bytes);
    char padding[8];
    if ((head.bytes > 0 && std::fread(data, head.bytes, 1, file_) != 1) ||
        (Padding(head.bytes) > 0 && std::fread(padding, Padding(head.bytes), 1, file_) != 1)) {
      *why = Where() + "a record cannot be read";
      return false;
    }
    record->payload = writer.Finish();
    const std::string_view pieces[] = {Checked(head), record->payload.view()};
    if (head.zero != 0 || HashPieces(pieces, at_.check) != head.check) {
      *why = Where() + "a record is damaged, or was torn by a crash";
      return false;
    }
    record->kind = head.kind;
    record->begin = at_;
    at_.offset += sizeof(head) + head.bytes + Padding(head.bytes);
    at_.check = head.check;
    record->end = at_;
    return true;
  }

 private:
  std::string Where() const { return path_ + " at offset " + std::to_string(at_.offset) + ": "; }

  const std::string path_;
  std::FILE* const file_;
  std::uint64_t size_ = 0;
  RecordLog::Position at_;
};

}  // namespace

RecordLog::RecordLog(std::string directory, FileLock lock)
    : directory_(std::move(directory)), lock_(std::move(lock)) {}

RecordLog::~RecordLog() { Close(); }

void RecordLog::Close() {
  if (fd_ >= 0) {
    ::close(std::exchange(fd_, -1));
  }
}

std::string RecordLog::PathOf(std::uint64_t segment) const {
  char name[32];
  std::snprintf(name, sizeof(name), "/%020llu", static_cast<unsigned long long>(segment));
  return directory_ + name + std::string(kSuffix);
}

StatusOr<std::unique_ptr<RecordLog>> RecordLog::Open(const std::string& directory,
                                                     int lock_wait_ms) {
  RETURN_IF_ERROR(MakeDirectories(directory));
  ASSIGN_OR_RETURN(FileLock lock, FileLock::Acquire(directory + "/lock", lock_wait_ms));
  std::unique_ptr<RecordLog> log(new RecordLog(directory, std::move(lock)));
  RETURN_IF_ERROR(log->List());
  return log;
}

Status RecordLog::List() {
  segments_.clear();
  sizes_.clear();
  std::error_code error;
  for (const fs::directory_entry& entry : fs::directory_iterator(directory_, error)) {
    if (const auto name = NameOf(entry.path()); name.has_value()) {
      segments_.push_back(*name);
    }
  }
  std::sort(segments_.begin(), segments_.end());
  for (const std::uint64_t segment : segments_) {
    sizes_.push_back(fs::file_size(PathOf(segment), error));
  }
  return error ? FailedPrecondition("list " + directory_ + ": " + error.message()) : OkStatus();
}

StatusOr<std::string> RecordLog::Scan(std::uint64_t first,
                                      const std::function<Status(const Record&)>& visit) const {
  for (const std::uint64_t segment : segments_) {
    if (segment < first) {
      continue;
    }
    Reader reader(PathOf(segment), segment);
    std::string why;
    RETURN_IF_ERROR(reader.ReadHead(&why));
    Record record;
    while (why.empty() && reader.Next(&record, &why)) {
      RETURN_IF_ERROR(visit(record));
    }
    if (!why.empty()) {
      return why;
    }
  }
  return std::string();
}

Status RecordLog::Truncate(const Position& end) {
  while (!segments_.empty() && segments_.back() > end.segment) {
    const std::string path = PathOf(segments_.back());
    if (::unlink(path.c_str()) != 0) {
      return ErrnoStatus("delete", path);
    }
    segments_.pop_back();
    sizes_.pop_back();
  }
  Close();
  const std::string path = PathOf(end.segment);
  fd_ = ::open(path.c_str(), O_WRONLY | O_APPEND | O_CLOEXEC);
  if (fd_ < 0) {
    return ErrnoStatus("open", path);
  }
  if (::ftruncate(fd_, static_cast<off_t>(end.offset)) != 0 || ::fdatasync(fd_) != 0) {
    return ErrnoStatus("truncate", path);
  }
  end_ = end;
  sizes_.back() = end.offset;
  Failpoint("log.truncated");
  return SyncPath(directory_);
}

Status RecordLog::BeginSegment(std::uint64_t name, bool sync) {
  if (sync && fd_ >= 0) {
    RETURN_IF_ERROR(Sync());
  }
  const std::string path = PathOf(name);
  const int fd = ::open(path.c_str(), O_WRONLY | O_CREAT | O_TRUNC | O_APPEND | O_CLOEXEC, 0644);
  if (fd < 0) {
    return ErrnoStatus("make", path);
  }
  std::vector<iovec> head = {{const_cast<char*>(kMagic.data()), kMagic.size()},
                             {&name, sizeof(name)}};
  if (Status written = WriteVectors(fd, std::move(head), path); !written.ok()) {
    ::close(fd);
    ::unlink(path.c_str());
    return written;
  }
  Failpoint("log.segment");
  Close();
  fd_ = fd;
  end_ = {.segment = name, .offset = kHeadBytes, .check = name};
  segments_.push_back(name);
  sizes_.push_back(kHeadBytes);
  return sync ? SyncPath(directory_) : OkStatus();
}

Status RecordLog::Append(std::uint32_t kind, std::span<const Bytes> pieces) {
  static const char zeros[8] = {};
  RecordHead head;
  head.kind = kind;
  std::vector<std::string_view> checked = {Checked(head)};
  std::vector<iovec> vectors = {{&head, sizeof(head)}};
  for (const Bytes& piece : pieces) {
    head.bytes += piece.size();
    checked.push_back(piece.view());
    vectors.push_back({const_cast<std::uint8_t*>(piece.data()), piece.size()});
  }
  vectors.push_back({const_cast<char*>(zeros), Padding(head.bytes)});
  head.check = HashPieces(checked, end_.check);
  const std::string path = PathOf(end_.segment);
  if (FailpointIsDue("log.torn")) {
    vectors.resize(vectors.size() / 2);
    (void)WriteVectors(fd_, std::move(vectors), path);
    DieAt("log.torn");
  }
  if (Status written = WriteVectors(fd_, std::move(vectors), path); !written.ok()) {
    if (::ftruncate(fd_, static_cast<off_t>(end_.offset)) != 0) {
      Close();  // Half a record must not lie before the next one: no Append succeeds any more.
    }
    return written;
  }
  end_.offset += sizeof(head) + head.bytes + Padding(head.bytes);
  end_.check = head.check;
  sizes_.back() = end_.offset;
  Failpoint("log.appended");
  return OkStatus();
}

Status RecordLog::Sync() {
  return ::fdatasync(fd_) == 0 ? OkStatus() : ErrnoStatus("fdatasync", PathOf(end_.segment));
}

Status RecordLog::DropBefore(std::uint64_t name) {
  while (segments_.size() > 1 && segments_.front() < name) {
    const std::string path = PathOf(segments_.front());
    if (::unlink(path.c_str()) != 0 && errno != ENOENT) {
      return ErrnoStatus("delete", path);
    }
    segments_.erase(segments_.begin());
    sizes_.erase(sizes_.begin());
    Failpoint("log.dropping");
  }
  return OkStatus();
}

Status RecordLog::Clear() {
  Close();
  for (const std::uint64_t segment : segments_) {
    const std::string path = PathOf(segment);
    if (::unlink(path.c_str()) != 0 && errno != ENOENT) {
      return ErrnoStatus("delete", path);
    }
  }
  segments_.clear();
  sizes_.clear();
  return SyncPath(directory_);
}

std::uint64_t RecordLog::bytes() const {
  std::uint64_t sum = 0;
  for (const std::uint64_t size : sizes_) {
    sum += size;
  }
  return sum;
}

}  // namespace plexus
