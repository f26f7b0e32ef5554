#include "common/metrics/metrics.h"

#include <algorithm>
#include <cmath>
#include <cstdlib>
#include <map>
#include <memory>
#include <sstream>
#include <string>
#include <thread>
#include <vector>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "common/net/http_server.h"
#include "tests/unit/common/net/tcp_client.h"

namespace plexus {
namespace {

using testing::HasSubstr;

// The page, read as a stranger would: each line is a comment or "<series> <value>".
struct Page {
  std::map<std::string, std::string> types;  // Family -> type.
  std::map<std::string, std::string> helps;  // Family -> help text.
  std::map<std::string, double> series;      // With its labels, as written.
  std::vector<std::string> order;            // Of `series`.

  explicit Page(const std::string& text) {
    std::istringstream lines(text);
    for (std::string line; std::getline(lines, line);) {
      const bool is_type = line.starts_with("# TYPE ");
      if (is_type || line.starts_with("# HELP ")) {
        const std::size_t space = line.find(' ', 7);
        (is_type ? types : helps)[line.substr(7, space - 7)] = line.substr(space + 1);
        continue;
      }
      const std::size_t space = line.rfind(' ');
      char* end = nullptr;
      const double value = std::strtod(line.c_str() + space + 1, &end);
      EXPECT_EQ(*end, '\0') << line;
      EXPECT_TRUE(series.emplace(line.substr(0, space), value).second) << "twice: " << line;
      order.push_back(line.substr(0, space));
    }
  }

