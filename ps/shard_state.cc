#include "ps/shard_state.h"

#include <algorithm>
#include <cstdio>
#include <cstring>

namespace plexus {
namespace {

std::uint64_t SampleCount(std::span<const PushBody* const> parts) {
  std::uint64_t samples = 0;
  for (const PushBody* part : parts) {
    samples += part->samples;
  }
  return samples;
}

OptimizerOptions StatisticOptions() {
  OptimizerOptions options;
  options.kind = OptimizerKind::kAverage;
  options.momentum = 0.1f;  // PyTorch's default for running statistics.
  return options;
}

}  // namespace

ShardState::ShardState(std::shared_ptr<const JobPlan> plan, std::uint32_t shard,
                       std::uint32_t shards)
    : plan_(std::move(plan)),
      bucket_map_(InitialBucketMap(plan_->buckets(), shards)),
      shard_(shard),
      dense_rule_(MakeOptimizer(plan_->dense_optimizer)),
      statistic_rule_(MakeOptimizer(StatisticOptions())) {
  for (const TableSpec& spec : plan_->tables) {
    tables_.push_back(std::make_unique<Table>(spec, plan_->seed(), plan_->buckets()));
  }
  const auto& blocks = plan_->dense.blocks();
  for (std::uint32_t b = 0; b < blocks.size(); ++b) {
    if (bucket_map_[BucketOfRow(b, plan_->buckets())] != shard_) {
      continue;
    }
    const std::uint32_t count = blocks[b].count;
    const std::uint32_t floats = count + RuleOf(blocks[b]).state_floats(count);
    dense_blocks_.push_back(b);
    dense_offsets_.push_back(dense_.size());
    dense_.resize(dense_.size() + floats);
    float* values = dense_.data() + dense_offsets_.back();
    plan_->dense.InitialValues(blocks[b], plan_->seed(), {values, count});
    RuleOf(blocks[b]).InitState(count, values + count);
    dense_extent_.values += count;
    dense_extent_.with_state += floats;
  }
}

const Optimizer& ShardState::RuleOf(const DenseBlock& block) const {
  const DenseParameterSpec& spec = plan_->dense.parameters()[block.parameter];
  return spec.kind == DenseParameterSpec::Kind::kStatistic ? *statistic_rule_ : *dense_rule_;
}

void ShardState::WritePullReply(const PullBody& pull, bool dense, std::uint8_t* out) const {
  auto* floats = reinterpret_cast<float*>(out);
  for (const KeyBlock& block : pull.groups) {
    for (const std::uint32_t t : plan_->groups[block.group].tables) {
      tables_[t]->Pull(block.keys, floats);
      floats += block.keys.size() * plan_->tables[t].dim;
    }
  }
  if (!dense) {
    return;
  }
  for (std::size_t i = 0; i < dense_blocks_.size(); ++i) {
    const std::uint32_t count = plan_->dense.blocks()[dense_blocks_[i]].count;
    std::memcpy(floats, dense_.data() + dense_offsets_[i], count * sizeof(float));
    floats += count;
  }
}

bool ShardState::SumDense(std::span<const PushBody* const> parts, std::uint64_t first,
                          std::uint32_t count, float scale, float* sum) const {
  bool any = false;
  for (const PushBody* part : parts) {
    if (part->dense.empty()) {
      continue;
    }
    const float* gradient = part->dense.data() + first;
    if (!any) {
      std::copy_n(gradient, count, sum);
      any = true;
    } else {
      for (std::uint32_t i = 0; i < count; ++i) {
        sum[i] += gradient[i];
      }
    }
  }
  if (any) {
    for (std::uint32_t i = 0; i < count; ++i) {
      sum[i] *= scale;
    }
  }
  return any;
}

std::vector<proto::BlockNorm> ShardState::DenseNorms(std::span<const PushBody* const> parts) const {
  std::vector<proto::BlockNorm> norms;
  const std::uint64_t samples = SampleCount(parts);
  if (samples == 0) {
    return norms;
  }
  const float scale = 1.0f / static_cast<float>(samples);
  std::uint64_t first = 0;
  for (const std::uint32_t b : dense_blocks_) {
    const DenseBlock& block = plan_->dense.blocks()[b];
    scratch_.resize(std::max<std::size_t>(scratch_.size(), block.count));
    const bool weight =
        plan_->dense.parameters()[block.parameter].kind == DenseParameterSpec::Kind::kWeight;
    if (weight && SumDense(parts, first, block.count, scale, scratch_.data())) {
      double sum = 0;  // One chain of additions: the same at any number of shards.
      for (std::uint32_t i = 0; i < block.count; ++i) {
        sum += static_cast<double>(scratch_[i]) * scratch_[i];
      }
      proto::BlockNorm norm;
      norm.set_block(b);
      norm.set_sum_of_squares(sum);
      norms.push_back(norm);
    }
    first += block.count;
  }
  return norms;
}

void ShardState::ApplyStep(std::uint64_t version, std::span<const PushBody* const> parts,
                           float rate_factor, float dense_scale) {
  for (const PushBody* part : parts) {
    if (!part->dense_state.empty()) {
      std::copy(part->dense_state.begin(), part->dense_state.end(), dense_.begin());
    }
  }
  const std::uint64_t samples = SampleCount(parts);
  if (samples == 0) {
    return;
  }
  const float scale = 1.0f / static_cast<float>(samples);
  ApplyTables(version, parts, scale, rate_factor);
  ApplyDense(parts, scale, rate_factor, dense_scale);
}

void ShardState::ApplyTables(std::uint64_t version, std::span<const PushBody* const> parts,
                             float scale, float rate_factor) {
  std::vector<GradientPart> gradient_parts;
  for (std::uint32_t t = 0; t < tables_.size(); ++t) {
    gradient_parts.clear();
    for (const PushBody* part : parts) {
      for (const KeyBlock& block : part->groups) {
        const auto& tables = plan_->groups[block.group].tables;
        const auto at = std::find(tables.begin(), tables.end(), t);
        if (at == tables.end() || block.keys.empty()) {
          continue;
        }
        gradient_parts.push_back(
            {.keys = block.keys,
             .counts = block.counts,
             .gradients = block.gradients[static_cast<std::size_t>(at - tables.begin())].data()});
      }
    }
    if (!gradient_parts.empty()) {
      const float table_scale = plan_->tables[t].sum_gradients ? 1.0f : scale;
      tables_[t]->ApplyStep(version, gradient_parts, table_scale, rate_factor);
    }
  }
}

void ShardState::ApplyDense(std::span<const PushBody* const> parts, float scale, float rate_factor,
                            float dense_scale) {
  std::uint64_t first = 0;
  for (std::size_t i = 0; i < dense_blocks_.size(); ++i) {
    const DenseBlock& block = plan_->dense.blocks()[dense_blocks_[i]];
    const bool weight =
        plan_->dense.parameters()[block.parameter].kind == DenseParameterSpec::Kind::kWeight;
    scratch_.resize(std::max<std::size_t>(scratch_.size(), block.count));
    if (SumDense(parts, first, block.count, scale, scratch_.data())) {
      if (weight && dense_scale != 1.0f) {
        for (std::uint32_t e = 0; e < block.count; ++e) {
          scratch_[e] *= dense_scale;
        }
      }
      float* row = dense_.data() + dense_offsets_[i];
      RuleOf(block).Apply({&row, 1}, block.count, scratch_.data(), weight ? rate_factor : 1.0f);
    }
    first += block.count;
  }
}

void ShardState::RestoreRow(std::uint32_t table, const RowView& row) {
  const bool array = plan_->tables[table].kind == TableSpec::Kind::kArray;
  const std::uint32_t bucket =
      array ? BucketOfRow(row.key, plan_->buckets()) : BucketOfKey(row.key, plan_->buckets());
  if (bucket_map_[bucket] == shard_) {
    tables_[table]->Restore(row);
  }
}

Status ShardState::RestoreDenseBlock(std::uint32_t block, std::span<const float> floats) {
  const auto at = std::lower_bound(dense_blocks_.begin(), dense_blocks_.end(), block);
  if (at == dense_blocks_.end() || *at != block) {
    return OkStatus();
  }
  const auto i = static_cast<std::size_t>(at - dense_blocks_.begin());
  const std::uint64_t end = i + 1 < dense_offsets_.size() ? dense_offsets_[i + 1] : dense_.size();
  if (floats.size() != end - dense_offsets_[i]) {
    return InvalidArgument("dense block " + std::to_string(block) + " has " +
                           std::to_string(floats.size()) + " floats, the job's model has " +
                           std::to_string(end - dense_offsets_[i]));
  }
  std::copy(floats.begin(), floats.end(),
            dense_.begin() + static_cast<std::ptrdiff_t>(dense_offsets_[i]));
  return OkStatus();
}

void ShardState::ForEachDenseBlock(
    const std::function<void(std::uint32_t, std::span<const float>)>& visit) const {
  for (std::size_t i = 0; i < dense_blocks_.size(); ++i) {
    const std::uint64_t end = i + 1 < dense_offsets_.size() ? dense_offsets_[i + 1] : dense_.size();
    visit(dense_blocks_[i], {dense_.data() + dense_offsets_[i], end - dense_offsets_[i]});
  }
}

Digest128 ShardState::Digest() const {
  Digest128 digest;
  for (const auto& table : tables_) {
    digest += table->Digest();
  }
  ForEachDenseBlock([&](std::uint32_t block, std::span<const float> floats) {
    digest += DenseBlockDigest(plan_->dense, plan_->dense.blocks()[block], floats);
  });
  return digest;
}

std::vector<proto::TableUsage> ShardState::Usage() const {
  std::vector<proto::TableUsage> usage;
  for (const auto& table : tables_) {
    proto::TableUsage& entry = usage.emplace_back();
    entry.set_name(table->spec().name);
    entry.set_rows(table->row_count());
    entry.set_bytes(table->memory_bytes());
  }
  return usage;
}

std::uint64_t ShardState::memory_bytes() const {
  std::uint64_t bytes = dense_.size() * sizeof(float);
  for (const auto& table : tables_) {
    bytes += table->memory_bytes();
  }
  return bytes;
}

Digest128 DenseBlockDigest(const DenseLayout& layout, const DenseBlock& block,
                           std::span<const float> values_and_state) {
  std::string bytes = layout.parameters()[block.parameter].name;
  bytes.push_back('\0');
  const std::uint64_t first = block.first;
  bytes.append(reinterpret_cast<const char*>(&first), sizeof(first));
  bytes.append(reinterpret_cast<const char*>(values_and_state.data()),
               values_and_state.size_bytes());
  return HashBytes128(bytes);
}

std::string DigestHex(const Digest128& digest) {
  char text[33];
  std::snprintf(text, sizeof(text), "%016llx%016llx", static_cast<unsigned long long>(digest.high),
                static_cast<unsigned long long>(digest.low));
  return text;
}

}  // namespace plexus
