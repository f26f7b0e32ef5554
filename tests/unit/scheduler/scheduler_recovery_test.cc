// A scheduler that was restarted: from its log of commits, among servers that live on or came back.
#include <optional>

#include <gtest/gtest.h>

#include "scheduler/scheduler.h"
#include "tests/unit/scheduler/scheduler_testing.h"

namespace plexus {
namespace {

// What a scheduler logged that committed step 1, as server 0 alone heard.
class SchedulerRecoveryTest : public testing::Test {
 protected:
  void SetUp() override {
    SchedulerDriver first({"checkpoint.durability=ASYNC"});
    first.Start();
    first.SayBoth(first.Complete(1));
    SchedulerOptions options;
    options.job_hash = SchedulerDriver::kJobHash;
    options.former_starts = 1;
    for (const SchedulerEvent& event : first.scheduler().TakeEvents()) {
      if (event.kind == SchedulerEvent::Kind::kCommitted) {
        options.committed.push_back(event.committed);
      }
    }
    ASSERT_EQ(options.committed.size(), 1u);
    scheduler_.emplace(PlanOf(kSmallJob, {"cluster.servers=2", "cluster.workers=2",
                                          "checkpoint.durability=ASYNC"}),
                       options);
  }

  // `state`: none: it has lost it.
  void Register(std::uint32_t server, std::optional<std::uint64_t> state,
                std::uint64_t log_version) {
    proto::Control control;
    proto::Register& info = *control.mutable_register_member();
    info.set_role(proto::SERVER);
    info.set_index(server);
    info.set_incarnation(SchedulerDriver::IncarnationOf(proto::SERVER, server));
    info.set_job_hash(SchedulerDriver::kJobHash);
    info.set_log_version(log_version);
    if (state.has_value()) {
      info.set_state_version(*state);
    }
    scheduler_->OnMessage(SchedulerDriver::PeerOf(proto::SERVER, server), ControlFrame(control), 0);
  }

  std::optional<Scheduler> scheduler_;
};

// It was taken for one without a state, and the job ended with 3.
TEST_F(SchedulerRecoveryTest, AServerThatLivesAtVersionZeroLacksOneCommit) {
  Register(0, 1, 0);
  Register(1, 0, 0);
  EXPECT_FALSE(scheduler_->stop().has_value());
  EXPECT_EQ(scheduler_->version(), 1u);
}

TEST_F(SchedulerRecoveryTest, ServersThatHaveLostTheStepReturnTheJobToTheBeginning) {
  Register(0, std::nullopt, 0);
  Register(1, std::nullopt, 1);
  EXPECT_FALSE(scheduler_->stop().has_value());
  EXPECT_EQ(scheduler_->version(), 0u);
}

TEST_F(SchedulerRecoveryTest, WhatASurvivorIsBeyondEndsTheJob) {
  Register(0, 1, 0);
  Register(1, std::nullopt, 0);
  ASSERT_TRUE(scheduler_->stop().has_value());
  EXPECT_EQ(scheduler_->stop()->exit_code(), 3);
}

}  // namespace
}  // namespace plexus
