// StepKeys: the keys of one minibatch, each once, grouped by the shard that owns it.
//
// Per key group of the plan: the unique keys ordered by shard (so that the rows that one shard
// sends are one run), how often each occurs, and for each value of each sparse field the position
// of its key.  Gradients are summed per unique key in the order of samples whatever the order of
// keys is, so the grouping changes no bit.
//
// Thread safety: none; the builder keeps scratch memory from batch to batch.
#pragma once

#include <cstdint>
#include <vector>

#include "proto/plan.h"
#include "worker/data/batch.h"

namespace plexus {

struct GroupKeys {
  std::vector<Key> keys;              // Ordered by shard.
  std::vector<std::uint32_t> counts;  // Occurrences of each.
  std::vector<std::uint32_t>
      shard_begin;  // shards + 1: keys of shard s are [shard_begin[s], shard_begin[s + 1]).
};

struct StepKeys {
  std::vector<GroupKeys> groups;  // One a KeyGroup of the plan.
  std::vector<std::vector<std::uint32_t>>
      indices;  // Per sparse field, per value: position in its group's keys.
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
  void BuildGroup(const KeyGroup& group, const Batch& batch, GroupKeys* keys,
                  std::vector<std::vector<std::uint32_t>>* indices);
  std::uint32_t Insert(Key key, GroupKeys* keys);
  void OrderByShard(const KeyGroup& group, GroupKeys* keys,
                    std::vector<std::vector<std::uint32_t>>* indices);

  const JobPlan& plan_;
  const std::vector<std::uint32_t> bucket_map_;
  const std::uint32_t shards_;
  std::vector<Slot> slots_;
  std::uint64_t mask_ = 0;
  std::uint32_t stamp_ = 0;
};

}  // namespace plexus
