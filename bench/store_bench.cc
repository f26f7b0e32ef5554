// store_bench: how fast one core finds, pulls, updates and makes rows of a table, in process, and
// what rows cost beside their floats.
//
// Each figure stands beside a limit of bench/store_limits.h that is measured in turn with it, batch
// by batch; medians, with the least and the most.  Batches are distinct keys: uniform over the
// table, or what 100,000 draws from Zipf(1.05) leave of it.  Before its turn each does ten batches
// that do not count: caches hold its own then, not what came before.  Time is the thread's own, so
// that a neighbour who takes the core does not count.
//
//   find     KeyIndex: looking up keys that are there, and keys that are not
//   insert   KeyIndex: from empty to --grow_rows keys; the longest 1,024 keys; bytes a key
//   pull     a table of 16 f32 with Adagrad: Pull
//   push     ApplyStep with three optimizers, beside Adagrad on rows that need no finding: of keys
//   that were pulled before, as a rank's are, with the hints of that pull (ten other batches are
//   pushed in between, so that the caches hold neither rows nor slots), and of keys that were not
//   grow     that table from empty to --grow_rows rows; the longest step of 256; bytes beside the
//   record; the same with bf16 and int8 rows
//
// Tables keep no counts of keys (keep_counts), but for the figures named so.
//
// Prints a table and, as its last line, one JSON object; exits with 1 if a figure misses its target
// (full size only).
#include <algorithm>
#include <cstdint>
#include <cstdio>
#include <functional>
#include <memory>
#include <span>
#include <string>
#include <type_traits>
#include <unordered_set>
#include <vector>

#include <gflags/gflags.h>
#include <glog/logging.h>

#include "bench/store_figures.h"
#include "bench/store_limits.h"
#include "common/random.h"
#include "ps/table/key_index.h"
#include "ps/table/mapped_memory.h"
#include "ps/table/table.h"

DEFINE_string(only, "find,insert,pull,push,grow", "What to measure, separated by commas.");
DEFINE_uint64(rows, 10000000, "Rows of find, pull and push.");
DEFINE_uint64(grow_rows, 50000000, "Rows that insert and grow end with.");
DEFINE_uint32(rounds, 9, "Batches of each kind, of each of three tables made anew.");
DEFINE_bool(quick, false,
            "200,000 rows, a million to grow to, 5 batches of each table; no verdict.");
DEFINE_string(json, "", "Also write the JSON object to this file.");

