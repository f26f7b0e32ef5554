// ShardState: what a shard holds of the model: its part of every table and its dense blocks.
//
// Deterministic: the result of ApplyStep is a pure function of the state and its arguments.  No IO,
// no clock, no locks.
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
#include "proto/control.pb.h"
#include "proto/dense_store.h"
#include "proto/frame.h"
#include "proto/plan.h"
#include "ps/table/table.h"

namespace plexus {

class ShardState {
 public:
  // Shard `shard` of `shards`, which owns the buckets that InitialBucketMap gives it.
  ShardState(std::shared_ptr<const JobPlan> plan, std::uint32_t shard, std::uint32_t shards);

  // The owned blocks of the dense parameters.
  const DenseStore& dense() const { return dense_; }
  DenseExtent dense_extent() const { return {dense_.value_floats(), dense_.state_floats()}; }

  // Fills the body of a kPullReply; `out` has PullReplyBytes().  Changes nothing.  `hints`: null,
  // or replaced by what the push of the same keys can use.
  void WritePullReply(const PullBody& pull, bool dense, std::uint8_t* out,
                      PullHints* hints = nullptr) const;

  // Sums of squares of the mean dense gradient, one a block: what clipping by the norm of all needs
  // before the commit.
  std::vector<proto::BlockNorm> DenseNorms(std::span<const PushBody* const> parts) const;

  // The sum over the parts, in rank order, of their dense gradients, as floats; empty: no part has
  // any.
  Bytes SumOfDense(std::span<const PushBody* const> parts) const;

  // Makes version `version` from the step's parts in rank order.  A step without samples changes no
  // row.  `hints`: of each part's pull, null if there are none; or empty.
  void ApplyStep(std::uint64_t version, std::span<const PushBody* const> parts, float rate_factor,
                 float dense_scale, std::span<const PullHints* const> hints = {});

  std::uint32_t table_count() const { return static_cast<std::uint32_t>(tables_.size()); }
  const Table& table(std::uint32_t index) const { return *tables_[index]; }
  Table& mutable_table(std::uint32_t index) { return *tables_[index]; }  // For snapshots.
  std::uint32_t buckets() const { return plan_->buckets(); }
  // Before rows are put back: the table has so many on all shards.
  void Reserve(const std::string& table, std::uint64_t rows);
  // Put back what a saved model holds; rows and blocks of other shards are ignored.
  void RestoreRow(std::uint32_t table, const RowView& row);
  Status RestoreFilter(std::uint32_t table, std::uint32_t bucket, const std::string& bytes);
  // kInvalidArgument: the number of floats is not the block's.
  Status RestoreDenseBlock(std::uint32_t block, std::span<const float> values_and_state);

  // Rows on disk; see ps/table/table.h.  Those that a pull's or a push's keys name, one entry a
  // table that has any, appended.
  // Returns how many (table, key) have no row.
  std::uint64_t FindCold(std::span<const KeyBlock> groups, std::vector<ColdKeys>* cold) const;
  std::uint64_t Thaw(const ColdBatch& batch) { return tables_[batch.table]->Thaw(batch); }
  // Moves about `bytes` of rows out of memory, from each table in proportion to what it has there;
  // empty: none is left.
  std::vector<ColdBatch> Spill(std::uint64_t bytes);
  // Rows on disk that no one will ask for again.
  std::vector<ColdKeys> TakeForgotten();
  bool spills() const { return spills_; }
  std::uint64_t cold_count() const;
  // What so many new rows take in memory at most, about.
  std::uint64_t bytes_of_new_rows(std::uint64_t rows) const;
  // Gives memory of free records back, some of it each call; true: there may be more.
  bool Compact(bool eager);
  // What gives when the memory limit cannot be kept otherwise; see Table.
  void set_refuse_new_rows(bool refuse);
  std::uint64_t EvictOldest(std::uint64_t bytes);

  // This shard's part of model_digest, but for rows on disk (Table::Digest).
  Digest128 Digest() const;
  std::vector<proto::TableUsage> Usage() const;
  std::uint64_t memory_bytes() const;
  // Of memory_bytes(): committed, and free for rows to come.
  std::uint64_t free_bytes() const;

 private:
  // The sum over the parts, in rank order, times `scale`; false if no part has dense gradients.
  bool SumDense(std::span<const PushBody* const> parts, std::uint64_t first, std::uint32_t count,
                float scale, float* sum) const;
  const float* Decoded(const KeyBlock& block, std::size_t t, std::uint32_t dim, std::size_t* used);
  void ApplyTables(std::uint64_t version, std::span<const PushBody* const> parts, float scale,
                   float rate_factor, std::span<const PullHints* const> hints);
  void ApplyDense(std::span<const PushBody* const> parts, float scale, float rate_factor,
                  float dense_scale);

  std::shared_ptr<const JobPlan> plan_;
  std::vector<std::uint32_t> bucket_map_;
  std::uint32_t shard_;
  std::vector<std::unique_ptr<Table>> tables_;
  bool spills_ = false;
  std::uint64_t ended_version_ = 0;  // The last that tables heard the end of.

  DenseStore dense_;
  mutable std::vector<float> scratch_;
  std::vector<std::vector<float>> decoded_;  // Gradients of parts that came in fewer bytes.
};

// "32 hex digits".
std::string DigestHex(const Digest128& digest);

}  // namespace plexus
