// HashedTable: a Table whose keys have rows of their own, made when they are first pushed.
//
// A key's slot (KeyIndex) says where its row is: in memory, by handle, or on disk.  Admission,
// limits and eviction look at one bucket at a time.  See ps/table/table.h for what each call means.
//
// Thread safety: none.
#pragma once

#include <algorithm>
#include <bit>
#include <cstdint>
#include <deque>
#include <memory>
#include <unordered_map>
#include <utility>
#include <vector>

#include "ps/table/admission.h"
#include "ps/table/count_decay.h"
#include "ps/table/handle_allocator.h"
#include "ps/table/handle_bits.h"
#include "ps/table/key_index.h"
#include "ps/table/part_merger.h"
#include "ps/table/row_store.h"
#include "ps/table/table.h"

namespace plexus {

class HashedTable final : public Table {
 public:
  // `owned`: see MakeTable.
  HashedTable(const TableSpec& spec, std::uint64_t seed, std::uint32_t buckets,
              const std::vector<std::uint32_t>& owned);

  const TableSpec& spec() const override { return store_.spec(); }
  const RowLayout& layout() const override { return store_.layout(); }

  void Pull(std::span<const Key> keys, std::uint32_t dim, Precision precision, std::uint8_t* out,
            PullHint* hints) const override;
  bool gives_hints() const override { return true; }
  void ApplyStep(std::uint64_t version, std::span<const GradientPart> parts, float scale,
                 float rate_factor) override;
  void EndVersion(std::uint64_t version) override;

  void ForEachRow(const std::function<void(const RowView&)>& visit) const override;
  void Restore(const RowView& row) override;
  void Reserve(std::uint64_t rows) override {
    if (index_.row_count() == 0) {
      index_.Reserve(rows);
    }
  }
  void ForEachFilter(const std::function<void(std::uint32_t, const std::string&)>&) const override;
  Status RestoreFilter(std::uint32_t bucket, const std::string& bytes) override;
  bool GatherSlice(std::uint64_t bytes) override;
  Digest128 Digest() const override;

  std::uint64_t row_count() const override { return index_.row_count(); }
  std::uint64_t cold_count() const override { return index_.row_count() - handles_.live(); }
  TableMemory memory() const override;
  IndexShape index_shape() const override;
  std::uint64_t index_growth_bytes(std::uint64_t rows) const override {
    return index_.growth_bytes(rows);
  }

  std::uint32_t cold_record_bytes() const override { return cold_record_bytes_; }
  std::uint64_t FindCold(std::span<const Key> keys, std::vector<Key>* cold) const override;
  bool Compact(bool eager) override;
  bool IsCold(Key key) const override;
  void Spill(std::uint64_t bytes, ColdBatch* batch) override;
  std::uint64_t Thaw(const ColdBatch& batch) override;
  std::vector<Key> TakeForgotten() override { return std::exchange(forgotten_, {}); }
  bool ViewCold(Key key, const std::byte* record, RowView* view) const override;
  RowView ReadCold(Key key, const std::byte* record) const override;

  void set_refuse_new_rows(bool refuse) override { refuse_new_rows_ = refuse; }
  std::uint64_t EvictOldest(std::uint64_t bytes) override;

 private:
  // Rows are found in blocks, the block's rows are then asked for in one go, and used when those of
  // the next one have been.  In one go, since a prefetch of a page that the processor does not know
  // by heart holds up what is behind it, so that only prefetches that follow one another closely
  // wait at the same time: with two threads a core that made pushes 1.5 times as fast.
  static constexpr std::size_t kBlock = 32;
  static constexpr std::size_t kBlockBytes = 16 << 10;  // Half of an L1.
  static constexpr std::size_t kRing = 64;              // Two blocks.
  static std::size_t BlockOf(std::size_t row_bytes) {
    return std::bit_floor(std::clamp<std::size_t>(kBlockBytes / row_bytes, 4, kBlock));
  }

  // Rows of a step that are located and not yet updated: two blocks.
  static constexpr std::size_t kPending = 64;

  // Why a row goes.
  using EvictionCounter = std::uint64_t TableCounters::*;