namespace plexus {
namespace {

constexpr std::uint32_t kDim = 16;
constexpr std::size_t kDraws = 100000;
constexpr double kZipfExponent = 1.05;
// Batches before one that counts.
constexpr std::uint64_t kUncounted = 10;
// Of grow: keys of a step.  A pause is what one step takes beyond what its keys do.
constexpr std::size_t kStepKeys = 256;

Key KeyOfRow(std::uint64_t row) { return Mix64(row + 0x9e3779b97f4a7c15ULL); }

// --- Batches

std::uint64_t Rows() { return FLAGS_quick ? 200000 : FLAGS_rows; }
std::uint64_t GrowRows() { return FLAGS_quick ? 1000000 : FLAGS_grow_rows; }
std::uint32_t Rounds() { return FLAGS_quick ? 5 : FLAGS_rounds; }

enum class Draw { kUniform, kZipf };

// Distinct rows of a table of Rows(), in the order in which they were drawn.
std::vector<std::uint32_t> DistinctRows(Draw draw, std::uint64_t batch) {
  const std::uint64_t rows = Rows();
  static const Zipf zipf(static_cast<double>(Rows()), kZipfExponent);
  const CounterRandom random(1, 2, batch);
  const std::size_t draws = std::min<std::size_t>(kDraws, rows / 2);
  std::unordered_set<std::uint64_t> seen;
  std::vector<std::uint32_t> distinct;
  std::uint64_t next = 0;
  for (std::size_t i = 0; i < draws; ++i) {
    // Frequent rows lie scattered: their rank says nothing of when they were made.
    const std::uint64_t row = draw == Draw::kUniform ? random.Below(next++, rows)
                                                     : Mix64(zipf.Draw(random, &next) + 1) % rows;
    if (seen.insert(row).second) {
      distinct.push_back(static_cast<std::uint32_t>(row));
    }
  }
  return distinct;
}

std::vector<Key> KeysOf(const std::vector<std::uint32_t>& rows) {
  std::vector<Key> keys;
  for (const std::uint32_t row : rows) {
    keys.push_back(KeyOfRow(row));
  }
  return keys;
}

// A batch and where its pull found its rows.
struct PulledKeys {
  std::vector<Key> keys;
  std::vector<PullHint> hints;
  std::size_t size() const { return keys.size(); }
};

// The rate of work(batch) for a batch of its own; `make` makes it of DistinctRows.
template <typename Make, typename Work>
double RateInTurn(Draw draw, std::uint64_t turn, const Make& make, const Work& work) {
  std::vector<std::decay_t<decltype(make(DistinctRows(draw, 0)))>> batches;
  for (std::uint64_t i = 0; i <= kUncounted; ++i) {
    batches.push_back(make(DistinctRows(draw, (kUncounted + 1) * turn + i)));
  }
  for (std::uint64_t i = 0; i < kUncounted; ++i) {
    work(batches[i]);
  }
  return RateOf(batches.back().size(), [&] { work(batches.back()); });
}

// --- Index only

// Looks up all keys, prefetching; a sum of places, so that nothing is optimised away.
std::uint64_t FindAll(const KeyIndex& index, std::span<const Key> keys) {
  HomesAhead homes(index, keys);
  std::uint64_t sum = 0;
  for (std::size_t i = 0; i < keys.size(); ++i) {
    const Slot* slot = index.Find(keys[i], homes.Of(i));
    sum += slot == nullptr ? 0 : slot->place;
  }
  return sum;
}

template <typename Value>
std::uint64_t FindAll(const HandWrittenIndex<Value>& index, std::span<const Key> keys) {
  std::uint64_t sum = 0;
  for (std::size_t i = 0; i < keys.size(); ++i) {
    if (i + index.kAhead < keys.size()) {
      index.Prefetch(keys[i + index.kAhead]);
    }
    sum += index.Find(keys[i]);
  }
  return sum;
}

// Inserts keys of rows from `begin` on, prefetching.
void InsertKeys(std::span<const Key> keys, std::uint64_t begin, KeyIndex* index) {
  HomesAhead homes(*index, keys);
  for (std::size_t i = 0; i < keys.size(); ++i) {
    bool inserted = false;
    index->FindOrInsert(keys[i], homes.Of(i), &inserted)->place =
        static_cast<std::uint32_t>(begin + i + 1);
  }
}

void MeasureFind(Report* report) {
  const std::uint64_t rows = Rows();
  HandWrittenIndex<std::uint64_t> limit(rows);
  KeyIndex index;
  std::vector<Key> all;
  for (std::uint64_t row = 0; row < rows; ++row) {
    all.push_back(KeyOfRow(row));
  }
  InsertKeys(all, 0, &index);
  for (std::uint64_t row = 0; row < rows; ++row) {
    limit.Put(KeyOfRow(row), row + 1);
  }
  std::vector<double> limits, found, absent;
  std::uint64_t sum = 0;
  const auto find = [&](const std::vector<Key>& keys) { sum += FindAll(index, keys); };
  const auto absent_keys = [rows](std::vector<std::uint32_t> drawn) {
    std::vector<Key> keys;
    for (const std::uint32_t row : drawn) {
      keys.push_back(KeyOfRow(rows + row));
    }
    return keys;
  };
  std::uint64_t turn = 0;
  for (std::uint32_t round = 0; round < Rounds(); ++round) {
    limits.push_back(RateInTurn(Draw::kUniform, turn++, KeysOf, [&](const std::vector<Key>& keys) {
      sum += FindAll(limit, keys);
    }));
    found.push_back(RateInTurn(Draw::kUniform, turn++, KeysOf, find));
    const std::uint64_t before = sum;
    absent.push_back(RateInTurn(Draw::kUniform, turn++, absent_keys, find));
    CHECK_EQ(sum, before) << "an absent key was found";
  }
  const KeyIndex::ProbeLengths probes = index.MeasureProbes();
  report->Rate("find", limits, found, 0);
  report->Rate("find_absent", limits, absent, 0);
  report->AtMost("find_load", static_cast<double>(rows) / static_cast<double>(index.slot_count()),
                 "of the slots", 0);
  report->AtMost("find_probes", static_cast<double>(probes.sum) / static_cast<double>(rows),
                 "groups a key", 0);
}

// Of samples taken while something grows.
struct BytesARow {
  void Add(double bytes) {
    sum += bytes;
    worst = std::max(worst, bytes);
    ++count;
  }
  double mean() const { return count == 0 ? 0 : sum / static_cast<double>(count); }

