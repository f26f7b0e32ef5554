#include "worker/step_keys.h"

#include <algorithm>
#include <bit>
#include <utility>

#include "common/prefetch.h"

namespace plexus {

StepKeysBuilder::StepKeysBuilder(const JobPlan& plan, std::vector<std::uint32_t> bucket_map,
                                 std::uint32_t shards)
    : plan_(plan), bucket_map_(std::move(bucket_map)), shards_(shards) {
  for (const KeyGroup& group : plan_.groups) {
    addressers_.emplace_back();
    if (group.addresser.has_value()) {
      addressers_.back().emplace(*group.addresser);
    }
  }
}

void StepKeysBuilder::Build(const Batch& batch, StepKeys* out) {
  out->groups.resize(plan_.groups.size());
  for (std::size_t g = 0; g < plan_.groups.size(); ++g) {
    const KeyGroup& group = plan_.groups[g];
    GroupKeys* const keys = &out->groups[g];
    keys->combination.Clear();
    if (addressers_[g].has_value()) {
      CollectKeys(group, batch, 0, &vector_keys_, &vector_counts_, &keys->indices);
      CollectRows(*addressers_[g], keys);
    } else {
      CollectKeys(group, batch, group.array_rows, &keys->keys, &keys->counts, &keys->indices);
    }
    const std::span<const std::uint32_t> place = OrderByShard(group.array_rows > 0, keys);
    if (place.empty()) {
      continue;
    }
    for (Piece& piece : keys->combination.pieces) {
      piece.row = place[piece.row];
    }
    for (std::size_t f = 0; f < group.fields.size() && !addressers_[g].has_value(); ++f) {
      for (std::uint32_t& position : keys->indices[f]) {
        position = place[position];
      }
    }
  }
}

void StepKeysBuilder::ResetSlots(std::size_t insertions) {
  const std::size_t capacity = std::bit_ceil(std::max<std::size_t>(16, insertions * 2));
  if (slots_.size() < capacity) {
    slots_.assign(capacity, Slot{0, 0, 0});
    stamp_ = 0;
  }
  mask_ = slots_.size() - 1;
  if (++stamp_ == 0) {  // Wrapped: old stamps would look new.
    std::fill(slots_.begin(), slots_.end(), Slot{0, 0, 0});
    stamp_ = 1;
  }
}

void StepKeysBuilder::CollectKeys(const KeyGroup& group, const Batch& batch, std::uint64_t modulus,
                                  std::vector<Key>* keys, std::vector<std::uint32_t>* counts,
                                  std::vector<std::vector<std::uint32_t>>* indices) {
  keys->clear();
  counts->clear();
  indices->resize(group.fields.size());
  std::size_t values = 0;
  for (const std::uint32_t field : group.fields) {
    values += batch.sparse[field].keys.size();
  }
  ResetSlots(values);
  constexpr std::size_t kAhead = 8;
  for (std::size_t f = 0; f < group.fields.size(); ++f) {
    const std::vector<Key>& column = batch.sparse[group.fields[f]].keys;
    std::vector<std::uint32_t>& positions = (*indices)[f];
    positions.resize(column.size());
    const auto key_of = [&](std::size_t i) {
      return modulus > 0 ? column[i] % modulus : column[i];
    };
    for (std::size_t i = 0; i < column.size(); ++i) {
      if (i + kAhead < column.size()) {
        PrefetchLine(&slots_[Mix64(key_of(i + kAhead)) & mask_]);
      }
      positions[i] = Insert(key_of(i), 1, keys, counts);
    }
  }
}

void StepKeysBuilder::CollectRows(const Addresser& addresser, GroupKeys* out) {
  std::vector<Piece>& pieces = out->combination.pieces;
  std::vector<std::uint32_t>& begin = out->combination.begin;
  begin.push_back(0);
  for (const Key key : vector_keys_) {
    addresser.AppendPieces(key, &pieces);
    begin.push_back(static_cast<std::uint32_t>(pieces.size()));
  }
  out->keys.clear();
  out->counts.clear();
  ResetSlots(pieces.size());
  for (std::size_t v = 0; v < vector_keys_.size(); ++v) {
    for (std::uint32_t p = begin[v]; p < begin[v + 1]; ++p) {
      pieces[p].row = Insert(pieces[p].row, vector_counts_[v], &out->keys, &out->counts);
    }
  }
}

std::uint32_t StepKeysBuilder::Insert(Key key, std::uint32_t count, std::vector<Key>* keys,
                                      std::vector<std::uint32_t>* counts) {
  for (std::uint64_t at = Mix64(key) & mask_;; at = (at + 1) & mask_) {
    Slot& slot = slots_[at];
    if (slot.stamp != stamp_) {
      slot = {key, stamp_, static_cast<std::uint32_t>(keys->size())};
      keys->push_back(key);
      counts->push_back(count);
      return slot.position;
    }
    if (slot.key == key) {
      (*counts)[slot.position] += count;
      return slot.position;
    }
  }
}

std::span<const std::uint32_t> StepKeysBuilder::OrderByShard(bool array, GroupKeys* out) {
  const std::size_t count = out->keys.size();
  out->shard_begin.assign(shards_ + 1, 0);
  out->shard_begin[shards_] = static_cast<std::uint32_t>(count);
  if (shards_ == 1) {
    return {};
  }
  std::vector<std::uint32_t> shard_of(count);
  std::vector<std::uint32_t> next(shards_ + 1, 0);
  for (std::size_t i = 0; i < count; ++i) {
    const std::uint32_t bucket = array ? BucketOfRow(out->keys[i], plan_.buckets())
                                       : BucketOfKey(out->keys[i], plan_.buckets());
    shard_of[i] = bucket_map_[bucket];
    ++next[shard_of[i] + 1];
  }
  for (std::uint32_t s = 0; s < shards_; ++s) {
    next[s + 1] += next[s];
    out->shard_begin[s + 1] = next[s + 1];
  }
  place_.resize(count);
  std::vector<Key> ordered(count);
  std::vector<std::uint32_t> counts(count);
  for (std::size_t i = 0; i < count; ++i) {
    place_[i] = next[shard_of[i]]++;
    ordered[place_[i]] = out->keys[i];
    counts[place_[i]] = out->counts[i];
  }
  out->keys = std::move(ordered);
  out->counts = std::move(counts);
  return place_;
}

}  // namespace plexus
