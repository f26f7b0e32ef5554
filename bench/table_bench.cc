// table_bench: how many rows a second one core pulls and pushes, in process.
//
// Batches of 100,000 distinct keys, uniform over a table of 16 f32 with Adagrad, next to the
// fastest loop that one would write by hand for one thing only (a power-of-two table of {key,
// pointer}, rows of 64 bytes, prefetch 16 ahead), interleaved batch by batch.  Prints a table and,
// as its last line, one JSON object; exits with 1 if pull or push falls below its share of that
// loop (full size only).
#include <algorithm>
#include <cstdint>
#include <cstdio>
#include <span>
#include <unordered_set>
#include <vector>

#include <gflags/gflags.h>
#include <glog/logging.h>
#include <immintrin.h>
#include <time.h>

#include "common/random.h"
#include "ps/table/mapped_memory.h"
#include "ps/table/table.h"

DEFINE_uint64(rows, 10000000, "Rows of the table.");
DEFINE_uint32(rounds, 40, "Batches of each kind.");
DEFINE_bool(quick, false, "200,000 rows, 5 batches; no verdict.");

namespace plexus {
namespace {

constexpr std::uint32_t kDim = 16;
constexpr std::size_t kBatchKeys = 100000;
constexpr double kPullShare = 0.7;
constexpr double kPushShare = 0.4;

Key KeyOfRow(std::uint64_t row) { return Mix64(row + 0x9e3779b97f4a7c15ULL); }

// The loop to compare with: knows its number of rows, its dimension, that every key is present and
// that no key is 0.
class HandWritten {
 public:
  explicit HandWritten(std::uint64_t rows) {
    std::uint64_t slots = 1;
    std::uint32_t bits = 0;
    while (slots < rows * 3 / 2) {
      slots *= 2;
      ++bits;
    }
    index_ = MappedMemory(slots * sizeof(Slot));
    slots_ = reinterpret_cast<Slot*>(index_.data());
    mask_ = slots - 1;
    shift_ = 64 - bits;
  }

  void Put(Key key, const float* row) {
    std::uint64_t at = Home(key);
    while (slots_[at].key != 0) {
      at = (at + 1) & mask_;
    }
    slots_[at] = {key, row};
  }

  void Pull(std::span<const Key> keys, float* values) const {
    constexpr std::size_t kAhead = 16;
    const float* ring[32];
    const std::size_t n = keys.size();
    for (std::size_t i = 0; i < std::min(kAhead, n); ++i) {
      __builtin_prefetch(slots_ + Home(keys[i]));
    }
    for (std::size_t i = 0; i < n + kAhead; ++i) {
      if (i + kAhead < n) {
        __builtin_prefetch(slots_ + Home(keys[i + kAhead]));
      }
      if (i >= kAhead) {
        const float* row = ring[(i - kAhead) & 31];
        float* to = values + (i - kAhead) * kDim;
        _mm256_storeu_ps(to, _mm256_load_ps(row));
        _mm256_storeu_ps(to + 8, _mm256_load_ps(row + 8));
      }
      if (i < n) {
        const float* row = Find(keys[i]);
        __builtin_prefetch(row);
        ring[i & 31] = row;
      }
    }
  }

 private:
  struct Slot {
    Key key;
    const float* row;
  };

  std::uint64_t Home(Key key) const { return (key * 0x9e3779b97f4a7c15ULL) >> shift_; }
  const float* Find(Key key) const {
    std::uint64_t i = Home(key);
    while (slots_[i].key != key) {
      i = (i + 1) & mask_;
    }
    return slots_[i].row;
  }

