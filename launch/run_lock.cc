#include "launch/run_lock.h"

#include <filesystem>
#include <system_error>

#include "common/files.h"

namespace plexus {

StatusOr<FileLock> LockRun(const std::string& run_dir, const std::string& who, int wait_ms) {
  RETURN_IF_ERROR(MakeDirectories(run_dir + "/locks"));
  StatusOr<FileLock> lock = FileLock::Acquire(run_dir + "/locks/" + who, wait_ms);
  if (lock.status().code() == StatusCode::kUnavailable) {
    return Unavailable("a job is running in " + run_dir + ": " + lock.status().message());
  }
  return lock;
}

Status WaitForFormerJob(const std::string& run_dir, int wait_ms) {
  std::error_code none;
  for (const auto& entry : std::filesystem::directory_iterator(run_dir + "/locks", none)) {
    RETURN_IF_ERROR(LockRun(run_dir, entry.path().filename().string(), wait_ms).status());
  }
  return OkStatus();
}

}  // namespace plexus
