// Shard: the protocol of one shard: pulls, pushes, commits.  Sans-IO: a runtime or the simulator
// calls OnMessage and OnTimer and sends what lies in the outbox.
//
// What it promises (docs/protocol.md):
//   * A pull changes nothing but the marks of deterministic SSP.
//   * In BSP and SSP a part of step t waits until commit t; then all parts are applied in rank
//   order and the shard is version t.  In ASP a part is applied when it arrives.
//   * At most one part of a (rank, step) is applied, however often it is sent.
//   * Frames of a rank's older carrier are refused.
//   * A push with gradients that are not finite is void: it counts as the empty push of its (rank,
//   step), in BSP and SSP on every shard.
//
// Under checkpoint.durability a push is acknowledged, and a step said to be complete, once the step
// is in the push log; a commit is in it before it is applied (shard_log.cc).
//
// States: registering -> (View.recover) recovering -> (OnRecovered) registering;
//         registering -> (View) running -> (commit with next phase STOP, or View.stop) stopped.
//
// Thread safety: none; owned by its shard's thread.
#pragma once

#include <cstdint>
#include <map>
#include <memory>
#include <optional>
#include <set>
#include <string>
#include <unordered_set>
#include <utility>
#include <vector>

#include "common/outbox.h"
#include "proto/control.h"
#include "proto/frame.h"
#include "proto/plan.h"
#include "ps/memory_governor.h"
#include "ps/push_record.h"
#include "ps/rank_hints.h"
#include "ps/shard_snapshot.h"
#include "ps/shard_state.h"

namespace plexus {

struct ShardOptions {
  std::uint32_t shard = 0;
  proto::Register registration;  // role, index, incarnation, pids, addresses, job hash.
  Millis heartbeat_ms = 500;
  Millis resend_ms = 1000;
  bool apply_duplicates = false;  // A bug to be caught: the simulator's canary `apply_twice`.
  bool spill_always = false;      // Tests: rows go to disk whatever memory is used; needs a limit.
};

// pull_keys = keys asked for; push_applied + push_void + push_duplicate + push_refused +
// push_dropped = pushes received, or found in the push log, but for those that wait.
struct ShardCounters {
  std::uint64_t pulls = 0;
  std::uint64_t pull_keys = 0;
  std::uint64_t pulls_parked = 0;
  std::uint64_t pushes = 0;
  std::uint64_t push_keys = 0;
  std::uint64_t push_applied = 0;
  std::uint64_t push_void = 0;  // Counted as empty: gradients that are not finite.
  std::uint64_t push_duplicate = 0;
  std::uint64_t push_refused = 0;  // Malformed, or of an older carrier.
  std::uint64_t push_dropped = 0;  // Of a phase that is over, or parts that its end threw away.
  std::uint64_t frames_refused = 0;
  std::uint64_t commits = 0;
  std::uint64_t cold_rows_asked = 0;  // Rows asked for from disk.
  std::uint64_t spill_failures = 0;   // Batches that could not be written.
  std::uint64_t emergencies = 0;  // Times that the memory limit could not be kept by disk alone.
};

class Shard {
 public:
  Shard(std::shared_ptr<const JobPlan> plan, ShardOptions options);

  void OnMessage(const std::string& peer, const Bytes& frame, Millis now);
  void OnTimer(Millis now);
  Outbox& outbox() { return outbox_; }

  // Set after a commit that asks for it: the runtime writes state() under this name before the next
  // message, then calls OnSaved.  An empty name: nothing is to be written, but rows lie on disk,
  // and the digest is asked for.
  std::optional<std::string> TakeSaveRequest();
  // `digest`: of state() and the rows on disk; may be left out if there are none.
  void OnSaved(proto::Saved saved, std::optional<Digest128> digest = std::nullopt);
  // Set when the shard is to begin with a checkpoint, a push log, or both.  Before the next message
  // the runtime puts the rows of all the checkpoint's files in, calling RestoreStep every few
  // thousand, says OnRestored, hands in the records of the log from the checkpoint on, up to those
  // of recover.version() (what is behind is not committed, and is pushed again), and calls
  // OnRecovered; an error fails the job.
  std::optional<proto::Recover> TakeRecoverRequest() {
    return std::exchange(recover_request_, std::nullopt);
  }
  ShardState& restored_state() { return state_; }
  // Keeps the memory limit while rows are put in.  True: there is room; false: once rows that are
  // on their way to disk are there.
  bool RestoreStep(Millis now);
  void OnRestored(std::uint64_t version) { version_ = version; }
  // Between two records nothing may wait for rows.  kDataLoss: the record does not fit the state.
  Status Replay(PushRecordKind kind, const Bytes& payload);
  void OnRecovered(const Status& status);

