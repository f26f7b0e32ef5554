// Scheduler: membership, commits, phases.  Sans-IO, like Shard: a runtime or the simulator drives
// it.
//
// A step is committed when every shard has said that it is complete (docs/protocol.md); a commit
// carries what holds from the next step on.  A server that is lost takes its rows with it: the job
// stops with exit code 3 and a sentence that names it.  A worker that is lost is replaced.
//
// A job that goes on from a checkpoint begins with that version: servers are told to load it, and
// the phase goes on when all have.
//
// Thread safety: none.
#pragma once

#include <cstdint>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "common/evaluation/evaluation.h"
#include "common/outbox.h"
#include "proto/checkpoint.pb.h"
#include "proto/control.h"
#include "proto/plan.h"
#include "scheduler/membership.h"
#include "scheduler/phase_planner.h"

namespace plexus {

struct SchedulerOptions {
  std::uint64_t job_hash = 0;
  Millis lease_ms = 10000;
  Millis start_timeout_ms = 60000;  // For all members to come.
  std::string absence_hint{};       // Ends the sentence when they do not.
  Millis stall_ms = 600000;  // Without a commit: who waits for whom is reported, exit code 3.
  std::optional<proto::SchedulerState> resume{};  // Of the checkpoint that the job goes on from.
  bool commit_early =
      false;  // A bug to be caught: the simulator's canary `commit_before_complete`.
};

// What happened, for logs, metrics and files; the runtime takes them.
struct SchedulerEvent {
  enum class Kind {
    kMembers,     // Who is there changed.
    kPhase,       // A phase began: phase.
    kStep,        // A step was committed: step, samples, loss_sum.
    kVoidPushes,  // Of `rank`, so many `pushes` counted as empty (ASP: of the phase): step.
    kEvaluated,   // phase (what was evaluated), figures.
    kSaved,       // All shards wrote model `text` of version `step`: saved; `base` of kCheckpoint.
    kWorkerLost,  // text.
    kStopped,     // exit_code, text.
  };
  Kind kind;
  std::uint64_t step = 0;
  std::uint64_t samples = 0;
  double loss_sum = 0;
  proto::Phase phase;
  EvaluationFigures figures;
  std::string text;
  int exit_code = 0;
  std::uint32_t rank = 0;
  std::uint64_t pushes = 0;
  std::vector<proto::Saved> saved;
  proto::SchedulerState state;  // kSaved of kCheckpoint,
  std::uint64_t base = 0;       // the version that it builds on; 0: it is whole.
};

// What result.json says of the training.
struct TrainingTotals {
  std::uint64_t samples = 0;
  std::uint64_t epoch_samples = 0;  // Of the last epoch.
  double epoch_loss_sum = 0;
  std::uint64_t steps = 0;
  std::uint64_t worker_deaths = 0;
  bool inexact = false;  // Deterministic SSP: a pull could not be answered at the rule's version.
  std::uint64_t late_checkpoints = 0;  // That began later, since one was still being written.
  bool interrupted = false;
  // By rank: pushes whose gradients were not finite; they counted as empty.
  std::map<std::uint32_t, std::uint64_t> void_pushes;
  std::string nondeterministic;  // Why a server says that the bits depend on this run; empty: none.
};

class Scheduler {
 public:
  Scheduler(std::shared_ptr<const JobPlan> plan, SchedulerOptions options);

  void OnMessage(const std::string& peer, const Bytes& frame, Millis now);
  void OnTimer(Millis now);
  Outbox& outbox() { return outbox_; }
  std::vector<SchedulerEvent> TakeEvents() { return std::exchange(events_, {}); }

  // Finish the step, save, stop; `interrupted` is remembered.
  void RequestStop(Millis now);
  // The job cannot go on.
  void Fail(int exit_code, const std::string& reason, Millis now);

  // Everyone was told to stop and has left, or had time to.
  bool Done(Millis now) const;
  const std::optional<proto::Stop>& stop() const { return stop_; }

  const Membership& membership() const { return membership_; }
  const PhasePlanner& planner() const { return planner_; }
  const TrainingTotals& totals() const { return totals_; }
  // Of the checkpoint that the job went on from; 0: from the beginning.
  std::uint64_t resumed_version() const { return resumed_version_; }
  std::uint64_t resumed_samples() const { return resumed_samples_; }
  const proto::Phase& phase() const { return phase_; }
  std::uint64_t version() const { return version_; }
  // Who waits for whom, in words; empty while nothing is waited for.
  std::string WaitReport() const;
  std::uint64_t messages_refused() const { return refused_; }

