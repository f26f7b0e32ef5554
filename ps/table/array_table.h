// ArrayTable: a Table of a fixed number of physical rows, addressed by their number.
//
// A row's handle is its place when rows are ordered by bucket (row mod V), so that a bucket's rows
// lie together and a shard touches the memory of its own buckets only.  A row exists once a step
// has updated it; none is ever taken away.
//
// Thread safety: none.
#pragma once

#include <cstdint>

#include "ps/table/mapped_memory.h"
#include "ps/table/part_merger.h"
#include "ps/table/row_store.h"
#include "ps/table/table.h"

namespace plexus {

class ArrayTable final : public Table {
 public:
  // REQUIRES: 0 < spec.rows < 2^32 - buckets.
  ArrayTable(const TableSpec& spec, std::uint64_t seed, std::uint32_t buckets);

  const TableSpec& spec() const override { return store_.spec(); }
  const RowLayout& layout() const override { return store_.layout(); }

  void Pull(std::span<const Key> keys, std::uint32_t dim, Precision precision, std::uint8_t* out,
            PullHint*) const override;
  void ApplyStep(std::uint64_t version, std::span<const GradientPart> parts, float scale,
                 float rate_factor) override;
  void EndVersion(std::uint64_t) override {}

  void ForEachRow(const std::function<void(const RowView&)>& visit) const override;
  void Restore(const RowView& row) override;
  bool GatherSlice(std::uint64_t bytes) override;
  Digest128 Digest() const override;

  std::uint64_t row_count() const override { return row_count_; }
  TableMemory memory() const override;

 private:
  std::uint32_t Place(Key row) const {
    return static_cast<std::uint32_t>(row) % buckets_ * bucket_rows_ +
           static_cast<std::uint32_t>(row) / buckets_;
  }
  // The place of a row of this table; see REQUIRES of Pull.
  std::uint32_t CheckedPlace(Key row) const;
  template <typename Source>
  void UpdateRows(const StepRates& rates, const Source& source);
  // Adds the row `key` with its gradients to the block, made if no step has updated it.
  void AddRow(Key key, std::uint64_t count, const float* gradients, std::uint32_t active,
              std::uint64_t version);
  RowView ViewOf(std::uint32_t place) const;
  // Before a step changes rows of the snapshot that is under way.
  void AddBeforeStep(std::span<const Key> keys);
  // True if the row had been updated before.
  bool MarkUpdated(std::uint32_t place, std::uint64_t version);

  RowStore store_;
  const std::uint32_t buckets_;
  const std::uint32_t bucket_rows_;  // Rows of the largest bucket.
  MappedMemory steps_memory_;
  std::uint32_t* steps_;  // By place: last step + 1; 0: never updated.
  std::uint64_t row_count_ = 0;
  PartMerger merger_;
  RowStore::Block block_;  // Scratch of ApplyStep.
};

}  // namespace plexus