  double sum = 0;
  double worst = 0;
  std::uint64_t count = 0;
};

// This process's memory in use, in bytes.
std::size_t ResidentBytes() {
  std::FILE* file = std::fopen("/proc/self/statm", "r");
  PCHECK(file != nullptr);
  unsigned long long all = 0, resident = 0;
  CHECK_EQ(std::fscanf(file, "%llu %llu", &all, &resident), 2);
  std::fclose(file);
  return resident * kPageBytes;
}

// Memory that the host has given already.  Under a hypervisor the first touch of memory that it has
// not, or has taken back because it was free for a second or two, takes 4 ms for 2 MiB instead of
// 0.1.  That is no cost of a table, so memory is touched before the clock starts, and freed just
// before what is measured takes it.
class GivenMemory {
 public:
  explicit GivenMemory(std::size_t bytes) : memory_(bytes + kAhead) {
    for (std::size_t i = 0; i < memory_.bytes(); i += kPageBytes) {
      memory_.data()[i] = std::byte{1};
    }
    resident_ = ResidentBytes();
  }
  // Call it often: keeps kAhead free.
  void Free() {
    const std::size_t without = ResidentBytes() + freed_;
    const std::size_t taken = without > resident_ ? without - resident_ : 0;
    const std::size_t end =
        std::min(memory_.bytes(), (taken + kAhead) / kHugePageBytes * kHugePageBytes);
    if (end > freed_) {
      memory_.GiveBack(freed_, end - freed_);
      freed_ = end;
    }
  }

