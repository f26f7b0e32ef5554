// RankTrainer: what one rank does: ask for the phase, read, pull, compute, push; or evaluate.
// Sans-IO: a runtime or the simulator calls OnMessage, OnTimer and Progress, and sends what lies in
// the outbox.
//
// States:  kQuery -> kTrain -> kQuery      (the phase ended)
//          kQuery -> kEvaluate -> kQuery   (the part was reported)
//          kQuery -> kDone                 (phase STOP)
//          any    -> kFenced | kFailed
// While step t is computed, the pulls of the next staleness + 1 steps are under way.
//
// Thread safety: none; belongs to the rank's thread.
#pragma once

#include <atomic>
#include <cstdint>
#include <deque>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "common/evaluation/evaluation.h"
#include "common/outbox.h"
#include "proto/plan.h"
#include "worker/batch_input.h"
#include "worker/batch_source.h"
#include "worker/dense_exchange.h"
#include "worker/models/model.h"
#include "worker/rank_client.h"

namespace plexus {

// Seconds that a rank spent, by what on; read by others while it runs.
struct RankTimes {
  std::atomic<double> read{0};
  std::atomic<double> compute{0};
  std::atomic<double> exchange{0};  // Building pulls and pushes, scattering rows.
  std::atomic<double> wait{0};      // For shards and other ranks; counted by the runtime.
};

struct RankDeps {
  OpenSource open_source;
  std::unique_ptr<Model> model;
  DenseExchange* exchange = nullptr;  // dense_sync MPI only.
  std::function<double()> seconds;    // A steady clock for RankTimes; null: none.
  RankTimes* times = nullptr;
};

class RankTrainer {
 public:
  enum class State { kQuery, kTrain, kEvaluate, kDone, kFenced, kFailed };

  RankTrainer(std::shared_ptr<const JobPlan> plan, std::uint32_t rank, std::uint32_t epoch,
              RankDeps deps, Millis resend_ms);

  void OnMessage(const std::string& peer, const Bytes& frame, Millis now);
  void OnTimer(Millis now);
  void OnServerReturned(Millis now) { client_.OnServerReturned(now); }
  // Does one thing that can be done now (issue a pull, compute a step); false if there is none.
  bool Progress(Millis now);
  Outbox& outbox() { return client_.outbox(); }

  State state() const { return state_; }
  const Status& failure() const { return failure_; }
  const RankClient& client() const { return client_; }
  std::uint64_t bad_lines() const;
  std::uint64_t next_step() const { return next_compute_; }
  // Passes over the training data so far: 1.25 = an epoch and a quarter of the next.
  double progress() const { return progress_; }

 private:
  struct InFlight {
    std::uint64_t step = 0;
    std::unique_ptr<PreparedBatch> batch;  // Null: an empty step.
    std::uint64_t pull = 0;
    std::uint32_t samples = 0;
  };

  bool ProgressQuery(Millis now);
  bool ProgressTrain(Millis now);
  bool ProgressEvaluate(Millis now);
  void StartPhase(const RankClient::PhaseAnswer& answer, Millis now);
  void EndPhase(Millis now);
  bool IssueTrainPull(Millis now);
  void IssueEvaluationPull(Millis now);
  StatusOr<std::unique_ptr<PreparedBatch>> NextBatch();
  void Compute(const PreparedBatch& batch, std::uint64_t step, const RankClient::Pulled& pulled,
               RankClient::Gradients* gradients);
  std::span<const float> DenseValues() const;
  void ComputeStep(InFlight step, const RankClient::Pulled& pulled, Millis now);
  Status PushDense(const InFlight& step, std::uint32_t flags, RankClient::Gradients* gradients);
  void FinishEvaluation(Millis now);
  void Fail(Status status);

  const std::shared_ptr<const JobPlan> plan_;
  const std::uint32_t rank_;
  RankDeps deps_;
  RankClient client_;
  State state_ = State::kQuery;
  Status failure_;
  const std::uint64_t ahead_;  // Pulls under way beyond the step that is computed.

  proto::Phase phase_;
  std::unique_ptr<BatchSource> train_source_;  // Kept while evaluations interrupt its epoch.
  std::uint32_t train_epoch_ = 0;
  std::uint64_t train_batches_ = 0;  // Taken from it, or skipped.
  double progress_ = 0;
  bool train_source_ended_ = false;
  std::unique_ptr<BatchSource> evaluation_source_;
  BatchSource* source_ = nullptr;  // Of this phase.
  bool source_ended_ = false;
  bool sent_last_ = false;              // Nothing more to push in this phase.
  std::uint64_t closed_bad_lines_ = 0;  // Of sources that are gone.
  std::uint64_t next_pull_ = 0;
  std::uint64_t next_compute_ = 0;
  std::deque<InFlight> in_flight_;
  EvaluationPart evaluation_;
  bool evaluation_has_dense_ = false;

  BatchInput input_;
  std::vector<float> dense_gradients_;
  std::vector<std::vector<float>> dense_state_;
  std::vector<float> logits_;
};

}  // namespace plexus
