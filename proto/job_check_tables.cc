#include <limits>
#include <map>
#include <set>
#include <string>

#include "proto/job.h"
#include "proto/job_check.h"

namespace plexus {
namespace {

using proto::Field;
using proto::Optimizer;
using proto::Table;

constexpr std::uint32_t kDimMax = 512;
constexpr std::uint64_t kArrayRowsMax = std::numeric_limits<std::uint32_t>::max();
constexpr std::uint64_t kHybridRowsMax = (std::uint64_t{1} << 31) - 1;
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

void CheckPrecision(const Table& table, const std::string& path, Mistakes* mistakes) {
  const std::string who = "table " + Quoted(table.name());
  const bool integers = table.precision() == proto::INT8 || table.precision() == proto::INT4;
  mistakes->Require(table.state_precision() == proto::F32 || table.state_precision() == proto::BF16,
                    {path + ".state_precision"},
                    who + ": state_precision is F32 or BF16: an accumulator needs the range");
  mistakes->Require(!table.learned_scale() || integers, {path + ".learned_scale"},
                    who + ": learned_scale is for precision INT8 and INT4, which have a scale");
  mistakes->Require(table.scale_learning_rate() > 0, {path + ".scale_learning_rate"},
                    who + ": scale_learning_rate is not positive");
}

// What of a table's rows may come and go.
void CheckAdmission(const Table& table, const std::string& path, Mistakes* mistakes) {
  const std::string who = "table " + Quoted(table.name());
  const proto::Admission& admission = table.admission();
  const auto require = [&](bool holds, const std::string& name, const std::string& what) {
    mistakes->Require(holds, {path + ".admission." + name, path},
                      who + ": admission." + name + what);
  };
  require(admission.threshold() >= 1 && admission.threshold() <= 65535, "threshold",
          " is not between 1 and 65535");
  require(admission.probability() > 0 && admission.probability() <= 1, "probability",
          " is not in (0, 1]");
  require(admission.filter_keys() >= 1, "filter_keys", " is 0");
  require(admission.sketch_width() >= 1, "sketch_width", " is 0");
  const bool admits = admission.kind() != proto::Admission::ALL;
  mistakes->Require(
      !admits || table.kind() != Table::ARRAY, {path + ".admission", path},
      who + " is an ARRAY: its rows are there from the start, there is nothing to admit");
  mistakes->Require(!admits || table.kind() != Table::HYBRID, {path + ".admission", path},
                    who + " is HYBRID: its sketch decides which keys get a row");
}

void CheckLimits(const Table& table, const std::string& path, Mistakes* mistakes) {
  const std::string who = "table " + Quoted(table.name());
  if (!table.max_bytes().empty()) {
    const StatusOr<std::uint64_t> bytes = ParseByteSize(table.max_bytes());
    mistakes->Require(bytes.ok(), {path + ".max_bytes"}, bytes.status().message());
    mistakes->Require(!bytes.ok() || *bytes > 0, {path + ".max_bytes"}, who + ": max_bytes is 0");
  }
  const proto::Eviction& eviction = table.eviction();
  const bool limited = table.max_rows() != 0 || !table.max_bytes().empty();
  const bool evicts = limited || eviction.unseen_versions() != 0;
  mistakes->Require(!evicts || table.kind() == Table::HASHED, {path + ".eviction", path},
                    who + " is " + Table::Kind_Name(table.kind()) +
                        ": its rows are limited by what it declares, none is evicted");
  mistakes->Require(eviction.sweep_versions() >= 1, {path + ".eviction.sweep_versions"},
                    who + ": eviction.sweep_versions is 0");
  mistakes->Require(limited || eviction.order() == proto::Eviction::OLDEST,
                    {path + ".eviction.order"},
                    who + ": eviction.order is for tables with max_rows or max_bytes");
  mistakes->Require(
      eviction.half_life_versions() == 0 || eviction.order() == proto::Eviction::COUNT,
      {path + ".eviction.half_life_versions"},
      who + ": eviction.half_life_versions is for order COUNT");
}

void CheckHybrid(const Table& table, const std::string& path, Mistakes* mistakes) {
  const std::string who = "table " + Quoted(table.name());
  const bool hybrid = table.kind() == Table::HYBRID;
  const bool unset = table.hybrid().exact_rows() == 0 && table.hybrid().shared_rows() == 0;
  mistakes->Require(hybrid || unset, {path + ".hybrid", path}, who + ": hybrid is for kind HYBRID");
  if (!hybrid) {
    return;
  }
  const std::string range = ", 1 to " + std::to_string(kHybridRowsMax);
  const auto in_range = [](std::uint64_t rows) { return rows >= 1 && rows <= kHybridRowsMax; };
  mistakes->Require(in_range(table.hybrid().exact_rows()), {path + ".hybrid.exact_rows", path},
                    who + " is HYBRID and needs hybrid.exact_rows" + range);
  mistakes->Require(in_range(table.hybrid().shared_rows()), {path + ".hybrid.shared_rows", path},
                    who + " is HYBRID and needs hybrid.shared_rows" + range);
  mistakes->Require(table.hybrid().threshold() > 0, {path + ".hybrid.threshold"},
                    who + ": hybrid.threshold is not positive");
  mistakes->Require(table.hybrid().decay() > 0 && table.hybrid().decay() <= 1,
                    {path + ".hybrid.decay"}, who + ": hybrid.decay is not in (0, 1]");
}

void CheckAddresser(const Table& table, const std::string& path, Mistakes* mistakes) {
  const std::string who = "table " + Quoted(table.name());
  const proto::Addresser& addresser = table.addresser();
  if (table.kind() != Table::ARRAY) {
    mistakes->Require(addresser.kind() == proto::Addresser::HASH, {path + ".addresser", path},
                      who + ": addresser is for kind ARRAY");
    return;
  }
  const bool quotient = addresser.kind() == proto::Addresser::QUOTIENT_REMAINDER;
  mistakes->Require(quotient || addresser.remainders() == 0, {path + ".addresser.remainders"},
                    who + ": addresser.remainders is for QUOTIENT_REMAINDER");
  mistakes->Require(!quotient || (table.rows() >= 2 && addresser.remainders() < table.rows()),
                    {path + ".addresser.remainders", path},
                    who + ": QUOTIENT_REMAINDER needs fewer remainders than rows, and 2 rows");
  const bool robe = addresser.kind() == proto::Addresser::ROBE;
  mistakes->Require(robe || addresser.piece() == 0, {path + ".addresser.piece"},
                    who + ": addresser.piece is for ROBE");
  mistakes->Require(addresser.piece() == 0 || table.dim() % addresser.piece() == 0,
                    {path + ".addresser.piece"}, who + ": addresser.piece does not divide dim");
}

// A field may read the first `dim` elements of its EMBEDDING table.
void CheckFieldDim(const Field& field, int index, const Table& table, Mistakes* mistakes) {
  if (field.dim() == 0 || table.role() != Table::EMBEDDING) {
    return;
  }
  const std::string path = "data.fields[" + std::to_string(index) + "].dim";
  const std::string who = "field " + Quoted(field.name());
  mistakes->Require(field.dim() <= table.dim(), {path},
                    who + ": dim " + std::to_string(field.dim()) + " is more than table " +
                        Quoted(table.name()) + " has (" + std::to_string(table.dim()) + ")");
  mistakes->Require(
      !(table.kind() == Table::ARRAY && table.addresser().kind() == proto::Addresser::ROBE), {path},
      who + ": dim does not go with ROBE, whose pieces lie anywhere");
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
                      who + " is not an ARRAY: rows is for ARRAY");
  }
  CheckPrecision(table, path, mistakes);
  CheckAdmission(table, path, mistakes);
  CheckLimits(table, path, mistakes);
  CheckHybrid(table, path, mistakes);
  CheckAddresser(table, path, mistakes);
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
    CheckFieldDim(field, index, table, mistakes);
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
