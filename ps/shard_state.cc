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

// Blocks of the dense parameters that `shard` owns, ascending.
std::vector<std::uint32_t> OwnedBlocks(const JobPlan& plan,
                                       const std::vector<std::uint32_t>& bucket_map,
                                       std::uint32_t shard) {
  std::vector<std::uint32_t> owned;
  for (std::uint32_t b = 0; b < plan.dense.blocks().size(); ++b) {
    if (bucket_map[BucketOfRow(b, plan.buckets())] == shard) {
      owned.push_back(b);
    }
  }
  return owned;
}

}  // namespace

ShardState::ShardState(std::shared_ptr<const JobPlan> plan, std::uint32_t shard,
                       std::uint32_t shards)
    : plan_(std::move(plan)),
      bucket_map_(InitialBucketMap(plan_->buckets(), shards)),
      shard_(shard),
      dense_(plan_, OwnedBlocks(*plan_, bucket_map_, shard)) {
  for (const TableSpec& spec : plan_->tables) {
    tables_.push_back(std::make_unique<Table>(spec, plan_->seed(), plan_->buckets()));
  }
}

void ShardState::WritePullReply(const PullBody& pull, bool dense, std::uint8_t* out) const {
  auto* floats = reinterpret_cast<float*>(out);
  for (const KeyBlock& block : pull.groups) {
    for (const std::uint32_t t : plan_->groups[block.group].tables) {
      tables_[t]->Pull(block.keys, floats);
      floats += block.keys.size() * plan_->tables[t].dim;
    }
  }
  if (dense) {
    dense_.CopyValues(floats);
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
  for (std::size_t i = 0; i < dense_.blocks().size(); ++i) {
    const std::uint32_t count = dense_.block(i).count;
    scratch_.resize(std::max<std::size_t>(scratch_.size(), count));
    if (dense_.IsWeight(i) && SumDense(parts, first, count, scale, scratch_.data())) {
      proto::BlockNorm& norm = norms.emplace_back();
      norm.set_block(dense_.blocks()[i]);
      norm.set_sum_of_squares(SumOfSquares({scratch_.data(), count}));
    }
    first += count;
  }
  return norms;
}

void ShardState::ApplyStep(std::uint64_t version, std::span<const PushBody* const> parts,
                           float rate_factor, float dense_scale) {
  for (const PushBody* part : parts) {
    if (!part->dense_state.empty()) {
      dense_.Replace(part->dense_state);
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
  for (std::size_t i = 0; i < dense_.blocks().size(); ++i) {
    const std::uint32_t count = dense_.block(i).count;
    scratch_.resize(std::max<std::size_t>(scratch_.size(), count));
    if (SumDense(parts, first, count, scale, scratch_.data())) {
      dense_.Apply(i, scratch_.data(), rate_factor, dense_scale);
    }
    first += count;
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
  const auto& owned = dense_.blocks();
  const auto at = std::lower_bound(owned.begin(), owned.end(), block);
  if (at == owned.end() || *at != block) {
    return OkStatus();
  }
  return dense_.ReplaceBlock(static_cast<std::size_t>(at - owned.begin()), floats);
}

Digest128 ShardState::Digest() const {
  Digest128 digest = dense_.Digest();
  for (const auto& table : tables_) {
    digest += table->Digest();
  }
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
  std::uint64_t bytes = dense_.memory_bytes();
  for (const auto& table : tables_) {
    bytes += table->memory_bytes();
  }
  return bytes;
}

std::string DigestHex(const Digest128& digest) {
  char text[33];
  std::snprintf(text, sizeof(text), "%016llx%016llx", static_cast<unsigned long long>(digest.high),
                static_cast<unsigned long long>(digest.low));
  return text;
}

}  // namespace plexus
