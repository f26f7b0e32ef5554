// Snapshots of tables of every kind, gathered slice by slice between random steps, pulls, spills,
// reads from disk and evictions, against a twin that does the same and is looked at all at once:
// byte for byte the same rows and filters, whole and incremental, and the same table afterwards.
// Repeat one run with --gtest_random_seed=N; --gtest_filter names the combination.
#include <cstring>
#include <map>
#include <memory>
#include <string>
#include <unordered_map>
#include <vector>

#include <gtest/gtest.h>

#include "common/random.h"
#include "ps/table/table.h"

namespace plexus {
namespace {

constexpr std::uint64_t kTableSeed = 42;
constexpr std::uint32_t kBuckets = 16;

std::uint64_t Seed() {
  const int seed = ::testing::UnitTest::GetInstance()->random_seed();
  return seed == 0 ? 1 : static_cast<std::uint64_t>(seed);
}

class Draws {
 public:
  explicit Draws(std::uint64_t stream) : random_(Seed(), stream) {}
  std::uint64_t Below(std::uint64_t bound) { return random_.Below(next_++, bound); }
  float Float() { return 2 * random_.Uniform(next_++) - 1; }

 private:
  CounterRandom random_;
  std::uint64_t next_ = 0;
};

// Rows as a model file has them, and filters, by key and bucket.
struct Dump {
  std::map<Key, std::string> rows;
  std::map<std::uint32_t, std::string> filters;
};

std::string BytesOf(const RowView& row) {
  SnapshotRows one;
  one.Add(row);
  return one.bytes;
}

// A table and its disk.
struct Twin {
  explicit Twin(const TableSpec& spec) : table(MakeTable(spec, kTableSeed, kBuckets)) {}

  ColdBatch BatchOf(const std::vector<Key>& keys) const {
    ColdBatch batch;
    batch.record_bytes = table->cold_record_bytes();
    for (const Key key : keys) {
      batch.keys.push_back(key);
      const std::vector<std::byte>& record = disk.at(key);
      batch.records.insert(batch.records.end(), record.begin(), record.end());
    }
    return batch;
  }

  void Thaw(std::span<const Key> keys) {
    std::vector<Key> cold;
    table->FindCold(keys, &cold);
    table->Thaw(BatchOf(cold));
  }

  void Spill(std::uint64_t bytes) {
    ColdBatch batch;
    if (table->spec().spills) {
      table->Spill(bytes, &batch);
    }
    for (std::size_t i = 0; i < batch.keys.size(); ++i) {
      const std::byte* record = batch.records.data() + i * batch.record_bytes;
      disk[batch.keys[i]].assign(record, record + batch.record_bytes);
    }
  }

  Dump DumpAll() const {
    Dump dump;
    table->ForEachRow([&](const RowView& row) { dump.rows[row.key] = BytesOf(row); });
    for (const auto& [key, record] : disk) {
      RowView row;
      if (table->ViewCold(key, record.data(), &row)) {
        dump.rows[key] = BytesOf(row);
      }
    }
    table->ForEachFilter(
        [&](std::uint32_t bucket, const std::string& bytes) { dump.filters[bucket] = bytes; });
    return dump;
  }

  std::unique_ptr<Table> table;
  std::unordered_map<Key, std::vector<std::byte>> disk;  // Stale copies included.
};

class SnapshotRun {
 public:
  SnapshotRun(const TableSpec& spec, std::uint64_t stream)
      : spec_(spec), draws_(stream), gathered_(spec), plain_(spec) {}

  void Operate() {
    switch (draws_.Below(8)) {
      case 0:
      case 1:
      case 2:
        return Step();
      case 3:
      case 4: {
        const std::vector<Key> keys = RandomKeys(40);
        for (Twin* twin : {&gathered_, &plain_}) {
          twin->Thaw(keys);
          std::vector<float> values(keys.size() * spec_.dim);
          twin->table->Pull(keys, values.data());
        }
        return;
      }
      case 5:
      case 6: {
        const std::uint64_t bytes = 100 * draws_.Below(80);
        gathered_.Spill(bytes);
        plain_.Spill(bytes);
        return;
      }
      default: {
        const std::uint64_t bytes = draws_.Below(6) == 0 ? spec_.dim * 40 : 0;
        gathered_.table->Compact(draws_.Below(2) == 0);
        if (bytes > 0) {
          Forget([bytes](Twin& twin) { twin.table->EvictOldest(bytes); });
        }
      }
    }
  }

