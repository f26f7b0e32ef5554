#include "launch/server_metrics.h"

#include <memory>
#include <vector>

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <nlohmann/json.hpp>

#include "launch/plan.h"
#include "proto/job.h"
#include "tests/unit/launch/metrics_text.h"

namespace plexus {
namespace {

using testing::HasSubstr;

constexpr char kCounterJob[] = R"(
data { fields { name: "C*" tables: "counters" } }
tables { name: "counters" dim: 2 optimizer { kind: SGD learning_rate: 1 } reduction: SUM }
model { name: "counter" }
train { ranks: 2 }
)";

std::shared_ptr<const JobPlan> CounterPlan() {
  StatusOr<proto::Job> job = ParseJob(kCounterJob, "job", {});
  CHECK(job.ok()) << job.status().ToString();
  StatusOr<JobPlan> plan = MakePlan(*job);
  CHECK(plan.ok()) << plan.status().ToString();
  return std::make_shared<const JobPlan>(*std::move(plan));
}

// One shard, and frames made by hand; what is handled is counted as the server's loop does.
class ServerMetricsTest : public testing::Test {
 protected:
  ServerMetricsTest() : plan_(CounterPlan()), shard_(plan_, Options()), metrics_(0) { Start(); }

  static ShardOptions Options() {
    ShardOptions options;
    options.registration.set_incarnation(7);
    return options;
  }

  void Handle(const Bytes& frame) {
    const bool control = HeaderOf(frame).type == FrameType::kControl;
    shard_.OnMessage(control ? kSchedulerPeer : "peer", frame, 0);
    metrics_.OnFrame(shard_, HeaderOf(frame).type, 0.001);
    ++handled_;
  }

  void Start() {
    proto::Control control;
    proto::View& view = *control.mutable_view();
    view.set_incarnation(7);
    view.set_fence(1);
    view.add_carrier_epochs(2);
    view.add_carrier_epochs(2);
    view.set_version(0);
    view.mutable_phase()->set_number(1);
    view.mutable_phase()->set_first_step(1);
    Handle(ControlFrame(control));
  }

  static FrameHeader Header(FrameType type, std::uint32_t rank, std::uint64_t step) {
    FrameHeader header;
    header.type = type;
    header.rank = rank;
    header.step = step;
    header.epoch = 2;
    header.phase = 1;
    header.sequence = step;
    return header;
  }

  void Pull(std::uint32_t rank, std::uint64_t step) {
    const std::vector<KeyBlock> blocks = {
        {.group = 0, .keys = keys_, .counts = {}, .gradients = {}}};
    ByteWriter writer = StartFrame(Header(FrameType::kPull, rank, step), PullBytes(*plan_, blocks));
    EncodePull(writer, blocks);
    Handle(writer.Finish());
  }

  void Push(const FrameHeader& header) {
    const std::vector<KeyBlock> blocks = {
        {.group = 0, .keys = keys_, .counts = counts_, .gradients = {}}};
    ByteWriter writer = StartFrame(header, PushBytes(*plan_, blocks, 0));
    const std::vector<float> ones(64, 1.0f);
    EncodePush(writer, *plan_, 3, 0.5, blocks,
               [&ones](std::size_t, std::size_t) { return ones.data(); });
    Handle(writer.Finish());
  }

  void Commit(std::uint64_t step, bool ends_phase = false) {
    proto::Control control;
    control.mutable_commit()->set_step(step);
    control.mutable_commit()->set_phase(1);
    control.mutable_commit()->set_rate_factor(1);
    if (ends_phase) {
      proto::Phase& next = *control.mutable_commit()->mutable_next();
      next.set_number(2);
      next.set_first_step(step + 1);
      next.set_kind(proto::Phase::STOP);
    }
    Handle(ControlFrame(control));
  }

  std::map<std::string, double> Values() {
    return MetricsOf(metrics_.Pages(shard_, *plan_, 100, 50).metrics);
  }

