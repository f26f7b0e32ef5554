// Locks of a run directory: one scheduler, and one server of each index, at a time.  A job whose
// mpirun was killed may live on for a moment; it must not write beside its successor.
//
// Thread safety: pure functions on files.
#pragma once

#include <string>

#include "common/file_lock.h"
#include "common/status.h"

namespace plexus {

// How long a member waits for the former one of its place, which was just killed.
inline constexpr int kFormerLifeMillis = 10000;

inline constexpr const char* kSchedulerLock = "scheduler";

// RUN/locks/WHO.  kUnavailable: another process holds it still after `wait_ms`.
StatusOr<FileLock> LockRun(const std::string& run_dir, const std::string& who, int wait_ms);

// Returns once no member of a former job lives.  kUnavailable: one does, after `wait_ms`.
Status WaitForFormerJob(const std::string& run_dir, int wait_ms);

}  // namespace plexus