  MappedMemory index_;
  Slot* slots_;
  std::uint64_t mask_;
  std::uint32_t shift_;
};

// Of this thread's own running, so that a neighbour who takes the core for a moment does not count.
double Seconds() {
  timespec now;
  PCHECK(clock_gettime(CLOCK_THREAD_CPUTIME_ID, &now) == 0);
  return static_cast<double>(now.tv_sec) + static_cast<double>(now.tv_nsec) * 1e-9;
}

double Median(std::vector<double> v) {
  std::nth_element(v.begin(), v.begin() + static_cast<std::ptrdiff_t>(v.size() / 2), v.end());
  return v[v.size() / 2];
}

std::vector<Key> DistinctKeys(std::uint64_t rows, std::size_t count, std::uint64_t batch) {
  const CounterRandom random(1, 2, batch);
  std::unordered_set<std::uint64_t> seen;
  std::vector<Key> keys;
  for (std::uint64_t i = 0; keys.size() < count; ++i) {
    const std::uint64_t row = random.Below(i, rows);
    if (seen.insert(row).second) {
      keys.push_back(KeyOfRow(row));
    }
  }
  return keys;
}

TableSpec Spec() {
  TableSpec spec;
  spec.name = "bench";
  spec.dim = kDim;
  spec.optimizer.kind = OptimizerKind::kAdagrad;
  spec.optimizer.epsilon = 1e-10f;
  return spec;
}

// Makes every row; returns rows a second.
double Fill(std::uint64_t rows, Table* table) {
  std::vector<Key> keys;
  const std::vector<std::uint32_t> counts(kBatchKeys, 1);
  const std::vector<float> gradients(kBatchKeys * kDim, 0.01f);
  const double start = Seconds();
  for (std::uint64_t row = 0; row < rows;) {
    keys.clear();
    while (keys.size() < kBatchKeys && row < rows) {
      keys.push_back(KeyOfRow(row++));
    }
    const GradientPart part{keys, std::span(counts).first(keys.size()), gradients.data()};
    table->ApplyStep(1, {&part, 1}, 1.0f, 1.0f);
  }
  return static_cast<double>(rows) / (Seconds() - start);
}

struct Times {
  std::vector<double> hand, hand_same_rows, pull, push, push2;
};

// One batch of each kind.
void Round(const HandWritten& hand, const HandWritten& same_rows, std::uint64_t rows,
           std::size_t count, std::uint64_t round, Table* table, Times* times) {
  const std::vector<std::uint32_t> counts(count, 1);
  const std::vector<float> gradients(count * kDim, 0.01f);
  static std::vector<float> values(count * kDim);
  const auto timed = [count](std::vector<double>* to, const auto& work) {
    const double start = Seconds();
    work();
    to->push_back(static_cast<double>(count) / (Seconds() - start));
  };
  // A batch of its own for each, so that no one finds rows in the cache that another left.
  const std::vector<Key> keys[] = {
      DistinctKeys(rows, count, 5 * round), DistinctKeys(rows, count, 5 * round + 1),
      DistinctKeys(rows, count, 5 * round + 2), DistinctKeys(rows, count, 5 * round + 3),
      DistinctKeys(rows, count, 5 * round + 4)};
  timed(&times->hand, [&] { hand.Pull(keys[0], values.data()); });
  timed(&times->hand_same_rows, [&] { same_rows.Pull(keys[4], values.data()); });
  timed(&times->pull, [&] { table->Pull(keys[1], values.data()); });
  timed(&times->push, [&] {
    const GradientPart part{keys[2], counts, gradients.data()};
    table->ApplyStep(round + 2, {&part, 1}, 0.5f, 1.0f);
  });
  timed(&times->push2, [&] {
    // Two ranks that share a third of their keys.
    const std::size_t third = count / 3;
    const std::span<const Key> all(keys[3]);
    const GradientPart parts[] = {
        {all.first(2 * third), std::span(counts).first(2 * third), gradients.data()},
        {all.subspan(third, count - third), std::span(counts).first(count - third),
         gradients.data()}};
    table->ApplyStep(round + 2, parts, 0.5f, 1.0f);
  });
}

int Run() {
  const std::uint64_t rows = FLAGS_quick ? 200000 : FLAGS_rows;
  const std::uint32_t rounds = FLAGS_quick ? 5 : FLAGS_rounds;
  const std::size_t count = std::min<std::size_t>(kBatchKeys, rows / 2);
  CHECK(count > 0) << "--rows is too small";
  // Its own rows of 64 bytes.
  MappedMemory floats(rows * kDim * sizeof(float));
  HandWritten hand(rows);
  for (std::uint64_t row = 0; row < rows; ++row) {
    float* values = reinterpret_cast<float*>(floats.data()) + row * kDim;
    std::fill_n(values, kDim, 1.0f);
    hand.Put(KeyOfRow(row), values);
  }
  const std::unique_ptr<Table> table_owner = MakeTable(Spec(), 1);
  Table& table = *table_owner;
  const double insert = Fill(rows, &table);
  // The table's rows where they lie, so that memory is equally good or bad.
  HandWritten same_rows(rows);
  table.ForEachRow([&](const RowView& row) { same_rows.Put(row.key, row.floats().data()); });
  Times times;
  for (std::uint32_t round = 0; round < rounds; ++round) {
    Round(hand, same_rows, rows, count, round, &table, &times);
  }
  const double base = Median(times.hand);
  const double same = Median(times.hand_same_rows);
  const double pull = Median(times.pull);
  const double push = Median(times.push);
  const double push2 = Median(times.push2);
  std::printf("%-28s %10s %8s\n", "", "Mrows/s", "ratio");
  std::printf("%-28s %10.2f %8.2f\n", "hand-written find+copy", base / 1e6, 1.0);
  std::printf("%-28s %10.2f %8.2f\n", "the same on the table's rows", same / 1e6, same / base);
  std::printf("%-28s %10.2f %8.2f\n", "pull", pull / 1e6, pull / base);
  std::printf("%-28s %10.2f %8.2f\n", "push, one part", push / 1e6, push / base);
  std::printf("%-28s %10.2f %8.2f\n", "push, two parts, 1/3 shared", push2 / 1e6, push2 / base);
  std::printf("%-28s %10.2f %8.2f\n", "push of new keys", insert / 1e6, insert / base);
  std::printf("%-28s %10.1f\n", "bytes a row",
              static_cast<double>(table.memory_bytes()) / static_cast<double>(rows));
  const bool ok = FLAGS_quick || (pull >= kPullShare * base && push >= kPushShare * base);
  std::printf(
      "{\"bench\":\"table\",\"rows\":%llu,\"hand_rows_per_second\":%.0f,"
      "\"hand_same_rows_per_second\":%.0f,"
      "\"pull_rows_per_second\":%.0f,\"push_rows_per_second\":%.0f,"
      "\"push_two_parts_rows_per_second\":%.0f,\"insert_rows_per_second\":%.0f,"
      "\"pull_ratio\":%.3f,\"push_ratio\":%.3f,\"bytes_per_row\":%.1f,\"ok\":%s}\n",
      static_cast<unsigned long long>(rows), base, same, pull, push, push2, insert, pull / base,
      push / base, static_cast<double>(table.memory_bytes()) / static_cast<double>(rows),
      ok ? "true" : "false");
  return ok ? 0 : 1;
}

}  // namespace
}  // namespace plexus

int main(int argc, char** argv) {
  google::InitGoogleLogging(argv[0]);
  gflags::ParseCommandLineFlags(&argc, &argv, true);
  return plexus::Run();
}
