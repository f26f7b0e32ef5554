#include <limits>
#include <map>
#include <set>
#include <string>

#include "proto/job_check.h"

namespace plexus {
namespace {

using proto::Field;
using proto::Optimizer;
using proto::Table;

constexpr std::uint32_t kDimMax = 512;
constexpr std::uint64_t kArrayRowsMax = std::numeric_limits<std::uint32_t>::max();
constexpr std::size_t kNameLengthMax = 128;

// Table names become labels, paths of overrides and file names.
bool IsTableName(const std::string& name) {
  for (const char c : name) {
    const bool letter = (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z');
    if (!letter && !(c >= '0' && c <= '9') && c != '_' && c != '-') {
      return false;
    }
  }
  return !name.empty() && name.size() <= kNameLengthMax;
}

void CheckTable(const Table& table, const std::string& path, Mistakes* mistakes) {
  const std::string who = "table " + Quoted(table.name());
  mistakes->Require(IsTableName(table.name()), {path + ".name"},
                    table.name().empty() ? "a table has no name"
                                         : who + ": a name has letters, digits, '_' and '-'");
  const std::string dim = std::to_string(table.dim());
  if (table.role() == Table::LINEAR) {
    mistakes->Require(table.dim() == 1, {path + ".dim", path + ".role"},
                      who + " has role LINEAR and needs dim 1, not " + dim);
  } else {
    mistakes->Require(table.dim() >= 1 && table.dim() <= kDimMax, {path + ".dim"},
                      who + ": dim " + dim + " is not between 1 and " + std::to_string(kDimMax));
  }
  if (table.kind() == Table::ARRAY) {
    mistakes->Require(table.rows() >= 1 && table.rows() <= kArrayRowsMax,
                      {path + ".rows", path + ".kind"},
                      who + " is an ARRAY and needs rows, 1 to " + std::to_string(kArrayRowsMax));
  } else {
    mistakes->Require(table.rows() == 0, {path + ".rows"},
                      who + " is HASHED and grows: rows is for ARRAY");
  }
  mistakes->Require(
      table.init().kind() == proto::Initializer::CONSTANT || table.init().scale() >= 0,
      {path + ".init.scale"}, who + ": the scale of its init is negative");
  mistakes->Require(table.clip_row_norm() >= 0, {path + ".clip_row_norm"},
                    who + ": clip_row_norm is negative");
  CheckOptimizer(table.optimizer(), path + ".optimizer", mistakes);
}

// That the tables which one field reads exist and can share its keys; adds them to `used`.  Returns
// whether all exist.
bool CheckFieldTables(const proto::Job& job, int index, const std::map<std::string, int>& by_name,
                      std::set<int>* used, Mistakes* mistakes) {
  const Field& field = job.data().fields(index);
  const std::string path = "data.fields[" + std::to_string(index) + "].tables";
  const std::string who = "field " + Quoted(field.name());
  const Table* first = nullptr;
  std::map<Table::Role, std::string> of_role;
  bool all_exist = true;
  for (int i = 0; i < field.tables_size(); ++i) {
    const std::string here = path + "[" + std::to_string(i) + "]";
    const auto found = by_name.find(field.tables(i));
    if (found == by_name.end()) {
      mistakes->Add({here}, who + " names table " + Quoted(field.tables(i)) +
                                ", which the job does not declare");
      all_exist = false;
      continue;
    }
    used->insert(found->second);
    const Table& table = job.tables(found->second);
    const auto [other, fresh] = of_role.emplace(table.role(), table.name());
    mistakes->Require(fresh, {here},
                      who + " names two tables of role " + Table::Role_Name(table.role()) + ": " +
                          Quoted(other->second) + " and " + Quoted(table.name()));
    if (first == nullptr) {
      first = &table;
    }
    mistakes->Require(first->kind() == table.kind() && first->rows() == table.rows(), {here},
                      who + ": tables " + Quoted(first->name()) + " and " + Quoted(table.name()) +
                          " differ in kind or rows, but have the same keys");
  }
  return all_exist;
}

// A knob that another rule would need, and this one ignores.
void CheckUnusedKnobs(const Optimizer& o, const std::string& path, Mistakes* mistakes) {
  const auto only = [&](bool used, bool is_default, const std::string& name,
                        const std::string& rules) {
    mistakes->Require(used || is_default, {path + "." + name, path},
                      name + " is for " + rules + ", not for " + Optimizer::Kind_Name(o.kind()));
  };
  const Optimizer& unset = Optimizer::default_instance();
  const bool adagrad = o.kind() == Optimizer::ADAGRAD || o.kind() == Optimizer::ROW_WISE_ADAGRAD;
  const bool adam = o.kind() == Optimizer::ADAM || o.kind() == Optimizer::ADAM_W;
  const bool ftrl = o.kind() == Optimizer::FTRL;
  only(o.kind() == Optimizer::MOMENTUM, o.momentum() == unset.momentum(), "momentum", "MOMENTUM");
  only(adam, o.beta1() == unset.beta1(), "beta1", "ADAM and ADAM_W");
  only(adam, o.beta2() == unset.beta2(), "beta2", "ADAM and ADAM_W");
  only(adagrad, o.initial_accumulator() == 0, "initial_accumulator",
       "ADAGRAD and ROW_WISE_ADAGRAD");
  only(ftrl, o.l1() == 0, "l1", "FTRL");
  only(ftrl, o.beta() == unset.beta(), "beta", "FTRL");
  only(o.kind() == Optimizer::ADAM_W, o.weight_decay() == 0, "weight_decay", "ADAM_W");
}

}  // namespace

void CheckOptimizer(const Optimizer& o, const std::string& path, Mistakes* mistakes) {
  const auto require = [&](bool holds, const std::string& name, const std::string& what) {
    mistakes->Require(holds, {path + "." + name, path}, name + " " + what);
  };
  const auto share = [&](double value, const std::string& name) {
    require(value >= 0 && value < 1, name, "is not in [0, 1)");
  };
  const auto not_negative = [&](double value, const std::string& name) {
    require(value >= 0, name, "is negative");
  };
  require(o.learning_rate() >= 0 || o.learning_rate() == -1, "learning_rate",
          "is negative, and not -1 (train.learning_rate)");
  require(o.epsilon() >= 0 || o.epsilon() == -1, "epsilon",
          "is negative, and not -1 (the rule's own)");
  share(o.momentum(), "momentum");
  share(o.beta1(), "beta1");
  share(o.beta2(), "beta2");
  not_negative(o.initial_accumulator(), "initial_accumulator");
  not_negative(o.l1(), "l1");
  not_negative(o.l2(), "l2");
  not_negative(o.beta(), "beta");
  not_negative(o.weight_decay(), "weight_decay");
  // What is 0 as a float divides 0 by 0 at the first zero gradient.
  const bool epsilon = o.epsilon() == -1 || static_cast<float>(o.epsilon()) > 0;
  if (o.kind() == Optimizer::ADAM || o.kind() == Optimizer::ADAM_W) {
    require(epsilon, "epsilon", "is 0");
  } else if (o.kind() == Optimizer::ADAGRAD || o.kind() == Optimizer::ROW_WISE_ADAGRAD) {
    require(epsilon || static_cast<float>(o.initial_accumulator()) > 0, "epsilon",
            "and initial_accumulator are both 0");
  } else if (o.kind() == Optimizer::FTRL) {
    require(o.learning_rate() != 0, "learning_rate", "is 0: FTRL divides by it");
    require(static_cast<float>(o.beta()) > 0 || static_cast<float>(o.l2()) > 0, "beta",
            "and l2 are both 0");
  }
  CheckUnusedKnobs(o, path, mistakes);
}

void CheckTables(const proto::Job& job, Mistakes* mistakes) {
  std::map<std::string, int> by_name;
  for (int i = 0; i < job.tables_size(); ++i) {
    const std::string path = "tables[" + std::to_string(i) + "]";
    CheckTable(job.tables(i), path, mistakes);
    mistakes->Require(by_name.emplace(job.tables(i).name(), i).second, {path + ".name"},
                      "table " + Quoted(job.tables(i).name()) + " is declared twice");
  }
  std::set<int> used;
  bool all_exist = true;
  for (int i = 0; i < job.data().fields_size(); ++i) {
    all_exist = CheckFieldTables(job, i, by_name, &used, mistakes) && all_exist;
  }
  if (!all_exist) {
    return;  // A misspelt name also leaves its table unnamed.
  }
  for (int i = 0; i < job.tables_size(); ++i) {
    mistakes->Require(used.count(i) > 0, {"tables[" + std::to_string(i) + "]"},
                      "table " + Quoted(job.tables(i).name()) + " is named by no field");
  }
}

}  // namespace plexus