  // What the push log is to hold, in order; appended (and, if `sync` is set, synced) before the
  // outbox is sent.  A kBegin record opens a segment of its version.
  struct LogRequest {
    std::vector<PushRecord> records;
    bool sync = false;
  };
  LogRequest TakeLogRequest() { return std::exchange(log_request_, {}); }
  // What the runtime knows of the log: the version that it begins with and the newest that it can
  // make, for Register; the bytes of its newest segment, and whether it can be written.
  void SetLogVersions(std::uint64_t begin, std::uint64_t newest) {
    log_begin_ = begin;
    log_version_ = newest;
  }
  void SetLogUsage(std::uint64_t bytes, bool failing);
  std::uint64_t log_bytes() const { return log_bytes_; }
  bool log_failing() const { return log_failing_; }
  // Segments of the log that begin before this version are of no more use.
  std::uint64_t log_kept_from() const { return log_kept_from_; }
  // The process was asked to end: the scheduler hears of it, and stops the job in order.
  void Interrupt() { interrupted_ = true; }
  // What the runtime measured: for heartbeats, and `rss_bytes` for the memory limit; 0: of a
  // process that is not this server's alone.
  void SetUsage(std::uint64_t wire_bytes, std::uint64_t peak_rss_bytes, std::uint64_t rss_bytes);

  // Rows on disk.  The runtime takes the requests after each call of OnMessage, OnTimer or those
  // below, and carries them out in their order.  It answers each read by OnColdRows or
  // OnColdReadFailed, each spill by OnSpilled or OnSpillFailed, in any order.  A read leaves out
  // rows that were forgotten, or given back by OnSpillFailed, since it was taken.
  std::vector<ColdRequest> TakeColdRequests() { return std::exchange(cold_requests_, {}); }
  void OnColdRows(const ColdBatch& batch, Millis now);
  // The job fails: the rows are lost.
  void OnColdReadFailed(const ColdKeys& keys, const Status& status);
  void OnSpilled(std::uint64_t bytes);
  // The batch's rows stay in memory; `bytes` of the batch as it was taken, of which rows may be
  // missing that came back, and were taken again, since.
  void OnSpillFailed(const ColdBatch& batch, std::uint64_t bytes, const Status& status);
  // A snapshot, in shard_snapshot.cc.  Set when one begins: the runtime opens its file, calls
  // GatherSnapshot now and then, takes what snapshot() hands out (TakeBlocks, OnWritten), answers
  // copies by snapshot().OnCopied or OnColdCopyFailed, and calls OnSnapshotSaved after the end
  // block, with the digest of what was written; an error fails the job.
  struct SnapshotOrder {
    std::uint64_t version = 0;
    std::uint64_t base = 0;
  };
  std::optional<SnapshotOrder> TakeSnapshotOrder() {
    return std::exchange(snapshot_order_, std::nullopt);
  }
  ShardSnapshot& snapshot() { return snapshot_; }
  const ShardSnapshot& snapshot() const { return snapshot_; }
  void GatherSnapshot(std::uint64_t bytes);
  void OnColdCopyFailed(const ColdKeys& keys, const Status& status);
  void OnSnapshotSaved(std::uint64_t version, proto::Saved saved, const Digest128& digest);
  MemoryUse memory_use() const;
  bool emergency() const { return emergency_; }
  // Pulls, pushes and commits that wait for rows from disk.
  std::size_t waiting_for_rows() const {
    return waiting_pulls_.size() + waiting_pushes_.size() + (waiting_commit_.has_value() ? 1 : 0);
  }

  // The job fails, for a reason that the next heartbeat names.
  bool failed() const { return !failure_.empty(); }
  const std::optional<proto::Stop>& stop() const { return stop_; }
  const ShardState& state() const { return state_; }
  std::uint64_t version() const { return version_; }
  // The version that it can make, given the scheduler's commit.
  std::uint64_t complete_version() const {
    return complete_.has_value() ? complete_->step() : version_;
  }
  const proto::Phase& phase() const { return phase_; }
  const ShardCounters& counters() const { return counters_; }
  std::size_t parked() const;
  std::size_t pending_parts() const;
  std::uint64_t pending_bytes() const { return pending_bytes_; }
  // Ranks whose part of the next step is missing.
  std::vector<std::uint32_t> WaitingFor() const;
  // Pushes that counted as empty since their gradients were not finite, by rank.
  const std::map<std::uint32_t, std::uint64_t>& void_pushes() const { return void_pushes_; }
  // What the commit protocol answered pulls with: version - EarliestVersion at most this much (the
  // staleness that was seen, in versions behind step - 1).
  std::uint64_t staleness_max() const { return staleness_max_; }

