// RowStore: the rows of one table by handle: records, counts, and how a row begins and is updated.
//
// Thread safety: none.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>
#include <vector>

#include "common/hash.h"
#include "common/optimizer/optimizer.h"
#include "common/prefetch.h"
#include "proto/table_spec.h"
#include "ps/table/row_counts.h"
#include "ps/table/row_layout.h"
#include "ps/table/row_slabs.h"

namespace plexus {

// What is the same for all rows of a step.
struct StepRates {
  std::uint64_t version = 0;
  float scale = 1;
  float rate_factor = 1;
};

class RowStore {
 public:
  RowStore(const TableSpec& spec, std::uint64_t seed);

  const TableSpec& spec() const { return spec_; }
  const RowLayout& layout() const { return layout_; }
  std::uint64_t seed() const { return seed_; }
  std::uint64_t stream() const { return stream_; }  // Of the table's random numbers.

  std::byte* RecordOf(std::uint32_t handle) const { return records_.At(handle); }
  // REQUIRES: counts().
  std::uint32_t CountOf(std::uint32_t handle) const { return counts_.Get(handle); }
  void SetCount(std::uint32_t handle, std::uint32_t count) { counts_.Set(handle, count); }
  // Of occurrences.
  void AddCount(std::uint32_t handle, std::uint64_t count) { counts_.Add(handle, count); }
  bool counts() const { return has_counts_; }

  void PrefetchValues(const std::byte* record) const {
    PrefetchLines(record, layout_.value_bytes());
  }
  void PrefetchRecord(const std::byte* record) const {
    PrefetchLines(record, layout_.record_bytes());
  }
  // REQUIRES: counts().
  void PrefetchCount(std::uint32_t handle) const { counts_.Prefetch(handle); }
  void PrefetchRow(std::uint32_t handle) const {
    PrefetchRecord(RecordOf(handle));
    if (has_counts_) {
      PrefetchCount(handle);
    }
  }

  // Of a key without a row: `dim` floats.
  void InitialValues(Key key, float* values) const;
  // A new row of `key` at `handle`, its count 0.
  void Make(Key key, std::uint32_t handle);
  // Memory for `handle`, whose record (and count) the caller writes.
  void Touch(std::uint32_t handle);
  void Move(std::uint32_t from, std::uint32_t to);
  void ReleaseFrom(std::uint32_t first_handle);

  // One row as `dim` wire values; see Table::Pull.
  void WriteWireRow(const std::byte* record, std::uint32_t dim, Precision precision,
                    std::uint8_t* out) const;
  void WriteInitialWireRow(Key key, std::uint32_t dim, Precision precision,
                           std::uint8_t* out) const;

  // Rows that are updated together: steps[i] is the row of keys[i] and the sum of its gradients in
  // the step, of which active[i] elements.
  struct Block {
    std::vector<Optimizer::RowStep> steps;  // Records and gradient sums.
    std::vector<Key> keys;
    std::vector<std::uint32_t> active;
    std::size_t size = 0;

    void Resize(std::size_t rows);
    void Set(std::size_t at, std::byte* record, Key key, const float* sums,
             std::uint32_t active_floats) {
      steps[at] = {reinterpret_cast<float*>(record), sums};
      keys[at] = key;
      active[at] = active_floats;
    }
    void Add(std::byte* record, Key key, const float* sums, std::uint32_t active_floats) {
      Set(size++, record, key, sums, active_floats);
    }
  };
  // As many as two blocks' rows and gradients fit into L1.
  std::size_t block_rows() const { return block_rows_; }
  void Update(const Block& block, std::size_t begin, std::size_t end, const StepRates& rates);
  void Update(const Block& block, const StepRates& rates) { Update(block, 0, block.size, rates); }

  // L2 norm of the values, the same bits on every machine.
  float NormOf(const std::byte* record) const;

  std::uint64_t record_memory_bytes() const { return records_.memory_bytes(); }
  std::uint64_t count_memory_bytes() const { return has_counts_ ? counts_.memory_bytes() : 0; }

 private:
  // to = the gradient of one row as the optimizer sees it.
  void ScaleAndClip(const float* sum, std::uint32_t active, float scale, float* to) const;
  // Copies what the rule cannot read or write where it lies, and calls it.
  void UpdateCopies(const Block& block, std::size_t begin, std::size_t end, const StepRates& rates);
  // Rows [begin, end) of the block, all with `active` elements.
  void UpdateRun(const Block& block, std::size_t begin, std::size_t end, const StepRates& rates);

  const TableSpec spec_;
  const std::uint64_t seed_;
  const std::uint64_t stream_;
  const std::unique_ptr<const Optimizer> optimizer_;
  const RowLayout layout_;
  const bool has_counts_;
  const std::size_t block_rows_;
  RowSlabs records_;
  RowCounts counts_;

  // Scratch of Update.
  std::vector<float> scaled_;
  std::vector<float> decoded_;
  std::vector<Optimizer::RowStep> steps_;
};

}  // namespace plexus
