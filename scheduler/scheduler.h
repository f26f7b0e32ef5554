// Scheduler: membership, commits, phases.  Sans-IO, like Shard: a runtime or the simulator drives
// it.
//
// A step is committed when every shard has said that it is complete (docs/protocol.md); a commit
// carries what holds from the next step on.  A worker that is lost is replaced.  A server that is
// lost takes its rows with it: the job stops with exit code 3 and a sentence that names it; but
// under checkpoint.durability it has a while to come back, and is told what to recover.
//
// A job that goes on begins with the newest version that all can make: from the scheduler's own
// log of commits, the servers' push logs, and the checkpoint that these begin with; or with that
// checkpoint.  Servers without a state are told to make it, and the phase goes on when all have.
//
// Thread safety: none.
#pragma once

#include <cstdint>
#include <deque>
#include <map>
#include <memory>
#include <optional>
#include <set>
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
  // What was committed behind it, ascending, without a gap.
  std::vector<proto::CommittedStep> committed{};
  // Schedulers that this job had before: their epochs and fences are older than this one's.
  std::uint32_t former_starts = 0;
  Millis return_ms = 60000;  // For a lost server to come back.
  bool commit_early =
      false;  // A bug to be caught: the simulator's canary `commit_before_complete`.
};

// What happened, for logs, metrics and files; the runtime takes them.
struct SchedulerEvent {
  enum class Kind {
    kMembers,     // Who is there changed.
    kPhase,       // A phase began: phase.
    kResumed,     // From version `step`; what was committed behind it is forgotten.
    kCommitted,   // Durable jobs: `committed` has to be logged before what was sent behind it.
    kStep,        // A step was committed: step, samples, loss_sum.
    kVoidPushes,  // Of `rank`, so many `pushes` counted as empty (ASP: of the phase): step.
    kEvaluated,   // phase (what was evaluated), figures.
    kSaved,       // All shards wrote model `text` at version `step`: saved.
    kWorkerLost,  // text.
    kServerLost,  // text.
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
  proto::SchedulerState state;  // kSaved of kCheckpoint.
  proto::CommittedStep committed;
};

// What result.json says of the training.
struct TrainingTotals {
  std::uint64_t samples = 0;
  std::uint64_t epoch_samples = 0;  // Of the last epoch.
  double epoch_loss_sum = 0;
  std::uint64_t steps = 0;
  std::uint64_t worker_deaths = 0;
  std::uint64_t server_deaths = 0;
  bool inexact = false;  // Deterministic SSP: a pull could not be answered at the rule's version.
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
  // That the job went on from; 0: from the beginning.
  std::uint64_t resumed_version() const { return resumed_version_; }
  std::uint64_t resumed_samples() const { return resumed_samples_; }
  const proto::Phase& phase() const { return phase_; }
  std::uint64_t version() const { return version_; }
  // Who waits for whom, in words; empty while nothing is waited for.
  std::string WaitReport() const;
  // Logs of commits and pushes up to this version are of no more use; 0: all are.
  std::uint64_t log_kept_from() const;
  std::uint64_t messages_refused() const { return refused_; }

 private:
  void OnRegister(const std::string& peer, const proto::Register& info, Millis now);
  void OnHeartbeat(const std::string& peer, const proto::Heartbeat& heartbeat, Millis now);
  void OnComplete(const std::string& peer, const proto::Complete& complete, Millis now);
  void OnEvaluation(const proto::EvaluationReport& report, Millis now);
  void OnSaved(const std::string& peer, const proto::Saved& saved, Millis now);
  // What a server said that was replaced since holds no more.
  bool IsServer(const std::string& peer, std::uint32_t index) const;
  // As the shards that did not hear of it are told.
  proto::Commit LastCommit() const;
  void NoteNondeterministic(const std::string& why);

  // Whose parts of the step some shard saw to be not finite.
  std::vector<std::uint32_t> VoidRanks() const;
  // A shard that lacks some of them is told, and has to say again that it is complete: a step is
  // committed once all sums are of the same parts.
  void AgreeOnVoidParts();
  void CountVoid(const proto::Commit& commit);

  void MaybeStart(Millis now);
  // scheduler_recovery.cc
  // Version `version` of the log, or of the checkpoint.
  void ResumeAt(std::uint64_t version);
  void Resume(const proto::SchedulerState& state);
  // Once all servers have come: the newest version that all can make.
  void ChooseVersion(Millis now);
  // Of what it said when it came.
  std::uint64_t ReachOf(const MemberState& server) const;
  // Has no state, and has to make one.
  bool NeedsRecovery(const MemberState& server) const;
  bool HasRecovered(const MemberState& server) const;
  bool AllHaveRecovered() const;
  // It came without a state: until it says that it has one.
  void NoteRecovery(const MemberState& server);
  void OnServerReturned(const MemberState& server, const std::string& old_address, Millis now);
  // Before the start.
  void OnServerReturnedEarly(const MemberState& server, Millis now);
  // Fails the job if it cannot make version_.
  bool Reaches(const MemberState& server, Millis now);
  void OnServerLost(const std::string& silence, Millis now);
  void SendRegisterAgain(const std::string& peer, std::uint64_t incarnation);
  void AddCommitted(const proto::Commit& commit);
  // scheduler_checkpoint.cc
  bool LogIsLong() const;
  proto::SchedulerState StateOf(std::uint64_t version, const proto::Phase& phase) const;
  // What the job would go on from after `step`, were it not stopped.
  void AddCheckpoint(std::uint64_t step, const proto::Phase& phase, proto::Commit* commit);
  void UpdateCarriers(Millis now);
  void TryCommit(Millis now);
  bool StepIsComplete() const;
  proto::Commit MakeCommit();
  NextPhase PhaseAfter(const proto::Complete& complete, std::uint64_t step);
  void CountStep(const proto::Complete& complete);
  EvaluationFigures MergeEvaluation();
  float DenseScale() const;
  void FinishSave(Millis now);
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
  bool chosen_ = true;                    // False: until the version to go on from is known.
  std::uint64_t checkpoint_version_ = 0;  // The newest that is complete.
  std::deque<std::uint64_t> complete_checkpoints_;  // The newest checkpoint.keep.
  std::uint32_t generation_ = 1;          // Of the servers: one more whenever one came back.
  std::set<std::uint32_t> recovering_;    // Servers that have no state yet.
  std::optional<Millis> server_lost_at_;  // Until all are there again.
  std::uint64_t resumed_version_ = 0;
  std::uint64_t resumed_samples_ = 0;
  proto::SchedulerState checkpoint_;             // Of the checkpoint that is being written.
  std::vector<std::string> saving_;              // Names that the shards are to write, in order.
  std::map<std::uint32_t, proto::Saved> saved_;  // By shard, of the first name.
  bool stop_requested_ = false;
  std::optional<proto::Stop> stop_;
  Millis stopped_at_ = 0;
  std::optional<Millis> no_worker_since_;
  std::uint64_t refused_ = 0;
};

}  // namespace plexus
