// Files written whole or not at all.
//
// Thread safety: pure functions on files; two writers of one path are the caller's mistake.
#pragma once

#include <string>
#include <string_view>

#include "common/status.h"

namespace plexus {

// Writes `path` through a temporary name: write, fsync, rename, fsync of the directory.
Status WriteFileAtomically(const std::string& path, std::string_view content);

// kResourceExhausted: longer than `bytes_max`.
StatusOr<std::string> ReadWholeFile(const std::string& path, std::uint64_t bytes_max);

// Like mkdir -p.
Status MakeDirectories(const std::string& path);

// fsync of a file or a directory.
Status SyncPath(const std::string& path);

}  // namespace plexus
