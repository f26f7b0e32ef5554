#include "worker/rank_trainer.h"

#include <algorithm>
#include <cstring>
#include <utility>

#include <glog/logging.h>

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
      dense_values_(plan->dense_on_servers() ? plan->dense.size() : 0, 0.0f),
      dense_gradients_(plan->dense.size(), 0.0f) {
  rows_.resize(plan_->groups.size());
  for (std::size_t g = 0; g < plan_->groups.size(); ++g) {
    rows_[g].resize(plan_->groups[g].tables.size());
  }
  client_.QueryPhase(0, 0);
}

void RankTrainer::OnMessage(const std::string& peer, const Bytes& frame, Millis now) {
  client_.OnMessage(peer, frame, now);
}

void RankTrainer::OnTimer(Millis now) { client_.OnTimer(now); }

std::uint64_t RankTrainer::bad_lines() const {
  return bad_lines_before_ + (source_ != nullptr ? source_->bad_lines() : 0);
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
  reported_ = false;
  evaluation_has_dense_ = false;
  evaluation_ = EvaluationPart();
  if (phase_.kind() == proto::Phase::STOP) {
    state_ = State::kDone;
    return;
  }
  next_pull_ = answer.next_step;
  next_compute_ = answer.next_step;
  const bool train = phase_.kind() == proto::Phase::TRAIN;
  const std::uint64_t skip =
      train ? phase_.epoch_steps() + answer.next_step - phase_.first_step() : 0;
  state_ = train ? State::kTrain : State::kEvaluate;
  if (train && train_source_ != nullptr && train_epoch_ == phase_.epoch() &&
      train_batches_ == skip) {
    source_ = train_source_.get();  // The epoch goes on after an evaluation.
    source_ended_ = train_source_ended_;
    return;
  }
  bad_lines_before_ = bad_lines();
  StatusOr<std::unique_ptr<BatchSource>> source = deps_.open_source(rank_, phase_, skip);
  if (!source.ok()) {
    Fail(source.status());
    return;
  }
  auto& owner = train ? train_source_ : evaluation_source_;
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

void RankTrainer::TakeRows(const PreparedBatch& batch, const RankClient::Pulled& pulled,
                           bool dense) {
  const Timed timed(deps_, &RankTimes::exchange);
  replies_ = pulled.replies;
  for (std::uint32_t shard = 0; shard < replies_.size(); ++shard) {
    const auto* floats = reinterpret_cast<const float*>(BodyOf(replies_[shard]).data());
    for (std::size_t g = 0; g < rows_.size(); ++g) {
      const GroupKeys& keys = batch.keys.groups[g];
      const std::size_t begin = keys.shard_begin[shard];
      const std::size_t count = keys.shard_begin[shard + 1] - begin;
      for (std::size_t t = 0; t < rows_[g].size(); ++t) {
        const std::uint32_t dim = plan_->tables[plan_->groups[g].tables[t]].dim;
        TableRows& rows = rows_[g][t];
        if (replies_.size() == 1) {
          rows.rows = floats;
        } else {
          rows.storage.resize(std::max(rows.storage.size(), keys.keys.size() * dim));
          rows.rows = rows.storage.data();
          std::memcpy(rows.storage.data() + begin * dim, floats, count * dim * sizeof(float));
        }
        floats += count * dim;
      }
    }
    if (dense) {
      for (const std::uint32_t b : client_.shard_blocks()[shard]) {
        const DenseBlock& block = plan_->dense.blocks()[b];
        std::memcpy(dense_values_.data() + block.offset, floats, block.count * sizeof(float));
        floats += block.count;
      }
    }
  }
}

void RankTrainer::MakeInput(const PreparedBatch& batch, std::uint64_t step, bool train) {
  input_.samples = batch.batch.samples;
  input_.labels = batch.batch.labels;
  input_.dense = batch.batch.dense;
  input_.seed = plan_->seed();
  input_.step = step;
  input_.rank = rank_;
  input_.embeddings.clear();
  input_.linears.clear();
  for (std::size_t g = 0; train && g < rows_.size(); ++g) {
    for (std::size_t t = 0; t < rows_[g].size(); ++t) {
      const std::uint32_t dim = plan_->tables[plan_->groups[g].tables[t]].dim;
      rows_[g][t].gradients.assign(batch.keys.groups[g].keys.size() * dim, 0.0f);
    }
  }
  for (std::uint32_t f = 0; f < plan_->fields.size(); ++f) {
    const FieldTables& field = plan_->fields[f];
    const auto& tables = plan_->groups[field.group].tables;
    for (const std::uint32_t table : {field.embedding, field.linear}) {
      if (table == kNoTable) {
        continue;
      }
      const auto at =
          static_cast<std::size_t>(std::find(tables.begin(), tables.end(), table) - tables.begin());
      TableRows& rows = rows_[field.group][at];
      Lookup lookup;
      lookup.dim = plan_->tables[table].dim;
      lookup.rows = rows.rows;
      lookup.row_gradients = train ? rows.gradients.data() : nullptr;
      lookup.indices = batch.keys.indices[f];
      lookup.offsets = batch.batch.sparse[f].offsets;
      lookup.weights = batch.batch.sparse[f].weights;
      lookup.pooling = field.pooling;
      (table == field.embedding ? input_.embeddings : input_.linears).push_back(lookup);
    }
  }
}

void RankTrainer::ClipElements(const PreparedBatch& batch) {
  const double clip = plan_->job.train().clip_value();
  if (clip <= 0) {
    return;
  }
  const auto bound = static_cast<float>(clip * batch.batch.samples);
  const auto clip_all = [bound](std::vector<float>& values) {
    for (float& value : values) {
      value = std::clamp(value, -bound, bound);
    }
  };
  clip_all(dense_gradients_);
  for (auto& group : rows_) {
    for (TableRows& rows : group) {
      clip_all(rows.gradients);
    }
  }
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
    const bool dense = plan_->dense_on_servers();
    TakeRows(*step.batch, pulled, dense);
    MakeInput(*step.batch, step.step, true);
    logits_.resize(step.batch->batch.samples);
    {
      const Timed timed(deps_, &RankTimes::compute);
      gradients.loss_sum = deps_.model->Step(
          input_, dense ? std::span<const float>(dense_values_) : deps_.exchange->values(),
          dense_gradients_.data(), logits_);
    }
    ClipElements(*step.batch);
    gradients.keys = &step.batch->keys;
    gradients.samples = step.batch->batch.samples;
    gradients.dense = dense && plan_->dense.size() > 0 ? dense_gradients_.data() : nullptr;
    for (const auto& group : rows_) {
      auto& tables = gradients.groups.emplace_back();
      for (const TableRows& rows : group) {
        tables.push_back(rows.gradients.data());
      }
    }
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
  dense.gradients = step.batch != nullptr ? dense_gradients_.data() : nullptr;
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
  TakeRows(*step.batch, *pulled, dense);
  MakeInput(*step.batch, step.step, false);
  logits_.resize(step.batch->batch.samples);
  {
    const Timed timed(deps_, &RankTimes::compute);
    deps_.model->Step(input_,
                      plan_->dense_on_servers() ? std::span<const float>(dense_values_)
                                                : deps_.exchange->values(),
                      nullptr, logits_);
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
