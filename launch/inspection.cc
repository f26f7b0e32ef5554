#include "launch/inspection.h"

#include <algorithm>
#include <cstdio>
#include <memory>
#include <utility>

#include "common/clock.h"
#include "common/files.h"
#include "launch/field_survey.h"
#include "launch/model_survey.h"
#include "launch/plan.h"
#include "launch/progress_bar.h"
#include "launch/server_report.h"
#include "proto/job.h"
#include "ps/store/model_file.h"

namespace plexus {
namespace {

using Json = nlohmann::ordered_json;

constexpr std::uint64_t kReportBytesMax = 1 << 24;

// The reports of a run's servers, and why some are missing.
struct Reports {
  std::vector<Json> found;
  std::uint32_t expected = 0;
  std::vector<std::string> notes;
};

// Counts what `from` has in `to`, name by name.
void AddNumbers(const Json& from, Json* to) {
  for (const auto& [name, number] : from.items()) {
    (*to)[name] = to->value(name, std::uint64_t{0}) + number.get<std::uint64_t>();
  }
}

Json BytesByUse(const Json& merged) {
  const auto rows = merged["rows_in_memory"].get<std::uint64_t>();
  const Json& record = merged["record_bytes"];
  const Json& memory = merged["memory_bytes"];
  const std::uint64_t values = rows * record["values"].get<std::uint64_t>();
  const std::uint64_t state = rows * record["state"].get<std::uint64_t>();
  Json bytes;
  bytes["values"] = values;
  bytes["state"] = state;
  const auto committed = memory["rows"].get<std::uint64_t>();
  bytes["free"] = committed - std::min(committed, values + state);
  bytes["index"] = memory["index"];
  bytes["counts and headers"] = memory["headers"];
  bytes["filters"] = memory["filters"];
  bytes["together"] = memory["total"];
  return bytes;
}

StatusOr<std::shared_ptr<const JobPlan>> PlanOfRun(const std::string& run_dir) {
  StatusOr<proto::Job> job = LoadJob(run_dir + "/job.textproto", {});
  if (!job.ok()) {
    return InvalidArgument("no run in " + run_dir + ": " + job.status().message());
  }
  ASSIGN_OR_RETURN(JobPlan plan, MakePlan(*job));
  return std::shared_ptr<const JobPlan>(std::make_shared<JobPlan>(std::move(plan)));
}

std::string OptimizerOf(const proto::Job& job, const std::string& table) {
  for (const proto::Table& entry : job.tables()) {
    if (entry.name() == table) {
      return proto::Optimizer::Kind_Name(entry.optimizer().kind());
    }
  }
  return "";
}

Reports ReadReports(const std::string& run_dir, const JobPlan& plan) {
  Reports reports;
  reports.expected = plan.shards();
  for (std::uint32_t server = 0; server < plan.shards(); ++server) {
    const std::string path = ServerReportPath(run_dir, server);
    const StatusOr<std::string> text = ReadWholeFile(path, kReportBytesMax);
    if (!text.ok()) {
      reports.notes.push_back("no report of server " + std::to_string(server) + ": " +
                              text.status().message());
      continue;
    }
    Json report = Json::parse(*text, nullptr, /*allow_exceptions=*/false);
    if (!report.is_object() || !report.contains("tables") || !report.contains("version")) {
      reports.notes.push_back(path + " is not a server's report");
      continue;
    }
    reports.found.push_back(std::move(report));
  }
  if (reports.found.empty()) {
    reports.notes.push_back(
        "without reports nothing is known of memory, index, disk, admission and eviction");
  } else if (reports.found.size() < reports.expected) {
    reports.notes.push_back(
        "memory, index and counters are only those of the servers that reported");
  }
  return reports;
}

// What the servers said of one table; null if none did.
Json ReportsOfTable(const std::string& name, Reports* reports) {
  std::vector<Json> of_table;
  for (const Json& report : reports->found) {
    if (report["tables"].contains(name)) {
      of_table.push_back(report["tables"][name]);
    }
  }
  if (of_table.empty()) {
    return nullptr;
  }
  try {
    return MergeTableReports(of_table);
  } catch (const Json::exception& error) {
    reports->notes.push_back("the reports on table " + name + " are damaged: " + error.what());
    return nullptr;
  }
}

// The version of all reports; null if there is none, or several.
Json VersionOf(const Reports& reports) {
  Json version;
  for (const Json& report : reports.found) {
    if (!version.is_null() && version != report["version"]) {
      return nullptr;
    }
    version = report["version"];
  }
  return version;
}

void CompareRows(const std::string& name, const Json& table, bool same_version, Reports* reports) {
  const Json& servers = table["servers"];
  if (servers.is_null()) {
    return;
  }
  if (!servers["balanced"].get<bool>()) {
    reports->notes.push_back("table " + name +
                             ": the rows that came and went do not add up to those that are there");
  }
  const bool whole = same_version && reports->found.size() == reports->expected;
  if (whole && servers["rows"] != table["rows"]) {
    reports->notes.push_back("table " + name + ": the model has " + table["rows"].dump() +
                             " rows, its servers said " + servers["rows"].dump());
  }
}

// Field and meaning of the hottest keys, as far as they are known.
void NameHottest(const JobPlan& plan, std::uint32_t t, const FieldSurvey* survey, Json* table) {
  const StatusOr<FieldPlan> fields = PlanFields(plan.job.data());
  CHECK(fields.ok()) << fields.status().ToString();  // The plan was made from it.
  const bool array = plan.tables[t].kind == TableSpec::Kind::kArray;
  for (Json& entry : (*table)["hottest"]) {
    const Key key = entry["key"].get<Key>();
    std::string field = survey == nullptr ? "" : survey->FieldOf(t, key);
    bool missing = false;
    for (const SparseField& sparse : fields->sparse) {
      const auto& tables = sparse.tables;
      if (!array && sparse.missing_key == key &&
          std::find(tables.begin(), tables.end(), plan.tables[t].name) != tables.end()) {
        field = sparse.name;
        missing = true;
      }
    }
    if (!array) {
      char hex[32];
      std::snprintf(hex, sizeof(hex), "0x%016llx", static_cast<unsigned long long>(key));
      entry["key"] = hex;
    } else {
      entry["key"] = std::to_string(key);
    }
    entry["field"] = field.empty() ? Json(nullptr) : Json(field);
    entry["missing"] = missing;
  }
}

Json TableJson(const JobPlan& plan, std::uint32_t t, const TableSurvey& survey) {
  const TableSpec& spec = plan.tables[t];
  const RowLayout& layout = survey.layout();
  Json json;
  json["kind"] = proto::Table::Kind_Name(static_cast<proto::Table::Kind>(spec.kind));
  json["dim"] = spec.dim;
  json["precision"] = proto::Precision_Name(static_cast<proto::Precision>(spec.precision));
  json["state_precision"] =
      proto::Precision_Name(static_cast<proto::Precision>(spec.state_precision));
  json["optimizer"] = OptimizerOf(plan.job, spec.name);
  json["rows"] = survey.rows();
  json["record_bytes"] = {{"values", layout.value_bytes()},
                          {"state", layout.record_bytes() - layout.value_bytes()}};
  json.update(survey.ToJson());
  return json;
}

// A line now and then, a bar on a terminal.
class ReadingProgress {
 public:
  explicit ReadingProgress(bool wanted)
      : style_(ProgressBar::StyleOfStderr(wanted)), bar_(style_) {}