  // A snapshot, whole or on the one before; then it is compared.
  void Snapshot(bool incremental) {
    const Dump expected = plain_.DumpAll();
    const std::uint64_t version = version_;
    Table& table = *gathered_.table;
    const std::vector<Key> erased = table.erased().Restart();
    table.BeginSnapshot(version_, incremental ? base_version_ : 0, kBuckets);
    Dump got;
    bool more = true;
    while (more || !copies_.empty()) {
      if (draws_.Below(3) > 0) {
        ASSERT_NO_FATAL_FAILURE(Operate());
      } else if (more) {
        more = table.GatherSlice(1 + draws_.Below(draws_.Below(2) == 0 ? 200 : 3000));
        AskForCopies();
      } else {
        DeliverCopy();
      }
    }
    Collect(&got);
    table.snapshot().End();
    if (incremental) {
      Dump merged = base_;
      for (const Key key : erased) {
        merged.rows.erase(key);
      }
      for (auto& [key, bytes] : got.rows) {
        merged.rows[key] = bytes;
      }
      EXPECT_LE(got.rows.size(), expected.rows.size());
      got.rows = std::move(merged.rows);
    }
    EXPECT_TRUE(got.rows == expected.rows) << Differences(got.rows, expected.rows);
    EXPECT_TRUE(got.filters == expected.filters);
    base_ = std::move(got);
    base_version_ = version;
  }
  std::uint64_t version() const { return version_; }
  void ExpectTwinsEqual() {
    const Dump a = gathered_.DumpAll();
    const Dump b = plain_.DumpAll();
    EXPECT_TRUE(a.rows == b.rows && a.filters == b.filters);
  }

 private:
  static std::string Differences(const std::map<Key, std::string>& got,
                                 const std::map<Key, std::string>& expected) {
    std::size_t missing = 0;
    std::size_t other = 0;
    for (const auto& [key, bytes] : expected) {
      const auto at = got.find(key);
      missing += at == got.end() ? 1 : 0;
      other += at != got.end() && at->second != bytes ? 1 : 0;
    }
    return "rows " + std::to_string(got.size()) + " of " + std::to_string(expected.size()) +
           ", missing " + std::to_string(missing) + ", different " + std::to_string(other);
  }

  Key RandomKey() {
    if (spec_.kind == TableSpec::Kind::kArray) {
      return draws_.Below(spec_.rows);
    }
    switch (draws_.Below(4)) {
      case 0:
        return draws_.Below(4);
      case 1:
        return Mix64(1000000 + next_new_++);
      default:
        return Mix64(1000 + version_ / 8 + draws_.Below(300));
    }
  }

  std::vector<Key> RandomKeys(std::uint64_t most) {
    std::map<Key, bool> keys;
    for (std::uint64_t n = draws_.Below(most); n > 0; --n) {
      keys[RandomKey()] = true;
    }
    std::vector<Key> list;
    for (const auto& [key, unused] : keys) {
      list.push_back(key);
    }
    return list;
  }

  void Step() {
    ++version_;
    struct OwnedPart {
      std::vector<Key> keys;
      std::vector<std::uint32_t> counts;
      std::vector<float> gradients;
    };
    std::vector<OwnedPart> parts(1 + draws_.Below(3));
    std::vector<GradientPart> views;
    for (OwnedPart& part : parts) {
      part.keys = RandomKeys(40);
      for (std::size_t i = 0; i < part.keys.size(); ++i) {
        part.counts.push_back(1 + static_cast<std::uint32_t>(draws_.Below(3)));
      }
      for (std::size_t i = 0; i < part.keys.size() * spec_.dim; ++i) {
        part.gradients.push_back(draws_.Float());
      }
      views.push_back({part.keys, part.counts, part.gradients.data(), spec_.dim});
    }
    Forget([&](Twin& twin) {
      for (const OwnedPart& part : parts) {
        twin.Thaw(part.keys);
      }
      twin.table->ApplyStep(version_, views, 0.5f, 1.0f);
      twin.table->EndVersion(version_);
    });
  }

  // `work` may evict rows: copies are asked for before these are gone from disk.
  template <typename Work>
  void Forget(const Work& work) {
    for (Twin* twin : {&gathered_, &plain_}) {
      work(*twin);
      if (twin == &gathered_) {
        AskForCopies();
      }
      for (const Key key : twin->table->TakeForgotten()) {
        twin->disk.erase(key);
      }
    }
  }

  // As of now, whatever comes before they are delivered.
  void AskForCopies() {
    const std::vector<Key> keys = gathered_.table->snapshot().TakeCold();
    if (!keys.empty()) {
      copies_.push_back(gathered_.BatchOf(keys));
    }
  }

  void DeliverCopy() {
    const ColdBatch batch = std::move(copies_.back());
    copies_.pop_back();
    Table& table = *gathered_.table;
    for (std::size_t i = 0; i < batch.keys.size(); ++i) {
      const RowView row =
          table.ReadCold(batch.keys[i], batch.records.data() + i * batch.record_bytes);
      EXPECT_TRUE(table.snapshot().Holds(row.last_step));
      table.snapshot().Add(row);
    }
  }

  void Collect(Dump* dump) {
    TableSnapshot& snapshot = gathered_.table->snapshot();
    const std::size_t row_bytes = 24 + gathered_.table->layout().record_bytes();
    for (const SnapshotRows& rows : snapshot.TakeBlocks(true)) {
      ASSERT_EQ(rows.bytes.size(), rows.count * row_bytes);
      for (std::uint32_t i = 0; i < rows.count; ++i) {
        const std::string row = rows.bytes.substr(i * row_bytes, row_bytes);
        Key key;
        std::memcpy(&key, row.data(), sizeof(key));
        ASSERT_TRUE(dump->rows.try_emplace(key, row).second) << "a row twice: key " << key;
      }
    }
    for (const SnapshotFilter& filter : snapshot.TakeFilters()) {
      ASSERT_TRUE(dump->filters.try_emplace(filter.bucket, filter.bytes).second);
    }
    EXPECT_EQ(snapshot.waiting_bytes(), 0u);
  }

