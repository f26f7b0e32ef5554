#include "launch/model_diff.h"

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <cstring>
#include <memory>
#include <unordered_map>
#include <utility>

#include "common/hash.h"
#include "launch/saved_models.h"
#include "ps/store/model_file.h"

namespace plexus {
namespace {

double Distance(float a, float b) {
  if (std::memcmp(&a, &b, sizeof(a)) == 0) {
    return 0;
  }
  const double distance = std::fabs(static_cast<double>(a) - static_cast<double>(b));
  return std::isnan(distance) ? HUGE_VAL : distance;
}

std::string Number(double value) {
  char text[40];
  std::snprintf(text, sizeof(text), "%.9g", value);
  return text;
}

// A model, its job, and how its tables' records are read.
struct Side {
  std::string directory;
  std::shared_ptr<const JobPlan> plan;
  std::vector<RowLayout> layouts;
};

StatusOr<Side> Open(const std::string& directory) {
  Side side;
  side.directory = directory;
  ASSIGN_OR_RETURN(side.plan, PlanOfModel(directory));
  for (const TableSpec& spec : side.plan->tables) {
    side.layouts.emplace_back(spec, *MakeOptimizer(spec.optimizer));
  }
  return side;
}

// Why rows of two layouts cannot be compared; empty: they can.
std::string Unlike(const RowLayout& a, const RowLayout& b) {
  if (a.dim() != b.dim()) {
    return "dimension " + std::to_string(a.dim()) + " and " + std::to_string(b.dim());
  }
  if (a.floats() != b.floats()) {
    return "another optimizer: " + std::to_string(a.floats() - a.dim()) + " and " +
           std::to_string(b.floats() - b.dim()) + " floats of state a row";
  }
  return a.record_bytes() != b.record_bytes() ? "another precision" : "";
}

class Differ {
 public:
  Differ(Side a, Side b, const DiffOptions& options)
      : a_(std::move(a)), b_(std::move(b)), options_(options) {}

  StatusOr<ModelDifference> Run() {
    MatchTables();
    std::uint64_t bytes = 0;
    ASSIGN_OR_RETURN(const proto::Manifest manifest, ReadManifest(a_.directory));
    for (const proto::SavedFile& file : manifest.files()) {
      bytes += file.bytes();
    }
    const std::uint64_t shares = 1 + 2 * bytes / std::max<std::uint64_t>(1, options_.memory_bytes);
    for (std::uint64_t share = 0; share < shares; ++share) {
      RETURN_IF_ERROR(ComparePart(share, shares));
    }
    return std::move(difference_);
  }

 private:
  struct Held {
    std::uint64_t last_step = 0;
    std::uint64_t count = 0;
    std::size_t at = 0;  // Of the record in records_.
  };

  void MatchTables() {
    table_of_b_.assign(b_.plan->tables.size(), kNoTable);
    for (std::uint32_t t = 0; t < a_.plan->tables.size(); ++t) {
      const std::string& name = a_.plan->tables[t].name;
      difference_.tables[name].note = "only in A";
      for (std::uint32_t u = 0; u < b_.plan->tables.size(); ++u) {
        if (b_.plan->tables[u].name == name) {
          difference_.tables[name].note = Unlike(a_.layouts[t], b_.layouts[u]);
          table_of_b_[u] = t;
        }
      }
    }
    for (std::uint32_t u = 0; u < b_.plan->tables.size(); ++u) {
      if (table_of_b_[u] == kNoTable) {
        difference_.tables[b_.plan->tables[u].name].note = "only in B";
      }
    }
    rows_.resize(a_.plan->tables.size());
  }

  TableDifference& Of(const Side& side, std::uint32_t table) {
    return difference_.tables[side.plan->tables[table].name];
  }

  Status ComparePart(std::uint64_t share, std::uint64_t shares) {
    const bool first = share == 0;  // Dense blocks and filters are compared then.
    const auto mine = [share, shares](Key key) { return Mix64(key) % shares == share; };
    ModelVisitor visitor;
    visitor.row = [&](std::uint32_t table, const RowView& row) {
      if (mine(row.key) && Of(a_, table).note.empty()) {
        rows_[table][row.key] = {row.last_step, row.count, records_.size()};
        records_.insert(records_.end(), row.record.begin(), row.record.end());
      }
    };
    if (first) {
      visitor.filter = [&](std::uint32_t table, std::uint32_t bucket, const std::string& bytes) {
        filters_[{a_.plan->tables[table].name, bucket}] = HashBytes(bytes, 0);
        return OkStatus();
      };
      visitor.dense = [&](std::uint32_t block, std::span<const float> floats) {
        dense_[NameOf(a_, block)].assign(floats.begin(), floats.end());
        return OkStatus();
      };
    }
    RETURN_IF_ERROR(VisitModel(*a_.plan, a_.directory, visitor).status());
    visitor.row = [&](std::uint32_t table, const RowView& row) {
      if (mine(row.key) && table_of_b_[table] != kNoTable && Of(b_, table).note.empty()) {
        CompareRow(table_of_b_[table], row);
      }
    };
    if (first) {
      visitor.filter = [&](std::uint32_t table, std::uint32_t bucket, const std::string& bytes) {
        const auto at = filters_.find({b_.plan->tables[table].name, bucket});
        const bool same = at != filters_.end() && at->second == HashBytes(bytes, 0);
        Of(b_, table).filters += same ? 0 : 1;
        if (at != filters_.end()) {
          filters_.erase(at);
        }
        return OkStatus();
      };
      visitor.dense = [&](std::uint32_t block, std::span<const float> floats) {
        CompareDense(block, floats);
        return OkStatus();
      };
    }
    RETURN_IF_ERROR(VisitModel(*b_.plan, b_.directory, visitor).status());
    CountOnlyA();
    return OkStatus();
  }

