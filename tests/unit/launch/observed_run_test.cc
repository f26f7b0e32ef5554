// A small local training, watched from outside while it runs.
#include <atomic>
#include <chrono>
#include <filesystem>
#include <fstream>
#include <functional>
#include <iterator>
#include <map>
#include <memory>
#include <string>
#include <thread>
#include <vector>

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <nlohmann/json.hpp>
#include <unistd.h>

#include "common/clock.h"
#include "launch/node.h"
#include "launch/plan.h"
#include "proto/job.h"
#include "tests/unit/common/net/tcp_client.h"
#include "tests/unit/launch/metrics_text.h"
#include "worker/data/synth.h"

namespace plexus {
namespace {

using Json = nlohmann::json;

constexpr char kJob[] = R"(
data { fields { name: "I*" kind: DENSE transform: LOG1P } fields { name: "C*" tables: "linear" } }
tables { name: "linear" role: LINEAR dim: 1 }
model { name: "lr" }
train { ranks: 2 batch_size: 256 }
cluster { servers: 2 workers: 2 }
)";

Json ReadJson(const std::string& path) {
  std::ifstream file(path);
  return Json::parse(file, nullptr, /*allow_exceptions=*/false);
}

// Until `done`, for ten seconds at most.
bool WaitFor(const std::function<bool()>& done) {
  const double deadline = SteadySeconds() + 10;
  while (!done() && SteadySeconds() < deadline) {
    std::this_thread::sleep_for(std::chrono::milliseconds(5));
  }
  return done();
}

// Every figure on a page is explained on the page about them.
void ExpectDocumented(const std::map<std::string, double>& values) {
  std::ifstream file(PLEXUS_DOCS "/observability.md");
  const std::string text{std::istreambuf_iterator<char>(file), {}};
  ASSERT_GT(text.size(), 1000u);
  for (const auto& [series, value] : values) {
    std::string name = series.substr(0, series.find('{'));
    for (const std::string ending : {"_bucket", "_sum", "_count"}) {
      if (name.ends_with("_seconds" + ending)) {
        name.resize(name.size() - ending.size());
      }
    }
    const bool named = text.find("`" + name + "`") != std::string::npos ||
                       text.find("`" + name + "{") != std::string::npos;
    EXPECT_TRUE(named) << name;
  }
}

// The scheduler, two servers and two workers as threads, as `plexus train --local` does.
class ObservedRunTest : public testing::Test {
 protected:
  ObservedRunTest() : folder_(testing::TempDir() + "/observed_run_" + std::to_string(::getpid())) {
    std::filesystem::remove_all(folder_);
    std::filesystem::create_directories(folder_ + "/run");
    SynthOptions synth;
    synth.out = folder_ + "/data";
    synth.rows = 4000;
    synth.valid_rows = 500;
    synth.test_rows = 500;
    synth.model.cardinality_total = 5000;
    const StatusOr<std::string> made = SynthesizeCriteo(synth);
    CHECK(made.ok()) << made.status().ToString();
  }
  ~ObservedRunTest() override {
    signals_ = 1;
    threads_.clear();
    std::filesystem::remove_all(folder_);
  }

  void Start(int epochs) {
    const std::string data = folder_ + "/data/";
    StatusOr<proto::Job> job =
        ParseJob(kJob, "job",
                 {"data.train=" + data + "train.tsv", "data.valid=" + data + "valid.tsv",
                  "data.test=" + data + "test.tsv", "train.epochs=" + std::to_string(epochs)});
    CHECK(job.ok()) << job.status().ToString();
    ResolveNumericProfile(&*job);
    StatusOr<JobPlan> made = MakePlan(*job);
    CHECK(made.ok()) << made.status().ToString();
    plan_ = std::make_shared<const JobPlan>(*std::move(made));
    NodeOptions base;
    base.run_dir = folder_ + "/run";
    base.scheduler_address = "inproc://scheduler";
    base.http_address = "127.0.0.1:0";
    base.local = true;
    base.signals = &signals_;
    options_.assign(5, base);
    threads_.emplace_back([this] { exit_code_ = RunSchedulerNode(plan_, context_, options_[0]); });
    for (std::uint32_t i = 0; i < 2; ++i) {
      NodeOptions& server = options_[1 + i];
      NodeOptions& worker = options_[3 + i];
      server.index = worker.index = i;
      server.data_address = "inproc://server-" + std::to_string(i);
      threads_.emplace_back([&] { (void)RunServerNode(plan_, context_, server); });
      threads_.emplace_back([&] { (void)RunWorkerNode(plan_, context_, worker); });
    }
  }

  void Join() { threads_.clear(); }

  // The HTTP address of a member, once members.json has all.
  std::string AddressOf(const std::string& role, int index) {
    Json members;
    EXPECT_TRUE(WaitFor([&] {
      members = ReadJson(folder_ + "/run/members.json");
      return members.is_array() && members.size() == 5;
    })) << members;
    for (const Json& member : members) {
      if (member["role"] == role && member["index"] == index) {
        return member["http"];
      }
    }
    return "";
  }

