#include "worker/batch_input.h"

#include <algorithm>
#include <cstring>
#include <utility>

#include "proto/frame.h"

namespace plexus {

BatchInput::BatchInput(std::shared_ptr<const JobPlan> plan, std::uint32_t rank,
                       std::vector<std::vector<std::uint32_t>> shard_blocks)
    : plan_(std::move(plan)),
      rank_(rank),
      shard_blocks_(std::move(shard_blocks)),
      dense_values_(plan_->dense.size(), 0.0f) {
  for (const KeyGroup& group : plan_->groups) {
    rows_.emplace_back(group.tables.size());
  }
}

void BatchInput::TakeReplies(const PreparedBatch& batch, std::vector<Bytes> replies, bool dense) {
  replies_ = std::move(replies);
  for (std::uint32_t shard = 0; shard < replies_.size(); ++shard) {
    const auto* floats = reinterpret_cast<const float*>(BodyOf(replies_[shard]).data());
    for (std::size_t g = 0; g < rows_.size(); ++g) {
      const GroupKeys& keys = batch.keys.groups[g];
      const std::size_t begin = keys.shard_begin[shard];
      const std::size_t count = keys.shard_begin[shard + 1] - begin;
      for (std::size_t t = 0; t < rows_[g].size(); ++t) {
        const std::uint32_t dim = plan_->tables[plan_->groups[g].tables[t]].dim;
        TableRows& rows = rows_[g][t];
        if (replies_.size() == 1) {
          rows.rows = floats;
        } else {
          rows.storage.resize(std::max(rows.storage.size(), keys.keys.size() * dim));
          rows.rows = rows.storage.data();
          std::copy_n(floats, count * dim, rows.storage.data() + begin * dim);
        }
        floats += count * dim;
      }
    }
    if (!dense) {
      continue;
    }
    for (const std::uint32_t b : shard_blocks_[shard]) {
      const DenseBlock& block = plan_->dense.blocks()[b];
      std::copy_n(floats, block.count, dense_values_.data() + block.offset);
      floats += block.count;
    }
  }
}

const ModelInput& BatchInput::Make(const PreparedBatch& batch, std::uint64_t step, bool train) {
  input_.samples = batch.batch.samples;
  input_.labels = batch.batch.labels;
  input_.dense = batch.batch.dense;
  input_.seed = plan_->seed();
  input_.step = step;
  input_.rank = rank_;
  input_.embeddings.clear();
  input_.linears.clear();
  for (std::size_t g = 0; train && g < rows_.size(); ++g) {
    for (std::size_t t = 0; t < rows_[g].size(); ++t) {
      const std::uint32_t dim = plan_->tables[plan_->groups[g].tables[t]].dim;
      rows_[g][t].gradients.assign(batch.keys.groups[g].keys.size() * dim, 0.0f);
    }
  }
  for (std::uint32_t f = 0; f < plan_->fields.size(); ++f) {
    const FieldTables& field = plan_->fields[f];
    const auto& tables = plan_->groups[field.group].tables;
    for (const std::uint32_t table : {field.embedding, field.linear}) {
      if (table == kNoTable) {
        continue;
      }
      const auto at =
          static_cast<std::size_t>(std::find(tables.begin(), tables.end(), table) - tables.begin());
      TableRows& rows = rows_[field.group][at];
      Lookup lookup;
      lookup.dim = plan_->tables[table].dim;
      lookup.rows = rows.rows;
      lookup.row_gradients = train ? rows.gradients.data() : nullptr;
      lookup.indices = batch.keys.indices[f];
      lookup.offsets = batch.batch.sparse[f].offsets;
      lookup.weights = batch.batch.sparse[f].weights;
      lookup.pooling = field.pooling;
      (table == field.embedding ? input_.embeddings : input_.linears).push_back(lookup);
    }
  }
  return input_;
}

void BatchInput::ClipGradients(float bound) {
  for (auto& group : rows_) {
    for (TableRows& rows : group) {
      for (float& value : rows.gradients) {
        value = std::clamp(value, -bound, bound);
      }
    }
  }
}

std::vector<std::vector<const float*>> BatchInput::gradients() const {
  std::vector<std::vector<const float*>> pointers;
  for (const auto& group : rows_) {
    auto& tables = pointers.emplace_back();
    for (const TableRows& rows : group) {
      tables.push_back(rows.gradients.data());
    }
  }
  return pointers;
}

}  // namespace plexus
