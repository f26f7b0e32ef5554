// What store_bench measures with and reports: the thread's time, rates beside limits, pauses.
//
// Thread safety: none.
#pragma once

#include <algorithm>
#include <cstdint>
#include <cstdio>
#include <string>
#include <vector>

#include <glog/logging.h>
#include <sys/resource.h>
#include <time.h>

namespace plexus {

// The thread's own.
inline double Seconds() {
  timespec now;
  PCHECK(clock_gettime(CLOCK_THREAD_CPUTIME_ID, &now) == 0);
  return static_cast<double>(now.tv_sec) + static_cast<double>(now.tv_nsec) * 1e-9;
}

struct Spread {
  double median = 0;
  double least = 0;
  double most = 0;
};

inline Spread SpreadOf(std::vector<double> v) {
  std::sort(v.begin(), v.end());
  return {v[v.size() / 2], v.front(), v.back()};
}

// What is printed at the end.
class Report {
 public:
  // Rates of rounds beside the limit's rates of the same rounds.  target: least ratio, 0 = none.
  void Rate(const std::string& name, const std::vector<double>& limit,
            const std::vector<double>& ours, double target) {
    std::vector<double> ratios;
    for (std::size_t i = 0; i < ours.size(); ++i) {
      ratios.push_back(ours[i] / limit[i]);
    }
    const Spread ratio = SpreadOf(ratios);
    const Spread rate = SpreadOf(ours);
    std::printf("%-34s %8.2f M/s (%.2f..%.2f)  %5.2f (%.2f..%.2f) of %.2f M/s", name.c_str(),
                rate.median / 1e6, rate.least / 1e6, rate.most / 1e6, ratio.median, ratio.least,
                ratio.most, SpreadOf(limit).median / 1e6);
    Finish(target > 0 && ratio.median < target, target, "at least");
    Json(name + "_per_second", rate.median);
    Json(name + "_ratio", ratio.median);
    Json(name + "_ratio_least", ratio.least);
    Json(name + "_ratio_most", ratio.most);
  }
  // A figure that may be at most (least < 0) or at least `target`; 0 = no target.
  void AtMost(const std::string& name, double value, const char* unit, double target) {
    std::printf("%-34s %8.2f %s", name.c_str(), value, unit);
    Finish(target > 0 && value > target, target, "at most");
    Json(name, value);
  }
  void AtLeast(const std::string& name, double value, const char* unit, double target) {
    std::printf("%-34s %8.2f %s", name.c_str(), value, unit);
    Finish(target > 0 && value < target, target, "at least");
    Json(name, value);
  }

  bool ok() const { return ok_; }
  std::string json() const { return json_; }

 private:
  void Finish(bool missed, double target, const char* bound) {
    if (target > 0) {
      std::printf("   [%s %.4g%s]", bound, target, missed ? ", MISSED" : "");
    }
    std::printf("\n");
    std::fflush(stdout);
    ok_ = ok_ && !missed;
  }
  void Json(const std::string& name, double value) {
    char text[64];
    std::snprintf(text, sizeof(text), "%.6g", value);
    json_ += ",\"" + name + "\":" + text;
  }

  bool ok_ = true;
  std::string json_;
};

// Calls a second.
template <typename Work>
double RateOf(std::size_t calls, const Work& work) {
  const double start = Seconds();
  work();
  return static_cast<double>(calls) / (Seconds() - start);
}

inline std::uint64_t PageFaults() {
  rusage usage;
  PCHECK(getrusage(RUSAGE_THREAD, &usage) == 0);
  return static_cast<std::uint64_t>(usage.ru_minflt);
}

// Many short stretches of work: all of them, and the longest, as it was and beside what a
// hypervisor takes to give memory.
class Stretches {
 public:
  template <typename Work>
  void Time(const Work& work) {
    const std::uint64_t faults = PageFaults();
    const double start = Seconds();
    work();
    const double seconds = Seconds() - start;
    sum_ += seconds;
    longest_ = std::max(longest_, seconds);
    const std::uint64_t touches = std::min(PageFaults() - faults, kTouchesMax);
    longest_beside_touches_ =
        std::max(longest_beside_touches_, seconds - static_cast<double>(touches) * kTouchSeconds);
  }
  double seconds() const { return sum_; }
  void Tell(const std::string& name, Report* report) const {
    report->AtMost(name + "_pause_ms", longest_ * 1e3, "ms", 0);
    report->AtMost(name + "_pause_beside_first_touches_ms", longest_beside_touches_ * 1e3, "ms", 2);
  }

 private:
  // A first touch of 2 MiB that the host has to find, and as many as a stretch has use for: of
  // records, of counts, of both ends of a migration.
  static constexpr double kTouchSeconds = 5e-3;
  static constexpr std::uint64_t kTouchesMax = 4;

  double sum_ = 0;
  double longest_ = 0;
  double longest_beside_touches_ = 0;
};

}  // namespace plexus
