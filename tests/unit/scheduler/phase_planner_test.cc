#include "scheduler/phase_planner.h"

#include <cmath>
#include <limits>
#include <string>
#include <vector>

#include <gtest/gtest.h>

namespace plexus {
namespace {

// A run as it is planned: the planner is told the AUC of each validation in turn, and that data
// ends after `epoch_steps` steps of an epoch.
struct Case {
  const char* name;
  std::uint32_t epochs = 1;
  std::uint64_t every = 0;
  std::uint32_t patience = 0;
  bool valid = false;
  bool test = false;
  std::uint64_t epoch_steps = 10;
  std::vector<double> aucs;
  std::string expected;  // "train EPOCH @ first step + steps before it"; [save] before a phase.
};

std::string Describe(const proto::Phase& phase) {
  switch (phase.kind()) {
    case proto::Phase::TRAIN:
      return "train" + std::to_string(phase.epoch()) + "@" + std::to_string(phase.first_step()) +
             (phase.epoch_steps() > 0 ? "+" + std::to_string(phase.epoch_steps()) : "");
    case proto::Phase::EVALUATE:
      return (phase.data_set() == proto::Phase::TEST ? "test@" : "valid@") +
             std::to_string(phase.first_step());
    case proto::Phase::STOP:
      return "stop@" + std::to_string(phase.first_step());
  }
  return "?";
}

std::string Planned(const Case& c, PhasePlanner* planner) {
  proto::Phase phase = planner->First();
  std::string told = Describe(phase);
  std::size_t validations = 0;
  std::uint32_t number = 1;
  for (int guard = 0; guard < 100 && phase.kind() != proto::Phase::STOP; ++guard) {
    EXPECT_EQ(phase.number(), number++);
    NextPhase next;
    if (phase.kind() == proto::Phase::TRAIN) {
      const std::uint64_t left = c.epoch_steps - phase.epoch_steps();
      std::uint64_t last = phase.first_step() + left - 1;
      const bool exhausted = phase.last_step() == 0 || last <= phase.last_step();
      last = phase.last_step() == 0 ? last : std::min(last, phase.last_step());
      next = planner->AfterTraining(phase, last, exhausted);
    } else {
      EXPECT_EQ(phase.first_step(), phase.last_step());
      EvaluationFigures figures;
      figures.auc = phase.data_set() == proto::Phase::TEST ? 0.5 : c.aucs.at(validations++);
      figures.logloss = 1 - (std::isnan(figures.auc) ? 0 : figures.auc);
      next = planner->AfterEvaluation(phase, phase.first_step(), figures);
    }
    told += (next.save.empty() ? " " : " [" + next.save + "] ") + Describe(next.phase);
    phase = next.phase;
  }
  return told;
}

std::vector<Case> Cases() {
  return {
      {.name = "plain", .aucs = {}, .expected = "train0@1 [final] stop@11"},
      {.name = "epochs", .epochs = 2, .aucs = {}, .expected = "train0@1 train1@11 [final] stop@21"},
      {.name = "test only",
       .epochs = 2,
       .test = true,
       .aucs = {},
       .expected = "train0@1 train1@11 test@21 [final] stop@22"},
      {.name = "valid",
       .epochs = 2,
       .valid = true,
       .aucs = {0.6, 0.7},
       .expected = "train0@1 valid@11 [best] train1@12 valid@22 [best,final] stop@23"},
      {.name = "worse",
       .epochs = 2,
       .valid = true,
       .aucs = {0.7, 0.6},
       .expected = "train0@1 valid@11 [best] train1@12 valid@22 [final] stop@23"},
      {.name = "valid and test",
       .epochs = 2,
       .valid = true,
       .test = true,
       .aucs = {0.7, 0.6},
       .expected = "train0@1 valid@11 [best] test@12 train1@13 valid@23 [final] stop@24"},
      {.name = "patience",
       .epochs = 9,
       .patience = 2,
       .valid = true,
       .aucs = {0.7, 0.6, 0.7},
       .expected = "train0@1 valid@11 [best] train1@12 valid@22 train2@23 valid@33 [final] "
                   "stop@34"},
      {.name = "patience starts anew",
       .epochs = 4,
       .patience = 2,
       .valid = true,
       .aucs = {0.7, 0.6, 0.8, 0.7},
       .expected = "train0@1 valid@11 [best] train1@12 valid@22 train2@23 valid@33 [best] "
                   "train3@34 valid@44 [final] stop@45"},
      {.name = "inside the epoch",
       .every = 4,
       .valid = true,
       .aucs = {0.5, 0.6, 0.55},
       .expected = "train0@1 valid@5 [best] train0@6+4 valid@10 [best] train0@11+8 valid@13 "
                   "[final] stop@14"},
      {.name = "the epoch ends where a validation falls",
       .epochs = 2,
       .every = 5,
       .valid = true,
       .aucs = {0.5, 0.6, 0.7, 0.8},
       .expected = "train0@1 valid@6 [best] train0@7+5 valid@12 [best] train1@13 valid@18 [best] "
                   "train1@19+5 valid@24 [best,final] stop@25"},
      {.name = "nothing to evaluate inside",
       .every = 6,
       .aucs = {},
       .expected = "train0@1 train0@7+6 [final] stop@11"},
  };
}

TEST(PhasePlannerTest, PlansRuns) {
  for (const Case& c : Cases()) {
    SCOPED_TRACE(c.name);
    proto::Job job;
    job.mutable_train()->set_epochs(c.epochs);
    job.mutable_train()->set_evaluate_every_steps(c.every);
    job.mutable_train()->set_early_stop_patience(c.patience);
    if (c.valid) {
      job.mutable_data()->add_valid("v");
    }
    if (c.test) {
      job.mutable_data()->add_test("t");
    }
    PhasePlanner planner(job);
    EXPECT_EQ(Planned(c, &planner), c.expected);
    EXPECT_EQ(planner.validation().has_value(), c.valid);
    EXPECT_EQ(planner.test().has_value(), c.test);
  }
}

TEST(PhasePlannerTest, RemembersTheBest) {
  proto::Job job;
  job.mutable_train()->set_epochs(3);
  job.mutable_data()->add_valid("v");
  PhasePlanner planner(job);
  EXPECT_EQ(planner.best_epoch(), 0u);
  const Case c{.name = "", .epochs = 3, .valid = true, .aucs = {0.6, 0.8, 0.7}, .expected = ""};
  Planned(c, &planner);
  EXPECT_EQ(planner.best_epoch(), 2u);
  EXPECT_EQ(planner.best_version(), 22u);
  EXPECT_EQ(planner.validation()->auc, 0.8);
}

TEST(PhasePlannerTest, WithoutAnAucTheLogLossDecides) {
  proto::Job job;
  job.mutable_train()->set_epochs(9);
  job.mutable_data()->add_valid("v");
  PhasePlanner planner(job);
  proto::Phase phase = planner.First();
  double best = 0;
  for (const double loss : {0.7, 0.9, 0.5, 0.6}) {
    phase = planner.AfterTraining(phase, phase.first_step() + 9, true).phase;
    EvaluationFigures figures;
    figures.auc = std::numeric_limits<double>::quiet_NaN();
    figures.logloss = loss;
    const NextPhase next = planner.AfterEvaluation(phase, phase.first_step(), figures);
    EXPECT_EQ(next.save == kBestModel, best == 0 || loss < best) << loss;
    best = best == 0 ? loss : std::min(best, loss);
    phase = next.phase;
  }
}

}  // namespace
}  // namespace plexus