 private:
  struct Part {
    Bytes frame;
    PushBody body;
    std::uint32_t flags = 0;
    bool is_void = false;  // Then `body` is empty.
  };
  struct Request {
    std::string peer;
    Bytes frame;
  };

  void OnPull(const std::string& peer, const Bytes& frame);
  void OnPush(const std::string& peer, const Bytes& frame);
  void OnPhaseQuery(const std::string& peer, const Bytes& frame);
  void OnControl(const Bytes& frame, Millis now);
  void OnView(const proto::View& view, Millis now);
  void OnCommit(const proto::Commit& commit, Millis now);

  // False (and a reply) if the frame's rank or carrier is not to be served.
  bool Admit(const std::string& peer, const FrameHeader& header);
  void AnswerPull(const std::string& peer, const Bytes& frame, const FrameHeader& header);
  void Park(const std::string& peer, const Bytes& frame, const FrameHeader& header);
  void AnswerParked();
  void Reply(const std::string& peer, const FrameHeader& request, FrameType type, ReplyCode code,
             std::string_view body = {});
  void ReplyPhase(const std::string& peer, const FrameHeader& request);

  void StorePart(const FrameHeader& header, Part part);
  void ApplyAtOnce(const FrameHeader& header, const PushBody& body, bool is_void);
  bool PartIsKnown(std::uint32_t rank, std::uint64_t step) const;
  void ApplyCommitted(const proto::Commit& commit);
  void StartPhase(const proto::Phase& phase);
  void SendControl(const proto::Control& control);
  // shard_complete.cc
  void MaybeComplete();
  // False: something is missing.
  bool CompleteStep(proto::Complete* complete) const;
  bool CompleteAspPhase(proto::Complete* complete) const;
  bool PullsServed(std::uint64_t step) const;
  void SendComplete();
  // True: the push is void, and *body is empty now.
  bool EmptyIfVoid(const FrameHeader& header, PushBody* body);
  void CountVoid(std::uint32_t rank);
  // The parts of these ranks count as empty, whatever this shard saw of them.
  void MakeVoid(std::uint64_t step, const google::protobuf::RepeatedField<std::uint32_t>& ranks);
  void OnVoidParts(const proto::VoidParts& parts);
  void SayVoid(proto::Heartbeat* heartbeat) const;
  // shard_log.cc
  bool logs() const { return plan_->durable() && !replaying_; }
  // What is not in the log yet must not be said again.
  bool LogPauses() const {
    return log_failing_ && plan_->job.checkpoint().on_log_error() == proto::Checkpoint::PAUSE;
  }
  void LogBegin();
  void LogComplete();
  void UseDenseSum();
  void SplitDenseSum();  // Each part has its own again.
  void LogCommit(const proto::Commit& commit);
  void Acknowledge(const std::string& peer, const FrameHeader& header);
  void ReleaseAcknowledgements();
  Status ReplayStep(const Bytes& payload);
  proto::Register Registration() const;
  // shard_snapshot.cc
  void BeginSnapshot(const proto::Commit& commit);
  // Before the rows that they name are forgotten.
  void AskForCopies();
  void SaySnapshotSaved();
  // shard_memory.cc
  static constexpr Millis kSpillRetryMillis = 2000;
  // Asks for those rows of the groups' keys that lie on disk; true: there are some.  Adds the keys
  // without a row to *absent, if that is not null.
  bool Need(std::span<const KeyBlock> groups, std::uint64_t* absent);
  void NeedRowsOf(const Bytes& pull_frame);
  // Rows that were just evicted are not asked for any more.  After each call that evicts some.
  void ForgetEvicted();
  bool NeedRowsOfParts(std::uint64_t step, std::uint64_t* absent);
  bool CommitMustWait(const proto::Commit& commit);
  void RetryWaiting(Millis now);
  bool CanSpill() const;
  // Keeps the memory limit, with `coming` bytes about to be added.
  void MakeRoom(std::uint64_t coming);
  void SetEmergency(bool emergency, const MemoryUse& use);
  // With the next heartbeat, at once; the first failure stays.
  void ReportFailure(std::string failure);

