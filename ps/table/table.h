// Table: one shard's part of one table: keys -> rows of values and optimizer state, as its layout
// writes them.
//
// Deterministic: what it holds after a sequence of ApplyStep and EndVersion calls is a pure
// function of (seed, spec, the calls), independent of how keys are spread over shards: whatever
// decides which rows exist looks at one bucket only.  A pull changes nothing; a key without a row
// pulls its initial value, which is a pure function of (seed, table name, key, element).
//
// Rows of a HASHED table may lie on disk: the table keeps their slots, the runtime their records
// (ps/cold_rows.h).  Where a row lies changes no bit.  Memory: see docs/store.md.
//
// Thread safety: none; owned by its shard's thread.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "common/hash.h"
#include "common/status.h"
#include "proto/table_spec.h"
#include "ps/cold_rows.h"
#include "ps/table/pull_hint.h"
#include "ps/table/row_layout.h"
#include "ps/table/row_view.h"
#include "ps/table/table_snapshot.h"

namespace plexus {

// One rank's gradients of one step: gradients + i * dim is the sum over keys[i]'s samples.
struct GradientPart {
  std::span<const Key> keys;              // Unique within a part.
  std::span<const std::uint32_t> counts;  // Occurrences of each key in the minibatch.
  const float* gradients = nullptr;       // [keys x dim]; need not be aligned.
  std::uint32_t dim = 0;                  // Of these gradients: the first `dim` values; 0 = all.
  std::span<const PullHint> hints = {};   // Of the keys' Pull; empty: there are none.
};

// Since the table was made.  admitted + restored - evicted() + promoted - demoted = rows = rows in
// memory + rows on disk.
struct TableCounters {
  std::uint64_t admitted = 0;           // Rows made.
  std::uint64_t restored = 0;           // Rows put back from a saved model.
  std::uint64_t evicted_unseen = 0;     // Rows that went for eviction.unseen_versions,
  std::uint64_t evicted_limit = 0;      // for max_rows or max_bytes,
  std::uint64_t evicted_memory = 0;     // for cluster.memory_limit.
  std::uint64_t refused_admission = 0;  // Gradients of keys that the admission filter held back,
  std::uint64_t refused_memory = 0;     // that memory_limit left without a row.
  std::uint64_t late_pushes = 0;  // Rows made for a key evicted since the push's rows were pulled.
  std::uint64_t hinted = 0;       // Rows of pushes that lay where their pull had found them.
  std::uint64_t spilled = 0;      // Rows that went to disk,
  std::uint64_t thawed = 0;       // that came back.
  std::uint64_t promoted = 0;     // HYBRID: keys that got a row of their own,
  std::uint64_t demoted = 0;      // that lost it.

  std::uint64_t evicted() const { return evicted_unseen + evicted_limit + evicted_memory; }
};

// What a table takes now.
struct TableMemory {
  std::uint64_t index_bytes = 0;
  std::uint64_t row_bytes = 0;     // Of records, as committed.
  std::uint64_t header_bytes = 0;  // Counts, steps, marks, free lists.
  std::uint64_t filter_bytes = 0;  // Admission filter, sketches.
  std::uint64_t free_bytes = 0;    // Of row_bytes: committed records without a row.

  std::uint64_t total() const { return index_bytes + row_bytes + header_bytes + filter_bytes; }
};

// How full and how deep the index is; 0 where there is none.
struct IndexShape {
  double load_factor = 0;
  double probe_mean = 0;  // Cache lines read to find a key.
  std::uint32_t probe_max = 0;
};

class Table {
 public:
  virtual ~Table() = default;

  virtual const TableSpec& spec() const = 0;
  virtual const RowLayout& layout() const = 0;

  // The first `dim` values of keys[i] as a wire row at out + i * WireRowBytes(precision, dim).
  // `hints`: null, or [keys], which are set if gives_hints().
  // REQUIRES, here and below: keys of an ARRAY table are less than spec().rows; none is on disk.
  virtual void Pull(std::span<const Key> keys, std::uint32_t dim, Precision precision,
                    std::uint8_t* out, PullHint* hints = nullptr) const = 0;
  virtual bool gives_hints() const { return false; }
  // All values, as floats: values + i * dim.
  void Pull(std::span<const Key> keys, float* values) const {
    Pull(keys, spec().dim, Precision::kF32, reinterpret_cast<std::uint8_t*>(values));
  }

  // Step `version` < 2^32 - 1: for each key of any part, the gradients are summed in the order of
  // `parts`, multiplied by `scale` (1 / samples, or 1 for tables that sum), clipped, and the row,
  // made if it was absent and is admitted, is updated once.  Then buckets beyond their limit evict.
  virtual void ApplyStep(std::uint64_t version, std::span<const GradientPart> parts, float scale,
                         float rate_factor) = 0;
  // After ApplyStep of each version, also of one without keys: slices of what runs beside training
  // (rows unseen for long, windows of filters, memory given back).
  virtual void EndVersion(std::uint64_t version) = 0;

