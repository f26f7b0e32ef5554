#include "launch/field_survey.h"

#include <algorithm>
#include <utility>

#include "ps/table/row_layout.h"
#include "worker/data/batch_reader.h"

namespace plexus {
namespace {

using Json = nlohmann::ordered_json;

constexpr std::uint32_t kBatchSamples = 4096;

// The groups that a field's keys are sent in.
std::vector<std::uint32_t> GroupsOf(const JobPlan& plan, std::uint32_t field) {
  std::vector<std::uint32_t> groups;
  for (std::uint32_t g = 0; g < plan.groups.size(); ++g) {
    const auto& fields = plan.groups[g].fields;
    if (std::find(fields.begin(), fields.end(), field) != fields.end()) {
      groups.push_back(g);
    }
  }
  return groups;
}

// A position in sorted keys, or their number.
std::size_t PositionOf(const std::vector<Key>& keys, Key key) {
  const auto at = std::lower_bound(keys.begin(), keys.end(), key);
  return at == keys.end() || *at != key ? keys.size() : static_cast<std::size_t>(at - keys.begin());
}

}  // namespace

StatusOr<std::unique_ptr<FieldSurvey>> FieldSurvey::Create(std::shared_ptr<const JobPlan> plan) {
  ASSIGN_OR_RETURN(FieldPlan fields, PlanFields(plan->job.data()));
  return std::unique_ptr<FieldSurvey>(new FieldSurvey(std::move(plan), std::move(fields)));
}

FieldSurvey::FieldSurvey(std::shared_ptr<const JobPlan> plan, FieldPlan fields)
    : plan_(std::move(plan)),
      field_plan_(std::move(fields)),
      builder_(*plan_, InitialBucketMap(plan_->buckets(), 1), 1),
      tables_(plan_->tables.size()),
      fields_(plan_->fields.size()) {
  for (std::size_t t = 0; t < tables_.size(); ++t) {
    const TableSpec& spec = plan_->tables[t];
    tables_[t].record_bytes = RowLayout(spec, *MakeOptimizer(spec.optimizer)).record_bytes();
    if (spec.kind == TableSpec::Kind::kHybrid) {
      tables_[t].hybrid.emplace(spec.hybrid, plan_->buckets());
    }
  }
}

Status FieldSurvey::ReadValues(const std::vector<std::string>& files,
                               const std::function<void(double, std::uint64_t)>& progress) {
  RETURN_IF_ERROR(ReadFiles(files, progress));
  for (TableRows& table : tables_) {
    std::sort(table.keys.begin(), table.keys.end());
    table.first_field.assign(table.keys.size(), 0);
  }
  for (std::uint32_t field = 0; field < fields_.size(); ++field) {
    LookUp(field);
  }
  return OkStatus();
}

Status FieldSurvey::ReadFiles(const std::vector<std::string>& files,
                              const std::function<void(double, std::uint64_t)>& progress) {
  BatchReaderOptions options;
  options.batch_samples = kBatchSamples;
  ASSIGN_OR_RETURN(std::unique_ptr<BatchReader> reader,
                   BatchReader::Open(plan_->job.data(), files, options));
  Batch batch;
  while (true) {
    ASSIGN_OR_RETURN(const bool more, reader->Next(&batch));
    if (!more) {
      break;
    }
    for (std::size_t field = 0; field < fields_.size(); ++field) {
      for (const Key key : batch.sparse[field].keys) {
        fields_[field].keys.Add(key);
      }
    }
    progress(reader->progress(), reader->rows());
  }
  samples_ = reader->rows();
  bad_lines_ = reader->bad_lines().count;
  return OkStatus();
}

void FieldSurvey::LookUp(std::uint32_t field) {
  const std::vector<std::uint32_t> groups = GroupsOf(*plan_, field);
  std::vector<FieldRows>& figures = fields_[field].rows;
  for (const std::uint32_t g : groups) {
    for (const std::uint32_t table : plan_->groups[g].tables) {
      figures.push_back({.table = table});
      tables_[table].in_field.assign(tables_[table].keys.size(), false);
    }
  }
  // One value at a time: the keys of the groups are then those of its rows, whatever the addresser.
  Batch batch;
  batch.samples = 1;
  batch.sparse.resize(fields_.size());
  StepKeys keys;
  for (const Key value : fields_[field].keys.Sorted()) {
    batch.sparse[field].keys.assign(1, value);
    builder_.Build(batch, &keys);
    std::size_t at = 0;
    for (const std::uint32_t g : groups) {
      for (const std::uint32_t table : plan_->groups[g].tables) {
        figures[at++].values_with_row += MarkRows(keys.groups[g].keys, &tables_[table]) ? 1 : 0;
      }
    }
    ++fields_[field].values;
  }
  for (FieldRows& of_table : figures) {
    TableRows& table = tables_[of_table.table];
    for (std::size_t i = 0; i < table.keys.size(); ++i) {
      if (table.in_field[i]) {
        ++of_table.rows;
        table.counted_again += table.first_field[i] != 0 ? 1 : 0;
        table.first_field[i] = table.first_field[i] != 0 ? table.first_field[i] : field + 1;
      }
    }
    table.of_fields += of_table.rows;
  }
}

bool FieldSurvey::MarkRows(const std::vector<Key>& keys, TableRows* table) {
  bool all = true;
  for (const Key key : keys) {
    std::size_t at = PositionOf(table->keys, key);
    all = all && at < table->keys.size();
    if (at == table->keys.size() && table->hybrid.has_value()) {
      const HybridAddresses::Address address = table->hybrid->Of(Mix64(key));
      at = PositionOf(table->keys, table->hybrid->SharedKey(address.bucket, address.shared));
    }
    if (at < table->keys.size()) {
      table->in_field[at] = true;
    }
  }
  return all;
}

std::string FieldSurvey::FieldOf(std::uint32_t table, Key key) const {
  const TableRows& rows = tables_[table];
  const std::size_t at = PositionOf(rows.keys, key);
  const std::uint32_t field = at < rows.keys.size() ? rows.first_field[at] : 0;
  return field == 0 ? "" : field_plan_.sparse[field - 1].name;
}

Json FieldSurvey::ToJson() const {
  Json json;
  json["samples"] = samples_;
  json["bad_lines"] = bad_lines_;
  json["fields"] = Json::object();
  for (std::size_t f = 0; f < fields_.size(); ++f) {
    Json& field = json["fields"][field_plan_.sparse[f].name];
    field["values"] = fields_[f].values;
    field["tables"] = Json::object();
    for (const FieldRows& rows : fields_[f].rows) {
      const TableRows& table = tables_[rows.table];
      const auto of = static_cast<double>(std::max<std::size_t>(1, table.keys.size()));
      field["tables"][plan_->tables[rows.table].name] = {
          {"values_with_row", rows.values_with_row},
          {"rows", rows.rows},
          {"bytes", rows.rows * table.record_bytes},
          {"share", static_cast<double>(rows.rows) / of}};
    }
  }
  json["tables"] = Json::object();
  for (std::size_t t = 0; t < tables_.size(); ++t) {
    const TableRows& table = tables_[t];
    const std::uint64_t rows = table.keys.size();
    json["tables"][plan_->tables[t].name] = {
        {"rows", rows},
        {"rows_of_fields", table.of_fields},
        {"rows_counted_again", table.counted_again},
        {"rows_of_no_field", rows - (table.of_fields - table.counted_again)}};
  }
  return json;
}

}  // namespace plexus
