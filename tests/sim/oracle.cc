#include "tests/sim/oracle.h"

#include <algorithm>
#include <cmath>
#include <cstdlib>

namespace plexus::sim {
namespace {

bool Trains(const SimData& data, std::uint32_t rank, std::uint32_t index, std::uint64_t version) {
  return index < data.BatchCount(proto::Phase::TRAINING, rank) &&
         data.PoisonedShards(rank, version) == 0;
}

std::uint64_t StepSamples(const JobPlan& plan, const SimData& data, std::uint32_t epoch,
                          std::uint32_t index, std::uint64_t version) {
  std::uint64_t samples = 0;
  for (std::uint32_t rank = 0; rank < plan.ranks(); ++rank) {
    if (Trains(data, rank, index, version)) {
      samples += data.MakeBatch(proto::Phase::TRAINING, rank, epoch, index).samples;
    }
  }
  return samples;
}

// One BSP step: every rank reads the rows as they were before the step.
void TrainStep(const JobPlan& plan, const SimData& data, std::uint32_t epoch, std::uint32_t index,
               std::uint64_t version, RowMap* rows) {
  struct Sum {
    std::int64_t gradient = 0;
    std::uint32_t count = 0;
  };
  std::map<std::pair<std::pair<std::uint32_t, Key>, std::uint32_t>, Sum> sums;  // (row, rank)
  for (std::uint32_t rank = 0; rank < plan.ranks(); ++rank) {
    if (!Trains(data, rank, index, version)) {
      continue;
    }
    const Batch batch = data.MakeBatch(proto::Phase::TRAINING, rank, epoch, index);
    for (std::size_t f = 0; f < batch.sparse.size(); ++f) {
      const std::uint32_t table = plan.fields[f].embedding;
      const std::uint64_t array_rows = plan.tables[table].rows;
      for (const Key key : batch.sparse[f].keys) {
        const std::pair<std::uint32_t, Key> row(table, array_rows > 0 ? key % array_rows : key);
        const auto at = rows->find(row);
        const std::int64_t value = at == rows->end() ? kInitialValue : at->second.values[rank];
        Sum& sum = sums[{row, rank}];
        sum.gradient += 1 + std::llabs(value) % 3;
        ++sum.count;
      }
    }
  }
  for (const auto& [where, sum] : sums) {
    Subtract(rows, plan.ranks(), where.first, where.second, sum.gradient, sum.count, version);
  }
}

std::string NameOf(const JobPlan& plan, const std::pair<std::uint32_t, Key>& row) {
  return "row " + std::to_string(row.second) + " of table " + plan.tables[row.first].name;
}

std::string CompareRow(const RowImage& expected, const RowView& row, std::uint32_t ranks) {
  for (std::uint32_t rank = 0; rank < ranks; ++rank) {
    if (row.floats()[rank] != static_cast<float>(expected.values[rank])) {
      return " holds " + std::to_string(row.floats()[rank]) + " of rank " + std::to_string(rank) +
             ", not " + std::to_string(expected.values[rank]);
    }
  }
  if (row.last_step != expected.last_step) {
    return " was last updated at version " + std::to_string(row.last_step) + ", not " +
           std::to_string(expected.last_step);
  }
  if (row.count != expected.count) {
    return " was counted " + std::to_string(row.count) + " times, not " +
           std::to_string(expected.count);
  }
  return "";
}

}  // namespace

void Subtract(RowMap* rows, std::uint32_t ranks, std::pair<std::uint32_t, Key> row,
              std::uint32_t rank, std::int64_t gradient, std::uint32_t count,
              std::uint64_t version) {
  RowImage& image = (*rows)[row];
  if (image.values.empty()) {
    image.values.assign(ranks, kInitialValue);
  }
  image.values[rank] -= gradient;
  image.last_step = version;
  image.count += count;
}

ExpectedRun ExpectRun(const JobPlan& plan, const SimData& data, bool rows,
                      std::uint64_t versions_max) {
  ExpectedRun run;
  const proto::Train& train = plan.job.train();
  const std::uint64_t every = train.evaluate_every_steps();
  const std::uint64_t longest = std::max(1U, data.LongestRank(proto::Phase::TRAINING));
  const auto evaluate = [&](proto::Phase::DataSet data_set) {
    if (run.versions < versions_max) {
      ++run.versions;
      run.evaluations.emplace_back(data_set, data.Samples(data_set, 0));
    }
  };
  std::uint32_t epoch = 0;
  std::uint64_t done = 0;  // Steps of the epoch.
  std::uint32_t worse = 0;
  bool validated = false;
  while (run.versions < versions_max) {
    const std::uint64_t left = longest - done;
    const std::uint64_t steps =
        std::min(versions_max - run.versions, every == 0 ? left : std::min(every, left));
    for (std::uint64_t i = 0; i < steps; ++i, ++done) {
      ++run.versions;
      const auto index = static_cast<std::uint32_t>(done);
      run.samples += StepSamples(plan, data, epoch, index, run.versions);
      if (rows) {
        TrainStep(plan, data, epoch, index, run.versions, &run.rows);
      }
    }
    run.train_steps += steps;
    if (done == longest) {
      ++epoch;
      done = 0;
    }
    const bool ended = epoch >= train.epochs();
    const bool test = plan.job.data().test_size() > 0;
    if (plan.job.data().valid_size() > 0) {
      evaluate(proto::Phase::VALIDATION);
      // All logits are 0, so that only the first validation is better than those before.
      worse += validated ? 1 : 0;
      if (!validated && test) {
        evaluate(proto::Phase::TEST);
      }
      validated = true;
    } else if (ended && test) {
      evaluate(proto::Phase::TEST);
    }
    const std::uint32_t patience = train.early_stop_patience();
    if (ended || (patience > 0 && worse >= patience)) {
      break;
    }
  }
  return run;
}

std::string CompareRows(const JobPlan& plan, const RowMap& rows,
                        const std::vector<const ShardState*>& shards) {
  std::string difference;
  std::size_t found = 0;
  const auto map = InitialBucketMap(plan.buckets(), static_cast<std::uint32_t>(shards.size()));
  for (std::uint32_t shard = 0; shard < shards.size(); ++shard) {
    for (std::uint32_t table = 0; table < plan.tables.size(); ++table) {
      const bool array = plan.tables[table].rows > 0;
      shards[shard]->table(table).ForEachRow([&](const RowView& row) {
        if (!difference.empty()) {
          return;
        }
        const std::pair<std::uint32_t, Key> name(table, row.key);
        const std::uint32_t bucket =
            array ? BucketOfRow(row.key, plan.buckets()) : BucketOfKey(row.key, plan.buckets());
        const auto at = rows.find(name);
        if (map[bucket] != shard) {
          difference = NameOf(plan, name) + " lies on shard " + std::to_string(shard);
        } else if (at == rows.end()) {
          difference = NameOf(plan, name) + " should not exist";
        } else {
          ++found;
          const std::string how = CompareRow(at->second, row, plan.ranks());
          difference = how.empty() ? "" : NameOf(plan, name) + how;
        }
      });
    }
  }
  if (difference.empty() && found != rows.size()) {
    difference = std::to_string(rows.size() - found) + " of " + std::to_string(rows.size()) +
                 " rows are missing";
  }
  return difference;
}

}  // namespace plexus::sim
