#include <algorithm>
#include <set>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "proto/job_check.h"

namespace plexus {
namespace {

using proto::Data;
using proto::Field;

constexpr int kCriteoIntegers = 13;
constexpr int kCriteoStrings = 26;

void AddNumbered(char prefix, int count, std::vector<std::string>* columns) {
  for (int i = 1; i <= count; ++i) {
    std::string column(1, prefix);
    column += std::to_string(i);
    columns->push_back(std::move(column));
  }
}

// The data's columns where the job fixes them, else empty.
std::vector<std::string> KnownColumns(const Data& data) {
  if (data.format() != Data::CRITEO) {
    return {data.columns().begin(), data.columns().end()};
  }
  std::vector<std::string> columns = {"label"};
  AddNumbered('I', kCriteoIntegers, &columns);
  AddNumbered('C', kCriteoStrings, &columns);
  return columns;
}

void CheckFiles(const Data& data, Mistakes* mistakes) {
  const auto check = [&](const auto& files, const std::string& name) {
    for (int i = 0; i < files.size(); ++i) {
      mistakes->Require(!files[i].empty(), {"data." + name + "[" + std::to_string(i) + "]"},
                        name + " names a file with an empty name");
    }
  };
  check(data.train(), "train");
  check(data.valid(), "valid");
  check(data.test(), "test");
}

void CheckColumns(const Data& data, const std::vector<std::string>& columns, Mistakes* mistakes) {
  if (data.format() != Data::DELIMITED) {
    const std::string format = Data::Format_Name(data.format());
    mistakes->Require(data.columns().empty(), {"data.columns[0]"},
                      "columns is for DELIMITED, not for " + format);
    mistakes->Require(data.delimiter() == Data::default_instance().delimiter(), {"data.delimiter"},
                      "delimiter is for DELIMITED, not for " + format);
  }
  mistakes->Require(
      !data.delimiter().empty() && data.delimiter().find_first_of("\r\n") == std::string::npos,
      {"data.delimiter"}, "delimiter is empty or has a line break");
  std::set<std::string> seen;
  for (int i = 0; i < data.columns_size(); ++i) {
    mistakes->Require(seen.insert(data.columns(i)).second,
                      {"data.columns[" + std::to_string(i) + "]"},
                      "column " + Quoted(data.columns(i)) + " is named twice");
  }
  if (data.format() == Data::LIBSVM) {
    mistakes->Require(data.group_column().empty(), {"data.group_column"},
                      "LIBSVM data has no columns, so no group_column");
    return;
  }
  const auto known = [&](const std::string& column) {
    return columns.empty() || std::count(columns.begin(), columns.end(), column) > 0;
  };
  const std::string& label = data.label().column();
  mistakes->Require(!label.empty() && known(label), {"data.label.column", "data.columns[0]"},
                    "the data has no column " + Quoted(label) + " for the label");
  mistakes->Require(data.group_column().empty() || known(data.group_column()),
                    {"data.group_column"}, "the data has no column " + Quoted(data.group_column()));
}

// The names that a field stands for: its own, or with a trailing '*' those of the columns.
std::vector<std::string> ExpandName(const Data& data, const Field& field, const std::string& path,
                                    const std::vector<std::string>& columns, Mistakes* mistakes) {
  const std::string who = "field " + Quoted(field.name());
  if (field.name().back() != '*') {
    const std::string& column = field.column().empty() ? field.name() : field.column();
    mistakes->Require(columns.empty() || std::count(columns.begin(), columns.end(), column) > 0,
                      {path + (field.column().empty() ? ".name" : ".column")},
                      who + ": the data has no column " + Quoted(column));
    return {field.name()};
  }
  std::vector<std::string> names;
  if (columns.empty()) {
    mistakes->Add({path + ".name"},
                  who + ": '*' needs the columns to be known: CRITEO, or data.columns");
    return names;
  }
  mistakes->Require(field.column().empty(), {path + ".column"},
                    who + ": '*' and column exclude each other");
  const std::string_view prefix(field.name().data(), field.name().size() - 1);
  for (const std::string& column : columns) {
    if (std::string_view(column).starts_with(prefix) && column != data.label().column()) {
      names.push_back(column);
    }
  }
  mistakes->Require(!names.empty(), {path + ".name"}, who + ": no column has that prefix");
  return names;
}

// Knobs that this kind of field ignores.
void CheckUnusedKnobs(const Field& field, const std::string& path, Mistakes* mistakes) {
  const Field& unset = Field::default_instance();
  const std::string who = "field " + Quoted(field.name()) + ": ";
  const bool keys = field.kind() != Field::DENSE || field.transform() == Field::SQUARED_LOG_BUCKET;
  if (field.kind() != Field::MULTI_VALUED) {
    mistakes->Require(field.separator() == unset.separator(), {path + ".separator"},
                      who + "separator is for MULTI_VALUED");
    mistakes->Require(field.pooling() == unset.pooling(), {path + ".pooling"},
                      who + "pooling is for MULTI_VALUED");
  }
  mistakes->Require(field.kind() == Field::DENSE || field.transform() == Field::IDENTITY,
                    {path + ".transform"}, who + "transform is for DENSE");
  if (field.kind() != Field::DENSE || field.transform() != Field::STANDARD) {
    mistakes->Require(field.mean() == unset.mean(), {path + ".mean"},
                      who + "mean is for the transform STANDARD");
    mistakes->Require(field.stddev() == unset.stddev(), {path + ".stddev"},
                      who + "stddev is for the transform STANDARD");
  }
  mistakes->Require(keys || !field.salt_by_field(), {path + ".salt_by_field"},
                    who + "salt_by_field is for fields with tables");
}

void CheckField(const Field& field, const std::string& path, Mistakes* mistakes) {
  const std::string who = "field " + Quoted(field.name());
  const std::string tables = path + ".tables";
  if (field.kind() != Field::DENSE) {
    mistakes->Require(!field.tables().empty(), {tables, path},
                      who + " is " + Field::Kind_Name(field.kind()) + " and names no table");
  } else if (field.transform() == Field::SQUARED_LOG_BUCKET) {
    mistakes->Require(!field.tables().empty(), {tables, path},
                      who + " has the transform SQUARED_LOG_BUCKET and names no table");
  } else {
    mistakes->Require(field.tables().empty(), {tables + "[0]"},
                      who + " is DENSE and names a table; only SQUARED_LOG_BUCKET makes keys");
  }
  mistakes->Require(field.kind() != Field::MULTI_VALUED || !field.separator().empty(),
                    {path + ".separator"}, who + ": separator is empty");
  mistakes->Require(field.transform() != Field::STANDARD || static_cast<float>(field.stddev()) > 0,
                    {path + ".stddev", path + ".transform"}, who + ": stddev is not above 0");
  CheckUnusedKnobs(field, path, mistakes);
}

void CheckLibsvm(const Data& data, Mistakes* mistakes) {
  if (data.fields_size() != 1 || data.fields(0).name() != "features") {
    mistakes->Add({data.fields_size() > 1 ? "data.fields[1]" : "data.fields[0].name"},
                  "LIBSVM data has exactly one field, \"features\"");
    return;
  }
  const Field& field = data.fields(0);
  mistakes->Require(!field.has_kind() || field.kind() == Field::MULTI_VALUED,
                    {"data.fields[0].kind"}, "LIBSVM's field \"features\" is MULTI_VALUED");
  mistakes->Require(field.column().empty(), {"data.fields[0].column"},
                    "LIBSVM data has no columns");
  Field checked = field;
  checked.set_kind(Field::MULTI_VALUED);
  CheckField(checked, "data.fields[0]", mistakes);
}

}  // namespace

void CheckData(const Data& data, Mistakes* mistakes) {
  CheckFiles(data, mistakes);
  const std::vector<std::string> columns = KnownColumns(data);
  CheckColumns(data, columns, mistakes);
  if (data.fields().empty()) {
    mistakes->Add({"data"}, "the job has no data.fields");
    return;
  }
  if (data.format() == Data::LIBSVM) {
    CheckLibsvm(data, mistakes);
    return;
  }
  std::set<std::string> seen;
  for (int i = 0; i < data.fields_size(); ++i) {
    const Field& field = data.fields(i);
    const std::string path = "data.fields[" + std::to_string(i) + "]";
    if (field.name().empty()) {
      mistakes->Add({path + ".name"}, "a field has no name");
      continue;
    }
    CheckField(field, path, mistakes);
    for (const std::string& name : ExpandName(data, field, path, columns, mistakes)) {
      mistakes->Require(seen.insert(name).second, {path + ".name"},
                        "field " + Quoted(name) + " is named twice");
    }
  }
}

}  // namespace plexus
