// RunRecord: what a run leaves behind, and shows while it goes: RUN/metrics.jsonl, members.json,
// model/*/manifest.textproto, result.json, and the progress bar.
//
// Thread safety: none; belongs to the scheduler's thread.
#pragma once

#include <cstdint>
#include <cstdio>
#include <memory>
#include <string>

#include "common/status.h"
#include "launch/node.h"
#include "scheduler/scheduler.h"

namespace plexus {

class RunRecord {
 public:
  // Errors name the file that could not be written.  `scheduler` outlives the record.
  static StatusOr<std::unique_ptr<RunRecord>> Open(std::shared_ptr<const JobPlan> plan,
                                                   const NodeOptions& options,
                                                   const Scheduler& scheduler);
  ~RunRecord();

  Status OnEvent(const SchedulerEvent& event);
  // Draws progress, at most a few times a second.
  void OnTimer();
  // Writes result.json; call when everyone has left.
  Status Finish();

 private:
  RunRecord(std::shared_ptr<const JobPlan> plan, const NodeOptions& options,
            const Scheduler& scheduler);

  Status WriteMembers() const;
  Status WriteSavedModel(const SchedulerEvent& event);
  void WriteLine(const std::string& json);
  void OnStep(const SchedulerEvent& event);
  void OnPhase(const proto::Phase& phase);
  void DrawBar(bool final);
  double TrainingSeconds() const;

  const std::shared_ptr<const JobPlan> plan_;
  const NodeOptions options_;
  const Scheduler& scheduler_;
  std::FILE* metrics_ = nullptr;
  const double began_;
  double training_seconds_ = 0;  // Of TRAIN phases that ended.
  double phase_began_ = 0;       // Of the TRAIN phase that goes on; 0: none.
  double line_at_ = 0;           // When the last progress line was written.
  double drawn_at_ = 0;
  std::uint64_t line_samples_ = 0;
  double line_loss_sum_ = 0;
  std::uint64_t line_samples_before_ = 0;
  std::uint64_t first_epoch_samples_ = 0;  // Known once an epoch has ended; 0: not yet.
  std::string digest_;
  std::vector<proto::Saved> saved_;  // Of the last save.
  double last_auc_ = -1;
};

}  // namespace plexus
