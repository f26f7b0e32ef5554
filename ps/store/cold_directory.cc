#include "ps/store/cold_directory.h"

#include <cerrno>
#include <filesystem>
#include <system_error>

#include <fcntl.h>
#include <sys/file.h>
#include <unistd.h>

#include "common/files.h"

namespace plexus {
namespace {

constexpr const char* kSign = "plexus-cold";

}  // namespace

StatusOr<std::unique_ptr<ColdDirectory>> ColdDirectory::Claim(const std::string& path) {
  RETURN_IF_ERROR(MakeDirectories(path));
  const std::string sign = path + "/" + kSign;
  std::error_code error;
  const bool ours = std::filesystem::exists(sign, error);
  if (!error && !ours && !std::filesystem::is_empty(path, error) && !error) {
    return FailedPrecondition("directory " + path +
                              " for rows on disk is neither empty nor from an earlier run");
  }
  if (error) {
    return FailedPrecondition("look into directory " + path +
                              " for rows on disk: " + error.message());
  }
  const int lock = ::open(sign.c_str(), O_RDWR | O_CREAT | O_CLOEXEC, 0644);
  if (lock < 0) {
    return ErrnoStatus("open", sign);
  }
  if (::flock(lock, LOCK_EX | LOCK_NB) != 0) {
    const Status status = errno == EWOULDBLOCK
                              ? FailedPrecondition("directory " + path +
                                                   " for rows on disk is in use by another server")
                              : ErrnoStatus("lock", sign);
    ::close(lock);
    return status;
  }
  std::unique_ptr<ColdDirectory> directory(new ColdDirectory(path, lock));
  for (const std::string& part : {directory->rows(), directory->fresh()}) {
    std::filesystem::remove_all(part, error);
    if (error) {
      return FailedPrecondition("empty directory " + part + ": " + error.message());
    }
    RETURN_IF_ERROR(MakeDirectories(part));
  }
  return directory;
}

ColdDirectory::~ColdDirectory() {
  std::error_code ignored;  // The next one who claims it empties it.
  std::filesystem::remove_all(rows(), ignored);
  std::filesystem::remove_all(fresh(), ignored);
  std::filesystem::remove(path_ + "/" + kSign, ignored);
  std::filesystem::remove(path_, ignored);
  ::close(lock_);
}

}  // namespace plexus
