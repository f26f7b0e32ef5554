#include "worker/rank_trainer.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <utility>

#include <glog/logging.h>

#include "common/precision/finite.h"

namespace plexus {
namespace {

std::uint64_t PullsAhead(std::int32_t staleness) {
  return static_cast<std::uint64_t>(std::max(staleness, 0)) + 1;
}

// Adds the seconds of its life to a counter.
class Timed {
 public:
  Timed(const RankDeps& deps, std::atomic<double> RankTimes::*counter)
      : deps_(deps), counter_(counter), began_(deps.times != nullptr ? deps.seconds() : 0) {}
  ~Timed() {
    if (deps_.times != nullptr) {
      std::atomic<double>& counter = deps_.times->*counter_;
      counter.store(counter.load(std::memory_order_relaxed) + deps_.seconds() - began_,
                    std::memory_order_relaxed);  // One writer; statistics only.
    }
  }
  Timed(const Timed&) = delete;
  Timed& operator=(const Timed&) = delete;

 private:
  const RankDeps& deps_;
  std::atomic<double> RankTimes::*const counter_;
  const double began_;
};

}  // namespace

RankTrainer::RankTrainer(std::shared_ptr<const JobPlan> plan, std::uint32_t rank,
                         std::uint32_t epoch, RankDeps deps, Millis resend_ms)
    : plan_(plan),
      rank_(rank),
      deps_(std::move(deps)),
      client_(plan, rank, epoch, resend_ms),
      ahead_(PullsAhead(plan->job.train().staleness())),
      input_(plan, rank, client_.shard_blocks()),
      // Never empty: a null pointer would tell the model that nothing is trained.
      dense_gradients_(std::max<std::size_t>(plan->dense.size(), 1), 0.0f) {
  client_.QueryPhase(0, 0);
}

void RankTrainer::OnMessage(const std::string& peer, const Bytes& frame, Millis now) {
  client_.OnMessage(peer, frame, now);
}

void RankTrainer::OnTimer(Millis now) { client_.OnTimer(now); }

std::uint64_t RankTrainer::bad_lines() const {
  std::uint64_t count = closed_bad_lines_;
  for (const auto* source : {train_source_.get(), evaluation_source_.get()}) {
    count += source != nullptr ? source->bad_lines() : 0;
  }
  return count;
}

void RankTrainer::Fail(Status status) {
  failure_ = std::move(status);
  state_ = State::kFailed;
}

bool RankTrainer::Progress(Millis now) {
  if (client_.fenced() && state_ != State::kDone) {
    state_ = State::kFenced;
  }
  if (!client_.failure().empty() && state_ != State::kFailed) {
    Fail(Internal(client_.failure()));
  }
  switch (state_) {
    case State::kQuery:
      return ProgressQuery(now);
    case State::kTrain:
      return ProgressTrain(now);
    case State::kEvaluate:
      return ProgressEvaluate(now);
    default:
      return false;
  }
}

bool RankTrainer::ProgressQuery(Millis now) {
  std::optional<RankClient::PhaseAnswer> answer = client_.TakePhase();
  if (!answer.has_value()) {
    return false;
  }
  StartPhase(*answer, now);
  return true;
}

void RankTrainer::StartPhase(const RankClient::PhaseAnswer& answer, Millis) {
  phase_ = answer.phase;
  in_flight_.clear();
  source_ended_ = false;
  sent_last_ = false;
  evaluation_has_dense_ = false;
  evaluation_ = EvaluationPart();
  if (phase_.kind() == proto::Phase::STOP) {
    state_ = State::kDone;
    return;
  }
  next_pull_ = answer.next_step;
  next_compute_ = answer.next_step;
  const bool train = phase_.kind() == proto::Phase::TRAIN;
  // ASP: a carrier before this one may have pushed everything, and the phase not be over yet.
  sent_last_ = train && phase_.last_step() != 0 && next_pull_ > phase_.last_step();
  const std::uint64_t skip =
      train ? phase_.epoch_steps() + answer.next_step - phase_.first_step() : 0;
  state_ = train ? State::kTrain : State::kEvaluate;
  if (train && train_source_ != nullptr && train_epoch_ == phase_.epoch() &&
      train_batches_ == skip) {
    source_ = train_source_.get();  // The epoch goes on after an evaluation.
    source_ended_ = train_source_ended_;
    return;
  }
  StatusOr<std::unique_ptr<BatchSource>> source = deps_.open_source(rank_, phase_, skip);
  if (!source.ok()) {
    Fail(source.status());
    return;
  }
  auto& owner = train ? train_source_ : evaluation_source_;
  closed_bad_lines_ += owner != nullptr ? owner->bad_lines() : 0;
  owner = *std::move(source);
  source_ = owner.get();
  if (train) {
    train_epoch_ = phase_.epoch();
    train_batches_ = skip;
    train_source_ended_ = false;
  }
}

void RankTrainer::EndPhase(Millis now) {
  in_flight_.clear();
  client_.QueryPhase(phase_.number(), now);
  state_ = State::kQuery;
}

StatusOr<std::unique_ptr<PreparedBatch>> RankTrainer::NextBatch() {
  const Timed timed(deps_, &RankTimes::read);
  return source_->Next();
}

bool RankTrainer::IssueTrainPull(Millis now) {
  const bool beyond = phase_.last_step() != 0 && next_pull_ > phase_.last_step();
  if (sent_last_ || beyond || next_pull_ > next_compute_ + ahead_ ||
      (plan_->asp() && source_ended_ && !in_flight_.empty())) {
    return false;
  }
  InFlight step{.step = next_pull_, .batch = nullptr};
  if (!source_ended_) {
    StatusOr<std::unique_ptr<PreparedBatch>> batch = NextBatch();
    if (!batch.ok()) {
      Fail(batch.status());
      return true;
    }
    step.batch = *std::move(batch);
    source_ended_ = step.batch == nullptr || step.batch->last;
    train_source_ended_ = source_ended_;
    train_batches_ += step.batch != nullptr ? 1 : 0;
    progress_ = train_epoch_ + (step.batch != nullptr ? step.batch->progress : 1.0);
  }
  const Timed timed(deps_, &RankTimes::exchange);
  const std::uint32_t dense = step.batch != nullptr && plan_->dense_on_servers() ? kFlagDense : 0;
  step.pull = client_.Pull(phase_, step.step, dense,
                           step.batch != nullptr ? &step.batch->keys : nullptr, now);
  in_flight_.push_back(std::move(step));
  ++next_pull_;
  return true;
}

bool RankTrainer::ProgressTrain(Millis now) {
  if (IssueTrainPull(now)) {
    return true;
  }
  if (in_flight_.empty()) {
    if (sent_last_ && client_.unacknowledged() == 0) {
      EndPhase(now);
      return true;
    }
    return false;
  }
  std::optional<RankClient::Pulled> pulled = client_.TakePulled(in_flight_.front().pull);
  if (!pulled.has_value()) {
    return false;
  }
  if (pulled->code == ReplyCode::kPhaseEnded) {
    EndPhase(now);
    return true;
  }
  InFlight step = std::move(in_flight_.front());
  in_flight_.pop_front();
  next_compute_ = step.step + 1;
  if (pulled->code == ReplyCode::kOk) {
    ComputeStep(std::move(step), *pulled, now);
  }  // kStale: an earlier carrier's part was committed; the next step is ours.
  return true;
}

void RankTrainer::Compute(const PreparedBatch& batch, std::uint64_t step,
                          const RankClient::Pulled& pulled, RankClient::Gradients* gradients) {
  const bool dense = plan_->dense_on_servers();
  {
    const Timed timed(deps_, &RankTimes::exchange);
    input_.TakeReplies(batch, pulled.replies, dense);
  }
  const Timed timed(deps_, &RankTimes::compute);
  logits_.resize(batch.batch.samples);
  gradients->loss_sum = deps_.model->Step(input_.Make(batch, step, true), DenseValues(),
                                          dense_gradients_.data(), logits_);
  input_.SpreadGradients(batch);
  // Before anything is clipped, or rounded to integers, which makes numbers of what is none.
  gradients->finite = std::isfinite(gradients->loss_sum) && input_.GradientsAreFinite() &&
                      AllFinite(dense_gradients_.data(), dense_gradients_.size());
  if (!gradients->finite) {
    return;
  }
  if (const double clip = plan_->job.train().clip_value(); clip > 0) {
    const auto bound = static_cast<float>(clip * batch.batch.samples);
    input_.ClipGradients(bound);
    for (float& value : dense_gradients_) {
      value = std::clamp(value, -bound, bound);
    }
  }
  gradients->keys = &batch.keys;
  gradients->samples = batch.batch.samples;
  gradients->dense = dense && plan_->dense.size() > 0 ? dense_gradients_.data() : nullptr;
  gradients->groups = input_.gradients();
}

std::span<const float> RankTrainer::DenseValues() const {
  return plan_->dense_on_servers() ? input_.dense_values() : deps_.exchange->values();
}

void RankTrainer::ComputeStep(InFlight step, const RankClient::Pulled& pulled, Millis now) {
  std::uint32_t flags = 0;
  // The last batch may be followed by empty steps whose pulls are under way already.
  const bool nothing_after =
      source_ended_ && std::all_of(in_flight_.begin(), in_flight_.end(),
                                   [](const InFlight& f) { return f.batch == nullptr; });
  flags |= nothing_after ? kFlagLast | kFlagExhausted : 0;
  flags |= step.step == phase_.last_step() ? kFlagLast : 0;
  RankClient::Gradients gradients;
  if (step.batch != nullptr) {
    Compute(*step.batch, step.step, pulled, &gradients);
  }
  if (deps_.exchange != nullptr) {
    if (Status status = PushDense(step, flags, &gradients); !status.ok()) {
      Fail(std::move(status));
      return;
    }
  }
  const Timed timed(deps_, &RankTimes::exchange);
  client_.Push(phase_, step.step, flags, gradients, now);
  // Otherwise an exhausted rank goes on with empty steps until all are.
  sent_last_ = (flags & kFlagLast) != 0 && (plan_->asp() || step.step == phase_.last_step());
  if (step.batch != nullptr) {
    source_->Recycle(std::move(step.batch));
  }
}

Status RankTrainer::PushDense(const InFlight& step, std::uint32_t flags,
                              RankClient::Gradients* gradients) {
  DenseStep dense;
  dense.rank = rank_;
  dense.step = step.step;
  dense.samples = gradients->samples;
  dense.last = (flags & kFlagLast) != 0;
  const bool has_gradients = step.batch != nullptr && gradients->finite;
  dense.gradients = has_gradients ? dense_gradients_.data() : nullptr;
  dense.rate_factor = RateFactor(plan_->job.train().schedule(), step.step);
  StatusOr<DenseExchange::Result> result = deps_.exchange->Step(dense);
  if (!result.ok()) {
    return result.status();
  }
  if (result->all_last && rank_ == 0) {
    // The phase ends with this step: the shards hold what is saved and digested.
    dense_state_.clear();
    for (const auto& blocks : client_.shard_blocks()) {
      dense_state_.push_back(deps_.exchange->BlockState(blocks));
    }
    gradients->dense_state = &dense_state_;
  }
  return OkStatus();
}

void RankTrainer::IssueEvaluationPull(Millis now) {
  StatusOr<std::unique_ptr<PreparedBatch>> batch = NextBatch();
  if (!batch.ok()) {
    Fail(batch.status());
    return;
  }
  if (*batch == nullptr) {
    source_ended_ = true;
    return;
  }
  source_ended_ = (*batch)->last;
  InFlight step{.step = phase_.first_step(), .batch = *std::move(batch)};
  const bool dense = plan_->dense_on_servers() && next_pull_ == phase_.first_step();
  step.pull = client_.Pull(phase_, phase_.first_step(), kFlagReadOnly | (dense ? kFlagDense : 0u),
                           &step.batch->keys, now);
  ++next_pull_;  // Counts the pulls of this evaluation.
  in_flight_.push_back(std::move(step));
}

bool RankTrainer::ProgressEvaluate(Millis now) {
  if (!source_ended_ && in_flight_.size() <= ahead_) {
    IssueEvaluationPull(now);
    return true;
  }
  if (in_flight_.empty()) {
    FinishEvaluation(now);
    return true;
  }
  std::optional<RankClient::Pulled> pulled = client_.TakePulled(in_flight_.front().pull);
  if (!pulled.has_value()) {
    return false;
  }
  if (pulled->code != ReplyCode::kOk) {
    EndPhase(now);
    return true;
  }
  InFlight step = std::move(in_flight_.front());
  in_flight_.pop_front();
  const bool dense = plan_->dense_on_servers() && !evaluation_has_dense_;
  evaluation_has_dense_ = true;
  input_.TakeReplies(*step.batch, std::move(pulled->replies), dense);
  logits_.resize(step.batch->batch.samples);
  {
    const Timed timed(deps_, &RankTimes::compute);
    deps_.model->Step(input_.Make(*step.batch, step.step, false), DenseValues(), nullptr, logits_);
  }
  evaluation_.Add(logits_, step.batch->batch.labels, step.batch->batch.groups);
  source_->Recycle(std::move(step.batch));
  return true;
}

void RankTrainer::FinishEvaluation(Millis now) {
  proto::EvaluationReport report;
  report.set_rank(rank_);
  report.set_step(phase_.first_step());
  report.set_part(evaluation_.Serialize());
  client_.Report(report, now);
  EndPhase(now);
}

}  // namespace plexus
