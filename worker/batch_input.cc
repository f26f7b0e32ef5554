#include "worker/batch_input.h"

#include <algorithm>
#include <cstring>
#include <utility>

#include "common/precision/finite.h"
#include "proto/frame.h"

namespace plexus {

BatchInput::BatchInput(std::shared_ptr<const JobPlan> plan, std::uint32_t rank,
                       std::vector<std::vector<std::uint32_t>> shard_blocks)
    : plan_(std::move(plan)),
      rank_(rank),
      shard_blocks_(std::move(shard_blocks)),
      embedding_reads_(ReadsOf(&FieldTables::embedding, &FieldTables::embedding_group)),
      linear_reads_(ReadsOf(&FieldTables::linear, &FieldTables::linear_group)),
      dense_values_(plan_->dense.size(), 0.0f) {
  for (const KeyGroup& group : plan_->groups) {
    rows_.emplace_back(group.tables.size());
  }
}

std::vector<BatchInput::Read> BatchInput::ReadsOf(std::uint32_t FieldTables::*table,
                                                  std::uint32_t FieldTables::*group) const {
  const auto position = [](const std::vector<std::uint32_t>& in, std::uint32_t value) {
    return static_cast<std::uint32_t>(std::find(in.begin(), in.end(), value) - in.begin());
  };
  std::vector<Read> reads;
  for (std::uint32_t f = 0; f < plan_->fields.size(); ++f) {
    const FieldTables& field = plan_->fields[f];
    if (field.*table != kNoTable) {
      const KeyGroup& keys = plan_->groups[field.*group];
      reads.push_back(
          {f, field.*group, position(keys.tables, field.*table), position(keys.fields, f)});
    }
  }
  return reads;
}

void BatchInput::TakeReplies(const PreparedBatch& batch, std::vector<Bytes> replies, bool dense) {
  replies_ = std::move(replies);
  for (std::uint32_t shard = 0; shard < replies_.size(); ++shard) {
    const std::uint8_t* at = BodyOf(replies_[shard]).data();
    for (std::size_t g = 0; g < rows_.size(); ++g) {
      const GroupKeys& keys = batch.keys.groups[g];
      for (std::size_t t = 0; t < rows_[g].size(); ++t) {
        at = TakeRows(keys, shard, at, WireDim(*plan_, plan_->groups[g], t), &rows_[g][t]);
      }
    }
    if (!dense) {
      continue;
    }
    for (const std::uint32_t b : shard_blocks_[shard]) {
      const DenseBlock& block = plan_->dense.blocks()[b];
      const std::size_t bytes = block.count * sizeof(float);
      std::memcpy(dense_values_.data() + block.offset, at, bytes);
      at += bytes;
    }
  }
}

const std::uint8_t* BatchInput::TakeRows(const GroupKeys& keys, std::uint32_t shard,
                                         const std::uint8_t* wire, std::uint32_t dim,
                                         TableRows* rows) const {
  const Precision precision = PullPrecision(*plan_);
  const std::size_t begin = keys.shard_begin[shard];
  const std::size_t count = keys.shard_begin[shard + 1] - begin;
  if (replies_.size() == 1 && precision == Precision::kF32) {
    rows->rows = reinterpret_cast<const float*>(wire);
  } else {
    rows->storage.resize(std::max(rows->storage.size(), keys.keys.size() * dim));
    rows->rows = rows->storage.data();
    if (count > 0) {
      DecodeWireRows(precision, wire, count, dim, rows->storage.data() + begin * dim);
    }
  }
  return wire + count * WireRowBytes(precision, dim);
}

const ModelInput& BatchInput::Make(const PreparedBatch& batch, std::uint64_t step, bool train) {
  input_.samples = batch.batch.samples;
  input_.labels = batch.batch.labels;
  input_.dense = batch.batch.dense;
  input_.seed = plan_->seed();
  input_.step = step;
  input_.rank = rank_;
  for (std::size_t g = 0; g < rows_.size(); ++g) {
    const GroupKeys& keys = batch.keys.groups[g];
    for (std::size_t t = 0; t < rows_[g].size(); ++t) {
      const std::uint32_t dim = WireDim(*plan_, plan_->groups[g], t);
      TableRows& rows = rows_[g][t];
      if (train) {
        rows.gradients.assign(keys.keys.size() * dim, 0.0f);
      }
      if (plan_->groups[g].addresser.has_value()) {
        const std::size_t floats = keys.combination.vectors() * dim;
        rows.vectors.resize(std::max(rows.vectors.size(), floats));
        CombineRows(keys.combination, rows.rows, dim, dim, rows.vectors.data());
        rows.vector_gradients.assign(train ? floats : 0, 0.0f);
      }
    }
  }
  input_.embeddings.clear();
  for (const Read& read : embedding_reads_) {
    input_.embeddings.push_back(LookupOf(batch, read, train));
  }
  input_.linears.clear();
  for (const Read& read : linear_reads_) {
    input_.linears.push_back(LookupOf(batch, read, train));
  }
  return input_;
}

Lookup BatchInput::LookupOf(const PreparedBatch& batch, const Read& read, bool train) {
  const KeyGroup& group = plan_->groups[read.group];
  TableRows& rows = rows_[read.group][read.table];
  const bool combined = group.addresser.has_value();
  Lookup lookup;
  lookup.dim = WireDim(*plan_, group, read.table);
  lookup.rows = combined ? rows.vectors.data() : rows.rows;
  if (train) {
    lookup.row_gradients = combined ? rows.vector_gradients.data() : rows.gradients.data();
  }
  lookup.indices = batch.keys.groups[read.group].indices[read.field_in_group];
  lookup.offsets = batch.batch.sparse[read.field].offsets;
  lookup.weights = batch.batch.sparse[read.field].weights;
  lookup.pooling = plan_->fields[read.field].pooling;
  return lookup;
}

void BatchInput::SpreadGradients(const PreparedBatch& batch) {
  for (std::size_t g = 0; g < rows_.size(); ++g) {
    for (std::size_t t = 0; t < rows_[g].size() && plan_->groups[g].addresser.has_value(); ++t) {
      const std::uint32_t dim = WireDim(*plan_, plan_->groups[g], t);
      TableRows& rows = rows_[g][t];
      plexus::SpreadGradients(batch.keys.groups[g].combination, rows.vector_gradients.data(), dim,
                              dim, rows.gradients.data());
    }
  }
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

bool BatchInput::GradientsAreFinite() const {
  for (const auto& group : rows_) {
    for (const TableRows& rows : group) {
      if (!AllFinite(rows.gradients.data(), rows.gradients.size())) {
        return false;
      }
    }
  }
  return true;
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
