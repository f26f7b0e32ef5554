#include "launch/scheduler_metrics.h"

#include <memory>

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <nlohmann/json.hpp>

#include "launch/plan.h"
#include "proto/job.h"
#include "tests/unit/launch/metrics_text.h"

namespace plexus {
namespace {

using testing::HasSubstr;

constexpr char kJob[] = R"(
data { fields { name: "C*" tables: "linear" } train: "a" valid: "b" }
tables { name: "linear" role: LINEAR dim: 1 }
model { name: "lr" }
train { ranks: 2 }
)";

// A scheduler of one server and one worker, and messages made by hand.
class SchedulerMetricsTest : public testing::Test {
 protected:
  SchedulerMetricsTest() : plan_(Plan()), scheduler_(plan_, {.job_hash = 5}) {}

  static std::shared_ptr<const JobPlan> Plan() {
    StatusOr<proto::Job> job = ParseJob(kJob, "job", {});
    CHECK(job.ok()) << job.status().ToString();
    StatusOr<JobPlan> plan = MakePlan(*job);
    CHECK(plan.ok()) << plan.status().ToString();
    return std::make_shared<const JobPlan>(*std::move(plan));
  }

  void Handle(const proto::Control& control) {
    scheduler_.OnMessage("peer", ControlFrame(control), now_);
    for (const SchedulerEvent& event : scheduler_.TakeEvents()) {
      metrics_.OnEvent(event, static_cast<double>(now_) / 1e3);
    }
    ranks_.Update(scheduler_.membership());
  }

  void Join(proto::Role role, std::uint64_t incarnation) {
    proto::Control control;
    control.mutable_register_member()->set_role(role);
    control.mutable_register_member()->set_incarnation(incarnation);
    control.mutable_register_member()->set_job_hash(5);
    control.mutable_register_member()->set_http_address("127.0.0.1:1234");
    Handle(control);
  }

  proto::Heartbeat& Beat(proto::Control* control, proto::Role role, std::uint64_t incarnation) {
    control->mutable_heartbeat()->set_role(role);
    control->mutable_heartbeat()->set_incarnation(incarnation);
    return *control->mutable_heartbeat();
  }

  void Complete(std::uint64_t step, std::uint64_t samples, double loss_sum) {
    proto::Control control;
    proto::Complete& complete = *control.mutable_complete();
    complete.set_phase(1);
    complete.set_step(step);
    complete.set_samples(samples);
    complete.set_loss_sum(loss_sum);
    Handle(control);
  }

  void WorkerBeat(std::uint64_t incarnation, double seconds) {
    proto::Control control;
    proto::Heartbeat& beat = Beat(&control, proto::WORKER, incarnation);
    beat.set_read_seconds(0.1 * seconds);
    beat.set_exchange_seconds(0.2 * seconds);
    beat.set_compute_seconds(0.3 * seconds);
    beat.set_wait_seconds(0.4 * seconds);
    beat.set_rank_seconds(seconds);
    Handle(control);
  }

  StatusPages Pages(bool stopping = false) {
    return metrics_.Pages(scheduler_, ranks_.total(), stopping, now_);
  }

