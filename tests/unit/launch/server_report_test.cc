#include "launch/server_report.h"

#include <filesystem>
#include <memory>
#include <vector>

#include <gtest/gtest.h>

#include "common/files.h"
#include "tests/unit/proto/draws.h"
#include "tests/unit/proto/test_plan.h"

namespace plexus {
namespace {

using Json = nlohmann::ordered_json;

constexpr std::uint64_t kRowsMax = 256;

// Keys come at the second occurrence, go when unseen for 4 versions, or beyond 256 rows.
TableSpec BusySpec() {
  TableSpec spec;
  spec.name = "busy";
  spec.dim = 4;
  spec.optimizer.kind = OptimizerKind::kAdagrad;
  spec.precision = Precision::kInt8;
  spec.state_precision = Precision::kBf16;
  spec.max_rows = kRowsMax;
  spec.admission.kind = AdmissionSpec::Kind::kCount;
  spec.eviction.unseen_versions = 4;
  spec.eviction.sweep_versions = 4;
  return spec;
}

// Steps of random keys, few of which come often.
void Train(Table* table, std::uint64_t first, std::uint64_t last, Draws* draws) {
  for (std::uint64_t version = first; version <= last; ++version) {
    std::vector<Key> keys;
    for (std::size_t i = 0; i < 64; ++i) {
      const Key key = draws->Below(1 + draws->Below(3000));
      if (std::find(keys.begin(), keys.end(), key) == keys.end()) {
        keys.push_back(key);
      }
    }
    const std::vector<std::uint32_t> counts(keys.size(), 1);
    std::vector<float> gradients(keys.size() * table->spec().dim);
    for (float& gradient : gradients) {
      gradient = draws->Float();
    }
    const GradientPart part = {keys, counts, gradients.data()};
    table->ApplyStep(version, {&part, 1}, 1, 1);
    table->EndVersion(version);
  }
}

std::uint64_t RowsOf(const Table& table) {
  std::uint64_t rows = 0;
  table.ForEachRow([&rows](const RowView&) { ++rows; });
  return rows;
}

TEST(ServerReportTest, SaysWhatTheTableHas) {
  SCOPED_TRACE(SeedNote());
  Draws draws(1);
  const std::unique_ptr<Table> table = MakeTable(BusySpec(), 1, 8);
  Train(table.get(), 1, 120, &draws);
  ASSERT_GT(RowsOf(*table), 20u);
  const Json json = TableReport(*table);
  EXPECT_EQ(json["kind"], "HASHED");
  EXPECT_EQ(json["dim"], 4);
  EXPECT_EQ(json["precision"], "INT8");
  EXPECT_EQ(json["state_precision"], "BF16");
  EXPECT_EQ(json["rows"], RowsOf(*table));
  EXPECT_EQ(json["rows_in_memory"], RowsOf(*table));
  EXPECT_EQ(json["rows_on_disk"], 0);
  EXPECT_EQ(json["record_bytes"]["values"], 4 + 4);  // Four bytes, an f32 scale.
  EXPECT_EQ(json["record_bytes"]["state"], 4 * 2);
  EXPECT_EQ(json["index"]["load_factor"].get<double>(), table->index_shape().load_factor);
  EXPECT_GE(json["index"]["probe_mean"].get<double>(), 1);
  EXPECT_GE(json["index"]["probe_max"].get<double>(), json["index"]["probe_mean"].get<double>());
}

TEST(ServerReportTest, CountersAndPartsAddUp) {
  SCOPED_TRACE(SeedNote());
  Draws draws(2);
  const std::unique_ptr<Table> table = MakeTable(BusySpec(), 1, 8);
  for (std::uint64_t version = 1; version <= 200; version += 10) {
    Train(table.get(), version, version + 9, &draws);
    const Json json = TableReport(*table);
    const auto count = [&json](const char* name) {
      return json["counters"][name].get<std::uint64_t>();
    };
    EXPECT_TRUE(json["balanced"].get<bool>());
    EXPECT_EQ(count("admitted") + count("restored"), RowsOf(*table) + count("evicted_unseen") +
                                                         count("evicted_limit") +
                                                         count("evicted_memory"));
    EXPECT_LE(json["rows"].get<std::uint64_t>(), kRowsMax);
    const Json& memory = json["memory_bytes"];
    EXPECT_EQ(memory["index"].get<std::uint64_t>() + memory["rows"].get<std::uint64_t>() +
                  memory["headers"].get<std::uint64_t>() + memory["filters"].get<std::uint64_t>(),
              table->memory_bytes());
    EXPECT_EQ(memory["total"], table->memory_bytes());
    EXPECT_LE(memory["free"].get<std::uint64_t>(), memory["rows"].get<std::uint64_t>());
  }
  // The test has seen each of them.
  EXPECT_GT(table->counters().evicted_unseen, 0u);
  EXPECT_GT(table->counters().evicted_limit, 0u);
  EXPECT_GT(table->counters().refused_admission, 0u);
}

TEST(ServerReportTest, RowsOfHybridTablesComeByAdmissionAndPromotion) {
  SCOPED_TRACE(SeedNote());
  Draws draws(4);
  TableSpec spec = BusySpec();
  spec.kind = TableSpec::Kind::kHybrid;
  spec.max_rows = 0;
  spec.admission = {};
  spec.eviction = {};
  spec.hybrid = {.exact_rows = 32, .shared_rows = 64, .threshold = 3, .decay = 0.5};
  const std::unique_ptr<Table> table = MakeTable(spec, 1, 8);
  for (std::uint64_t version = 1; version <= 200; version += 10) {
    Train(table.get(), version, version + 9, &draws);
    const Json json = TableReport(*table);
    EXPECT_TRUE(json["balanced"].get<bool>());
    EXPECT_EQ(json["rows"], RowsOf(*table));
  }
  EXPECT_GT(table->counters().admitted, 0u);
  EXPECT_GT(table->counters().promoted, 0u);
  EXPECT_GT(table->counters().demoted, 0u);
}

TEST(ServerReportTest, RestoredRowsAreNotAdmitted) {
  Draws draws(3);
  TableSpec spec = BusySpec();
  const std::unique_ptr<Table> table = MakeTable(spec, 1, 8);
  Train(table.get(), 1, 50, &draws);
  const std::unique_ptr<Table> back = MakeTable(spec, 1, 8);
  table->ForEachRow([&back](const RowView& row) { back->Restore(row); });
  const Json json = TableReport(*back);
  EXPECT_EQ(json["counters"]["admitted"], 0);
  EXPECT_EQ(json["counters"]["restored"], RowsOf(*table));
  EXPECT_EQ(json["balanced"], true);
}

// A table that says what a test wants.
class SpokenTable final : public Table {
 public:
  SpokenTable(TableSpec spec, std::uint64_t rows, std::uint64_t cold, TableCounters counters)
      : spec_(std::move(spec)),
        layout_(spec_, *MakeOptimizer(spec_.optimizer)),
        rows_(rows),
        cold_(cold) {
    counters_ = counters;
  }

