#include "worker/data/field_plan.h"

#include <algorithm>
#include <set>
#include <utility>

namespace plexus {
namespace {

constexpr std::string_view kMissingPrefix("\0missing\0", 9);
constexpr int kCriteoIntegers = 13;
constexpr int kCriteoStrings = 26;

std::vector<std::string> CriteoColumns() {
  std::vector<std::string> columns = {"label"};
  for (int i = 1; i <= kCriteoIntegers; ++i) {
    columns.push_back(std::string("I").append(std::to_string(i)));
  }
  for (int i = 1; i <= kCriteoStrings; ++i) {
    columns.push_back(std::string("C").append(std::to_string(i)));
  }
  return columns;
}

Status CheckColumn(const FieldPlan& plan, const std::string& column, std::string_view what) {
  if (plan.columns.empty() || std::count(plan.columns.begin(), plan.columns.end(), column) == 1) {
    return OkStatus();
  }
  return InvalidArgument(std::string(what) + ": the data has no column \"" + column + "\"");
}

SparseField MakeSparse(const proto::Data& data, const proto::Field& field, const std::string& name,
                       const std::string& column, SparseField::Kind kind) {
  SparseField sparse;
  sparse.name = name;
  sparse.column = column;
  sparse.kind = kind;
  sparse.separator = field.separator();
  sparse.pooling = field.pooling();
  sparse.tables.assign(field.tables().begin(), field.tables().end());
  sparse.dim = field.dim();
  sparse.hash_seed = field.salt_by_field() ? HashBytes(name, data.hash_seed()) : data.hash_seed();
  sparse.missing_key = MissingKey(name, data.hash_seed());
  return sparse;
}

Status AddField(const proto::Data& data, const proto::Field& field, const std::string& name,
                const std::string& column, FieldPlan* plan) {
  RETURN_IF_ERROR(CheckColumn(*plan, column, "field \"" + name + "\""));
  if (field.kind() == proto::Field::DENSE) {
    if (field.transform() == proto::Field::SQUARED_LOG_BUCKET) {
      plan->sparse.push_back(MakeSparse(data, field, name, column, SparseField::Kind::kBucketed));
      return OkStatus();
    }
    if (!(field.stddev() > 0)) {
      return InvalidArgument("field \"" + name + "\": stddev must be above 0");
    }
    plan->dense.push_back({name, column, field.transform(), field.mean(), field.stddev()});
    return OkStatus();
  }
  if (field.kind() == proto::Field::MULTI_VALUED) {
    if (field.separator().empty()) {
      return InvalidArgument("field \"" + name + "\": the separator is empty");
    }
    plan->sparse.push_back(MakeSparse(data, field, name, column, SparseField::Kind::kMultiValued));
    return OkStatus();
  }
  plan->sparse.push_back(MakeSparse(data, field, name, column, SparseField::Kind::kCategorical));
  return OkStatus();
}

Status ExpandPrefix(const proto::Data& data, const proto::Field& field, FieldPlan* plan) {
  if (plan->columns.empty()) {
    return InvalidArgument("field \"" + field.name() +
                           "\": '*' needs the columns to be known: CRITEO, or `columns`");
  }
  if (!field.column().empty()) {
    return InvalidArgument("field \"" + field.name() + "\": '*' and `column` exclude each other");
  }
  const std::string_view prefix(field.name().data(), field.name().size() - 1);
  bool any = false;
  for (const std::string& column : plan->columns) {
    if (column != data.label().column() && std::string_view(column).starts_with(prefix)) {
      RETURN_IF_ERROR(AddField(data, field, column, column, plan));
      any = true;
    }
  }
  if (!any) {
    return InvalidArgument("field \"" + field.name() + "\": no column has that prefix");
  }
  return OkStatus();
}

Status CheckNamesOnce(const FieldPlan& plan) {
  std::set<std::string> names;
  const auto add = [&names](const std::string& name) {
    return names.insert(name).second ? OkStatus()
                                     : InvalidArgument("field \"" + name + "\" is named twice");
  };
  for (const DenseField& field : plan.dense) {
    RETURN_IF_ERROR(add(field.name));
  }
  for (const SparseField& field : plan.sparse) {
    RETURN_IF_ERROR(add(field.name));
  }
  return OkStatus();
}

StatusOr<FieldPlan> PlanLibsvm(const proto::Data& data) {
  if (data.fields_size() != 1 || data.fields(0).name() != "features" ||
      data.fields(0).kind() == proto::Field::DENSE) {
    return InvalidArgument("LIBSVM data has one multi-valued field, \"features\"");
  }
  if (!data.group_column().empty()) {
    return InvalidArgument("LIBSVM data has no columns, so no group_column");
  }
  FieldPlan plan;
  plan.sparse.push_back(
      MakeSparse(data, data.fields(0), "features", "features", SparseField::Kind::kMultiValued));
  plan.sparse.back().weighted = true;
  return plan;
}

}  // namespace

Key MissingKey(std::string_view field_name, std::uint64_t hash_seed) {
  std::string value(kMissingPrefix);
  value += field_name;
  return HashBytes(value, hash_seed);
}

StatusOr<FieldPlan> PlanFields(const proto::Data& data) {
  if (data.format() == proto::Data::LIBSVM) {
    return PlanLibsvm(data);
  }
  FieldPlan plan;
  if (data.format() == proto::Data::CRITEO) {
    plan.columns = CriteoColumns();
  } else {
    plan.columns.assign(data.columns().begin(), data.columns().end());
  }
  RETURN_IF_ERROR(CheckColumn(plan, data.label().column(), "label"));
  if (!data.group_column().empty()) {
    RETURN_IF_ERROR(CheckColumn(plan, data.group_column(), "group_column"));
  }
  for (const proto::Field& field : data.fields()) {
    if (field.name().empty()) {
      return InvalidArgument("a field has no name");
    }
    if (field.name().back() == '*') {
      RETURN_IF_ERROR(ExpandPrefix(data, field, &plan));
    } else {
      const std::string& column = field.column().empty() ? field.name() : field.column();
      RETURN_IF_ERROR(AddField(data, field, field.name(), column, &plan));
    }
  }
  RETURN_IF_ERROR(CheckNamesOnce(plan));
  return plan;
}

}  // namespace plexus