  template <std::uint32_t kDim>
  void PullRows(std::span<const Key> keys, std::uint32_t dim, Precision precision,
                std::uint8_t* out, PullHint* hints) const;
  template <typename Visit>
  void VisitRows(std::span<const Key> keys, PullHint* hints, const Visit& visit) const;
  template <typename Source, typename SlotOf>
  void UpdateRows(const StepRates& rates, const Source& source, const SlotOf& slot_of);
  template <typename Source>
  void UpdateFoundRows(const StepRates& rates, const Source& source);
  template <typename Source>
  void UpdateHintedRows(const StepRates& rates, const Source& source);
  void Locate(const StepRates& rates, Key key, Slot* slot, bool made, std::uint64_t count,
              const float* sums, std::uint32_t active, std::size_t at);
  void PrefetchPending(std::size_t begin, std::size_t end) const;
  void UpdatePending(const StepRates& rates, std::size_t begin, std::size_t end);
  void UpdateCounts(std::size_t begin, std::size_t end, std::uint32_t version);
  // The key's slot, made if the key is admitted; nullptr: it is not.
  Slot* SlotFor(Key key, KeyIndex::Home home, std::uint64_t count, std::uint64_t version,
                bool* made);
  Slot* SlotForUnprefetched(Key key, std::uint64_t count, std::uint64_t version, bool* made);
  void NoteNewRow(Key key, std::uint64_t version);

  std::uint32_t AddHandle();
  void Mark(std::uint32_t handle) const { marks_.Set(handle); }

  // hashed_table_snapshot.cc
  RowView ViewOf(const Slot& slot) const;
  void AddToSnapshot(const Slot& slot);
  // Before a step changes what belongs to the snapshot that is under way.
  void AddBeforeStep(std::span<const Key> keys);
  void AddFilters(std::uint32_t begin, std::uint32_t end);
  void GatherSlots(std::uint64_t slots);

  // hashed_table_rows.cc
  void EvictBeyondLimits(std::uint64_t version);
  // Evicts all but the `keep` most valuable rows of a bucket; the record bytes freed in memory.
  std::uint64_t EvictFromBucket(std::uint32_t bucket, std::uint64_t keep, std::uint64_t version,
                                EvictionSpec::Order order, EvictionCounter why);
  // Ascending with a row's worth; what it is depends on `order`.
  std::uint32_t WorthOf(const Slot& slot, std::uint64_t version, EvictionSpec::Order order) const;
  std::uint64_t Evict(Key key, std::uint64_t version, EvictionCounter why);
  void EvictUnseen(std::uint64_t version);
  std::uint32_t ColdBitsOf(const Slot& slot) const;

  RowStore store_;
  const std::uint32_t buckets_;
  const std::vector<std::uint32_t> owned_;  // Buckets, ascending.
  const std::uint64_t bucket_rows_max_;     // 0 = no limit.
  const std::uint32_t cold_record_bytes_;
  const CountDecay decay_;
  KeyIndex index_;
  HandleAllocator handles_;
  std::unique_ptr<AdmissionFilter> filter_;  // Null: every key is admitted.
  PartMerger merger_;

  std::vector<std::uint32_t> bucket_rows_;   // With a limit only.
  std::vector<std::uint32_t> beyond_limit_;  // Buckets, of the step under way.
  std::vector<bool> is_beyond_limit_;
  mutable HandleBits marks_;  // Rows that were used since Spill last came by.
  HandleBits copied_;         // Rows of which an outdated copy is on disk.
  // Positions in owned_: where Spill goes on, where EvictOldest does, and where Compact does.
  std::size_t spill_at_ = 0;
  std::size_t evict_at_ = 0;
  std::size_t compact_at_ = 0;
  std::uint32_t compact_target_ = 0;  // Above which handle it moves rows; 0 = at rest.
  std::uint64_t version_ = 0;
  std::vector<Key> forgotten_;
  bool refuse_new_rows_ = false;
  std::vector<Slot> gathered_;  // Scratch of GatherSlots.
  // Under staleness: keys evicted lately.
  std::unordered_map<Key, std::uint64_t> lately_evicted_;
  std::deque<std::pair<std::uint64_t, Key>> lately_order_;

  // Scratch of ApplyStep.
  RowStore::Block pending_;
  std::uint32_t handles_of_[kPending];
  std::uint32_t counts_of_[kPending];
  std::uint32_t old_steps_[kPending];
};

}  // namespace plexus