  const std::shared_ptr<const JobPlan> plan_;
  Millis now_ = 1000;
  Scheduler scheduler_;
  SchedulerMetrics metrics_;
  RankSecondsSum ranks_;
};

TEST_F(SchedulerMetricsTest, CommitsAreCountedAndTimed) {
  Join(proto::SERVER, 1);
  Join(proto::WORKER, 2);
  now_ += 500;
  Complete(1, 100, 60);
  now_ += 250;
  Complete(2, 50, 15);
  const auto values = MetricsOf(Pages().metrics);
  EXPECT_EQ(values.at("plexus_scheduler_version"), 2);
  EXPECT_EQ(values.at("plexus_scheduler_steps_total"), 2);
  EXPECT_EQ(values.at("plexus_scheduler_commits_total"), 2);
  EXPECT_EQ(values.at("plexus_scheduler_commit_seconds_count"), 2);
  EXPECT_DOUBLE_EQ(values.at("plexus_scheduler_commit_seconds_sum"), 0.75);
  EXPECT_EQ(values.at("plexus_scheduler_samples_total"), 150);
  EXPECT_DOUBLE_EQ(values.at("plexus_scheduler_train_logloss"), 0.5);
}

TEST_F(SchedulerMetricsTest, MembersAreInOneStateEach) {
  auto values = MetricsOf(Pages().metrics);
  EXPECT_EQ(values.at("plexus_scheduler_members{role=\"server\",state=\"absent\"}"), 1);
  EXPECT_EQ(SumOf(values, "plexus_scheduler_members"), 2);
  Join(proto::SERVER, 1);
  Join(proto::WORKER, 2);
  values = MetricsOf(Pages().metrics);
  EXPECT_EQ(values.at("plexus_scheduler_members{role=\"server\",state=\"alive\"}"), 1);
  EXPECT_EQ(values.at("plexus_scheduler_members{role=\"worker\",state=\"alive\"}"), 1);
  EXPECT_EQ(SumOf(values, "plexus_scheduler_members"), 2);
}

TEST_F(SchedulerMetricsTest, SecondsAreOfAllWorkersThatEverWere) {
  Join(proto::SERVER, 1);
  Join(proto::WORKER, 2);
  WorkerBeat(2, 4);
  WorkerBeat(2, 10);
  Join(proto::WORKER, 3);  // Another program in its place.
  WorkerBeat(3, 5);
  const auto values = MetricsOf(Pages().metrics);
  EXPECT_DOUBLE_EQ(values.at("plexus_worker_rank_seconds_total"), 15);
  EXPECT_DOUBLE_EQ(values.at("plexus_worker_seconds_total{phase=\"compute\"}"), 4.5);
  EXPECT_DOUBLE_EQ(SumOf(values, "plexus_worker_seconds_total"), 15);
  EXPECT_EQ(values.at("plexus_scheduler_worker_deaths_total"), 1);
}

TEST_F(SchedulerMetricsTest, StatusSaysWhoWaitsForWhom) {
  Join(proto::SERVER, 1);
  auto json = nlohmann::json::parse(Pages().status);
  EXPECT_EQ(json["state"], "starting");
  EXPECT_EQ(json["phase"], nullptr);
  EXPECT_EQ(json["waits"], "worker 0 is not there");
  Join(proto::WORKER, 2);
  proto::Control control;
  Beat(&control, proto::SERVER, 1).set_fence(1);
  control.mutable_heartbeat()->add_waiting_for(1);
  Handle(control);
  now_ += 40;
  json = nlohmann::json::parse(Pages().status);
  EXPECT_EQ(json["role"], "scheduler");
  EXPECT_EQ(json["state"], "running");
  EXPECT_EQ(json["waits"], "step 1 waits for server 0, which waits for rank 1");
  ASSERT_EQ(json["members"].size(), 2u);
  EXPECT_EQ(json["members"][0]["state"], "alive");
  EXPECT_EQ(json["members"][0]["last_heard_ms"], 40);
  EXPECT_EQ(json["members"][0]["http"], "127.0.0.1:1234");
  EXPECT_EQ(json["members"][0]["waiting_for_ranks"], nlohmann::json::array({1}));
  ASSERT_EQ(json["carriers"].size(), 2u);
  EXPECT_EQ(json["carriers"][1]["rank"], 1);
  EXPECT_EQ(json["carriers"][1]["worker"], 0);
}

TEST_F(SchedulerMetricsTest, HealthEndsWithAReason) {
  EXPECT_EQ(Pages().illness, "");
  EXPECT_THAT(Pages(/*stopping=*/true).illness, HasSubstr("stopping: asked to end"));
  scheduler_.Fail(3, "server 0 was restarted", now_);
  EXPECT_EQ(Pages().illness, "failed: server 0 was restarted");
  const auto json = nlohmann::json::parse(Pages().status);
  EXPECT_EQ(json["state"], "failed");
  EXPECT_EQ(json["stop"]["exit_code"], 3);
}

}  // namespace
}  // namespace plexus