  const TableSpec spec_;
  Draws draws_;
  Twin gathered_;
  Twin plain_;
  std::vector<ColdBatch> copies_;  // Asked for.
  std::uint64_t version_ = 0;
  std::uint64_t next_new_ = 0;
  Dump base_;
  std::uint64_t base_version_ = 0;
};

struct Case {
  std::string name;
  TableSpec spec;
};

TableSpec HashedSpec(Precision precision, bool spills) {
  TableSpec spec;
  spec.name = "hashed";
  spec.dim = 7;
  spec.init_scale = 0.3f;
  spec.precision = precision;
  spec.state_precision = precision == Precision::kBf16 ? Precision::kBf16 : Precision::kF32;
  spec.learned_scale = precision == Precision::kInt8;
  spec.scale_learning_rate = 1e-3f;
  spec.optimizer.kind =
      precision == Precision::kInt4 ? OptimizerKind::kAdam : OptimizerKind::kAdagrad;
  spec.optimizer.learning_rate = 0.05f;
  spec.optimizer.initial_accumulator = 0.1f;
  spec.admission.threshold = 2;
  spec.admission.probability = 0.4;
  spec.admission.filter_keys = 200;
  spec.admission.sketch_width = 1024;
  spec.admission.window_versions = 50;
  spec.spills = spills;
  return spec;
}

std::vector<Case> Cases() {
  std::vector<Case> cases;
  const char* const precisions[] = {"F32", "Bf16", "F16", "Int8", "Int4"};
  const AdmissionSpec::Kind kinds[] = {AdmissionSpec::Kind::kAll, AdmissionSpec::Kind::kCount,
                                       AdmissionSpec::Kind::kSketch,
                                       AdmissionSpec::Kind::kProbability};
  const char* const kind_names[] = {"All", "Count", "Sketch", "Probability"};
  for (int p = 0; p < 5; ++p) {
    for (int k = 0; k < 4; ++k) {
      for (int eviction = 0; eviction < 5; ++eviction) {
        for (const bool spills : {false, true}) {
          TableSpec spec = HashedSpec(static_cast<Precision>(p), spills);
          spec.admission.kind = kinds[k];
          spec.keep_counts = (p + k) % 2 == 0;
          if (eviction == 1) {
            spec.eviction.unseen_versions = 20;
            spec.eviction.sweep_versions = 5;
          } else if (eviction >= 2) {
            spec.max_rows = 160;
            spec.eviction.order = static_cast<EvictionSpec::Order>(eviction - 2);
            spec.eviction.half_life_versions = eviction == 3 ? 30 : 0;
          }
          cases.push_back({std::string(precisions[p]) + kind_names[k] + "Eviction" +
                               std::to_string(eviction) + (spills ? "Disk" : "Memory"),
                           spec});
        }
      }
    }
    TableSpec array = HashedSpec(static_cast<Precision>(p), false);
    array.kind = TableSpec::Kind::kArray;
    array.rows = 500;
    array.keep_counts = p % 2 == 0;
    cases.push_back({std::string("Array") + precisions[p], array});
    TableSpec hybrid = HashedSpec(static_cast<Precision>(p), false);
    hybrid.kind = TableSpec::Kind::kHybrid;
    hybrid.hybrid.exact_rows = 64;
    hybrid.hybrid.shared_rows = 100;
    hybrid.hybrid.threshold = 3;
    hybrid.hybrid.decay = 0.5;
    hybrid.keep_counts = p % 2 == 0;
    cases.push_back({std::string("Hybrid") + precisions[p], hybrid});
  }
  return cases;
}

class SnapshotProperty : public ::testing::TestWithParam<Case> {};

TEST_P(SnapshotProperty, IsTheTwinAsOfItsVersion) {
  SnapshotRun run(GetParam().spec, HashBytes(GetParam().name, 7));
  for (int round = 0; round < 8; ++round) {
    for (int i = 0; i < 40; ++i) {
      ASSERT_NO_FATAL_FAILURE(run.Operate()) << "seed " << Seed();
    }
    const std::uint64_t version = run.version();
    ASSERT_NO_FATAL_FAILURE(run.Snapshot(round % 4 != 0)) << "seed " << Seed();
    ASSERT_FALSE(HasFailure()) << "seed " << Seed() << " round " << round << " version " << version;
  }
  run.ExpectTwinsEqual();
}

INSTANTIATE_TEST_SUITE_P(Tables, SnapshotProperty, ::testing::ValuesIn(Cases()),
                         [](const ::testing::TestParamInfo<Case>& of) { return of.param.name; });

}  // namespace
}  // namespace plexus
