#include "launch/model_dump.h"

#include <algorithm>
#include <charconv>
#include <limits>
#include <queue>
#include <utility>
#include <vector>

#include "common/hash.h"
#include "launch/saved_models.h"
#include "proto/plan.h"
#include "ps/store/model_file.h"
#include "ps/table/count_decay.h"

namespace plexus {
namespace {

constexpr std::size_t kSampleKeys = 1 << 14;
constexpr std::uint64_t kBesideRow = 48;  // Bytes of a held row beside its record.

void AppendNumber(float value, std::string* line) {
  char text[32];
  // The shortest text that reads back as the same float.
  const auto [end, error] = std::to_chars(text, text + sizeof(text), value);
  line->push_back('\t');
  line->append(text, error == std::errc() ? end : text);
}

// One table of a model.
class TableDump {
 public:
  TableDump(std::string directory, std::shared_ptr<const JobPlan> plan, std::uint32_t table,
            const WriteLine& write)
      : directory_(std::move(directory)),
        plan_(std::move(plan)),
        table_(table),
        spec_(plan_->tables[table]),
        layout_(spec_, *MakeOptimizer(spec_.optimizer)),
        write_(write),
        floats_(layout_.floats()) {}

  void WriteHeader() {
    std::string line = "key\tlast_step\tcount";
    for (std::uint32_t i = 0; i < layout_.floats(); ++i) {
      const bool value = i < layout_.dim();
      line += (value ? "\tvalue" : "\tstate") + std::to_string(value ? i : i - layout_.dim());
    }
    open_ = write_(line + "\n");
  }

  // Rows that `wanted` names, as they come.
  Status WriteRows(const std::function<bool(Key)>& wanted, std::uint64_t* found) {
    return Visit([&](const RowView& row) {
      if (wanted(row.key)) {
        ++*found;
        Write(row);
      }
    });
  }

  Status WriteSorted(std::uint64_t memory_bytes) {
    std::vector<Key> sample;
    std::uint64_t rows = 0;
    RETURN_IF_ERROR(Sample(&sample, &rows));
    const std::uint64_t bytes = rows * (layout_.record_bytes() + kBesideRow);
    const std::uint64_t ranges =
        std::min<std::uint64_t>(1 + bytes / std::max<std::uint64_t>(1, memory_bytes),
                                std::max<std::size_t>(1, sample.size()));
    for (std::uint64_t range = 0; range < ranges && open_; ++range) {
      const Key first = range == 0 ? 0 : sample[range * sample.size() / ranges];
      const Key last = range + 1 == ranges ? std::numeric_limits<Key>::max()
                                           : sample[(range + 1) * sample.size() / ranges] - 1;
      RETURN_IF_ERROR(WriteRange(first, last));
    }
    return OkStatus();
  }

 private:
  Status Visit(const std::function<void(const RowView&)>& visit) {
    ModelVisitor visitor;
    visitor.row = [&](std::uint32_t table, const RowView& row) {
      if (table == table_ && open_) {
        visit(row);
      }
    };
    return VisitModel(*plan_, directory_, visitor).status();
  }

  void Write(const RowView& row) {
    layout_.Read(row.record.data(), floats_.data());
    line_ = std::to_string(row.key) + "\t" + std::to_string(row.last_step) + "\t";
    if (spec_.max_rows != 0 && spec_.eviction.order == EvictionSpec::Order::kCount) {
      const float decayed = FloatOf(static_cast<std::uint32_t>(row.count));
      char text[32];
      line_.append(text, std::to_chars(text, text + sizeof(text), decayed).ptr);
    } else {
      line_ += std::to_string(row.count);
    }
    for (const float value : floats_) {
      AppendNumber(value, &line_);
    }
    line_.push_back('\n');
    open_ = open_ && write_(line_);
  }

  // Keys whose hashes are the smallest: a fair draw, and the same each time.  Sorted.
  Status Sample(std::vector<Key>* sample, std::uint64_t* rows) {
    std::priority_queue<std::pair<std::uint64_t, Key>> smallest;
    RETURN_IF_ERROR(Visit([&](const RowView& row) {
      ++*rows;
      smallest.emplace(Mix64(row.key ^ 0x73616d706c65), row.key);
      if (smallest.size() > kSampleKeys) {
        smallest.pop();
      }
    }));
    for (; !smallest.empty(); smallest.pop()) {
      sample->push_back(smallest.top().second);
    }
    std::sort(sample->begin(), sample->end());
    return OkStatus();
  }

  Status WriteRange(Key first, Key last) {
    struct Held {
      RowView row;
      std::size_t at = 0;
    };
    std::vector<Held> held;
    std::vector<std::byte> records;
    RETURN_IF_ERROR(Visit([&](const RowView& row) {
      if (row.key >= first && row.key <= last) {
        held.push_back({row, records.size()});
        records.insert(records.end(), row.record.begin(), row.record.end());
      }
    }));
    std::sort(held.begin(), held.end(),
              [](const Held& a, const Held& b) { return a.row.key < b.row.key; });
    for (Held& each : held) {
      each.row.record = std::span(records).subspan(each.at, layout_.record_bytes());
      Write(each.row);
    }
    return OkStatus();
  }

  const std::string directory_;
  const std::shared_ptr<const JobPlan> plan_;
  const std::uint32_t table_;
  const TableSpec spec_;
  const RowLayout layout_;
  const WriteLine& write_;
  std::vector<float> floats_;
  std::string line_;
  bool open_ = true;  // False: nobody reads any more.
};

StatusOr<std::uint32_t> TableOf(const JobPlan& plan, const std::string& name) {
  std::string names;
  for (std::uint32_t table = 0; table < plan.tables.size(); ++table) {
    if (plan.tables[table].name == name || (name.empty() && plan.tables.size() == 1)) {
      return table;
    }
    names += (table == 0 ? "" : ", ") + plan.tables[table].name;
  }
  return NotFound((name.empty() ? "--table is needed" : "there is no table " + name) +
                  "; the model has: " + names);
}

}  // namespace

Status DumpTable(const std::string& directory, const DumpOptions& options, const WriteLine& write) {
  ASSIGN_OR_RETURN(std::shared_ptr<const JobPlan> plan, PlanOfModel(directory));
  ASSIGN_OR_RETURN(const std::uint32_t table, TableOf(*plan, options.table));
  const std::string name = plan->tables[table].name;
  TableDump dump(directory, std::move(plan), table, write);
  if (options.header) {
    dump.WriteHeader();
  }
  if (options.sorted && !options.key.has_value()) {
    return dump.WriteSorted(options.memory_bytes);
  }
  std::uint64_t found = 0;
  const std::optional<Key> key = options.key;
  RETURN_IF_ERROR(
      dump.WriteRows([&](Key each) { return !key.has_value() || each == *key; }, &found));
  return !key.has_value() || found > 0 ? OkStatus()
                                       : NotFound("table " + name + " of " + directory +
                                                  " has no row of key " + std::to_string(*key));
}

}  // namespace plexus
