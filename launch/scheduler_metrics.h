// SchedulerMetrics: what the scheduler says of the job: metrics and /status.  docs/observability.md
// lists them with their equations.
//
// Thread safety: none; belongs to the scheduler's thread.
#pragma once

#include <cstdint>
#include <string>

#include "common/metrics/metrics.h"
#include "launch/rank_seconds.h"
#include "launch/status_board.h"
#include "scheduler/scheduler.h"

namespace plexus {

class SchedulerMetrics {
 public:
  SchedulerMetrics();

  // Each event, once, when it happens; `seconds` is a steady clock's.
  void OnEvent(const SchedulerEvent& event, double seconds);

  // Connections refused for their keys, so far.
  void SetRefusedConnections(std::uint64_t total);

  // What there is to show now.  `stopping`: someone asked the job to end.
  StatusPages Pages(const Scheduler& scheduler, const RankSeconds& ranks, bool stopping,
                    Millis now);

 private:
  void SetTotal(const std::string& name, const std::string& help, double total,
                const MetricLabels& labels = {});
  void SetGauge(const std::string& name, const std::string& help, double value,
                const MetricLabels& labels = {});
  void FillMembers(const Membership& membership);
  void FillTraining(const Scheduler& scheduler);
  void FillRanks(const RankSeconds& ranks);

  Metrics metrics_;
  Counter& commits_;
  Histogram& commit_seconds_;
  double last_commit_ = 0;  // Or the first phase's begin; 0: not yet.
};

}  // namespace plexus
