// ColdStore: the rows of a server that do not fit into its memory, in RocksDB: one instance a
// server, a column family a table.
//
// The shard's index knows which keys are here; this store is never asked whether a key exists.  A
// copy that the shard has taken back, or dropped, is stale until it is overwritten or compacted
// away.  Keys are stored as big-endian Mix64(key), so that what a shard spills in the order of its
// index is sorted, and goes in as ingested SST files.
//
// Writes are done by one thread, reads by `reader_threads`; a read sees every batch that was
// written before it, finished or not.  Read data are verified (checksums of blocks and of whole
// records).  The directory is emptied by Open, and removed at the end: what lies there belongs to
// one life of one server.
//
// A row that comes back, in whatever event, is the newest that the store was given, as long as the
// shard acts on each event, and hands over what it then wants to Write, Read and Forget in the
// order in which it came to want it, before it takes the next one:
//   - rows that could not be written come back without those that were written again since; a read
//     under way leaves such rows out;
//   - a read under way leaves out rows that are forgotten.
//
// Thread safety: all methods may be called from any thread; `wake` is called from the store's own.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "common/status.h"
#include "ps/cold_rows.h"
#include "ps/store/cold_layout.h"

namespace rocksdb {
class FileSystem;
}

namespace plexus {

struct ColdTable {
  std::string name;
  std::uint32_t record_bytes = 0;  // 0: none of its rows comes here.
};

struct ColdStoreOptions {
  // Of blocks, and of rows that wait until there are enough of them for a file.
  std::uint64_t cache_bytes = std::uint64_t{32} << 20;
  std::uint32_t reader_threads = 8;
  // Called after an event was put into the queue.
  std::function<void()> wake;
  ColdLayout layout;
  std::shared_ptr<rocksdb::FileSystem>
      file_system;  // Tests: a disk that fails.  Null: the kernel's.
};

struct ColdEvent {
  enum class Kind { kRead, kReadFailed, kWritten, kWriteFailed, kCopied, kCopyFailed };
  Kind kind = Kind::kRead;
  // kRead, kCopied: the rows; kWriteFailed: what was not written, to be taken back.
  ColdBatch batch;
  // kReadFailed: the rows that could not be read; the rest is not given back.  kCopyFailed: all.
  ColdKeys keys;
  std::uint64_t bytes = 0;  // kWritten and kWriteFailed: of the batch as it was handed over.
  Status status;            // The failures: names file, table and what the disk said.
};

struct ColdStoreStats {
  std::uint64_t rows_written = 0, rows_read = 0, bytes_written = 0, bytes_read = 0;
  std::uint64_t write_failures = 0, read_failures = 0;
  std::uint64_t files_written = 0;
  std::uint64_t compactions = 0;   // Under way or due.
  std::uint64_t disk_bytes = 0;    // Live SST files.
  std::uint64_t memory_bytes = 0;  // Cache, memtables, table readers, batches in flight.
};

class ColdStore {
 public:
  // kFailedPrecondition: the directory is in use, or holds what no cold store wrote.
  static StatusOr<std::unique_ptr<ColdStore>> Open(const std::string& directory,
                                                   const std::vector<ColdTable>& tables,
                                                   ColdStoreOptions options);
  virtual ~ColdStore() = default;

  virtual void Write(ColdBatch batch) = 0;  // Then one kWritten or kWriteFailed.
  virtual void Read(ColdKeys keys) = 0;     // Then one kRead or kReadFailed.
  // The rows as they are now, whatever is written or forgotten after it; none is left out.  Then
  // one kCopied or kCopyFailed.
  virtual void Copy(ColdKeys keys) = 0;
  // Rows that no one will ask for again, as they are now: a later Write makes them anew.  Their
  // copies on disk go with compactions, once enough are forgotten for a file of such keys.
  virtual void Forget(ColdKeys keys) = 0;
  // What happened next, if anything did.
  virtual std::optional<ColdEvent> TakeEvent() = 0;
  // Every row of a table, ascending by Mix64(key), after all writes so far; may include stale ones.
  // Rows whose file is damaged may be missing from an OK scan: count them (ps/store/cold_files.h).
  virtual Status Scan(std::uint32_t table,
                      const std::function<void(Key, const std::byte*)>& visit) = 0;
  virtual ColdStoreStats stats() const = 0;
  // For people: how many files of which size each level has.
  virtual std::string Shape() const = 0;
};

}  // namespace plexus
