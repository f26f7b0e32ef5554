#include "worker/step_keys.h"

#include <algorithm>
#include <bit>
#include <utility>

namespace plexus {

StepKeysBuilder::StepKeysBuilder(const JobPlan& plan, std::vector<std::uint32_t> bucket_map,
                                 std::uint32_t shards)
    : plan_(plan), bucket_map_(std::move(bucket_map)), shards_(shards) {}

void StepKeysBuilder::Build(const Batch& batch, StepKeys* out) {
  out->groups.resize(plan_.groups.size());
  out->indices.resize(plan_.fields.size());
  for (std::size_t g = 0; g < plan_.groups.size(); ++g) {
    BuildGroup(plan_.groups[g], batch, &out->groups[g], &out->indices);
  }
}

void StepKeysBuilder::BuildGroup(const KeyGroup& group, const Batch& batch, GroupKeys* keys,
                                 std::vector<std::vector<std::uint32_t>>* indices) {
  keys->keys.clear();
  keys->counts.clear();
  std::size_t values = 0;
  for (const std::uint32_t field : group.fields) {
    values += batch.sparse[field].keys.size();
  }
  const std::size_t capacity = std::bit_ceil(std::max<std::size_t>(16, values * 2));
  if (slots_.size() < capacity) {
    slots_.assign(capacity, Slot{0, 0, 0});
    stamp_ = 0;
  }
  mask_ = slots_.size() - 1;
  if (++stamp_ == 0) {  // Wrapped: old stamps would look new.
    std::fill(slots_.begin(), slots_.end(), Slot{0, 0, 0});
    stamp_ = 1;
  }
  constexpr std::size_t kAhead = 8;
  for (const std::uint32_t field : group.fields) {
    const std::vector<Key>& column = batch.sparse[field].keys;
    std::vector<std::uint32_t>& positions = (*indices)[field];
    positions.resize(column.size());
    const auto key_of = [&](std::size_t i) {
      return group.array_rows > 0 ? column[i] % group.array_rows : column[i];
    };
    for (std::size_t i = 0; i < column.size(); ++i) {
      if (i + kAhead < column.size()) {
        __builtin_prefetch(&slots_[Mix64(key_of(i + kAhead)) & mask_]);
      }
      positions[i] = Insert(key_of(i), keys);
    }
  }
  OrderByShard(group, keys, indices);
}

std::uint32_t StepKeysBuilder::Insert(Key key, GroupKeys* keys) {
  for (std::uint64_t at = Mix64(key) & mask_;; at = (at + 1) & mask_) {
    Slot& slot = slots_[at];
    if (slot.stamp != stamp_) {
      slot = {key, stamp_, static_cast<std::uint32_t>(keys->keys.size())};
      keys->keys.push_back(key);
      keys->counts.push_back(1);
      return slot.position;
    }
    if (slot.key == key) {
      ++keys->counts[slot.position];
      return slot.position;
    }
  }
}

void StepKeysBuilder::OrderByShard(const KeyGroup& group, GroupKeys* keys,
                                   std::vector<std::vector<std::uint32_t>>* indices) {
  const std::size_t count = keys->keys.size();
  keys->shard_begin.assign(shards_ + 1, 0);
  keys->shard_begin[shards_] = static_cast<std::uint32_t>(count);
  if (shards_ == 1) {
    return;
  }
  std::vector<std::uint32_t> shard_of(count);
  std::vector<std::uint32_t> next(shards_ + 1, 0);
  for (std::size_t i = 0; i < count; ++i) {
    const std::uint32_t bucket = group.array_rows > 0 ? BucketOfRow(keys->keys[i], plan_.buckets())
                                                      : BucketOfKey(keys->keys[i], plan_.buckets());
    shard_of[i] = bucket_map_[bucket];
    ++next[shard_of[i] + 1];
  }
  for (std::uint32_t s = 0; s < shards_; ++s) {
    next[s + 1] += next[s];
    keys->shard_begin[s + 1] = next[s + 1];
  }
  std::vector<std::uint32_t> place(count);
  std::vector<Key> ordered(count);
  std::vector<std::uint32_t> counts(count);
  for (std::size_t i = 0; i < count; ++i) {
    place[i] = next[shard_of[i]]++;
    ordered[place[i]] = keys->keys[i];
    counts[place[i]] = keys->counts[i];
  }
  keys->keys = std::move(ordered);
  keys->counts = std::move(counts);
  for (const std::uint32_t field : group.fields) {
    for (std::uint32_t& position : (*indices)[field]) {
      position = place[position];
    }
  }
}

}  // namespace plexus