  void Show(double share, std::uint64_t samples) {
    figures_.share = share;
    figures_.samples = samples;
    figures_.note = std::to_string(samples) + " samples read";
    if (!bar_.IsDue(SteadySeconds())) {
      return;
    }
    if (style_ == ProgressBar::Style::kBar) {
      bar_.Show(figures_);
    } else {
      std::fprintf(stderr, "fields: %s\n", ProgressText(figures_, 0).c_str());
    }
  }
  void Finish() {
    if (style_ == ProgressBar::Style::kBar) {
      bar_.Finish(figures_);
    }
  }

 private:
  const ProgressBar::Style style_;
  ProgressBar bar_;
  ProgressFigures figures_;
};

Status ReadFields(const JobPlan& plan, const InspectOptions& options, FieldSurvey* survey) {
  const auto& train = plan.job.data().train();
  const std::vector<std::string> files =
      options.data.empty() ? std::vector<std::string>(train.begin(), train.end()) : options.data;
  ReadingProgress progress(options.progress);
  const Status status = survey->ReadValues(
      files, [&](double share, std::uint64_t samples) { progress.Show(share, samples); });
  progress.Finish();
  return status;
}

Json HeadJson(const InspectOptions& options, const std::string& which,
              const proto::Manifest& manifest) {
  Json json;
  json["run"] = options.run_dir;
  json["model"] = manifest.model();
  json["which"] = which;
  json["version"] = manifest.version();
  json["model_digest"] = manifest.model_digest();
  json["shards"] = manifest.shards();
  std::uint64_t bytes = 0;
  for (const proto::SavedFile& file : manifest.files()) {
    bytes += file.bytes();
  }
  json["file_bytes"] = bytes;
  return json;
}

Json TotalsOf(const Json& tables) {
  std::uint64_t rows = 0;
  std::uint64_t record_bytes = 0;
  std::uint64_t memory_bytes = 0;
  std::uint64_t bytes_on_disk = 0;
  bool known = true;
  for (const auto& [name, table] : tables.items()) {
    const auto of_table = table["rows"].get<std::uint64_t>();
    const Json& record = table["record_bytes"];
    rows += of_table;
    record_bytes +=
        of_table * (record["values"].get<std::uint64_t>() + record["state"].get<std::uint64_t>());
    const Json& servers = table["servers"];
    known = known && !servers.is_null();
    if (known) {
      memory_bytes += servers["memory_bytes"]["total"].get<std::uint64_t>();
      bytes_on_disk += servers["bytes_on_disk"].get<std::uint64_t>();
    }
  }
  Json json;
  json["rows"] = rows;
  json["record_bytes"] = record_bytes;
  json["memory_bytes"] = known ? Json(memory_bytes) : Json(nullptr);
  json["bytes_on_disk"] = known ? Json(bytes_on_disk) : Json(nullptr);
  return json;
}

// What one pass over the model's files leaves.
struct Visit {
  proto::Manifest manifest;
  std::vector<TableSurvey> surveys;  // By table.
  std::uint64_t dense_floats = 0;    // Values and state.
};

StatusOr<Visit> VisitRows(const JobPlan& plan, const std::string& directory, std::uint32_t top,
                          FieldSurvey* fields) {
  ASSIGN_OR_RETURN(const proto::Manifest manifest, ReadManifest(directory));
  Visit visit;
  for (const TableSpec& spec : plan.tables) {
    visit.surveys.emplace_back(spec, plan.buckets(), manifest.version(), top);
  }
  ModelVisitor visitor;
  visitor.row = [&](std::uint32_t table, const RowView& row) {
    visit.surveys[table].Add(row);
    if (fields != nullptr) {
      fields->AddRow(table, row.key);
    }
  };
  visitor.dense = [&](std::uint32_t, std::span<const float> floats) {
    visit.dense_floats += floats.size();
    return OkStatus();
  };
  ASSIGN_OR_RETURN(visit.manifest, VisitModel(plan, directory, visitor));
  return visit;
}

}  // namespace

Json MergeTableReports(const std::vector<Json>& reports) {
  Json merged = reports[0];
  for (const char* name : {"rows", "rows_in_memory", "rows_on_disk"}) {
    merged[name] = 0;
  }
  merged["memory_bytes"] = Json::object();
  merged["counters"] = Json::object();
  merged["balanced"] = true;
  double slots = 0;
  double probes = 0;
  std::uint64_t probe_max = 0;
  for (const Json& report : reports) {
    for (const char* name : {"rows", "rows_in_memory", "rows_on_disk"}) {
      merged[name] = merged[name].get<std::uint64_t>() + report.at(name).get<std::uint64_t>();
    }
    AddNumbers(report.at("memory_bytes"), &merged["memory_bytes"]);
    AddNumbers(report.at("counters"), &merged["counters"]);
    merged["balanced"] = merged["balanced"].get<bool>() && report.at("balanced").get<bool>();
    const auto rows = report.at("rows").get<double>();
    const Json& index = report.at("index");
    const auto load = index.at("load_factor").get<double>();
    slots += load > 0 ? rows / load : 0;
    probes += rows * index.at("probe_mean").get<double>();
    probe_max = std::max(probe_max, index.at("probe_max").get<std::uint64_t>());
  }
  const auto rows = merged["rows"].get<double>();
  merged["index"] = {{"load_factor", slots > 0 ? rows / slots : 0.0},
                     {"probe_mean", rows > 0 ? probes / rows : 0.0},
                     {"probe_max", probe_max}};
  merged["bytes_on_disk"] = merged["rows_on_disk"].get<std::uint64_t>() *
                            merged.at("record_bytes").at("on_disk").get<std::uint64_t>();
  merged["bytes"] = BytesByUse(merged);
  return merged;
}

StatusOr<Json> Inspect(const InspectOptions& options) {
  ASSIGN_OR_RETURN(const std::shared_ptr<const JobPlan> plan, PlanOfRun(options.run_dir));
  std::string which = options.which;
  if (which == "best" && !ReadManifest(options.run_dir + "/model/best").ok()) {
    which = "final";  // A job without validation data.
  }
  std::unique_ptr<FieldSurvey> fields;
  if (options.fields) {
    ASSIGN_OR_RETURN(fields, FieldSurvey::Create(plan));
  }
  ASSIGN_OR_RETURN(const Visit visit, VisitRows(*plan, options.run_dir + "/model/" + which,
                                                options.top, fields.get()));
  if (fields != nullptr) {
    RETURN_IF_ERROR(ReadFields(*plan, options, fields.get()));
  }
  Json json = HeadJson(options, which, visit.manifest);
  Reports reports = ReadReports(options.run_dir, *plan);
  const Json version = VersionOf(reports);
  json["reports"] = {
      {"expected", reports.expected}, {"found", reports.found.size()}, {"version", version}};
  json["notes"] = Json::array();
  const bool same_version = version == json["version"];
  if (!reports.found.empty() && !same_version) {
    reports.notes.push_back("memory, index and counters are of version " +
                            (version.is_null() ? "several" : version.dump()) +
                            ", the model's rows of version " + json["version"].dump());
  }
  json["tables"] = Json::object();
  for (std::uint32_t t = 0; t < plan->tables.size(); ++t) {
    const std::string& name = plan->tables[t].name;
    Json& table = json["tables"][name];
    table = TableJson(*plan, t, visit.surveys[t]);
    table["servers"] = ReportsOfTable(name, &reports);
    CompareRows(name, table, same_version, &reports);
    NameHottest(*plan, t, fields.get(), &table);
  }
  if (fields != nullptr) {
    json["fields"] = fields->ToJson();
  }
  json["notes"] = reports.notes;
  json["totals"] = TotalsOf(json["tables"]);
  json["totals"]["dense_parameters"] = plan->dense.parameter_count();
  json["totals"]["dense_bytes"] = visit.dense_floats * sizeof(float);
  return json;
}

}  // namespace plexus
