#include "common/metrics/metrics.h"

#include <algorithm>
#include <cmath>
#include <mutex>
#include <string_view>
#include <utility>

#include <glog/logging.h>
#include <prometheus/counter.h>
#include <prometheus/gauge.h>
#include <prometheus/histogram.h>
#include <prometheus/registry.h>
#include <prometheus/text_serializer.h>

namespace plexus {
namespace {

// 19 bounds: a round trip between threads takes about 30 us, a checkpoint seconds.
const std::vector<double>& LatencyBounds() {
  static const std::vector<double> bounds = {1e-5,   2.5e-5, 5e-5, 1e-4,  2.5e-4, 5e-4, 1e-3,
                                             2.5e-3, 5e-3,   0.01, 0.025, 0.05,   0.1,  0.25,
                                             0.5,    1,      2.5,  5,     10};
  return bounds;
}

bool IsName(std::string_view name) {
  return !name.empty() && name.front() >= 'a' && name.front() <= 'z' &&
         std::all_of(name.begin(), name.end(), [](char c) {
           return (c >= 'a' && c <= 'z') || (c >= '0' && c <= '9') || c == '_';
         });
}

// All that the series of one name have in common.
struct FamilyDeclaration {
  prometheus::MetricType type;
  std::string help;
  std::vector<std::string> label_names;
  std::vector<double> upper_bounds;  // Of a histogram.

  bool operator==(const FamilyDeclaration&) const = default;
};

void CheckDeclaration(const std::string& name, const FamilyDeclaration& declaration) {
  CHECK(IsName(name) && name.starts_with("plexus_")) << "metric name '" << name << "'";
  CHECK_EQ(name.ends_with("_total"), declaration.type == prometheus::MetricType::Counter)
      << name << ": counters, and they alone, end in _total";
  CHECK(!name.ends_with("_count") && !name.ends_with("_sum") && !name.ends_with("_bucket"))
      << name << ": a histogram's own ending";
  CHECK(!declaration.help.empty()) << name << " has no help text";
  CHECK_EQ(declaration.help.find_first_of("\n\\"), std::string::npos) << name << ": one plain line";
  for (const std::string& label : declaration.label_names) {
    CHECK(IsName(label) && label != "le") << name << ": label name '" << label << "'";
  }
  const std::vector<double>& bounds = declaration.upper_bounds;
  CHECK(std::adjacent_find(bounds.begin(), bounds.end(),
                           [](double a, double b) { return !(a < b); }) == bounds.end())
      << name << ": the bounds do not increase";
}

std::vector<std::string> NamesOf(const MetricLabels& labels) {
  std::vector<std::string> names;
  for (const auto& [name, value] : labels) {
    names.push_back(name);
  }
  return names;
}

}  // namespace

struct Metrics::Impl {
  // REQUIRES: `mutex` is held.
  void DeclareLocked(const std::string& name, FamilyDeclaration declaration) {
    CheckDeclaration(name, declaration);
    const auto [family, is_new] = families.try_emplace(name, declaration);
    CHECK(is_new || family->second == declaration)
        << name << " was declared with another kind, help text, label names or bounds";
  }

  mutable std::mutex mutex;
  prometheus::Registry registry;  // Has its own locks.
  // Guarded by mutex.
  std::map<std::string, FamilyDeclaration> families;
  std::map<prometheus::Counter*, std::unique_ptr<Counter>> counters;
  std::map<prometheus::Gauge*, std::unique_ptr<Gauge>> gauges;
  std::map<prometheus::Histogram*, std::unique_ptr<Histogram>> histograms;
};

namespace {

// The one handle of `series`, made when it is not there.
template <typename Series, typename Handle>
Handle& HandleOf(std::map<Series*, std::unique_ptr<Handle>>& handles, Series& series) {
  std::unique_ptr<Handle>& handle = handles[&series];
  if (handle == nullptr) {
    handle = std::make_unique<Handle>(series);
  }
  return *handle;
}

}  // namespace

Metrics::Metrics() : impl_(std::make_unique<Impl>()) {}

Metrics::~Metrics() = default;

Counter& Metrics::AddCounter(const std::string& name, const std::string& help,
                             const MetricLabels& labels) {
  const std::lock_guard lock(impl_->mutex);
  impl_->DeclareLocked(name, {prometheus::MetricType::Counter, help, NamesOf(labels), {}});
  auto& family = prometheus::BuildCounter().Name(name).Help(help).Register(impl_->registry);
  return HandleOf(impl_->counters, family.Add(labels));
}

Gauge& Metrics::AddGauge(const std::string& name, const std::string& help,
                         const MetricLabels& labels) {
  const std::lock_guard lock(impl_->mutex);
  impl_->DeclareLocked(name, {prometheus::MetricType::Gauge, help, NamesOf(labels), {}});
  auto& family = prometheus::BuildGauge().Name(name).Help(help).Register(impl_->registry);
  return HandleOf(impl_->gauges, family.Add(labels));
}

Histogram& Metrics::AddHistogram(const std::string& name, const std::string& help,
                                 const MetricLabels& labels) {
  return AddHistogram(name, help, labels, LatencyBounds());
}

Histogram& Metrics::AddHistogram(const std::string& name, const std::string& help,
                                 const MetricLabels& labels,
                                 const std::vector<double>& upper_bounds) {
  const std::lock_guard lock(impl_->mutex);
  impl_->DeclareLocked(name,
                       {prometheus::MetricType::Histogram, help, NamesOf(labels), upper_bounds});
  auto& family = prometheus::BuildHistogram().Name(name).Help(help).Register(impl_->registry);
  return HandleOf(impl_->histograms, family.Add(labels, upper_bounds));
}

std::string Metrics::Text() const {
  std::vector<prometheus::MetricFamily> families = impl_->registry.Collect();
  std::sort(families.begin(), families.end(),
            [](const auto& a, const auto& b) { return a.name < b.name; });
  for (prometheus::MetricFamily& family : families) {
    std::sort(family.metric.begin(), family.metric.end(),
              [](const auto& a, const auto& b) { return a.label < b.label; });
  }
  return prometheus::TextSerializer().Serialize(families);
}

void Counter::Add(double amount) {
  DCHECK_GE(amount, 0);
  counter_.Increment(amount);
}

double Counter::value() const { return counter_.Value(); }

void Gauge::Set(double value) { gauge_.Set(value); }

void Gauge::Add(double amount) { gauge_.Increment(amount); }

double Gauge::value() const { return gauge_.Value(); }

void Histogram::Observe(double value) {
  DCHECK(!std::isnan(value));
  histogram_.Observe(value);
}

}  // namespace plexus
