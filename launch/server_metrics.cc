#include "launch/server_metrics.h"

#include <utility>

#include <nlohmann/json.hpp>

#include "launch/phase_json.h"
#include "launch/server_report.h"

namespace plexus {
namespace {

using Json = nlohmann::ordered_json;

std::string IllnessOf(const Shard& shard) {
  if (shard.stop().has_value()) {
    const std::string& reason = shard.stop()->reason();
    return shard.stop()->exit_code() == 0 ? "stopping: the job is done" : "failed: " + reason;
  }
  return shard.phase().kind() == proto::Phase::STOP ? "stopping: the job is over" : "";
}

std::string StateOf(const Shard& shard) {
  if (shard.stop().has_value()) {
    return shard.stop()->exit_code() == 0 ? "stopping" : "failed";
  }
  return shard.phase().number() == 0 ? "starting" : "running";
}

}  // namespace

ServerMetrics::ServerMetrics(std::uint32_t shard)
    : shard_(shard),
      pull_seconds_(RequestSeconds("pull")),
      push_seconds_(RequestSeconds("push")),
      commit_seconds_(RequestSeconds("commit")),
      other_seconds_(RequestSeconds("other")) {}

Histogram& ServerMetrics::RequestSeconds(const std::string& op) {
  return metrics_.AddHistogram(
      "plexus_ps_request_seconds",
      "Time that the shard's thread took for a frame; op commit: for one that committed a step.",
      WithShard({{"op", op}}));
}

MetricLabels ServerMetrics::WithShard(MetricLabels labels) const {
  labels["shard"] = std::to_string(shard_);
  return labels;
}

void ServerMetrics::SetTotal(const std::string& name, const std::string& help, double total,
                             const MetricLabels& labels) {
  Counter& counter = metrics_.AddCounter(name, help, WithShard(labels));
  counter.Add(total - counter.value());
}

void ServerMetrics::SetGauge(const std::string& name, const std::string& help, double value,
                             const MetricLabels& labels) {
  metrics_.AddGauge(name, help, WithShard(labels)).Set(value);
}

void ServerMetrics::OnFrame(const Shard& shard, FrameType type, double seconds) {
  const bool committed = shard.counters().commits > commits_seen_;
  commits_seen_ = shard.counters().commits;
  if (committed) {
    commit_seconds_.Observe(seconds);
  } else if (type == FrameType::kPull) {
    pull_seconds_.Observe(seconds);
  } else if (type == FrameType::kPush) {
    push_seconds_.Observe(seconds);
  } else {
    other_seconds_.Observe(seconds);
  }
}

void ServerMetrics::FillPushes(const ShardCounters& counters) {
  const std::string name = "plexus_ps_pushes_total";
  const std::string help = "Pushes by what became of them; those that wait are in no result.";
  SetTotal(name, help, counters.push_applied, {{"result", "applied"}});
  SetTotal(name, help, counters.push_void, {{"result", "void"}});
  SetTotal(name, help, counters.push_duplicate, {{"result", "duplicate"}});
  SetTotal(name, help, counters.push_refused, {{"result", "refused"}});
  SetTotal(name, help, counters.push_dropped, {{"result", "dropped"}});
  SetTotal("plexus_ps_pushes_received_total", "Pushes that came.", counters.pushes);
  SetTotal("plexus_ps_push_keys_total", "Keys in pushes that were taken.", counters.push_keys);
}

void ServerMetrics::FillQueues(const Shard& shard) {
  const auto parked = static_cast<double>(shard.parked());
  const auto parts = static_cast<double>(shard.pending_parts());
  SetGauge("plexus_ps_parked_pulls", "Pulls that wait for a version.", parked);
  SetGauge("plexus_ps_pending_parts", "Pushes that wait for their step's commit.", parts);
  SetGauge("plexus_ps_pending_bytes", "Bytes of the pushes that wait for their step's commit.",
           static_cast<double>(shard.pending_bytes()));
  SetGauge("plexus_ps_queue_depth", "Requests that wait: parked pulls and pending parts.",
           parked + parts);
  SetGauge("plexus_ps_waiting_for_ranks", "Ranks whose part of the next step is missing.",
           static_cast<double>(shard.WaitingFor().size()));
}

void ServerMetrics::FillTables(const Shard& shard) {
  for (std::uint32_t i = 0; i < shard.state().table_count(); ++i) {
    const Table& table = shard.state().table(i);
    const MetricLabels labels = {{"table", table.spec().name}};
    SetGauge("plexus_ps_rows", "Rows of the table on this shard.",
             static_cast<double>(table.row_count()), labels);
    SetGauge("plexus_ps_row_bytes", "Memory of the table: index, rows and headers, as allocated.",
             static_cast<double>(table.memory_bytes()), labels);
    SetGauge("plexus_ps_rows_on_disk", "Rows of the table on this shard that lie on disk.",
             static_cast<double>(table.cold_count()), labels);
    for (const auto& [event, total] : EventsOf(table.counters())) {
      SetTotal("plexus_ps_table_rows_total", "What happened to rows, and to keys without one.",
               static_cast<double>(total), {{"table", table.spec().name}, {"event", event}});
    }
    for (const auto& [part, bytes] : PartsOf(table.memory())) {
      SetGauge("plexus_ps_table_memory_bytes",
               "Memory of the table by part; free: of rows, what no row uses.",
               static_cast<double>(bytes), {{"table", table.spec().name}, {"part", part}});
    }
  }
  SetGauge("plexus_ps_state_bytes", "Memory of all tables and of the dense parameters.",
           static_cast<double>(shard.state().memory_bytes()));
}

void ServerMetrics::FillMemory(const Shard& shard) {
  const MemoryUse use = shard.memory_use();
  const std::pair<const char*, std::uint64_t> parts[] = {{"state", use.committed - use.free},
                                                         {"free", use.free},
                                                         {"pending", use.pending},
                                                         {"spilling", use.spilling},
                                                         {"other", use.other}};
  for (const auto& [part, bytes] : parts) {
    SetGauge("plexus_ps_memory_bytes",
             "What counts for cluster.memory_limit; free: committed to rows, and without one.",
             static_cast<double>(bytes), {{"part", part}});
  }
  SetGauge("plexus_ps_waiting_for_rows", "Pulls, pushes and commits that wait for rows on disk.",
           static_cast<double>(shard.waiting_for_rows()));
  SetGauge("plexus_ps_memory_emergency",
           "1: the disk does not keep the memory limit, and cluster.on_memory_limit holds.",
           shard.emergency() ? 1 : 0);
  SetTotal("plexus_ps_memory_emergencies_total", "Times that it began.",
           static_cast<double>(shard.counters().emergencies));
  SetGauge("plexus_ps_log_bytes", "The newest segment of the push log.",
           static_cast<double>(shard.log_bytes()));
  SetGauge("plexus_ps_log_failing",
           "1: the push log cannot be written, and checkpoint.on_log_error holds.",
           shard.log_failing() ? 1 : 0);
}

void ServerMetrics::FillSnapshots(const Shard& shard) {
  SetTotal("plexus_ps_snapshots_total", "Files of checkpoints written.",
           static_cast<double>(snapshots_.snapshots));
  SetTotal("plexus_ps_snapshot_bytes_total", "Bytes of these files.",
           static_cast<double>(snapshots_.bytes));
  SetTotal("plexus_ps_snapshots_at_once_total",
           "Checkpoints of which the rest was written at once, while the shard waited.",
           static_cast<double>(snapshots_.written_at_once));
  SetGauge("plexus_ps_snapshot_waiting_bytes", "Of a checkpoint: gathered, and not yet written.",
           static_cast<double>(shard.snapshot().bytes()));
  const std::string help = "The longest that the shard's thread was busy with a checkpoint.";
  SetGauge("plexus_ps_snapshot_pause_seconds_max", help, snapshots_.slice_seconds_max,
           {{"why", "slice"}});
  SetGauge("plexus_ps_snapshot_pause_seconds_max", help, snapshots_.at_once_seconds_max,
           {{"why", "at_once"}});
}

void ServerMetrics::SetDisk(const ColdStoreStats& stats) {
  const std::string rows_help = "Rows written to disk and read back.";
  SetTotal("plexus_ps_cold_rows_total", rows_help, static_cast<double>(stats.rows_written),
           {{"op", "write"}});
  SetTotal("plexus_ps_cold_rows_total", rows_help, static_cast<double>(stats.rows_read),
           {{"op", "read"}});
  const std::string bytes_help = "Their bytes, with keys.";
  SetTotal("plexus_ps_cold_bytes_total", bytes_help, static_cast<double>(stats.bytes_written),
           {{"op", "write"}});
  SetTotal("plexus_ps_cold_bytes_total", bytes_help, static_cast<double>(stats.bytes_read),
           {{"op", "read"}});
  const std::string errors_help = "Batches of rows that could not be written, or read back.";
  SetTotal("plexus_ps_cold_errors_total", errors_help, static_cast<double>(stats.write_failures),
           {{"op", "write"}});
  SetTotal("plexus_ps_cold_errors_total", errors_help, static_cast<double>(stats.read_failures),
           {{"op", "read"}});
  SetGauge("plexus_ps_cold_disk_bytes", "Files of rows on disk, with outdated ones.",
           static_cast<double>(stats.disk_bytes));
  SetGauge("plexus_ps_cold_memory_bytes", "Memory of the store of rows on disk.",
           static_cast<double>(stats.memory_bytes));
  SetGauge("plexus_ps_cold_compactions", "Compactions of its files under way or due.",
           static_cast<double>(stats.compactions));
}

void ServerMetrics::Fill(const Shard& shard) {
  const ShardCounters& counters = shard.counters();
  SetTotal("plexus_ps_pulls_total", "Pulls answered with rows.", counters.pulls);
  SetTotal("plexus_ps_pull_keys_total", "Keys asked for in pulls that were answered.",
           counters.pull_keys);
  SetTotal("plexus_ps_pulls_parked_total", "Times that a pull had to wait for a version.",
           counters.pulls_parked);
  FillPushes(counters);
  for (const auto& [rank, pushes] : shard.void_pushes()) {
    SetTotal("plexus_ps_void_pushes_total",
             "Pushes that counted as empty, since their gradients were not finite.",
             static_cast<double>(pushes), {{"rank", std::to_string(rank)}});
  }
  SetTotal("plexus_ps_commits_total", "Commits applied.", counters.commits);
  SetTotal("plexus_ps_frames_refused_total",
           "Frames refused: malformed, or of a rank's older carrier.", counters.frames_refused);
  SetTotal("plexus_ps_frames_damaged_total", "Frames that failed their checksum or size.",
           static_cast<double>(damaged_));
  SetTotal("plexus_ps_connections_refused_total", "Connections refused for their keys.",
           static_cast<double>(connections_refused_));
  SetGauge("plexus_ps_version", "The version that the shard's rows have.",
           static_cast<double>(shard.version()));
  SetGauge("plexus_ps_staleness_versions_max",
           "The most versions that a training pull was answered behind its step's predecessor.",
           static_cast<double>(shard.staleness_max()));
  FillQueues(shard);
  FillTables(shard);
  FillMemory(shard);
  FillSnapshots(shard);
}

StatusPages ServerMetrics::Pages(const Shard& shard, const JobPlan& plan, std::uint64_t bytes_sent,
                                 std::uint64_t bytes_received) {
  Fill(shard);
  const std::string wire_help = "Bytes of frames.";
  SetTotal("plexus_ps_wire_bytes_total", wire_help, static_cast<double>(bytes_sent),
           {{"direction", "out"}});
  SetTotal("plexus_ps_wire_bytes_total", wire_help, static_cast<double>(bytes_received),
           {{"direction", "in"}});

  const ShardCounters& counters = shard.counters();
  Json json;
  json["role"] = "server";
  json["index"] = shard_;
  json["model"] = plan.job.model().name();
  json["state"] = StateOf(shard);
  json["version"] = shard.version();
  json["phase"] = PhaseJson(shard.phase());
  json["parked_pulls"] = shard.parked();
  json["pending_parts"] = shard.pending_parts();
  json["pending_bytes"] = shard.pending_bytes();
  json["waiting_for_ranks"] = shard.WaitingFor();
  json["staleness_versions_max"] = shard.staleness_max();
  json["pulls"] = counters.pulls;
  json["pushes"] = counters.pushes;
  json["commits"] = counters.commits;
  json["void_pushes"] = counters.push_void;
  json["tables"] = Json::object();
  for (const proto::TableUsage& usage : shard.state().Usage()) {
    json["tables"][usage.name()] = {{"rows", usage.rows()}, {"bytes", usage.bytes()}};
  }
  json["state_bytes"] = shard.state().memory_bytes();
  json["memory_limit_bytes"] = plan.memory_limit_bytes;
  return {.metrics = metrics_.Text(),
          .status = json.dump(1, ' ', false, Json::error_handler_t::replace) + "\n",
          .illness = IllnessOf(shard)};
}

}  // namespace plexus
