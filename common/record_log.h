// RecordLog: records in the order in which they were appended, in a directory of segments: what
// must be found again after a crash.
//
// A segment is a file NAME.log (20 digits, ascending): "PLXRECS1", u64 name, then records: u32
// kind, u32 0, u64 payload bytes, u64 check, payload, zeros up to a multiple of 8.  The check is
// XXH3_64 of kind, length and payload, seeded with the check before it (of the first: the name).
// The log ends at the first record that is cut off or does not check: what a crash tore is never
// taken for a record, nor is anything behind it.
//
// Durability: an Append has been written to the kernel (it survives this process); a Sync has
// reached the disk.  An Append that fails leaves the log as it was before it.
//
// Thread safety: none.  One process at a time: the directory is locked.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "common/bytes.h"
#include "common/file_lock.h"
#include "common/status.h"

namespace plexus {

class RecordLog {
 public:
  // Behind a record, or at the beginning of a segment's records.
  struct Position {
    std::uint64_t segment = 0;
    std::uint64_t offset = 0;  // Of the file.
    std::uint64_t check = 0;   // Of the record before it.
  };
  struct Record {
    std::uint32_t kind = 0;
    Bytes payload;  // Aligned to 64.
    Position begin;
    Position end;
  };

  // Makes the directory if absent, and waits up to `lock_wait_ms` for a former owner's end.
  // Errors name the path.
  static StatusOr<std::unique_ptr<RecordLog>> Open(const std::string& directory, int lock_wait_ms);
  ~RecordLog();
  RecordLog(const RecordLog&) = delete;
  RecordLog& operator=(const RecordLog&) = delete;

  // Names, ascending.
  const std::vector<std::uint64_t>& segments() const { return segments_; }

  // Shows the records from segment `first` on; an error of `visit` ends it and is returned.  The
  // string says where and why the log ends early; empty: it ends where a file ends.
  StatusOr<std::string> Scan(std::uint64_t first,
                             const std::function<Status(const Record&)>& visit) const;

  // Forgets what lies behind `end`, a position of Scan; Append goes on there.
  Status Truncate(const Position& end);
  // The next records go to a new segment.  REQUIRES: its name is greater than those there.
  // `sync`: what was appended before reaches the disk first, and the segment's name does.
  Status BeginSegment(std::uint64_t name, bool sync);
  // The payload is the pieces one behind the other.  REQUIRES: a segment was begun, or Truncate
  // was called.
  Status Append(std::uint32_t kind, std::span<const Bytes> pieces);
  Status Sync();
  // Where the next record goes; no segment: nothing was begun.
  std::optional<Position> end() const { return fd_ >= 0 ? std::optional(end_) : std::nullopt; }
  // Deletes segments whose names are less than `name`, but never the last.
  Status DropBefore(std::uint64_t name);
  // Deletes everything.
  Status Clear();

  // Of all segments, and of the newest.
  std::uint64_t bytes() const;
  std::uint64_t newest_bytes() const { return sizes_.empty() ? 0 : sizes_.back(); }

 private:
  RecordLog(std::string directory, FileLock lock);
  std::string PathOf(std::uint64_t segment) const;
  Status OpenForAppend(const Position& end);
  Status List();
  void Close();

  const std::string directory_;
  const FileLock lock_;
  std::vector<std::uint64_t> segments_;
  std::vector<std::uint64_t> sizes_;  // Of segments_.
  int fd_ = -1;                       // Of the last segment, for appending.
  Position end_;
};

}  // namespace plexus