  // The equations of docs/observability.md.
  void ExpectEquations() {
    auto values = Values();
    const double pushes = values["plexus_ps_pushes_received_total{shard=\"0\"}"];
    EXPECT_EQ(
        SumOf(values, "plexus_ps_pushes_total") + values["plexus_ps_pending_parts{shard=\"0\"}"],
        pushes);
    EXPECT_EQ(values["plexus_ps_request_seconds_count{op=\"push\",shard=\"0\"}"], pushes);
    EXPECT_EQ(values["plexus_ps_request_seconds_count{op=\"commit\",shard=\"0\"}"],
              values["plexus_ps_commits_total{shard=\"0\"}"]);
    EXPECT_EQ(SumOf(values, "plexus_ps_request_seconds_count"), handled_);
    EXPECT_EQ(values["plexus_ps_queue_depth{shard=\"0\"}"],
              values["plexus_ps_parked_pulls{shard=\"0\"}"] +
                  values["plexus_ps_pending_parts{shard=\"0\"}"]);
    const auto rows = [&values](const std::string& event) {
      return values.at("plexus_ps_table_rows_total{event=\"" + event +
                       "\",shard=\"0\",table=\"counters\"}");
    };
    EXPECT_EQ(rows("admitted") + rows("restored") + rows("promoted") - rows("demoted") -
                  rows("evicted_unseen") - rows("evicted_limit") - rows("evicted_memory"),
              values["plexus_ps_rows{shard=\"0\",table=\"counters\"}"]);
    const std::string free =
        "plexus_ps_table_memory_bytes{part=\"free\",shard=\"0\",table=\"counters\"}";
    EXPECT_EQ(SumOf(values, "plexus_ps_table_memory_bytes") - values.at(free),
              values["plexus_ps_row_bytes{shard=\"0\",table=\"counters\"}"]);
  }