  double At(const std::string& name) const {
    const auto found = series.find(name);
    EXPECT_NE(found, series.end()) << name;
    return found == series.end() ? NAN : found->second;
  }
};

TEST(MetricsTest, WritesCountersAndGaugesWithLabels) {
  Metrics metrics;
  Counter& hits = metrics.AddCounter("plexus_ps_pull_keys_total", "Keys asked for.",
                                     {{"table", "item"}, {"result", "hit"}});
  Counter& misses = metrics.AddCounter("plexus_ps_pull_keys_total", "Keys asked for.",
                                       {{"table", "item"}, {"result", "miss"}});
  Gauge& rows = metrics.AddGauge("plexus_ps_rows", "Rows in memory.");
  hits.Add(3);
  hits.Add(9007199254740000);
  misses.Add(1);
  rows.Set(-2.5);
  rows.Add(1.25);
  EXPECT_EQ(hits.value(), 9007199254740003);
  EXPECT_EQ(rows.value(), -1.25);
  const Page page(metrics.Text());
  EXPECT_EQ(page.At(R"(plexus_ps_pull_keys_total{result="hit",table="item"})"), 9007199254740003);
  EXPECT_EQ(page.At(R"(plexus_ps_pull_keys_total{result="miss",table="item"})"), 1);
  EXPECT_EQ(page.At("plexus_ps_rows"), -1.25);
  EXPECT_EQ(page.series.size(), 3u);
  EXPECT_EQ(page.types.at("plexus_ps_pull_keys_total"), "counter");
  EXPECT_EQ(page.types.at("plexus_ps_rows"), "gauge");
  EXPECT_EQ(page.helps.at("plexus_ps_rows"), "Rows in memory.");
}

TEST(MetricsTest, ReturnsTheSameSeriesForTheSameLabels) {
  Metrics metrics;
  Counter& one = metrics.AddCounter("plexus_ps_pulls_total", "Pulls.", {{"shard", "0"}});
  Counter& same = metrics.AddCounter("plexus_ps_pulls_total", "Pulls.", {{"shard", "0"}});
  Counter& other = metrics.AddCounter("plexus_ps_pulls_total", "Pulls.", {{"shard", "1"}});
  EXPECT_EQ(&one, &same);
  EXPECT_NE(&one, &other);
  EXPECT_EQ(&metrics.AddHistogram("plexus_ps_pull_seconds", "Time."),
            &metrics.AddHistogram("plexus_ps_pull_seconds", "Time."));
}

TEST(MetricsTest, SortsThePage) {
  Metrics metrics;
  for (const char* name : {"plexus_b", "plexus_c", "plexus_a"}) {
    for (const char* shard : {"2", "0", "3", "1"}) {
      metrics.AddGauge(name, "Help.", {{"shard", shard}});
    }
  }
  const Page page(metrics.Text());
  EXPECT_EQ(page.order.size(), 12u);
  EXPECT_TRUE(std::is_sorted(page.order.begin(), page.order.end()));
}

TEST(MetricsTest, EscapesLabelValues) {
  Metrics metrics;
  metrics.AddGauge("plexus_ps_rows", "Rows.", {{"table", "a\"b\\c\nd"}}).Set(1);
  EXPECT_EQ(Page(metrics.Text()).At(R"(plexus_ps_rows{table="a\"b\\c\nd"})"), 1);
}

TEST(MetricsTest, CountsEachObservationOnce) {
  Metrics metrics;
  Histogram& steps = metrics.AddHistogram("plexus_worker_staleness_steps", "Staleness of pulls.",
                                          {{"rank", "0"}}, {0, 1, 2});
  for (const double value : {0.0, 1.0, 1.0, 2.0, 5.0}) {
    steps.Observe(value);
  }
  const Page page(metrics.Text());
  const std::string bucket = "plexus_worker_staleness_steps_bucket{rank=\"0\",le=";
  EXPECT_EQ(page.At(bucket + "\"0\"}"), 1);  // Bounds belong to their bucket, buckets add up.
  EXPECT_EQ(page.At(bucket + "\"1\"}"), 3);
  EXPECT_EQ(page.At(bucket + "\"2\"}"), 4);
  EXPECT_EQ(page.At(bucket + "\"+Inf\"}"), 5);
  EXPECT_EQ(page.At("plexus_worker_staleness_steps_count{rank=\"0\"}"), 5);
  EXPECT_EQ(page.At("plexus_worker_staleness_steps_sum{rank=\"0\"}"), 9);
  EXPECT_EQ(page.types.at("plexus_worker_staleness_steps"), "histogram");
}

TEST(MetricsTest, HasLatencyBucketsFromTenMicrosecondsToTenSeconds) {
  Metrics metrics;
  Histogram& seconds = metrics.AddHistogram("plexus_ps_request_seconds", "Time of a request.");
  seconds.Observe(9e-6);
  seconds.Observe(3e-5);
  seconds.Observe(9.9);
  seconds.Observe(60);
  const Page page(metrics.Text());
  const std::string bucket = "plexus_ps_request_seconds_bucket{le=";
  EXPECT_EQ(page.At(bucket + "\"1e-05\"}"), 1);
  EXPECT_EQ(page.At(bucket + "\"2.5e-05\"}"), 1);
  EXPECT_EQ(page.At(bucket + "\"5e-05\"}"), 2);
  EXPECT_EQ(page.At(bucket + "\"5\"}"), 2);
  EXPECT_EQ(page.At(bucket + "\"10\"}"), 3);
  EXPECT_EQ(page.At(bucket + "\"+Inf\"}"), 4);
  EXPECT_EQ(page.series.size(), 20u + 2u);
}

// Scrapes over TCP while threads count; each page must obey the equations, the last one be exact.
TEST(MetricsTest, IsScrapedOverHttpWhileThreadsCount) {
  constexpr int kThreads = 3;
  constexpr int kEvents = 200'000;
  Metrics metrics;
  auto server =
      HttpServer::Start("127.0.0.1:0", {{"/metrics", [&metrics] {
                                           return HttpReply{.content_type = Metrics::kContentType,
                                                            .body = metrics.Text()};
                                         }}});
  ASSERT_TRUE(server.ok()) << server.status().ToString();
  TcpClient client((*server)->bound_address());
  std::vector<std::jthread> threads;
  threads.reserve(kThreads);
  for (int thread = 0; thread < kThreads; ++thread) {
    threads.emplace_back([&metrics] {
      Counter& requests = metrics.AddCounter("plexus_ps_requests_total", "Requests.");
      Histogram& seconds = metrics.AddHistogram("plexus_ps_request_seconds", "Time of a request.");
      for (int event = 0; event < kEvents; ++event) {
        requests.Add(1);  // Before its observation: never fewer than those.
        seconds.Observe((event % 8) * 0.125);
      }
    });
  }
  double count_before = 0;
  for (int scrape = 0; scrape <= 20; ++scrape) {
    if (scrape == 20) {
      threads.clear();
    }
    const RawReply reply = client.Get("/metrics");
    ASSERT_EQ(reply.status, 200);
    EXPECT_EQ(reply.Field("Content-Type"), "text/plain; version=0.0.4; charset=utf-8");
    const Page page(reply.body);
    if (scrape < 20 && !page.series.contains("plexus_ps_request_seconds_count")) {
      continue;  // No thread has begun.
    }
    const double count = page.At("plexus_ps_request_seconds_count");
    EXPECT_EQ(count, page.At("plexus_ps_request_seconds_bucket{le=\"+Inf\"}"));
    EXPECT_GE(count, count_before);
    EXPECT_GE(count, page.At("plexus_ps_request_seconds_bucket{le=\"0.5\"}"));
    count_before = count;
  }
  const Page page(client.Get("/metrics").body);
  EXPECT_EQ(page.At("plexus_ps_requests_total"), kThreads * kEvents);
  EXPECT_EQ(page.At("plexus_ps_request_seconds_count"), kThreads * kEvents);
  EXPECT_EQ(page.At("plexus_ps_request_seconds_sum"), kThreads * kEvents * 3.5 / 8);
}

TEST(MetricsDeathTest, RefusesWrongDeclarations) {
  testing::GTEST_FLAG(death_test_style) = "threadsafe";
  Metrics metrics;
  metrics.AddCounter("plexus_a_total", "Help.", {{"shard", "0"}});
  EXPECT_DEATH(metrics.AddCounter("other_a_total", "Help."), "metric name");
  EXPECT_DEATH(metrics.AddCounter("plexus_A_total", "Help."), "metric name");
  EXPECT_DEATH(metrics.AddCounter("plexus_a", "Help."), "end in _total");
  EXPECT_DEATH(metrics.AddGauge("plexus_b_total", "Help."), "end in _total");
  EXPECT_DEATH(metrics.AddGauge("plexus_b_sum", "Help."), "ending");
  EXPECT_DEATH(metrics.AddGauge("plexus_b", ""), "no help text");
  EXPECT_DEATH(metrics.AddGauge("plexus_b", "Help.", {{"le", "1"}}), "label name");
  EXPECT_DEATH(metrics.AddHistogram("plexus_b", "Help.", {}, {1, 1}), "do not increase");
  EXPECT_DEATH(metrics.AddCounter("plexus_a_total", "Other.", {{"shard", "0"}}), "another");
  EXPECT_DEATH(metrics.AddCounter("plexus_a_total", "Help.", {{"rank", "0"}}), "another");
}

}  // namespace
}  // namespace plexus