  static Json StatusOf(const std::string& address) {
    const RawReply reply = TcpClient(address).Get("/status");
    EXPECT_EQ(reply.status, 200);
    return Json::parse(reply.body);
  }

  const std::string folder_;
  std::atomic<int> signals_{0};
  std::shared_ptr<const JobPlan> plan_;
  NetContext context_{1};
  std::vector<NodeOptions> options_;
  int exit_code_ = -1;
  std::vector<std::jthread> threads_;
};

TEST_F(ObservedRunTest, EveryPageWhileItRuns) {
  Start(/*epochs=*/100000);
  const std::string scheduler = AddressOf("scheduler", 0);
  EXPECT_EQ(AddressOf("worker", 0), "");
  ASSERT_TRUE(WaitFor([&] { return StatusOf(scheduler)["version"] > 10; }));
  EXPECT_EQ(TcpClient(scheduler).Get("/healthz").body, "ok\n");
  const Json status = StatusOf(scheduler);
  EXPECT_EQ(status["state"], "running");
  EXPECT_EQ(status["members"].size(), 4u);
  EXPECT_EQ(status["carriers"].size(), 2u);
  ASSERT_TRUE(WaitFor([&] {  // Heartbeats say what the seconds went to.
    const auto values = MetricsOf(TcpClient(scheduler).Get("/metrics").body);
    return values.at("plexus_worker_rank_seconds_total") > 1;
  }));
  const auto values = MetricsOf(TcpClient(scheduler).Get("/metrics").body);
  EXPECT_NEAR(
      SumOf(values, "plexus_worker_seconds_total") / values.at("plexus_worker_rank_seconds_total"),
      1, 0.1);
  EXPECT_EQ(values.at("plexus_scheduler_commit_seconds_count"),
            values.at("plexus_scheduler_commits_total"));
  EXPECT_EQ(values.at("plexus_scheduler_members{role=\"server\",state=\"alive\"}"), 2);
  ExpectDocumented(values);

  for (int index = 0; index < 2; ++index) {
    const std::string address = AddressOf("server", index);
    const std::string label = "{shard=\"" + std::to_string(index) + "\"}";
    EXPECT_EQ(TcpClient(address).Get("/healthz").body, "ok\n");
    const Json server = StatusOf(address);
    EXPECT_EQ(server["role"], "server");
    EXPECT_EQ(server["index"], index);
    EXPECT_GT(server["tables"]["linear"]["rows"], 0);
    const auto of_server = MetricsOf(TcpClient(address).Get("/metrics").body);
    EXPECT_EQ(SumOf(of_server, "plexus_ps_pushes_total") +
                  of_server.at("plexus_ps_pending_parts" + label),
              of_server.at("plexus_ps_pushes_received_total" + label));
    EXPECT_EQ(of_server.at("plexus_ps_request_seconds_count{op=\"commit\",shard=\"" +
                           std::to_string(index) + "\"}"),
              of_server.at("plexus_ps_commits_total" + label));
    EXPECT_GT(of_server.at("plexus_ps_version" + label), 0);
    ExpectDocumented(of_server);
  }
  signals_ = 1;
  Join();
  EXPECT_EQ(exit_code_, 0);
  EXPECT_EQ(ReadJson(folder_ + "/run/result.json")["interrupted"], true);
}

TEST_F(ObservedRunTest, WhatARunLeavesBehind) {
  Start(/*epochs=*/2);
  Join();
  ASSERT_EQ(exit_code_, 0);
  const Json result = ReadJson(folder_ + "/run/result.json");
  ASSERT_TRUE(result.is_object());
  for (const char* key : {"model",
                          "samples",
                          "seconds",
                          "samples_per_second",
                          "train_logloss",
                          "valid_auc",
                          "valid_logloss",
                          "test_auc",
                          "test_logloss",
                          "best_epoch",
                          "tables",
                          "dense_parameters",
                          "model_digest",
                          "version",
                          "ranks",
                          "servers",
                          "workers",
                          "peak_rss_bytes",
                          "wire_bytes_per_sample",
                          "deterministic",
                          "interrupted",
                          "phases",
                          "bad_lines"}) {
    EXPECT_TRUE(result.contains(key) && !result[key].is_null()) << key;
  }
  EXPECT_EQ(result["samples"], 8000);
  EXPECT_EQ(result["interrupted"], false);
  double sum = 0;
  for (const char* phase : {"read", "exchange", "compute", "wait"}) {
    sum += result["phases"].at(phase).get<double>();
  }
  EXPECT_NEAR(sum, 1, 0.05);  // The phases are the ranks' whole life.
  EXPECT_GT(result["rank_seconds"], 0);

  std::ifstream lines(folder_ + "/run/metrics.jsonl");
  int evaluations = 0;
  std::string last;
  for (std::string line; std::getline(lines, line);) {
    const Json json = Json::parse(line, nullptr, false);
    ASSERT_TRUE(json.is_object() && json.contains("event")) << line;
    last = json["event"];
    evaluations += last == "evaluation" ? 1 : 0;
  }
  EXPECT_GE(evaluations, 3);  // Two validations and a test.
  EXPECT_EQ(last, "stopped");
}

}  // namespace
}  // namespace plexus
