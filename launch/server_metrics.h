// ServerMetrics: what a server says of its shard: metrics and /status.  docs/observability.md lists
// them with their equations.
//
// Thread safety: none; belongs to the shard's thread.
#pragma once

#include <cstdint>
#include <map>
#include <string>

#include "common/metrics/metrics.h"
#include "launch/snapshot_writer.h"
#include "launch/status_board.h"
#include "proto/plan.h"
#include "ps/shard.h"
#include "ps/store/cold_store.h"

namespace plexus {

class ServerMetrics {
 public:
  explicit ServerMetrics(std::uint32_t shard);

  // The shard took `seconds` for a frame of `type`.
  void OnFrame(const Shard& shard, FrameType type, double seconds);
  // A frame that did not verify, which the shard never saw.
  void OnDamagedFrame() { ++damaged_; }
  // Connections refused for their keys, so far.
  void SetRefusedConnections(std::uint64_t total) { connections_refused_ = total; }

  // Of the rows on disk.
  void SetDisk(const ColdStoreStats& stats);

  // Of the checkpoints' files.
  void SetSnapshots(const SnapshotStats& stats) { snapshots_ = stats; }

  // What there is to show now; the bytes are those of frames so far.
  StatusPages Pages(const Shard& shard, const JobPlan& plan, std::uint64_t bytes_sent,
                    std::uint64_t bytes_received);

 private:
  // Latencies of one kind of frame.
  Histogram& RequestSeconds(const std::string& op);
  void SetTotal(const std::string& name, const std::string& help, double total,
                const MetricLabels& labels = {});
  void SetGauge(const std::string& name, const std::string& help, double value,
                const MetricLabels& labels = {});
  // `labels` and the shard.
  MetricLabels WithShard(MetricLabels labels) const;
  void Fill(const Shard& shard);
  void FillPushes(const ShardCounters& counters);
  void FillQueues(const Shard& shard);
  void FillTables(const Shard& shard);
  void FillMemory(const Shard& shard);
  void FillSnapshots(const Shard& shard);

  const std::uint32_t shard_;
  Metrics metrics_;
  Histogram& pull_seconds_;
  Histogram& push_seconds_;
  Histogram& commit_seconds_;
  Histogram& other_seconds_;
  SnapshotStats snapshots_;
  std::uint64_t damaged_ = 0;
  std::uint64_t connections_refused_ = 0;
  std::uint64_t commits_seen_ = 0;
};

}  // namespace plexus