 private:
  void OnRegister(const std::string& peer, const proto::Register& info, Millis now);
  void OnHeartbeat(const std::string& peer, const proto::Heartbeat& heartbeat, Millis now);
  void OnComplete(const proto::Complete& complete, Millis now);
  void OnEvaluation(const proto::EvaluationReport& report, Millis now);
  void OnSaved(const proto::Saved& saved, Millis now);
  void NoteNondeterministic(const std::string& why);

  // Whose parts of the step some shard saw to be not finite.
  std::vector<std::uint32_t> VoidRanks() const;
  // A shard that lacks some of them is told, and has to say again that it is complete: a step is
  // committed once all sums are of the same parts.
  void AgreeOnVoidParts();
  void CountVoid(const proto::Commit& commit);

  void MaybeStart(Millis now);
  // scheduler_checkpoint.cc
  void Resume(const proto::SchedulerState& state);
  // Servers are loading the checkpoint.
  bool IsRestoring() const { return !started_ && resumed_version_ > 0; }
  bool HasRestored(const MemberState& server) const;
  bool AllHaveRestored() const;
  // What the job would go on from after `step`, were it not stopped.
  void AddCheckpoint(std::uint64_t step, const proto::Phase& phase, proto::Commit* commit);
  bool CheckpointIsUnderWay() const { return checkpoint_.version() > 0; }
  // The checkpoint that the next one builds on; 0: it has to be whole.
  std::uint64_t CheckpointBase() const;
  void OnCheckpointSaved(const proto::Saved& saved, Millis now);
  void UpdateCarriers(Millis now);
  void TryCommit(Millis now);
  bool StepIsComplete() const;
  proto::Commit MakeCommit();
  NextPhase PhaseAfter(const proto::Complete& complete, std::uint64_t step);
  void CountStep(const proto::Complete& complete);
  EvaluationFigures MergeEvaluation();
  float DenseScale() const;
  void FinishSave(Millis now);
  // After the last commit, once all is saved.
  void MaybeEnd(Millis now);
  // Nothing is committed inside an ASP phase: a requested stop ends it here.
  void EndAspPhase(Millis now);

  void SendView(const MemberState& member);
  void SendViews();
  void Refuse(const std::string& peer, std::uint64_t incarnation, int exit_code,
              const std::string& reason);
  SchedulerEvent& AddEvent(SchedulerEvent::Kind kind);

  const std::shared_ptr<const JobPlan> plan_;
  const SchedulerOptions options_;
  Membership membership_;
  PhasePlanner planner_;
  Outbox outbox_;
  std::vector<SchedulerEvent> events_;
  TrainingTotals totals_;

  bool started_ = false;
  std::optional<Millis> began_;  // First timer.
  Millis last_commit_at_ = 0;
  std::uint64_t version_ = 0;
  proto::Phase phase_;
  std::optional<proto::Commit> last_commit_;
  std::map<std::uint32_t, proto::Complete> completes_;  // Of step version_ + 1, by shard.
  std::map<std::uint32_t, EvaluationPart> evaluation_;  // By rank.
  std::uint64_t resumed_version_ = 0;
  std::uint64_t resumed_samples_ = 0;
  // The checkpoint that is being written; version 0: none is.
  proto::SchedulerState checkpoint_;
  std::uint64_t checkpoint_base_ = 0;
  std::map<std::uint32_t, proto::Saved> checkpoint_saved_;  // By shard.
  bool checkpoint_is_late_ = false;  // One was due while the last one was being written.
  // The last one that is complete; what has been written since the last whole one.
  struct Chain {
    std::uint64_t version = 0;
    std::uint64_t length = 0;
    std::uint64_t whole_bytes = 0;
    std::uint64_t incremental_bytes = 0;
    bool needs_full = false;  // A shard says so.
  };
  Chain chain_;
  std::vector<std::string> saving_;              // Names that the shards are to write, in order.
  std::map<std::uint32_t, proto::Saved> saved_;  // By shard, of the first name.
  bool stop_requested_ = false;
  std::optional<proto::Stop> stop_;
  Millis stopped_at_ = 0;
  std::optional<Millis> no_worker_since_;
  std::uint64_t refused_ = 0;
};

}  // namespace plexus
