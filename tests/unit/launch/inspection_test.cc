#include "launch/inspection.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <filesystem>
#include <map>
#include <memory>
#include <set>
#include <sstream>
#include <utility>
#include <vector>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "common/files.h"
#include "launch/distinct_keys.h"
#include "launch/field_survey.h"
#include "launch/inspect_text.h"
#include "launch/model_survey.h"
#include "tests/unit/proto/draws.h"
#include "tests/unit/proto/test_plan.h"
#include "worker/addresser.h"

namespace plexus {
namespace {

using Json = nlohmann::ordered_json;
using testing::ElementsAre;
using testing::HasSubstr;

TableSpec PlainSpec() {
  TableSpec spec;
  spec.name = "plain";
  spec.dim = 3;
  return spec;
}

RowView RowOf(Key key, std::uint64_t count, std::uint64_t last_step,
              const std::vector<float>& values) {
  return {key, last_step, count, std::as_bytes(std::span<const float>(values))};
}

TEST(DistinctKeysTest, IsTheSetOfTheStream) {
  SCOPED_TRACE(SeedNote());
  Draws draws(1);
  DistinctKeys keys;
  std::set<Key> naive;
  EXPECT_TRUE(keys.Sorted().empty());
  for (int i = 0; i < 200000; ++i) {
    const Key key = draws.Below(1 + draws.Below(100000));
    keys.Add(key);
    naive.insert(key);
    if (i % 50000 == 7) {
      EXPECT_EQ(keys.Sorted(), std::vector<Key>(naive.begin(), naive.end()));
    }
  }
  EXPECT_TRUE(naive.contains(0));
  EXPECT_EQ(keys.Sorted(), std::vector<Key>(naive.begin(), naive.end()));
}

TEST(TableSurveyTest, AgreesWithSortingAllRows) {
  SCOPED_TRACE(SeedNote());
  Draws draws(2);
  TableSurvey survey(PlainSpec(), 16, 100, 7);
  std::vector<HotKey> all;
  std::map<int, std::uint64_t> log2;
  double occurrences = 0;
  for (Key key = 0; key < 5000; ++key) {
    const float scale = std::ldexp(1.0f, static_cast<int>(draws.Below(20)) - 15);
    const std::vector<float> values = {scale * draws.Float(), scale * draws.Float(), 0};
    const double norm = std::sqrt(static_cast<double>(values[0]) * values[0] +
                                  static_cast<double>(values[1]) * values[1]);
    const std::uint64_t count = draws.Below(50);  // Many are equal.
    survey.Add(RowOf(key, count, 1, values));
    all.push_back({key, static_cast<double>(count), 1, norm});
    occurrences += static_cast<double>(count);
    ++log2[static_cast<int>(std::floor(std::log2(norm)))];
  }
  std::stable_sort(all.begin(), all.end(),
                   [](const HotKey& a, const HotKey& b) { return a.count > b.count; });
  const std::vector<HotKey> hottest = survey.Hottest();
  ASSERT_EQ(hottest.size(), 7u);
  for (std::size_t i = 0; i < hottest.size(); ++i) {
    EXPECT_EQ(hottest[i].key, all[i].key);
    EXPECT_EQ(hottest[i].norm, all[i].norm);
  }
  const Json json = survey.ToJson();
  EXPECT_EQ(json["occurrences"].get<double>(), occurrences);
  EXPECT_EQ(json["norms"]["log2"].size(), log2.size());
  for (const Json& bucket : json["norms"]["log2"]) {
    EXPECT_EQ(bucket["rows"], log2.at(bucket["exponent"].get<int>()));
  }
  EXPECT_EQ(survey.rows(), 5000u);
}

TEST(TableSurveyTest, ZerosAndWhatIsNotFiniteAreCountedApart) {
  TableSurvey survey(PlainSpec(), 16, 10, 3);
  survey.Add(RowOf(1, 1, 1, {NAN, 0, 0}));
  survey.Add(RowOf(2, 1, 1, {0, 0, 0}));
  survey.Add(RowOf(3, 1, 1, {0, INFINITY, 0}));
  survey.Add(RowOf(4, 1, 1, {3, 4, 0}));
  survey.Add(RowOf(5, 1, 1, {0, 0, 1}));
  const Json norms = survey.ToJson()["norms"];
  EXPECT_EQ(norms["zero"], 1);
  EXPECT_EQ(norms["not_finite"], 2);
  EXPECT_EQ(norms["min"], 0.0);
  EXPECT_EQ(norms["max"], 5.0);
  EXPECT_EQ(norms["mean"], 2.0);
  EXPECT_EQ(norms["log2"].dump(), R"([{"exponent":0,"rows":1},{"exponent":2,"rows":1}])");
}

TEST(TableSurveyTest, CountsOfOrderCountAreDecayedFloats) {
  TableSpec spec = PlainSpec();
  spec.max_rows = 100;
  spec.eviction.order = EvictionSpec::Order::kCount;
  spec.eviction.half_life_versions = 10;
  TableSurvey survey(spec, 16, 30, 2);
  const auto bits = [](float count) { return std::uint64_t{BitsOf(count)}; };
  survey.Add(RowOf(1, bits(8), 10, {1, 0, 0}));    // Two half-lives ago.
  survey.Add(RowOf(2, bits(2.5), 30, {1, 0, 0}));  // Just now.
  survey.Add(RowOf(3, bits(1), 30, {1, 0, 0}));
  const std::vector<HotKey> hottest = survey.Hottest();
  ASSERT_EQ(hottest.size(), 2u);
  EXPECT_EQ(hottest[0].key, 2u);
  EXPECT_EQ(hottest[0].count, 2.5);
  EXPECT_EQ(hottest[1].key, 1u);
  EXPECT_NEAR(hottest[1].count, 2, 1e-5);
}

TEST(TableSurveyTest, WithoutCountsNoKeyIsHot) {
  TableSpec spec = PlainSpec();
  spec.keep_counts = false;
  TableSurvey survey(spec, 16, 10, 5);
  survey.Add(RowOf(1, 0, 1, {1, 0, 0}));
  EXPECT_TRUE(survey.Hottest().empty());
  EXPECT_TRUE(survey.ToJson()["occurrences"].is_null());
  EXPECT_EQ(survey.rows(), 1u);
}

Json ReportOf(std::uint64_t rows, std::uint64_t on_disk, double load, double mean, int max) {
  return {{"kind", "HASHED"},
          {"rows", rows},
          {"rows_in_memory", rows - on_disk},
          {"rows_on_disk", on_disk},
          {"record_bytes", {{"values", 8}, {"state", 16}, {"on_disk", 28}}},
          {"memory_bytes",
           {{"index", 100},
            {"rows", 3000},
            {"headers", 50},
            {"filters", 7},
            {"free", 0},
            {"total", 3157}}},
          {"index", {{"load_factor", load}, {"probe_mean", mean}, {"probe_max", max}}},
          {"counters",
           {{"admitted", rows + 1},
            {"restored", 0},
            {"evicted_unseen", 1},
            {"evicted_limit", 0},
            {"evicted_memory", 0},
            {"refused_admission", 3},
            {"refused_memory", 0},
            {"late_pushes", 0},
            {"spilled", 0},
            {"thawed", 0},
            {"promoted", 0},
            {"demoted", 0}}},
          {"balanced", true}};
}

TEST(MergeTableReportsTest, AddsUpAndWeighsByRows) {
  const Json merged =
      MergeTableReports({ReportOf(100, 20, 0.5, 1.0, 2), ReportOf(50, 0, 0.25, 2.0, 5)});
  EXPECT_EQ(merged["rows"], 150);
  EXPECT_EQ(merged["rows_in_memory"], 130);
  EXPECT_EQ(merged["rows_on_disk"], 20);
  EXPECT_EQ(merged["bytes_on_disk"], 20 * 28);
  EXPECT_EQ(merged["counters"]["admitted"], 152);
  EXPECT_EQ(merged["counters"]["refused_admission"], 6);
  EXPECT_EQ(merged["memory_bytes"]["total"], 2 * 3157);
  EXPECT_DOUBLE_EQ(merged["index"]["load_factor"].get<double>(), 150.0 / (200 + 200));
  EXPECT_DOUBLE_EQ(merged["index"]["probe_mean"].get<double>(), (100 * 1.0 + 50 * 2.0) / 150);
  EXPECT_EQ(merged["index"]["probe_max"], 5);
  EXPECT_EQ(merged["bytes"]["values"], 130 * 8);
  EXPECT_EQ(merged["bytes"]["state"], 130 * 16);
  std::uint64_t together = 0;
  for (const auto& [name, bytes] : merged["bytes"].items()) {
    together += name == "together" ? 0 : bytes.get<std::uint64_t>();
  }
  EXPECT_EQ(merged["bytes"]["together"], together);
  EXPECT_EQ(merged["balanced"], true);
}

TEST(MergeTableReportsTest, OneUnbalancedServerIsEnough) {
  Json bad = ReportOf(10, 0, 0.5, 1, 1);
  bad["balanced"] = false;
  EXPECT_EQ(MergeTableReports({ReportOf(10, 0, 0.5, 1, 1), bad})["balanced"], false);
  bad.erase("counters");
  EXPECT_THROW(MergeTableReports({bad}), Json::exception);
}

// Fields that share a HASHED table, and one with an ARRAY of its own.
constexpr char kFieldsJob[] = R"(
data {
  format: DELIMITED
  columns: "label" columns: "a" columns: "b" columns: "c"
  fields { name: "a" tables: "shared" }
  fields { name: "b" kind: MULTI_VALUED tables: "shared" }
  fields { name: "c" tables: "array" }
}
tables { name: "shared" dim: 2 }
tables { name: "array" kind: ARRAY rows: 1 dim: 2 }
model { name: "fnn" hidden: 4 }
)";

TEST(FieldSurveyTest, SaysWhoseTheRowsAre) {
  const std::string path = testing::TempDir() + "field_survey_test.csv";
  ASSERT_TRUE(WriteFileAtomically(path, "1,x,x|y,p\n0,z,y|w,q\n1,x,,p\n").ok());
  const std::shared_ptr<const JobPlan> plan = PlanOf(kFieldsJob);
  StatusOr<std::unique_ptr<FieldSurvey>> survey = FieldSurvey::Create(plan);
  ASSERT_TRUE(survey.ok());
  const auto key = [](const char* value) { return HashBytes(value, 0); };
  // "w" has no row, and the row of key 5 no value.
  for (const Key row : {key("y"), key("x"), key("z"), Key{5}}) {
    (*survey)->AddRow(0, row);
  }
  (*survey)->AddRow(1, 0);
  double share = 0;
  const Status read =
      (*survey)->ReadValues({path}, [&](double now, std::uint64_t) { share = now; });
  ASSERT_TRUE(read.ok()) << read.ToString();
  EXPECT_EQ(share, 1);
  const Json json = (*survey)->ToJson();
  EXPECT_EQ(json["samples"], 3);
  EXPECT_EQ(json["fields"]["a"].dump(),
            R"({"values":2,"tables":{"shared":{"values_with_row":2,"rows":2,"bytes":16,)"
            R"("share":0.5}}})");
  EXPECT_EQ(json["fields"]["b"]["values"], 4);  // x, y, w, and "no value".
  EXPECT_EQ(json["fields"]["b"]["tables"]["shared"]["values_with_row"], 2);
  EXPECT_EQ(json["fields"]["c"]["values"], 2);  // Both in the one row.
  EXPECT_EQ(json["fields"]["c"]["tables"]["array"]["values_with_row"], 2);
  EXPECT_EQ(json["fields"]["c"]["tables"]["array"]["rows"], 1);
  EXPECT_EQ(json["tables"]["shared"].dump(),
            R"({"rows":4,"rows_of_fields":4,"rows_counted_again":1,"rows_of_no_field":1})");
  EXPECT_EQ((*survey)->FieldOf(0, key("x")), "a");
  EXPECT_EQ((*survey)->FieldOf(0, key("y")), "b");
  EXPECT_EQ((*survey)->FieldOf(0, 5), "");
  EXPECT_EQ((*survey)->FieldOf(0, 6), "");
  std::filesystem::remove(path);
}

// Rows that exist, and those that fields read, of one value a field at a time.
Json SurveyOf(const std::shared_ptr<const JobPlan>& plan, const std::string& data,
              const std::vector<std::pair<std::uint32_t, Key>>& rows) {
  const std::string path = testing::TempDir() + "field_survey_test.csv";
  EXPECT_TRUE(WriteFileAtomically(path, data).ok());
  const StatusOr<std::unique_ptr<FieldSurvey>> survey = FieldSurvey::Create(plan);
  for (const auto& [table, key] : rows) {
    (*survey)->AddRow(table, key);
  }
  const Status read = (*survey)->ReadValues({path}, [](double, std::uint64_t) {});
  EXPECT_TRUE(read.ok()) << read.ToString();
  std::filesystem::remove(path);
  return (*survey)->ToJson();
}

TEST(FieldSurveyTest, AValueOfTwoRowsNeedsBoth) {
  const auto plan =
      PlanOf(kFieldsJob, {"tables.array.rows=1000", "tables.array.addresser.kind=DOUBLE_HASH"});
  std::uint32_t group = 0;
  while (!plan->groups[group].addresser.has_value()) {
    ++group;
  }
  std::vector<Piece> pieces;
  Addresser(*plan->groups[group].addresser).AppendPieces(HashBytes("p", 0), &pieces);
  ASSERT_EQ(pieces.size(), 2u);
  ASSERT_NE(pieces[0].row, pieces[1].row);
  const std::string data = "1,x,x,p\n";
  const auto of_c = [&](const std::vector<std::pair<std::uint32_t, Key>>& rows) {
    return SurveyOf(plan, data, rows)["fields"]["c"]["tables"]["array"].dump();
  };
  EXPECT_EQ(of_c({{1, pieces[0].row}, {1, pieces[1].row}}),
            R"({"values_with_row":1,"rows":2,"bytes":16,"share":1.0})");
  EXPECT_EQ(of_c({{1, pieces[0].row}}), R"({"values_with_row":0,"rows":1,"bytes":8,"share":1.0})");
}

TEST(FieldSurveyTest, AHybridTablesValuesReadTheirOwnOrASharedRow) {
  const auto plan =
      PlanOf(kFieldsJob, {"tables.shared.kind=HYBRID", "tables.shared.hybrid.exact_rows=16",
                          "tables.shared.hybrid.shared_rows=16"});
  const HybridAddresses addresses(plan->tables[0].hybrid, plan->buckets());
  const Key x = HashBytes("x", 0);
  const Key y = HashBytes("y", 0);
  const HybridAddresses::Address address = addresses.Of(Mix64(y));
  const Key shared = addresses.SharedKey(address.bucket, address.shared);
  const Json json = SurveyOf(plan, "1,x,y,p\n0,y,x,p\n", {{0, x}, {0, shared}});
  for (const char* field : {"a", "b"}) {
    EXPECT_EQ(json["fields"][field]["tables"]["shared"].dump(),
              R"({"values_with_row":1,"rows":2,"bytes":16,"share":1.0})");
  }
  EXPECT_EQ(json["tables"]["shared"].dump(),
            R"({"rows":2,"rows_of_fields":4,"rows_counted_again":2,"rows_of_no_field":0})");

  TableSurvey survey(plan->tables[0], plan->buckets(), 10, 5);
  survey.Add(RowOf(x, 3, 1, {1, 0}));
  survey.Add(RowOf(shared, 9, 1, {0, 1}));
  const Json rows = survey.ToJson();
  EXPECT_EQ(rows["shared_rows"], 1);
  EXPECT_EQ(rows["hottest"][0]["shared"], true);
  EXPECT_EQ(rows["hottest"][1]["shared"], false);
}

TEST(FieldSurveyTest, AMissingFileIsNamed) {
  const StatusOr<std::unique_ptr<FieldSurvey>> survey = FieldSurvey::Create(PlanOf(kFieldsJob));
  ASSERT_TRUE(survey.ok());
  const Status status = (*survey)->ReadValues({"/no/such/data"}, [](double, std::uint64_t) {});
  EXPECT_EQ(status.code(), StatusCode::kNotFound);
  EXPECT_THAT(status.message(), HasSubstr("/no/such/data"));
}

// A report with the longest of everything.
Json WideReport() {
  constexpr std::uint64_t kMany = 123456789012;
  Json report = {{"run", "runs/x"},
                 {"model", "deepfm"},
                 {"which", "final"},
                 {"version", kMany},
                 {"model_digest", std::string(32, 'f')},
                 {"shards", 1000},
                 {"file_bytes", kMany},
                 {"reports", {{"expected", 1000}, {"found", 999}, {"version", kMany}}},
                 {"notes", Json::array()}};
  TableSurvey survey(PlainSpec(), 16, 10, 5);
  for (int e = -60; e <= 60; ++e) {
    survey.Add(RowOf(static_cast<Key>(e + 60), 4000000000, 1, {std::ldexp(1.0f, e), 0, 0}));
  }
  Json table = {{"kind", "HASHED"},
                {"dim", 512},
                {"precision", "BF16"},
                {"state_precision", "BF16"},
                {"optimizer", "ROW_WISE_ADAGRAD"},
                {"rows", kMany},
                {"record_bytes", {{"values", 1024}, {"state", 2048}}}};
  table.update(survey.ToJson());
  for (Json& key : table["hottest"]) {
    key["key"] = "0xffffffffffffffff";
    key["count"] = 1e12;
    key["field"] = std::string(40, 'n');
    key["missing"] = true;
    key["shared"] = false;
  }
  table["servers"] = MergeTableReports({ReportOf(kMany, 0, 0.5, 1.25, 12)});
  report["tables"] = {{std::string(60, 't'), table}};
  constexpr std::uint64_t kBillion = 1234567890;
  const Json rows = {
      {"values_with_row", kBillion}, {"rows", kBillion}, {"bytes", kMany}, {"share", 1.0}};
  report["fields"] = {{"samples", kMany},
                      {"bad_lines", kMany},
                      {"fields",
                       {{std::string(60, 'f'),
                         {{"values", kBillion}, {"tables", {{std::string(60, 't'), rows}}}}}}},
                      {"tables",
                       {{std::string(60, 't'),
                         {{"rows", kMany},
                          {"rows_of_fields", kMany},
                          {"rows_counted_again", 0},
                          {"rows_of_no_field", 0}}}}}};
  report["totals"] = {{"rows", kMany},          {"record_bytes", kMany},  {"memory_bytes", kMany},
                      {"bytes_on_disk", kMany}, {"dense_parameters", 10}, {"dense_bytes", 40}};
  return report;
}

TEST(InspectTextTest, IsNotWiderThan110Columns) {
  const std::string text = InspectText(WideReport());
  std::stringstream lines(text);
  std::size_t bars = 0;
  for (std::string line; std::getline(lines, line);) {
    EXPECT_LE(line.size(), 110u) << line;
    EXPECT_EQ(line.find_last_not_of(' '), line.size() - 1) << "'" << line << "'";
    bars += line.find("#####") != std::string::npos ? 1 : 0;
  }
  EXPECT_EQ(bars, 1u);  // The lower ones are one line, and all others small beside it.
  EXPECT_THAT(text, HasSubstr("[0, 2^38)"));
  EXPECT_THAT(text, HasSubstr("[2^60, 2^61)"));
  EXPECT_THAT(text, HasSubstr("123,456,789,012"));
  EXPECT_THAT(text, HasSubstr("= 123,456,789,012 rows"));
}

TEST(InspectTextTest, SaysWhatDoesNotAddUpAndWhatIsMissing) {
  Json report = WideReport();
  Json& table = report["tables"].front();
  table["servers"]["balanced"] = false;
  EXPECT_THAT(InspectText(report), HasSubstr("IS NOT"));
  table["servers"] = nullptr;
  report["totals"]["memory_bytes"] = nullptr;
  report["notes"].push_back("no report of server 0");
  const std::string text = InspectText(report);
  EXPECT_THAT(text, HasSubstr("note: no report of server 0"));
  EXPECT_THAT(text, testing::Not(HasSubstr("came and went")));
}

TEST(InspectTest, NoRunAndNoModelAreErrorsOfTheirOwn) {
  const std::string run = testing::TempDir() + "inspection_test_run";
  std::filesystem::remove_all(run);
  InspectOptions options;
  options.run_dir = run;
  EXPECT_EQ(Inspect(options).status().code(), StatusCode::kInvalidArgument);
  ASSERT_TRUE(MakeDirectories(run).ok());
  ASSERT_TRUE(WriteFileAtomically(run + "/job.textproto", PrintJob(PlanOf(kSmallJob)->job)).ok());
  EXPECT_EQ(Inspect(options).status().code(), StatusCode::kNotFound);
  std::filesystem::remove_all(run);
}

}  // namespace
}  // namespace plexus