  const TableSpec& spec() const override { return spec_; }
  const RowLayout& layout() const override { return layout_; }
  void Pull(std::span<const Key>, std::uint32_t, Precision, std::uint8_t*,
            PullHint*) const override {}
  void ApplyStep(std::uint64_t, std::span<const GradientPart>, float, float) override {}
  void EndVersion(std::uint64_t) override {}
  void ForEachRow(const std::function<void(const RowView&)>&) const override {}
  void Restore(const RowView&) override {}
  Digest128 Digest() const override { return {}; }
  std::uint64_t row_count() const override { return rows_; }
  std::uint64_t cold_count() const override { return cold_; }
  TableMemory memory() const override { return {10, 20, 30, 40, 5}; }

 private:
  const TableSpec spec_;
  const RowLayout layout_;
  const std::uint64_t rows_;
  const std::uint64_t cold_;
};

TEST(ServerReportTest, EachCounterHasItsName) {
  const TableCounters counters = {.admitted = 100,
                                  .restored = 20,
                                  .evicted_unseen = 1,
                                  .evicted_limit = 2,
                                  .evicted_memory = 3,
                                  .refused_admission = 4,
                                  .refused_memory = 5,
                                  .late_pushes = 6,
                                  .spilled = 7,
                                  .thawed = 8,
                                  .promoted = 9,
                                  .demoted = 10};
  const SpokenTable table(BusySpec(), 113, 13, counters);
  const Json json = TableReport(table);
  EXPECT_EQ(json["counters"].dump(),
            R"({"admitted":100,"restored":20,"evicted_unseen":1,"evicted_limit":2,)"
            R"("evicted_memory":3,"refused_admission":4,"refused_memory":5,"late_pushes":6,)"
            R"("spilled":7,"thawed":8,"promoted":9,"demoted":10})");
  EXPECT_EQ(json["memory_bytes"].dump(),
            R"({"index":10,"rows":20,"headers":30,"filters":40,"free":5,"total":100})");
  EXPECT_EQ(json["rows"], 113);
  EXPECT_EQ(json["rows_in_memory"], 100);
  EXPECT_EQ(json["rows_on_disk"], 13);
  EXPECT_EQ(json["balanced"], true);
}

TEST(ServerReportTest, ALostRowIsSeen) {
  const TableCounters counters = {.admitted = 100, .evicted_limit = 10};
  EXPECT_TRUE(IsBalanced(SpokenTable(BusySpec(), 90, 0, counters)));
  EXPECT_FALSE(IsBalanced(SpokenTable(BusySpec(), 89, 0, counters)));
  EXPECT_FALSE(IsBalanced(SpokenTable(BusySpec(), 91, 0, counters)));
  EXPECT_FALSE(IsBalanced(SpokenTable(BusySpec(), 90, 91, counters)));
  EXPECT_EQ(TableReport(SpokenTable(BusySpec(), 89, 0, counters))["balanced"], false);
}

TEST(ServerReportTest, IsWrittenWholeAndReplaced) {
  const std::string run = testing::TempDir() + "server_report_test";
  std::filesystem::remove_all(run);
  const ShardState state(PlanOf(kSmallJob), 0, 1);
  ASSERT_TRUE(WriteServerReport(run, state, 3, 7, "saved").ok());
  ASSERT_TRUE(WriteServerReport(run, state, 3, 9, "left").ok());
  EXPECT_EQ(ServerReportPath(run, 3), run + "/servers/3.json");
  const Json json = Json::parse(ReadWholeFile(run + "/servers/3.json", 1 << 20).value());
  EXPECT_EQ(json["server"], 3);
  EXPECT_EQ(json["version"], 9);
  EXPECT_EQ(json["event"], "left");
  EXPECT_EQ(json["tables"].size(), 4u);
  EXPECT_EQ(json["tables"]["array"]["kind"], "ARRAY");
  EXPECT_EQ(json["dense_bytes"], state.dense().memory_bytes());
  EXPECT_EQ(json["state_bytes"], state.memory_bytes());
  EXPECT_EQ(std::distance(std::filesystem::directory_iterator(run + "/servers"), {}), 1);
  std::filesystem::remove_all(run);
}

TEST(ServerReportTest, AnUnwritableDirectoryIsAnError) {
  const std::string file = testing::TempDir() + "server_report_test_file";
  ASSERT_TRUE(WriteFileAtomically(file, "x").ok());
  const ShardState state(PlanOf(kSmallJob), 0, 1);
  const Status status = WriteServerReport(file, state, 0, 1, "saved");
  EXPECT_FALSE(status.ok());
  std::filesystem::remove(file);
}

}  // namespace
}  // namespace plexus
