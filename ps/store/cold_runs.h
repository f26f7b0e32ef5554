// Runs: rows that are in memory on their way to the cold store's files, and how they are searched
// and merged.
//
// Thread safety: ColdRun like shared_ptr<const>; ColdRunMerger none.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>
#include <vector>

#include "ps/cold_rows.h"

namespace plexus {

// Rows of one table.  Without records: its keys were forgotten.
using ColdRun = std::shared_ptr<const ColdBatch>;

inline bool IsForgotten(const ColdBatch& run) { return run.records.empty(); }

// A row that is looked for, and where its record goes.
struct ColdLookup {
  std::uint64_t hash = 0;  // Mix64 of its key.
  std::byte* to = nullptr;
};

// Fills in what `run` has of `lookups`, ascending by hash, and takes it out of them.  A forgotten
// key is not found.
void TakeFrom(const ColdBatch& run, std::vector<ColdLookup>* lookups);

// Takes those of `keys`, ascending by Mix64, out of the batch.
void LeaveOut(std::span<const Key> keys, ColdBatch* batch);

// All rows of some runs of one table, ascending by hash; of a key that is in several, the row of
// the last run.
class ColdRunMerger {
 public:
  // `runs` outlives the merger.
  explicit ColdRunMerger(std::span<const ColdRun> runs);

  bool valid() const { return !heap_.empty(); }
  std::uint64_t hash() const { return heap_.front().hash; }
  const std::byte* record() const;  // Null: forgotten.
  void Next();

 private:
  struct Cursor {
    std::uint64_t hash;
    std::uint32_t run;
    std::size_t at;
  };
  static bool Behind(const Cursor& a, const Cursor& b) {
    return a.hash != b.hash ? a.hash > b.hash : a.run < b.run;
  }
  void Advance();

  std::span<const ColdRun> runs_;
  std::vector<Cursor> heap_;  // The next row first.
};

}  // namespace plexus
