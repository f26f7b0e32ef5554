// FileLock: that one process at a time does something to a directory, on any machine that sees it.
//
// The lock is the kernel's (flock): it goes with the process that holds it, however that ends.  A
// file system without locks is taken at its word: there is a warning, and no lock.
//
// Thread safety: none; a lock belongs to who acquired it.
#pragma once

#include <string>

#include "common/status.h"

namespace plexus {

class FileLock {
 public:
  FileLock() = default;
  ~FileLock();
  FileLock(FileLock&& other) noexcept;
  FileLock& operator=(FileLock&& other) noexcept;

  // The file is made if absent, and stays.  Waits up to `wait_ms` for another holder's end.
  // kUnavailable: it is still held, and by which process, as far as that is known.
  static StatusOr<FileLock> Acquire(const std::string& path, int wait_ms);

 private:
  int fd_ = -1;
};

}  // namespace plexus
