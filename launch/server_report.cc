#include "launch/server_report.h"

#include "common/files.h"
#include "proto/job.pb.h"

namespace plexus {
namespace {

using Json = nlohmann::ordered_json;

template <typename Pairs>
Json ObjectOf(const Pairs& pairs) {
  Json json = Json::object();
  for (const auto& [name, value] : pairs) {
    json[name] = value;
  }
  return json;
}

}  // namespace

std::array<TableEvent, 12> EventsOf(const TableCounters& counters) {
  return {{{"admitted", counters.admitted},
           {"restored", counters.restored},
           {"evicted_unseen", counters.evicted_unseen},
           {"evicted_limit", counters.evicted_limit},
           {"evicted_memory", counters.evicted_memory},
           {"refused_admission", counters.refused_admission},
           {"refused_memory", counters.refused_memory},
           {"late_pushes", counters.late_pushes},
           {"spilled", counters.spilled},
           {"thawed", counters.thawed},
           {"promoted", counters.promoted},
           {"demoted", counters.demoted}}};
}

std::array<std::pair<const char*, std::uint64_t>, 5> PartsOf(const TableMemory& memory) {
  return {{{"index", memory.index_bytes},
           {"rows", memory.row_bytes},
           {"headers", memory.header_bytes},
           {"filters", memory.filter_bytes},
           {"free", memory.free_bytes}}};
}

bool IsBalanced(const Table& table) {
  const TableCounters& counters = table.counters();
  const std::uint64_t came = counters.admitted + counters.restored + counters.promoted;
  return came == counters.evicted() + counters.demoted + table.row_count() &&
         table.cold_count() <= table.row_count();
}

Json TableReport(const Table& table) {
  const TableSpec& spec = table.spec();
  const RowLayout& layout = table.layout();
  const IndexShape shape = table.index_shape();
  Json json;
  json["kind"] = proto::Table::Kind_Name(static_cast<proto::Table::Kind>(spec.kind));
  json["dim"] = spec.dim;
  json["precision"] = proto::Precision_Name(static_cast<proto::Precision>(spec.precision));
  json["state_precision"] =
      proto::Precision_Name(static_cast<proto::Precision>(spec.state_precision));
  json["rows"] = table.row_count();
  json["rows_in_memory"] = table.row_count() - table.cold_count();
  json["rows_on_disk"] = table.cold_count();
  json["record_bytes"] = {{"values", layout.value_bytes()},
                          {"state", layout.record_bytes() - layout.value_bytes()},
                          {"on_disk", table.cold_record_bytes()}};
  json["memory_bytes"] = ObjectOf(PartsOf(table.memory()));
  json["memory_bytes"]["total"] = table.memory_bytes();
  json["index"] = {{"load_factor", shape.load_factor},
                   {"probe_mean", shape.probe_mean},
                   {"probe_max", shape.probe_max}};
  json["counters"] = ObjectOf(EventsOf(table.counters()));
  json["balanced"] = IsBalanced(table);
  return json;
}

Json ServerReport(const ShardState& state, std::uint32_t server, std::uint64_t version,
                  const std::string& event) {
  Json json;
  json["server"] = server;
  json["version"] = version;
  json["event"] = event;
  json["tables"] = Json::object();
  for (std::uint32_t i = 0; i < state.table_count(); ++i) {
    json["tables"][state.table(i).spec().name] = TableReport(state.table(i));
  }
  json["dense_bytes"] = state.dense().memory_bytes();
  json["state_bytes"] = state.memory_bytes();
  return json;
}

std::string ServerReportPath(const std::string& run_dir, std::uint32_t server) {
  return run_dir + "/servers/" + std::to_string(server) + ".json";
}

Status WriteServerReport(const std::string& run_dir, const ShardState& state, std::uint32_t server,
                         std::uint64_t version, const std::string& event) {
  RETURN_IF_ERROR(MakeDirectories(run_dir + "/servers"));
  return WriteFileAtomically(ServerReportPath(run_dir, server),
                             ServerReport(state, server, version, event).dump(1) + "\n");
}

}  // namespace plexus