  const std::shared_ptr<const JobPlan> plan_;
  const std::vector<Key> keys_ = {11, 22, 33};
  const std::vector<std::uint32_t> counts_ = {1, 1, 1};
  double handled_ = 0;
  Shard shard_;
  ServerMetrics metrics_;
};

TEST_F(ServerMetricsTest, CountsAStepFromPullToCommit) {
  Pull(0, 1);
  Pull(1, 1);
  Push(Header(FrameType::kPush, 0, 1));
  auto values = Values();
  EXPECT_EQ(values["plexus_ps_pulls_total{shard=\"0\"}"], 2);
  EXPECT_EQ(values["plexus_ps_pull_keys_total{shard=\"0\"}"], 6);
  EXPECT_EQ(values["plexus_ps_pending_parts{shard=\"0\"}"], 1);
  EXPECT_GT(values["plexus_ps_pending_bytes{shard=\"0\"}"], 0);
  EXPECT_EQ(values["plexus_ps_waiting_for_ranks{shard=\"0\"}"], 1);
  EXPECT_EQ(values["plexus_ps_rows{shard=\"0\",table=\"counters\"}"], 0);
  ExpectEquations();

  Push(Header(FrameType::kPush, 1, 1));
  Commit(1);
  values = Values();
  EXPECT_EQ(values["plexus_ps_version{shard=\"0\"}"], 1);
  EXPECT_EQ(values["plexus_ps_commits_total{shard=\"0\"}"], 1);
  EXPECT_EQ(values["plexus_ps_pushes_total{result=\"applied\",shard=\"0\"}"], 2);
  EXPECT_EQ(values["plexus_ps_push_keys_total{shard=\"0\"}"], 6);
  EXPECT_EQ(values["plexus_ps_pending_parts{shard=\"0\"}"], 0);
  EXPECT_EQ(values["plexus_ps_rows{shard=\"0\",table=\"counters\"}"], 3);
  EXPECT_GT(values["plexus_ps_row_bytes{shard=\"0\",table=\"counters\"}"], 0);
  EXPECT_EQ(SumOf(values, "plexus_ps_table_rows_total"), 3);  // All of them admitted.
  EXPECT_EQ(values["plexus_ps_rows_on_disk{shard=\"0\",table=\"counters\"}"], 0);
  EXPECT_EQ(values["plexus_ps_wire_bytes_total{direction=\"out\",shard=\"0\"}"], 100);
  EXPECT_EQ(values["plexus_ps_wire_bytes_total{direction=\"in\",shard=\"0\"}"], 50);
  ExpectEquations();
}

TEST_F(ServerMetricsTest, EachPushHasOneResult) {
  Push(Header(FrameType::kPush, 0, 1));
  Push(Header(FrameType::kPush, 0, 1));  // Duplicate.
  Push(Header(FrameType::kPush, 1, 5));  // Too far ahead.
  Push(Header(FrameType::kPush, 9, 1));  // No such rank.
  FrameHeader fenced = Header(FrameType::kPush, 1, 1);
  fenced.epoch = 1;
  Push(fenced);
  FrameHeader later = Header(FrameType::kPush, 1, 1);
  later.phase = 4;
  Push(later);
  auto values = Values();
  EXPECT_EQ(values["plexus_ps_pushes_total{result=\"applied\",shard=\"0\"}"], 0);
  EXPECT_EQ(values["plexus_ps_pushes_total{result=\"duplicate\",shard=\"0\"}"], 1);
  EXPECT_EQ(values["plexus_ps_pushes_total{result=\"refused\",shard=\"0\"}"], 3);
  EXPECT_EQ(values["plexus_ps_pushes_total{result=\"dropped\",shard=\"0\"}"], 1);
  EXPECT_EQ(values["plexus_ps_frames_refused_total{shard=\"0\"}"], 2);
  EXPECT_EQ(values["plexus_ps_pending_parts{shard=\"0\"}"], 1);
  ExpectEquations();
}

TEST_F(ServerMetricsTest, PullsOfALaterVersionAreParked) {
  Pull(0, 2);
  auto values = Values();
  EXPECT_EQ(values["plexus_ps_parked_pulls{shard=\"0\"}"], 1);
  EXPECT_EQ(values["plexus_ps_pulls_total{shard=\"0\"}"], 0);
  ExpectEquations();
}

TEST_F(ServerMetricsTest, DamagedFramesAreCounted) {
  metrics_.OnDamagedFrame();
  EXPECT_EQ(Values()["plexus_ps_frames_damaged_total{shard=\"0\"}"], 1);
}

TEST_F(ServerMetricsTest, StatusIsJson) {
  Push(Header(FrameType::kPush, 1, 1));
  Pull(0, 2);
  const StatusPages pages = metrics_.Pages(shard_, *plan_, 0, 0);
  EXPECT_EQ(pages.illness, "");
  const auto json = nlohmann::json::parse(pages.status);
  EXPECT_EQ(json["role"], "server");
  EXPECT_EQ(json["index"], 0);
  EXPECT_EQ(json["state"], "running");
  EXPECT_EQ(json["version"], 0);
  EXPECT_EQ(json["phase"]["kind"], "TRAIN");
  EXPECT_EQ(json["parked_pulls"], 1);
  EXPECT_EQ(json["pending_parts"], 1);
  EXPECT_EQ(json["waiting_for_ranks"], nlohmann::json::array({0}));
  EXPECT_EQ(json["tables"]["counters"]["rows"], 0);
}

TEST_F(ServerMetricsTest, AnEndedJobIsNotHealthy) {
  Push(Header(FrameType::kPush, 0, 1));
  Push(Header(FrameType::kPush, 1, 1));
  Commit(1, true);
  EXPECT_THAT(metrics_.Pages(shard_, *plan_, 0, 0).illness, HasSubstr("the job is over"));

  proto::Control control;
  control.mutable_view()->set_incarnation(7);
  control.mutable_view()->mutable_stop()->set_exit_code(3);
  control.mutable_view()->mutable_stop()->set_reason("server 1 is lost");
  Handle(ControlFrame(control));
  const StatusPages pages = metrics_.Pages(shard_, *plan_, 0, 0);
  EXPECT_EQ(pages.illness, "failed: server 1 is lost");
  EXPECT_EQ(nlohmann::json::parse(pages.status)["state"], "failed");
}

}  // namespace
}  // namespace plexus
