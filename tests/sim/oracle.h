// The oracle: what a job must come to, computed naively in a map from the batches alone, and the
// rows that it is compared with.
//
// Thread safety: pure functions.
#pragma once

#include <cstdint>
#include <map>
#include <string>
#include <utility>
#include <vector>

#include "ps/shard_state.h"
#include "tests/sim/sim_data.h"

namespace plexus::sim {

inline constexpr std::int64_t kInitialValue = 100;

struct RowImage {
  std::vector<std::int64_t> values;  // One a rank.
  std::uint64_t last_step = 0;
  std::uint64_t count = 0;
};
using RowMap = std::map<std::pair<std::uint32_t, Key>, RowImage>;  // By (table, key).

struct ExpectedRun {
  std::uint64_t train_steps = 0;
  std::uint64_t versions = 0;  // Not of ASP.
  std::uint64_t samples = 0;
  std::vector<std::pair<proto::Phase::DataSet, std::uint64_t>> evaluations;  // With samples.
  RowMap rows;                                                               // BSP.
};

// `rows`: also the rows, of a BSP run.  An interrupted job ends at version `versions_max`.
ExpectedRun ExpectRun(const JobPlan& plan, const SimData& data, bool rows,
                      std::uint64_t versions_max);

// Makes the row if there is none, and subtracts.
void Subtract(RowMap* rows, std::uint32_t ranks, std::pair<std::uint32_t, Key> row,
              std::uint32_t rank, std::int64_t gradient, std::uint32_t count,
              std::uint64_t version);

// Empty, or the first difference between `rows` and what the shards hold together.  Each shard may
// only hold rows of its own buckets.
std::string CompareRows(const JobPlan& plan, const RowMap& rows,
                        const std::vector<const ShardState*>& shards);

}  // namespace plexus::sim
