#include "scheduler/phase_planner.h"

#include <utility>

namespace plexus {
namespace {

proto::Figures ToProto(const EvaluationFigures& figures) {
  proto::Figures to;
  to.set_samples(figures.samples);
  to.set_auc(figures.auc);
  to.set_logloss(figures.logloss);
  to.set_normalised_entropy(figures.normalised_entropy);
  to.set_calibration(figures.calibration);
  to.set_gauc(figures.gauc);
  to.set_label_rate(figures.label_rate);
  to.set_non_finite(figures.non_finite);
  return to;
}

EvaluationFigures FromProto(const proto::Figures& from) {
  return {.samples = from.samples(),
          .auc = from.auc(),
          .logloss = from.logloss(),
          .normalised_entropy = from.normalised_entropy(),
          .calibration = from.calibration(),
          .gauc = from.gauc(),
          .label_rate = from.label_rate(),
          .non_finite = from.non_finite()};
}

}  // namespace

PhasePlanner::PhasePlanner(const proto::Job& job) : job_(job) {}

proto::Phase PhasePlanner::First() const { return Training(1, 1); }

proto::Phase PhasePlanner::Training(std::uint32_t number, std::uint64_t first_step) const {
  proto::Phase phase;
  phase.set_number(number);
  phase.set_kind(proto::Phase::TRAIN);
  phase.set_first_step(first_step);
  const std::uint64_t every = job_.train().evaluate_every_steps();
  phase.set_last_step(every == 0 ? 0 : first_step + every - 1);
  phase.set_epoch(epoch_);
  phase.set_epoch_steps(epoch_steps_);
  return phase;
}

proto::Phase PhasePlanner::Evaluation(std::uint32_t number, std::uint64_t step,
                                      proto::Phase::DataSet data_set) const {
  proto::Phase phase;
  phase.set_number(number);
  phase.set_kind(proto::Phase::EVALUATE);
  phase.set_first_step(step);
  phase.set_last_step(step);
  phase.set_data_set(data_set);
  return phase;
}

NextPhase PhasePlanner::Stop(const proto::Phase& current, std::uint64_t step) const {
  NextPhase next;
  next.phase.set_number(current.number() + 1);
  next.phase.set_kind(proto::Phase::STOP);
  next.phase.set_first_step(step + 1);
  next.save = kFinalModel;
  return next;
}

proto::Phase PhasePlanner::OneMoreStep(const proto::Phase& current, std::uint64_t step) const {
  proto::Phase phase = current;
  phase.set_number(current.number() + 1);
  phase.set_first_step(step + 1);
  phase.set_last_step(step + 1);
  phase.set_epoch_steps(current.epoch_steps() + step + 1 - current.first_step());
  return phase;
}

NextPhase PhasePlanner::AfterTraining(const proto::Phase& current, std::uint64_t step,
                                      bool exhausted) {
  validated_epoch_ = epoch_ + 1;
  epoch_steps_ += step + 1 - current.first_step();
  if (exhausted) {
    ++epoch_;
    epoch_steps_ = 0;
  }
  if (job_.data().valid_size() > 0) {
    return {Evaluation(current.number() + 1, step + 1, proto::Phase::VALIDATION), ""};
  }
  if (epoch_ >= job_.train().epochs() && job_.data().test_size() > 0) {
    return {Evaluation(current.number() + 1, step + 1, proto::Phase::TEST), ""};
  }
  return Continue(current, step, "");
}

NextPhase PhasePlanner::AfterEvaluation(const proto::Phase& current, std::uint64_t step,
                                        const EvaluationFigures& figures) {
  if (current.data_set() == proto::Phase::TEST) {
    test_ = figures;
    return Continue(current, step, "");
  }
  // A validation set of one class has no AUC (NaN): then the log loss decides.
  const bool better =
      !validation_.has_value() || figures.auc > validation_->auc ||
      (!(figures.auc <= validation_->auc) && figures.logloss < validation_->logloss);
  if (!better) {
    ++worse_in_a_row_;
    return Continue(current, step, "");
  }
  worse_in_a_row_ = 0;
  validation_ = figures;
  test_.reset();
  best_epoch_ = validated_epoch_;
  best_version_ = step;
  if (job_.data().test_size() > 0) {
    return {Evaluation(current.number() + 1, step + 1, proto::Phase::TEST), kBestModel};
  }
  return Continue(current, step, kBestModel);
}

NextPhase PhasePlanner::Continue(const proto::Phase& current, std::uint64_t step,
                                 std::string save) const {
  const std::uint32_t patience = job_.train().early_stop_patience();
  if (epoch_ >= job_.train().epochs() || (patience > 0 && worse_in_a_row_ >= patience)) {
    NextPhase stop = Stop(current, step);
    if (!save.empty()) {
      stop.save = save + "," + stop.save;
    }
    return stop;
  }
  return {Training(current.number() + 1, step + 1), std::move(save)};
}

proto::PlannerState PhasePlanner::State() const {
  proto::PlannerState state;
  state.set_epoch(epoch_);
  state.set_epoch_steps(epoch_steps_);
  state.set_worse_in_a_row(worse_in_a_row_);
  if (validation_.has_value()) {
    *state.mutable_validation() = ToProto(*validation_);
  }
  if (test_.has_value()) {
    *state.mutable_test() = ToProto(*test_);
  }
  state.set_best_epoch(best_epoch_);
  state.set_best_version(best_version_);
  state.set_validated_epoch(validated_epoch_);
  return state;
}

void PhasePlanner::Restore(const proto::PlannerState& state) {
  epoch_ = state.epoch();
  epoch_steps_ = state.epoch_steps();
  worse_in_a_row_ = state.worse_in_a_row();
  validation_.reset();
  if (state.has_validation()) {
    validation_ = FromProto(state.validation());
  }
  test_.reset();
  if (state.has_test()) {
    test_ = FromProto(state.test());
  }
  best_epoch_ = state.best_epoch();
  best_version_ = state.best_version();
  validated_epoch_ = state.validated_epoch();
}

}  // namespace plexus
