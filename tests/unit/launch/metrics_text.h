// What a page in Prometheus's text format says, as values that compare.
//
// Thread safety: pure functions.
#pragma once

#include <cstdlib>
#include <map>
#include <sstream>
#include <string>

namespace plexus {

// "name{labels}" -> value.
inline std::map<std::string, double> MetricsOf(const std::string& page) {
  std::map<std::string, double> values;
  std::istringstream lines(page);
  for (std::string line; std::getline(lines, line);) {
    const std::size_t space = line.rfind(' ');
    if (!line.empty() && line[0] != '#' && space != std::string::npos) {
      values[line.substr(0, space)] = std::atof(line.c_str() + space + 1);
    }
  }
  return values;
}

// Sum over all series of `name`.
inline double SumOf(const std::map<std::string, double>& values, const std::string& name) {
  double sum = 0;
  for (const auto& [series, value] : values) {
    sum += series == name || series.starts_with(name + "{") ? value : 0;
  }
  return sum;
}

}  // namespace plexus
