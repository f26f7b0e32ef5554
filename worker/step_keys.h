// StepKeys: the keys of one minibatch, each once, grouped by the shard that owns it.
//
// Per key group of the plan: the unique wire keys ordered by shard (so that the rows that one shard
// sends are one run), how often each occurs, and for each value of each of the group's fields what
// it reads: the position of its key, or of its vector if the group has an addresser.  Gradients are
// summed per unique key in the order of samples, and per row in the order in which vectors first
// occur, whatever the order of keys is, so the grouping changes no bit.
//
// Thread safety: none; the builder keeps scratch memory from batch to batch.
#pragma once

#include <cstdint>
#include <optional>
#include <span>
#include <vector>

#include "proto/plan.h"
#include "worker/addresser.h"
#include "worker/data/batch.h"

namespace plexus {

struct GroupKeys {
  std::vector<Key> keys;  // Ordered by shard.
  // Occurrences of each; of a physical row, in how many pieces of occurring keys it is.
  std::vector<std::uint32_t> counts;
  std::vector<std::uint32_t>
      shard_begin;  // shards + 1: keys of shard s are [shard_begin[s], shard_begin[s + 1]).
  // Per field of the group, per value: position in `keys`, or with an addresser the vector.
  std::vector<std::vector<std::uint32_t>> indices;
  Combination combination;  // Empty without an addresser.
};

struct StepKeys {
  std::vector<GroupKeys> groups;  // One a KeyGroup of the plan.
};

class StepKeysBuilder {
 public:
  StepKeysBuilder(const JobPlan& plan, std::vector<std::uint32_t> bucket_map, std::uint32_t shards);

  void Build(const Batch& batch, StepKeys* out);

 private:
  struct Slot {
    Key key;
    std::uint32_t stamp;
    std::uint32_t position;
  };
  // Unique keys of the fields' values, modulo `modulus` if it is not 0, with their counts.
  void CollectKeys(const KeyGroup& group, const Batch& batch, std::uint64_t modulus,
                   std::vector<Key>* keys, std::vector<std::uint32_t>* counts,
                   std::vector<std::vector<std::uint32_t>>* indices);
  // The rows of the vectors of `vector_keys_`.
  void CollectRows(const Addresser& addresser, GroupKeys* out);
  void ResetSlots(std::size_t insertions);
  std::uint32_t Insert(Key key, std::uint32_t count, std::vector<Key>* keys,
                       std::vector<std::uint32_t>* counts);
  // Old position -> new one; empty if nothing moved.  Valid until the next call.
  std::span<const std::uint32_t> OrderByShard(bool array, GroupKeys* out);

  const JobPlan& plan_;
  const std::vector<std::uint32_t> bucket_map_;
  const std::uint32_t shards_;
  std::vector<std::optional<Addresser>> addressers_;  // By group.
  std::vector<Slot> slots_;
  std::uint64_t mask_ = 0;
  std::uint32_t stamp_ = 0;
  std::vector<Key> vector_keys_;
  std::vector<std::uint32_t> vector_counts_;
  std::vector<std::uint32_t> place_;
};

}  // namespace plexus