  const std::shared_ptr<const JobPlan> plan_;
  const ShardOptions options_;
  ShardState state_;
  Outbox outbox_;
  ShardCounters counters_;

  bool registered_ = false;
  bool interrupted_ = false;
  std::uint64_t fence_ = 0;
  std::uint64_t version_ = 0;
  proto::Phase phase_;
  std::vector<std::uint32_t> epochs_;  // Of each rank's carrier.
  std::optional<proto::Stop> stop_;
  std::string failure_;

  // BSP, SSP: parts of steps beyond version_, by step, then rank.
  std::map<std::uint64_t, std::vector<std::optional<Part>>> pending_;
  std::vector<Part> repeated_;  // Canary only.
  std::uint64_t pending_bytes_ = 0;
  std::vector<std::set<std::uint64_t>>
      served_;  // Deterministic SSP: steps whose pull was answered, per rank.
  bool inexact_ = false;
  // ASP: per rank, steps applied: all up to `high`, and those in `beyond`.
  struct Applied {
    std::uint64_t high = 0;
    std::set<std::uint64_t> beyond;
    bool last = false;
    bool exhausted = false;
  };
  std::vector<Applied> applied_;
  std::uint64_t asp_applied_ = 0;  // Parts in this phase.
  double asp_loss_sum_ = 0;
  std::uint64_t asp_samples_ = 0;
  std::map<std::uint32_t, std::uint64_t> asp_void_;      // By rank, in this phase.
  std::map<std::uint32_t, std::uint64_t> void_pushes_;   // By rank: applied as empty.
  std::map<std::uint32_t, std::uint64_t> void_arrived_;  // By rank: seen when they came.

  std::vector<std::map<std::uint64_t, Request>> parked_;  // Per rank, by sequence.
  std::map<std::string, Request> phase_queries_;          // By peer.
  RankHints hints_;

  std::optional<proto::Complete> complete_;  // Said until the commit comes.
  std::optional<proto::Saved> saved_;        // Said until the next commit or the end.
  std::optional<std::string> save_request_;
  std::optional<proto::Recover> recover_request_;
  ShardSnapshot snapshot_;
  std::optional<SnapshotOrder> snapshot_order_;
  std::optional<proto::Saved> snapshot_saved_;  // Said until the next one begins.
  std::string snapshot_nondeterministic_;       // As of its version.
  Millis next_heartbeat_ = 0;
  Millis next_resend_ = 0;
  std::uint64_t wire_bytes_ = 0;
  std::uint64_t peak_rss_bytes_ = 0;
  std::uint64_t last_rss_bytes_ = 0;
  std::uint64_t swing_bytes_ = MemoryUse::kUnknownSwing;  // MemoryUse::swing.
  std::uint64_t staleness_max_ = 0;

  // The push log.
  LogRequest log_request_;
  std::vector<std::pair<std::string, FrameHeader>> held_acknowledgements_;  // Of parts not logged.
  Bytes dense_sum_;  // Of the step that was logged; its parts' own are in their frames alone.
  bool replaying_ = false;
  bool begin_due_ = false;  // Replay: of the checkpoint that the last commit asked for.
  std::uint64_t log_begin_ = 0;
  std::uint64_t log_version_ = 0;
  std::uint64_t log_bytes_ = 0;
  bool log_failing_ = false;
  std::uint64_t log_kept_from_ = 0;

  // Rows on disk, and the memory limit.
  const MemoryGovernor governor_;
  std::map<std::uint32_t, std::unordered_set<Key>> asked_;  // By table: reads under way.
  std::vector<ColdRequest> cold_requests_;
  std::vector<Request> waiting_pulls_;
  std::vector<Request> waiting_pushes_;  // ASP.
  std::optional<proto::Commit> waiting_commit_;
  std::uint64_t no_more_room_for_ = 0;  // The step whose own rows had to leave, and came back.
  std::uint64_t spills_under_way_ = 0;
  std::uint64_t spilling_bytes_ = 0;
  std::uint64_t other_bytes_ = 0;
  std::string spill_failure_;  // Of the last spill; empty: it went well.
  Millis retry_spill_at_ = 0;
  Millis now_ = 0;
  bool emergency_ = false;
  std::string nondeterministic_;  // Why the model's bits depend on this run; empty: they do not.
};

}  // namespace plexus
