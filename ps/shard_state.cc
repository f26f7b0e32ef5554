#include "ps/shard_state.h"

#include <algorithm>
#include <cstdio>
#include <cstring>

#include "common/failpoint.h"

namespace plexus {
namespace {

std::uint64_t SampleCount(std::span<const PushBody* const> parts) {
  std::uint64_t samples = 0;
  for (const PushBody* part : parts) {
    samples += part->samples;
  }
  return samples;
}

// Of the keys of `block` in the `table`-th table of its group.
std::span<const PullHint> HintsOf(const PullHints* hints, const KeyBlock& block,
                                  std::size_t table) {
  if (hints != nullptr) {
    for (const PullHints::Entry& entry : hints->entries) {
      if (entry.group == block.group && entry.table == table &&
          entry.hints.size() == block.keys.size()) {
        return entry.hints;
      }
    }
  }
  return {};
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
  std::vector<std::uint32_t> owned;
  for (std::uint32_t b = 0; b < plan_->buckets(); ++b) {
    if (bucket_map_[b] == shard) {
      owned.push_back(b);
    }
  }
  for (const TableSpec& spec : plan_->tables) {
    tables_.push_back(MakeTable(spec, plan_->seed(), plan_->buckets(), owned));
    spills_ = spills_ || spec.spills;
  }
}

void ShardState::WritePullReply(const PullBody& pull, bool dense, std::uint8_t* out,
                                PullHints* hints) const {
  const Precision precision = PullPrecision(*plan_);
  if (hints != nullptr) {
    hints->entries.clear();
  }
  for (const KeyBlock& block : pull.groups) {
    const KeyGroup& group = plan_->groups[block.group];
    for (std::size_t t = 0; t < group.tables.size(); ++t) {
      const std::uint32_t dim = WireDim(*plan_, group, t);
      const Table& table = *tables_[group.tables[t]];
      PullHint* hints_of_keys = nullptr;
      if (hints != nullptr && table.gives_hints()) {
        PullHints::Entry& entry = hints->entries.emplace_back();
        entry.group = block.group;
        entry.table = static_cast<std::uint32_t>(t);
        entry.hints.resize(block.keys.size());
        hints_of_keys = entry.hints.data();
      }
      table.Pull(block.keys, dim, precision, out, hints_of_keys);
      out += block.keys.size() * WireRowBytes(precision, dim);
    }
  }
  if (dense) {
    dense_.CopyValues(reinterpret_cast<float*>(out));
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

Bytes ShardState::SumOfDense(std::span<const PushBody* const> parts) const {
  const std::uint64_t count = dense_extent().values;
  ByteWriter writer(count * sizeof(float));
  auto* const sum = reinterpret_cast<float*>(writer.Reserve(count * sizeof(float)));
  return SumDense(parts, 0, static_cast<std::uint32_t>(count), 1.0f, sum) ? writer.Finish()
                                                                          : Bytes();
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
                           float rate_factor, float dense_scale,
                           std::span<const PullHints* const> hints) {
  for (const PushBody* part : parts) {
    if (!part->dense_state.empty()) {
      dense_.Replace(part->dense_state);
    }
  }
  const std::uint64_t samples = SampleCount(parts);
  if (samples > 0) {
    const float scale = 1.0f / static_cast<float>(samples);
    ApplyTables(version, parts, scale, rate_factor, hints);
    Failpoint("shard.applying");
    ApplyDense(parts, scale, rate_factor, dense_scale);
  }
  if (version > ended_version_) {  // In ASP a version has many calls.
    ended_version_ = version;
    for (const auto& table : tables_) {
      table->EndVersion(version);
    }
  }
}

// The block's gradients of its t-th table as floats; *used counts the buffers that are taken.
const float* ShardState::Decoded(const KeyBlock& block, std::size_t t, std::uint32_t dim,
                                 std::size_t* used) {
  const Precision precision = PushPrecision(*plan_);
  const auto* bytes = reinterpret_cast<const std::uint8_t*>(block.gradients[t].data());
  if (precision == Precision::kF32) {
    return reinterpret_cast<const float*>(bytes);
  }
  if (decoded_.size() == *used) {
    decoded_.emplace_back();
  }
  std::vector<float>& floats = decoded_[(*used)++];
  floats.resize(std::max(floats.size(), block.keys.size() * dim));
  DecodeWireRows(precision, bytes, block.keys.size(), dim, floats.data());
  return floats.data();
}

void ShardState::ApplyTables(std::uint64_t version, std::span<const PushBody* const> parts,
                             float scale, float rate_factor,
                             std::span<const PullHints* const> hints) {
  std::vector<GradientPart> gradient_parts;
  for (std::uint32_t t = 0; t < tables_.size(); ++t) {
    gradient_parts.clear();
    std::size_t used = 0;
    for (std::size_t p = 0; p < parts.size(); ++p) {
      const PullHints* part_hints = p < hints.size() ? hints[p] : nullptr;
      for (const KeyBlock& block : parts[p]->groups) {
        const KeyGroup& group = plan_->groups[block.group];
        const auto found = std::find(group.tables.begin(), group.tables.end(), t);
        if (found == group.tables.end() || block.keys.empty()) {
          continue;
        }
        const auto at = static_cast<std::size_t>(found - group.tables.begin());
        const std::uint32_t dim = WireDim(*plan_, group, at);
        gradient_parts.push_back({.keys = block.keys,
                                  .counts = block.counts,
                                  .gradients = Decoded(block, at, dim, &used),
                                  .dim = dim,
                                  .hints = HintsOf(part_hints, block, at)});
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

void ShardState::Reserve(const std::string& table, std::uint64_t rows) {
  const auto owned =
      static_cast<std::uint64_t>(std::count(bucket_map_.begin(), bucket_map_.end(), shard_));
  for (const auto& candidate : tables_) {
    if (candidate->spec().name == table) {
      candidate->Reserve(rows * owned / bucket_map_.size());
    }
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

Status ShardState::RestoreFilter(std::uint32_t table, std::uint32_t bucket,
                                 const std::string& bytes) {
  return bucket_map_[bucket] == shard_ ? tables_[table]->RestoreFilter(bucket, bytes) : OkStatus();
}

Status ShardState::RestoreDenseBlock(std::uint32_t block, std::span<const float> floats) {
  const auto& owned = dense_.blocks();
  const auto at = std::lower_bound(owned.begin(), owned.end(), block);
  if (at == owned.end() || *at != block) {
    return OkStatus();
  }
  return dense_.ReplaceBlock(static_cast<std::size_t>(at - owned.begin()), floats);
}

std::uint64_t ShardState::FindCold(std::span<const KeyBlock> groups,
                                   std::vector<ColdKeys>* cold) const {
  std::uint64_t absent = 0;
  for (const KeyBlock& block : groups) {
    for (const std::uint32_t t : plan_->groups[block.group].tables) {
      std::vector<Key> keys;
      absent += tables_[t]->FindCold(block.keys, &keys);
      if (keys.empty()) {
        continue;
      }
      const auto same = std::find_if(cold->begin(), cold->end(),
                                     [t](const ColdKeys& entry) { return entry.table == t; });
      ColdKeys& entry = same == cold->end() ? cold->emplace_back() : *same;
      entry.table = t;
      entry.keys.insert(entry.keys.end(), keys.begin(), keys.end());
      const auto by_hash = [](Key a, Key b) { return Mix64(a) < Mix64(b); };
      std::sort(entry.keys.begin(), entry.keys.end(), by_hash);
      entry.keys.erase(std::unique(entry.keys.begin(), entry.keys.end()), entry.keys.end());
    }
  }
  return absent;
}

std::vector<ColdBatch> ShardState::Spill(std::uint64_t bytes) {
  const auto hot_bytes = [](const Table& table) {
    return table.spec().spills
               ? (table.row_count() - table.cold_count()) * std::uint64_t{table.cold_record_bytes()}
               : 0;
  };
  std::uint64_t all = 0;
  for (const auto& table : tables_) {
    all += hot_bytes(*table);
  }
  std::vector<ColdBatch> batches;
  for (std::uint32_t t = 0; t < tables_.size(); ++t) {
    const std::uint64_t hot = hot_bytes(*tables_[t]);
    if (hot == 0) {
      continue;
    }
    const double share = static_cast<double>(hot) / static_cast<double>(all);
    ColdBatch batch;
    batch.table = t;
    tables_[t]->Spill(static_cast<std::uint64_t>(share * static_cast<double>(bytes)), &batch);
    if (!batch.keys.empty()) {
      batches.push_back(std::move(batch));
    }
  }
  return batches;
}

std::vector<ColdKeys> ShardState::TakeForgotten() {
  std::vector<ColdKeys> forgotten;
  for (std::uint32_t t = 0; t < tables_.size(); ++t) {
    std::vector<Key> keys = tables_[t]->TakeForgotten();
    if (!keys.empty()) {
      std::sort(keys.begin(), keys.end(), [](Key l, Key r) { return Mix64(l) < Mix64(r); });
      keys.erase(std::unique(keys.begin(), keys.end()), keys.end());
      forgotten.push_back({t, std::move(keys)});
    }
  }
  return forgotten;
}

std::uint64_t ShardState::cold_count() const {
  std::uint64_t rows = 0;
  for (const auto& table : tables_) {
    rows += table->cold_count();
  }
  return rows;
}

std::uint64_t ShardState::bytes_of_new_rows(std::uint64_t rows) const {
  constexpr std::uint64_t kBeside = 24;  // Index and counts.
  std::uint64_t largest = 0;
  std::uint64_t growth = 0;
  for (const auto& table : tables_) {
    largest = std::max<std::uint64_t>(largest, table->layout().record_bytes() + kBeside);
    growth += table->index_growth_bytes(rows);
  }
  return rows * largest + growth;
}

bool ShardState::Compact(bool eager) {
  bool more = false;
  for (const auto& table : tables_) {
    more = table->Compact(eager) || more;
  }
  return more;
}

void ShardState::set_refuse_new_rows(bool refuse) {
  for (const auto& table : tables_) {
    table->set_refuse_new_rows(refuse);
  }
}

std::uint64_t ShardState::EvictOldest(std::uint64_t bytes) {
  std::uint64_t freed = 0;
  for (const auto& table : tables_) {
    freed += freed < bytes ? table->EvictOldest(bytes - freed) : 0;
  }
  return freed;
}

std::uint64_t ShardState::free_bytes() const {
  std::uint64_t bytes = 0;
  for (const auto& table : tables_) {
    bytes += table->memory().free_bytes;
  }
  return bytes;
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