 private:
  static constexpr std::size_t kAhead = std::size_t{16} << 20;
  MappedMemory memory_;
  std::size_t resident_ = 0;  // When all of it was held.
  std::size_t freed_ = 0;
};

// Below that many rows one huge page more or less decides.
constexpr std::uint64_t kSampledFrom = 1000000;

void MeasureInsert(Report* report) {
  constexpr std::uint64_t kStretch = 1024;
  std::vector<Key> keys(kStretch);
  const std::uint64_t rows = GrowRows();
  std::vector<double> limits, ours;
  BytesARow bytes;
  for (std::uint32_t round = 0; round < 3; ++round) {
    {
      HandWrittenIndex<std::uint64_t> limit(rows);
      limit.Touch();
      limits.push_back(RateOf(rows, [&] {
        for (std::uint64_t row = 0; row < rows; ++row) {
          limit.Prefetch(KeyOfRow(row + limit.kAhead));
          limit.Put(KeyOfRow(row), row + 1);
        }
      }));
    }
    GivenMemory given(rows * 32);
    KeyIndex index;
    Stretches stretches;
    std::uint64_t next_sample = kSampledFrom;
    for (std::uint64_t row = 0; row < rows; row += kStretch) {
      if (row % 8192 == 0) {
        given.Free();
      }
      for (std::uint64_t i = 0; i < kStretch; ++i) {
        keys[i] = KeyOfRow(row + i);
      }
      stretches.Time([&] { InsertKeys(keys, row, &index); });
      if (row >= next_sample) {
        bytes.Add(static_cast<double>(index.memory_bytes()) /
                  static_cast<double>(index.row_count()));
        next_sample += next_sample / 50;
      }
    }
    ours.push_back(static_cast<double>(rows) / stretches.seconds());
    if (round == 2) {
      stretches.Tell("insert", report);
    }
  }
  report->Rate("insert", limits, ours, 0);
  report->AtMost("insert_bytes_mean", bytes.mean(), "bytes a key", 0);
  report->AtMost("insert_bytes_worst", bytes.worst, "bytes a key", 0);
}

// --- Tables

TableSpec Spec(OptimizerKind kind) {
  TableSpec spec;
  spec.name = "bench";
  spec.dim = kDim;
  spec.optimizer.kind = kind;
  spec.keep_counts = false;
  return spec;
}

struct Gradients {
  Gradients() : counts(kDraws, 1), floats(kDraws * kDim, 0.01f) {}
  GradientPart Part(std::span<const Key> keys, std::span<const PullHint> hints = {}) const {
    return {keys, std::span(counts).first(keys.size()), floats.data(), 0, hints};
  }
  const std::vector<std::uint32_t> counts;
  const std::vector<float> floats;
};

void Step(std::uint64_t version, const GradientPart& part, Table* table) {
  table->ApplyStep(version, {&part, 1}, 0.5f, 1.0f);
  table->EndVersion(version);
}

// All rows, made by steps.
std::unique_ptr<Table> FilledTable(const TableSpec& spec, std::uint64_t rows) {
  std::unique_ptr<Table> table = MakeTable(spec, 1);
  const Gradients gradients;
  std::vector<Key> keys;
  for (std::uint64_t row = 0; row < rows;) {
    keys.clear();
    while (keys.size() < kDraws && row < rows) {
      keys.push_back(KeyOfRow(row++));
    }
    Step(1, gradients.Part(keys), table.get());
  }
  return table;
}

// Where the kernel, and a hypervisor below it, put a table's memory makes it up to twice as fast or
// slow, for as long as it lives; so everything is made anew so many times.
constexpr std::uint32_t kPlacements = 3;

// Rates of batches, in turn, by how their keys are drawn.
struct Series {
  std::vector<double> limits, ours, others, unpulled;
};

void MeasurePullOnce(Series* uniform, Series* zipf) {
  const std::uint64_t rows = Rows();
  MappedMemory floats(rows * kDim * sizeof(float));
  HandWrittenIndex<float*> limit(rows);
  for (std::uint64_t row = 0; row < rows; ++row) {
    float* values = reinterpret_cast<float*>(floats.data()) + row * kDim;
    std::fill_n(values, kDim, 1.0f);
    limit.Put(KeyOfRow(row), values);
  }
  const std::unique_ptr<Table> table = FilledTable(Spec(OptimizerKind::kAdagrad), rows);
  // The same loop on the table's own rows: what is left is the table's doing, not its memory's.
  HandWrittenIndex<float*> same_rows(rows);
  table->ForEachRow(
      [&](const RowView& row) { same_rows.Put(row.key, const_cast<float*>(row.floats().data())); });
  std::vector<float> values(kDraws * kDim);
  for (Series* series : {uniform, zipf}) {
    const Draw draw = series == uniform ? Draw::kUniform : Draw::kZipf;
    std::uint64_t turn = series->ours.size() * 3;
    for (std::uint32_t round = 0; round < Rounds(); ++round) {
      series->limits.push_back(RateInTurn(draw, turn++, KeysOf, [&](const std::vector<Key>& keys) {
        HandWrittenPull(limit, keys, values.data());
      }));
      series->ours.push_back(RateInTurn(draw, turn++, KeysOf, [&](const std::vector<Key>& keys) {
        table->Pull(keys, values.data());
      }));
      series->others.push_back(RateInTurn(draw, turn++, KeysOf, [&](const std::vector<Key>& keys) {
        HandWrittenPull(same_rows, keys, values.data());
      }));
    }
  }
}

void MeasurePull(Report* report) {
  Series uniform, zipf;
  for (std::uint32_t placement = 0; placement < kPlacements; ++placement) {
    MeasurePullOnce(&uniform, &zipf);
  }
  report->Rate("pull", uniform.limits, uniform.ours, 0.75);
  report->Rate("pull_limit_on_same_rows", uniform.limits, uniform.others, 0);
  report->Rate("pull_zipf", zipf.limits, zipf.ours, 0.75);
  report->Rate("pull_zipf_limit_on_same_rows", zipf.limits, zipf.others, 0);
}

// `others`: the hand-written loop that finds its rows.  `unpulled`: of keys that were not pulled.
void MeasurePushOnce(const TableSpec& spec, Series* uniform, Series* zipf) {
  const std::uint64_t rows = Rows();
  MappedMemory memory(rows * 2 * kDim * sizeof(float));
  float* floats = reinterpret_cast<float*>(memory.data());
  std::fill_n(floats, rows * 2 * kDim, 0.01f);
  HandWrittenIndex<float*> index(rows);
  for (std::uint64_t row = 0; row < rows; ++row) {
    index.Put(KeyOfRow(row), floats + row * 2 * kDim);
  }
  const Gradients gradients;
  const float* g = gradients.floats.data();
  const std::unique_ptr<Table> table = FilledTable(spec, rows);
  const auto pulled = [&](const std::vector<std::uint32_t>& drawn) {
    PulledKeys batch{KeysOf(drawn), std::vector<PullHint>(drawn.size())};
    std::vector<float> values(drawn.size() * kDim);
    table->Pull(batch.keys, kDim, Precision::kF32, reinterpret_cast<std::uint8_t*>(values.data()),
                batch.hints.data());
    return batch;
  };
  std::uint64_t version = 2;
  for (Series* series : {uniform, zipf}) {
    const Draw draw = series == uniform ? Draw::kUniform : Draw::kZipf;
    std::uint64_t turn = series->ours.size() * 4;
    for (std::uint32_t round = 0; round < Rounds(); ++round) {
      series->limits.push_back(RateInTurn(
          draw, turn++, std::identity(),
          [&](const std::vector<std::uint32_t>& drawn) { HandWrittenUpdate(floats, drawn, g); }));
      series->ours.push_back(RateInTurn(draw, turn++, pulled, [&](const PulledKeys& batch) {
        Step(version++, gradients.Part(batch.keys, batch.hints), table.get());
      }));
      series->unpulled.push_back(
          RateInTurn(draw, turn++, KeysOf, [&](const std::vector<Key>& keys) {
            Step(version++, gradients.Part(keys), table.get());
          }));
      series->others.push_back(RateInTurn(draw, turn++, KeysOf, [&](const std::vector<Key>& keys) {
        HandWrittenPush(index, keys, g);
      }));
    }
  }
}

void MeasurePush(Report* report) {
  const struct {
    OptimizerKind kind;
    bool counts;
    const char* name;
    double target;
  } kinds[] = {{OptimizerKind::kAdagrad, false, "push_adagrad", 0.6},
               {OptimizerKind::kAdagrad, true, "push_adagrad_counts", 0},
               {OptimizerKind::kRowWiseAdagrad, false, "push_row_wise_adagrad", 0},
               {OptimizerKind::kAdam, false, "push_adam", 0}};
  for (const auto& [kind, counts, kind_name, target] : kinds) {
    TableSpec spec = Spec(kind);
    spec.keep_counts = counts;
    Series uniform, zipf;
    for (std::uint32_t placement = 0; placement < kPlacements; ++placement) {
      MeasurePushOnce(spec, &uniform, &zipf);
    }
    const std::string name = kind_name;
    report->Rate(name, uniform.limits, uniform.ours, target);
    report->Rate(name + "_zipf", zipf.limits, zipf.ours, 0);
    report->Rate(name + "_unpulled", uniform.limits, uniform.unpulled, 0);
    report->Rate(name + "_unpulled_zipf", zipf.limits, zipf.unpulled, 0);
    if (target > 0) {
      report->Rate(name + "_limit_with_find", uniform.limits, uniform.others, 0);
      report->Rate(name + "_zipf_limit_with_find", zipf.limits, zipf.others, 0);
    }
  }
}

// From empty to `rows` rows, by steps of kStepKeys.
void Grow(const TableSpec& spec, std::uint64_t rows, Stretches* steps, BytesARow* bytes) {
  const std::unique_ptr<Table> table = MakeTable(spec, 1);
  const std::uint32_t record_bytes = table->layout().record_bytes();
  const Gradients gradients;
  GivenMemory given(rows * (record_bytes + 40));
  std::vector<Key> keys(kStepKeys);
  std::uint64_t next_sample = kSampledFrom;
  std::uint64_t version = 1;
  for (std::uint64_t row = 0; row < rows; row += kStepKeys) {
    for (std::size_t i = 0; i < kStepKeys; ++i) {
      keys[i] = KeyOfRow(row + i);
    }
    if (row % 8192 == 0) {
      given.Free();
    }
    steps->Time([&] { Step(version++, gradients.Part(keys), table.get()); });
    if (row >= next_sample) {
      bytes->Add(static_cast<double>(table->memory_bytes()) /
                     static_cast<double>(table->row_count()) -
                 record_bytes);
      next_sample += next_sample / 50;
    }
  }
}

void MeasureGrow(Report* report) {
  TableSpec counts = Spec(OptimizerKind::kAdagrad);
  counts.keep_counts = true;
  TableSpec bf16 = Spec(OptimizerKind::kAdagrad);
  bf16.precision = Precision::kBf16;
  TableSpec int8 = Spec(OptimizerKind::kAdagrad);
  int8.precision = Precision::kInt8;
  const struct {
    const TableSpec spec;
    const char* name;
    bool judged;
  } tables[] = {{Spec(OptimizerKind::kAdagrad), "grow", true},
                {counts, "grow_counts", false},
                {bf16, "grow_bf16", false},
                {int8, "grow_int8", false}};
  for (const auto& [spec, table_name, judged] : tables) {
    const std::string name = table_name;
    Stretches steps;
    BytesARow bytes;
    Grow(spec, GrowRows(), &steps, &bytes);
    report->AtLeast(name + "_million_rows_per_second",
                    static_cast<double>(GrowRows()) / steps.seconds() / 1e6, "million rows/s",
                    judged ? 10 : 0);
    if (judged) {
      steps.Tell(name, report);
    }
    report->AtMost(name + "_record_bytes", MakeTable(spec, 1)->layout().record_bytes(), "bytes", 0);
    report->AtMost(name + "_bytes_mean", bytes.mean(), "bytes a row beside its record", 24);
    report->AtMost(name + "_bytes_worst", bytes.worst, "bytes a row beside its record", 32);
  }
}

int Run() {
  const struct {
    const char* name;
    void (*measure)(Report*);
  } benches[] = {{"find", MeasureFind},
                 {"insert", MeasureInsert},
                 {"pull", MeasurePull},
                 {"push", MeasurePush},
                 {"grow", MeasureGrow}};
  if (const HugePages pages = LookForHugePages(); !pages.available) {
    std::printf("no huge pages: %s\n", pages.why.c_str());
  }
  std::printf("%-34s %s\n", "", "median (least..most)   ratio to the limit (least..most)");
  Report report;
  for (const auto& bench : benches) {
    if (("," + FLAGS_only + ",").find("," + std::string(bench.name) + ",") != std::string::npos) {
      bench.measure(&report);
    }
  }
  const bool ok = FLAGS_quick || report.ok();
  const std::string json = "{\"bench\":\"store\",\"rows\":" + std::to_string(Rows()) +
                           ",\"grow_rows\":" + std::to_string(GrowRows()) + report.json() +
                           ",\"ok\":" + (ok ? "true" : "false") + "}";
  if (!FLAGS_json.empty()) {
    std::FILE* file = std::fopen(FLAGS_json.c_str(), "w");
    PCHECK(file != nullptr) << FLAGS_json;
    std::fprintf(file, "%s\n", json.c_str());
    std::fclose(file);
  }
  std::printf("%s\n", json.c_str());
  return ok ? 0 : 1;
}

}  // namespace
}  // namespace plexus

int main(int argc, char** argv) {
  google::InitGoogleLogging(argv[0]);
  gflags::ParseCommandLineFlags(&argc, &argv, true);
  return plexus::Run();
}
