// HybridTable: a Table of bounded memory for any number of keys: rows of their own for the keys
// that matter (HybridSketch), shared rows, by hash, for the rest (CAFE, Zhang et al., SIGMOD 2024).
// See ps/table/table.h for what each call means.
//
// A key reads its exact row, else its bucket's shared row by hash; a shared row that no step has
// updated has the initial value of its own key (HybridAddresses).  A step sums gradients a row
// before its one update: of each key in the order of parts, then of a shared row's keys in the
// order in which parts first have them.  After the updates, keys whose score has reached the
// threshold get an exact row: a copy, bit for bit, of the shared row's record, values and state;
// then buckets whose time it is decay, and keys below the threshold read their shared row again.
// Counts of an exact row begin at its promotion.
//
// Thread safety: none.
#pragma once

#include <cstdint>
#include <memory>
#include <span>
#include <vector>

#include "ps/table/handle_allocator.h"
#include "ps/table/hybrid_addresses.h"
#include "ps/table/hybrid_sketch.h"
#include "ps/table/part_merger.h"
#include "ps/table/row_store.h"
#include "ps/table/table.h"

namespace plexus {

class HybridTable final : public Table {
 public:
  // REQUIRES: of spec.hybrid what HybridAddresses does.
  HybridTable(const TableSpec& spec, std::uint64_t seed, std::uint32_t buckets);

  const TableSpec& spec() const override { return shared_.spec(); }
  const RowLayout& layout() const override { return shared_.layout(); }

  void Pull(std::span<const Key> keys, std::uint32_t dim, Precision precision, std::uint8_t* out,
            PullHint*) const override;
  void ApplyStep(std::uint64_t version, std::span<const GradientPart> parts, float scale,
                 float rate_factor) override;
  void EndVersion(std::uint64_t) override {}

  // Exact and shared rows; a shared row's key is HybridAddresses::SharedKey.
  void ForEachRow(const std::function<void(const RowView&)>& visit) const override;
  // In any order with RestoreFilter.  A row that the job's exact_rows has no room for is left out;
  // RestoreFilter refuses its bucket.
  void Restore(const RowView& row) override;
  void ForEachFilter(const std::function<void(std::uint32_t, const std::string&)>&) const override;
  Status RestoreFilter(std::uint32_t bucket, const std::string& bytes) override;
  bool GatherSlice(std::uint64_t bytes) override;
  Digest128 Digest() const override;

  std::uint64_t row_count() const override { return shared_count_ + handles_.live(); }
  TableMemory memory() const override;

  void set_refuse_new_rows(bool refuse) override { refuse_new_rows_ = refuse; }

 private:
  // Keys between the prefetch of a group of slots and its use, and again between a row's and its
  // copy.
  static constexpr std::size_t kAhead = 16;
  static constexpr std::size_t kRing = 32;  // A power of two, at least 2 * kAhead.

  struct SharedRow {
    std::uint32_t step = 0;   // Last step + 1; 0: never updated.
    std::uint32_t entry = 0;  // Its index in entries_ + 1 while a step is applied, else 0.
  };
  struct Bucket {
    HybridSketch sketch;
    std::unique_ptr<SharedRow[]> shared;  // Made at the first push.
  };
  using Address = HybridAddresses::Address;

  // One row of the step under way.
  struct Entry {
    Key key;                 // Of the row.
    std::uint64_t count;     // Occurrences.
    const float* gradients;  // Of the first key.
    std::uint64_t sum;       // Of several keys: offset in sums_; kNoSum.
    std::uint32_t active;    // Of the gradients.
    std::uint32_t place;     // Handle, or number of the shared row.
    SharedRow* shared;       // Null: an exact row.
  };
  static constexpr std::uint64_t kNoSum = ~std::uint64_t{0};
  // An exact row that is to become a copy of a shared one.
  struct Promotion {
    std::uint32_t handle;
    std::uint32_t shared_place;
  };

  // The address of keys[i], whose slots are then on their way to the cache.
  Address Locate(Key key) const;
  std::uint32_t SharedPlace(const Address& address) const {
    return addresses_.first_shared(address.bucket) + address.shared;
  }
  const SharedRow* SharedOf(const Address& address) const {
    const SharedRow* rows = buckets_[address.bucket].shared.get();
    return rows == nullptr ? nullptr : rows + address.shared;
  }
  SharedRow* MakeShared(const Address& address);

  RowView ViewOfExact(Key key, std::uint32_t handle) const;
  RowView ViewOfShared(std::uint32_t bucket, std::uint32_t row) const;
  // What a snapshot that is under way has of a bucket: its sketch; before a step updates the
  // entries' rows, those.
  void AddSketch(std::uint32_t bucket);
  void AddBeforeUpdate();
  // The sketch as ForEachFilter gives it.
  std::string SketchBytes(std::uint32_t bucket) const;
  void Visit(std::uint32_t b, const std::function<void(const RowView&)>& visit) const;

  template <typename Source>
  void GatherRows(const Source& source);
  void AddShared(const Address& address, std::uint64_t count, const float* gradients,
                 std::uint32_t active);
  void RaiseScore(Key key, const Address& address, float importance);
  void UpdateRows(const StepRates& rates);
  // The entry's record, its header brought up to date.
  std::byte* TakeRecord(const Entry& entry, std::uint64_t version);
  void Promote(std::uint64_t version);
  void Decay();

  std::uint32_t AddHandle();

  RowStore shared_;  // By number.
  RowStore exact_;   // By handle.
  const HybridAddresses addresses_;
  const HybridSketchOptions options_;
  std::vector<Bucket> buckets_;
  HandleAllocator handles_;
  std::vector<std::uint32_t> exact_steps_;  // By handle: last step.
  std::uint64_t shared_count_ = 0;          // Shared rows that were ever updated.
  bool refuse_new_rows_ = false;
  PartMerger merger_;

  // Of the step under way.
  std::vector<Entry> entries_;
  std::vector<float> sums_;
  std::vector<Promotion> promotions_;
  std::vector<std::uint32_t> decays_;  // Buckets.
  RowStore::Block block_;
};

}  // namespace plexus
