// ColdFiles: a cold store's files: one RocksDB database, a column family a table, written by
// ingesting sorted files.
//
// There is no write-ahead log and nothing in memtables.  Everything that was read was verified: by
// RocksDB's block checksums, and each record by its own (cold_key.h).
//
// Thread safety: Write belongs to one thread; the rest may be called from any.  Views end before
// it.
#pragma once

#include <atomic>
#include <cstdint>
#include <functional>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "common/status.h"
#include "ps/store/cold_directory.h"
#include "ps/store/cold_runs.h"
#include "ps/store/cold_store.h"

namespace plexus {

class ColdFiles {
 public:
  static StatusOr<std::unique_ptr<ColdFiles>> Open(std::unique_ptr<ColdDirectory> directory,
                                                   const std::vector<ColdTable>& tables,
                                                   const ColdStoreOptions& options);
  virtual ~ColdFiles() = default;

  // The rows of `runs` as of now; all of them or none.  After a failure the next call tries to make
  // RocksDB write again first.
  virtual Status Write(std::uint32_t table, std::span<const ColdRun> runs) = 0;
  // Fills in `lookups`, ascending by hash; appends the hashes of rows that could not be read to
  // *failed, and returns the first one's reason.
  virtual Status Read(std::uint32_t table, std::span<const ColdLookup> lookups,
                      std::vector<std::uint64_t>* failed) = 0;
  // A table's rows in files as they are now, for one read by one thread, later.
  class View {
   public:
    virtual ~View() = default;
  };
  virtual std::unique_ptr<View> Pin(std::uint32_t table) = 0;
  // Fills in `lookups`, ascending by hash, one file block after the other; the first row that
  // cannot be read ends it.  kUnavailable: the database had to be opened anew since Pin.
  virtual Status ReadPinned(View* view, std::uint32_t table,
                            std::span<const ColdLookup> lookups) = 0;
  // All rows of a table, ascending by hash, those in `newer` instead of older ones.  RocksDB 7.8
  // may pass over a file that it cannot read, and say nothing (facebook/rocksdb pull request
  // 11782): the caller knows how many rows there have to be, and which.
  virtual Status Scan(std::uint32_t table, std::span<const ColdRun> newer,
                      const std::function<void(Key, const std::byte*)>& visit) = 0;

  virtual std::uint64_t compactions() const = 0;  // Under way or due.
  virtual std::uint64_t disk_bytes() const = 0;
  virtual std::uint64_t memory_bytes() const = 0;
  // For people: files of each level.
  virtual std::string Shape() const = 0;
};

}  // namespace plexus