  // Every row in memory, in an unspecified order.
  virtual void ForEachRow(const std::function<void(const RowView&)>& visit) const = 0;
  // Puts a row as ForEachRow gave it, replacing one of the same key.  REQUIRES: the record is of
  // this layout.
  virtual void Restore(const RowView& row) = 0;
  // Before the first Restore: about so many rows will come.
  virtual void Reserve(std::uint64_t) {}
  // What else decides which rows exist (filters, sketches), bucket by bucket, as opaque bytes.
  virtual void ForEachFilter(
      const std::function<void(std::uint32_t bucket, const std::string& bytes)>&) const {}
  virtual Status RestoreFilter(std::uint32_t bucket, const std::string& bytes);

  // A snapshot of the table as it is now, while steps go on; see TableSnapshot.  `since` > 0: only
  // rows that were updated after that version.  REQUIRES: staleness 0; none is under way.
  void BeginSnapshot(std::uint64_t version, std::uint64_t since, std::uint32_t buckets) {
    snapshot_.Begin(version, since, buckets);
  }
  // Gathers what comes next, about `bytes` of it; true: there is more.
  virtual bool GatherSlice(std::uint64_t) { return false; }
  TableSnapshot& snapshot() { return snapshot_; }
  const TableSnapshot& snapshot() const { return snapshot_; }
  ErasedKeys& erased() { return erased_; }
  const ErasedKeys& erased() const { return erased_; }

  // Sum modulo 2^128 over the rows in memory of XXH3_128(name, a zero byte, key, last_step,
  // record), integers as little-endian u64, and of filters.  Rows on disk add RowDigest of what
  // ViewCold gives.
  virtual Digest128 Digest() const = 0;

  virtual std::uint64_t row_count() const = 0;  // In memory and on disk.
  virtual std::uint64_t cold_count() const { return 0; }
  virtual TableMemory memory() const = 0;
  std::uint64_t memory_bytes() const { return memory().total(); }
  virtual IndexShape index_shape() const { return {}; }
  // Bytes by which the index grows if so many rows are made.
  virtual std::uint64_t index_growth_bytes(std::uint64_t) const { return 0; }
  const TableCounters& counters() const { return counters_; }

  // Rows on disk.  REQUIRES: spec().spills.
  // Bytes of a row on disk.
  virtual std::uint32_t cold_record_bytes() const { return 0; }
  // Appends those of `keys` whose rows are on disk; returns how many have no row.
  virtual std::uint64_t FindCold(std::span<const Key>, std::vector<Key>*) const { return 0; }
  virtual bool IsCold(Key) const { return false; }
  // Moves rows that were not read or written for a while out of memory into `batch` (replaced)
  // until it has `bytes`, or none is left.
  virtual void Spill(std::uint64_t, ColdBatch*) {}
  // Takes rows back; those that are not on disk any more (evicted, or back already) are passed
  // over.  Returns how many are on disk still, since these records are not of their last update.
  virtual std::uint64_t Thaw(const ColdBatch&) { return 0; }
  // Keys whose rows were evicted while they, or an outdated copy of them, were on disk.
  virtual std::vector<Key> TakeForgotten() { return {}; }
  // A row of the scan of the cold store, as ForEachRow would give it; false: stale.
  virtual bool ViewCold(Key, const std::byte*, RowView*) const { return false; }
  // The same of any record of the cold store, whether it is stale or not.
  virtual RowView ReadCold(Key, const std::byte*) const { return {}; }

  // A slice of moving rows together, so that memory without rows can go back to the kernel; begins
  // when much of it is free, `eager`: some.  True: there is more to do.
  virtual bool Compact(bool) { return false; }

  // What gives when the memory limit cannot be kept otherwise.
  virtual void set_refuse_new_rows(bool) {}
  // Evicts the rows longest without an update until about `bytes` are free, some buckets further
  // each time; the bytes.
  virtual std::uint64_t EvictOldest(std::uint64_t) { return 0; }

 protected:
  TableCounters counters_;
  TableSnapshot snapshot_;
  ErasedKeys erased_;
};

// A row's part of Digest().
Digest128 RowDigest(const std::string& table, const RowView& row);

// `buckets` is the job's V; `owned` are those of this shard, ascending, or all if it is empty.
std::unique_ptr<Table> MakeTable(const TableSpec& spec, std::uint64_t seed,
                                 std::uint32_t buckets = 1024,
                                 const std::vector<std::uint32_t>& owned = {});

}  // namespace plexus
