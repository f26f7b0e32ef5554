// RunRecord: what a run leaves behind, and shows while it goes: RUN/metrics.jsonl, members.json,
// model/*/manifest.textproto, checkpoints, result.json, and the progress bar. docs/observability.md
// lists what they hold.
//
// Thread safety: none; belongs to the scheduler's thread.
#pragma once

#include <cstdint>
#include <cstdio>
#include <map>
#include <memory>
#include <string>

#include "common/status.h"
#include "launch/node.h"
#include "launch/progress_bar.h"
#include "launch/rank_seconds.h"
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
  // Call whenever the scheduler's thread comes round: shows progress, when that is due.
  void OnTimer();
  // Writes result.json; call when everyone has left.
  Status Finish();

  // What the ranks' seconds went to so far.
  const RankSeconds& rank_seconds() const { return rank_seconds_.total(); }

 private:
  RunRecord(std::shared_ptr<const JobPlan> plan, const NodeOptions& options,
            const Scheduler& scheduler);

  Status WriteMembers() const;
  Status WriteSavedModel(const SchedulerEvent& event);
  void WriteLine(const std::string& json);
  void OnStep(const SchedulerEvent& event);
  void OnVoidPushes(const SchedulerEvent& event);
  void OnPhase(const proto::Phase& phase);
  void UpdateProgress(double now);
  void SetShare(double share, double now);
  ProgressFigures Figures(double now) const;
  void ShowEnd();
  double TrainingSeconds() const;
  // Trained by this start of the job.
  std::uint64_t OwnSamples() const;

  const std::shared_ptr<const JobPlan> plan_;
  const NodeOptions options_;
  const Scheduler& scheduler_;
  std::FILE* metrics_ = nullptr;
  const double began_;
  double training_seconds_ = 0;  // Of TRAIN phases that ended.
  double phase_began_ = 0;       // Of the TRAIN phase that goes on; 0: none.
  double line_at_ = 0;           // TrainingSeconds() at the last progress line.
  std::uint64_t line_samples_ = 0;
  double line_loss_sum_ = 0;
  double line_rate_ = 0;  // Samples a second of the last progress line.
  RankSecondsSum rank_seconds_;
  double first_phase_began_ = 0;  // 0: not yet.
  double share_ = 0;              // Of the training that is done; never falls.
  double share_at_ = 0;           // When share_ last grew.
  std::string digest_;
  std::vector<proto::Saved> saved_;  // Of the last save.
  double valid_auc_ = -1;
  std::map<std::uint32_t, std::uint64_t> void_pushes_;  // By rank.
  ProgressBar bar_;
};

}  // namespace plexus
