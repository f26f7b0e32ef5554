// PhasePlanner: what comes after a phase: the next epoch, a validation, the end.  A pure function
// of the job and of what it was told.
//
//   TRAIN --(no validation data)--> TRAIN of the next epoch | EVALUATE test | STOP
//   TRAIN --> EVALUATE validation --(best so far, test data)--> EVALUATE test --> TRAIN | STOP
//
// Thread safety: none; belongs to the scheduler.
#pragma once

#include <cstdint>
#include <optional>
#include <string>

#include "common/evaluation/evaluation.h"
#include "proto/checkpoint.pb.h"
#include "proto/control.pb.h"
#include "proto/job.pb.h"

namespace plexus {

inline constexpr const char* kBestModel = "best";
inline constexpr const char* kFinalModel = "final";
inline constexpr const char* kCheckpoint = "checkpoint";  // Of this version, to go on from.

struct NextPhase {
  proto::Phase phase;
  std::string save;  // Names to save the model under before the phase; empty = do not.
};

class PhasePlanner {
 public:
  explicit PhasePlanner(const proto::Job& job);

  proto::Phase First() const;

  // `current` ended with `step`; `exhausted`: the epoch's data ended too.
  NextPhase AfterTraining(const proto::Phase& current, std::uint64_t step, bool exhausted);
  NextPhase AfterEvaluation(const proto::Phase& current, std::uint64_t step,
                            const EvaluationFigures& figures);
  // The end, now.
  NextPhase Stop(const proto::Phase& current, std::uint64_t step) const;
  // Training goes on for a single step, which the ranks know to be the last.
  proto::Phase OneMoreStep(const proto::Phase& current, std::uint64_t step) const;

  // What it remembers, and back.
  proto::PlannerState State() const;
  void Restore(const proto::PlannerState& state);

  // Figures of the best validation (or of the end, without validation data).
  const std::optional<EvaluationFigures>& validation() const { return validation_; }
  const std::optional<EvaluationFigures>& test() const { return test_; }
  // 1-based epoch of the best validation; 0 = none yet.
  std::uint32_t best_epoch() const { return best_epoch_; }
  std::uint64_t best_version() const { return best_version_; }

 private:
  NextPhase Continue(const proto::Phase& current, std::uint64_t step, std::string save) const;
  proto::Phase Training(std::uint32_t number, std::uint64_t first_step) const;
  proto::Phase Evaluation(std::uint32_t number, std::uint64_t step,
                          proto::Phase::DataSet data_set) const;

  proto::Job job_;
  std::uint32_t epoch_ = 0;        // That training goes on with.
  std::uint64_t epoch_steps_ = 0;  // Done of it.
  std::uint32_t worse_in_a_row_ = 0;
  std::optional<EvaluationFigures> validation_;
  std::optional<EvaluationFigures> test_;
  std::uint32_t best_epoch_ = 0;
  std::uint64_t best_version_ = 0;
  std::uint32_t validated_epoch_ = 0;
};

}  // namespace plexus
