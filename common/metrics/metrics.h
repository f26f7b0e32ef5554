// Metrics: the figures of one process, as the page that Prometheus reads.
//
// A figure is a family (name, help, kind) and a series of it (labels).  Names are
// plexus_<program>_<what>_<unit>[_total] in base units (seconds, bytes): a counter ends in _total,
// nothing else does; a latency is a histogram.  Labels are few and bounded (table, shard, op),
// never an id.  Names, label names and help texts are the program's: a wrong one is a CHECK.  Label
// values may come from the job; Text() escapes them.
//
//   Counter& pulls = metrics.AddCounter("plexus_ps_pulls_total", "Pulls answered.",
//                                       {{"shard", "0"}});
//   pulls.Add(3);
//
// Thread safety: thread-safe, as are the counters, gauges and histograms.  They live, at one
// address, as long as their Metrics: keep a reference, do not look them up for each event.
#pragma once

#include <map>
#include <memory>
#include <string>
#include <vector>

namespace prometheus {
class Counter;
class Gauge;
class Histogram;
}  // namespace prometheus

namespace plexus {

// Label name -> value.
using MetricLabels = std::map<std::string, std::string>;

// What only grows.  Exact up to 2^53.
class Counter {
 public:
  explicit Counter(prometheus::Counter& counter) : counter_(counter) {}

  // REQUIRES: amount >= 0.
  void Add(double amount);
  double value() const;

 private:
  prometheus::Counter& counter_;
};

// What goes up and down.
class Gauge {
 public:
  explicit Gauge(prometheus::Gauge& gauge) : gauge_(gauge) {}

  void Set(double value);
  void Add(double amount);
  double value() const;

 private:
  prometheus::Gauge& gauge_;
};

// How often which values occurred.  Its page has _count = sum over the buckets, and _sum.
class Histogram {
 public:
  explicit Histogram(prometheus::Histogram& histogram) : histogram_(histogram) {}

  // Takes a short lock.  REQUIRES: `value` is a number.
  void Observe(double value);

 private:
  prometheus::Histogram& histogram_;
};

class Metrics {
 public:
  // The content type of Text().
  static constexpr const char* kContentType = "text/plain; version=0.0.4; charset=utf-8";

  Metrics();
  ~Metrics();
  Metrics(const Metrics&) = delete;
  Metrics& operator=(const Metrics&) = delete;

  // The series of `name` with `labels`, made when it is not there.
  // REQUIRES: a family keeps its kind, its help text, its label names and its bounds.
  Counter& AddCounter(const std::string& name, const std::string& help,
                      const MetricLabels& labels = {});
  Gauge& AddGauge(const std::string& name, const std::string& help,
                  const MetricLabels& labels = {});
  // A latency in seconds: 1, 2.5, 5 a decade from 10 us to 10 s.
  Histogram& AddHistogram(const std::string& name, const std::string& help,
                          const MetricLabels& labels = {});
  // REQUIRES: `upper_bounds` increases strictly; the last bucket, to infinity, is implied.
  Histogram& AddHistogram(const std::string& name, const std::string& help,
                          const MetricLabels& labels, const std::vector<double>& upper_bounds);

  // All figures in Prometheus's text format, sorted by name and labels.
  std::string Text() const;

 private:
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

}  // namespace plexus