  void Name(std::uint32_t table, Key key, std::string text) {
    auto& first = Of(a_, table).first;
    if (first.size() < options_.top || (!first.empty() && key < first.rbegin()->first)) {
      first[key] = {std::move(text)};
      if (first.size() > options_.top) {
        first.erase(std::prev(first.end()));
      }
    }
  }

  void CompareRow(std::uint32_t table, const RowView& row) {
    TableDifference& difference = Of(a_, table);
    const auto at = rows_[table].find(row.key);
    if (at == rows_[table].end()) {
      ++difference.only_b;
      Name(table, row.key, "only in B, of last step " + std::to_string(row.last_step));
      return;
    }
    const Held held = at->second;
    rows_[table].erase(at);
    const std::byte* record = records_.data() + held.at;
    const bool same_record = std::memcmp(record, row.record.data(), row.record.size()) == 0;
    if (same_record && held.last_step == row.last_step && held.count == row.count) {
      ++difference.equal;
      return;
    }
    ++difference.changed;
    const RowLayout& layout = a_.layouts[table];
    std::vector<float> a(layout.floats());
    std::vector<float> b(layout.floats());
    layout.Read(record, a.data());
    layout.Read(row.record.data(), b.data());
    std::size_t worst = 0;
    double largest = 0;
    for (std::size_t i = 0; i < a.size(); ++i) {
      const double distance = Distance(a[i], b[i]);
      double& of_all = i < layout.dim() ? difference.values_max : difference.state_max;
      of_all = std::max(of_all, distance);
      if (distance > largest) {
        largest = distance;
        worst = i;
      }
    }
    std::string text = "last step " + std::to_string(held.last_step) + " and " +
                       std::to_string(row.last_step) + ", count " + std::to_string(held.count) +
                       " and " + std::to_string(row.count);
    if (largest > 0) {
      const bool value = worst < layout.dim();
      text += std::string(value ? ", value[" : ", state[") +
              std::to_string(value ? worst : worst - layout.dim()) + "] " + Number(a[worst]) +
              " and " + Number(b[worst]);
    }
    Name(table, row.key, std::move(text));
  }

  void CountOnlyA() {
    for (std::uint32_t table = 0; table < rows_.size(); ++table) {
      for (const auto& [key, held] : rows_[table]) {
        ++Of(a_, table).only_a;
        Name(table, key, "only in A, of last step " + std::to_string(held.last_step));
      }
      rows_[table].clear();
    }
    records_.clear();
    for (const auto& [name, hash] : filters_) {
      ++difference_.tables[name.first].filters;
    }
    filters_.clear();
    for (const auto& [name, floats] : dense_) {
      DenseDifference& difference = difference_.dense[name.first];
      difference.changed += floats.size();
      difference.note = "elements from " + std::to_string(name.second) + " on only in A";
    }
    dense_.clear();
  }

  // (parameter, first element).
  static std::pair<std::string, std::uint32_t> NameOf(const Side& side, std::uint32_t block) {
    const DenseBlock& at = side.plan->dense.blocks()[block];
    return {side.plan->dense.parameters()[at.parameter].name, at.first};
  }

  void CompareDense(std::uint32_t block, std::span<const float> floats) {
    const auto name = NameOf(b_, block);
    DenseDifference& difference = difference_.dense[name.first];
    const auto at = dense_.find(name);
    if (at == dense_.end() || at->second.size() != floats.size()) {
      difference.changed += floats.size();
      difference.note = at == dense_.end()
                            ? "elements from " + std::to_string(name.second) + " on only in B"
                            : "another shape, or optimizer";
    } else {
      for (std::size_t i = 0; i < floats.size(); ++i) {
        const bool same = std::memcmp(&floats[i], &at->second[i], sizeof(float)) == 0;
        difference.changed += same ? 0 : 1;
        difference.largest = std::max(difference.largest, Distance(at->second[i], floats[i]));
      }
      difference.elements += floats.size();
    }
    if (at != dense_.end()) {
      dense_.erase(at);
    }
  }

  const Side a_;
  const Side b_;
  const DiffOptions options_;
  ModelDifference difference_;
  std::vector<std::uint32_t> table_of_b_;            // B's table -> A's, or kNoTable.
  std::vector<std::unordered_map<Key, Held>> rows_;  // Of A, by table: this share.
  std::vector<std::byte> records_;
  std::map<std::pair<std::string, std::uint32_t>, std::uint64_t> filters_;     // Of A: hashes.
  std::map<std::pair<std::string, std::uint32_t>, std::vector<float>> dense_;  // Of A.
};

}  // namespace

bool ModelDifference::any() const {
  const auto differs = [](const auto& entry) { return entry.second.any(); };
  return std::any_of(tables.begin(), tables.end(), differs) ||
         std::any_of(dense.begin(), dense.end(), differs);
}

StatusOr<ModelDifference> DiffModels(const std::string& a, const std::string& b,
                                     const DiffOptions& options) {
  ASSIGN_OR_RETURN(Side of_a, Open(a));
  ASSIGN_OR_RETURN(Side of_b, Open(b));
  return Differ(std::move(of_a), std::move(of_b), options).Run();
}

}  // namespace plexus
