// BatchInput: turns shards' replies into what a model reads, and holds the gradients that it
// writes.
//
// Rows in train.pull_precision become floats, f32 rows of most groups are read where they lie.
// Those of a group with an addresser are combined into vectors first, and the vectors' gradients
// are spread over the rows afterwards.
//
// Thread safety: none; belongs to a rank's thread.
#pragma once

#include <cstdint>
#include <memory>
#include <span>
#include <vector>

#include "common/bytes.h"
#include "proto/plan.h"
#include "worker/batch_source.h"
#include "worker/models/model.h"

namespace plexus {

class BatchInput {
 public:
  // `shard_blocks`: the dense blocks that each shard owns, in order.
  BatchInput(std::shared_ptr<const JobPlan> plan, std::uint32_t rank,
             std::vector<std::vector<std::uint32_t>> shard_blocks);

  // Takes the rows (and dense values, if the replies carry them) of a pull that every shard
  // answered.
  // The replies are kept until the next call: f32 rows of a single shard are read where they lie.
  void TakeReplies(const PreparedBatch& batch, std::vector<Bytes> replies, bool dense);

  // The model's input; with `train`, row gradients are zeroed and may be written.  Borrows `batch`.
  const ModelInput& Make(const PreparedBatch& batch, std::uint64_t step, bool train);

  // After the model's step, with the batch of Make: row gradients are complete then.
  void SpreadGradients(const PreparedBatch& batch);
  // Clamps every row gradient to [-bound, bound].
  void ClipGradients(float bound);
  // No NaN and no infinity among the row gradients.
  bool GradientsAreFinite() const;
  // [group][table of the group] -> [unique keys x KeyGroup::dims].
  std::vector<std::vector<const float*>> gradients() const;
  // Flat vector of the layout, as last pulled.
  std::span<const float> dense_values() const { return dense_values_; }

 private:
  // Floats of one (group, table).
  struct TableRows {
    std::vector<float> storage;   // Rows, where several shards sent them, or not as f32.
    const float* rows = nullptr;  // storage, or the only shard's frame.
    std::vector<float> gradients;
    std::vector<float> vectors;  // With an addresser: what the model reads in place of rows.
    std::vector<float> vector_gradients;
  };
  // Where a lookup of a field reads.
  struct Read {
    std::uint32_t field = 0;
    std::uint32_t group = 0;
    std::uint32_t table = 0;           // Position in the group's tables.
    std::uint32_t field_in_group = 0;  // Position in the group's fields.
  };
  // One table's rows in a shard's reply, which begin at `wire`; where they end.
  const std::uint8_t* TakeRows(const GroupKeys& keys, std::uint32_t shard, const std::uint8_t* wire,
                               std::uint32_t dim, TableRows* rows) const;
  std::vector<Read> ReadsOf(std::uint32_t FieldTables::*table,
                            std::uint32_t FieldTables::*group) const;
  Lookup LookupOf(const PreparedBatch& batch, const Read& read, bool train);

  const std::shared_ptr<const JobPlan> plan_;
  const std::uint32_t rank_;
  const std::vector<std::vector<std::uint32_t>> shard_blocks_;
  const std::vector<Read> embedding_reads_;
  const std::vector<Read> linear_reads_;
  std::vector<std::vector<TableRows>> rows_;  // [group][table of the group]
  std::vector<Bytes> replies_;                // Keep borrowed rows alive.
  std::vector<float> dense_values_;
  ModelInput input_;
};

}  // namespace plexus
