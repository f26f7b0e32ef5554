#include "bench/criteo_shape.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <cstdio>
#include <memory>

#include "common/random.h"

namespace plexus {
namespace {

constexpr double kCardinalities[CriteoShape::kFields] = {
    1460, 583,   10131227, 2202608, 305,  24,   12517, 633,     3,  93145, 5683,   8351593, 3194,
    27,   14992, 5461306,  10,      5652, 2173, 4,     7046547, 18, 15,    286181, 105,     142572};
constexpr double kZipf = 1.05;

std::string Hexadecimal(std::uint64_t value) {
  std::array<char, 20> text;
  std::snprintf(text.data(), text.size(), "%08llx", static_cast<unsigned long long>(value));
  return text.data();
}

}  // namespace

CriteoShape::CriteoShape(std::uint64_t rows) {
  double sum = 0;
  for (const double cardinality : kCardinalities) {
    sum += cardinality;
  }
  first_.push_back(0);
  for (const double cardinality : kCardinalities) {
    const double scaled = cardinality * static_cast<double>(rows) / sum;
    first_.push_back(first_.back() +
                     std::max<std::uint64_t>(3, static_cast<std::uint64_t>(scaled)));
  }
}

std::uint32_t CriteoShape::FieldOf(std::uint64_t row) const {
  const auto behind = std::upper_bound(first_.begin(), first_.end(), row);
  return static_cast<std::uint32_t>(behind - first_.begin() - 1);
}

std::string CriteoShape::TextOf(std::uint64_t row) const {
  return Hexadecimal(row - first_[FieldOf(row)]);
}

// The inverse of the continuous distribution's function; then the field's permutation.
std::uint64_t CriteoShape::Draw(std::uint32_t field, double uniform) const {
  const std::uint64_t values = first_[field + 1] - first_[field];
  const double end = std::pow(static_cast<double>(values) + 1, 1 - kZipf) - 1;
  const double x = std::pow(1 + uniform * end, 1 / (1 - kZipf));
  const std::uint64_t rank = std::min(static_cast<std::uint64_t>(x), values) - 1;
  return (rank * 7919 + 13) % values;
}

Status CriteoShape::WriteText(const std::string& path, std::uint64_t samples) const {
  const std::unique_ptr<std::FILE, int (*)(std::FILE*)> file(std::fopen(path.c_str(), "w"),
                                                             &std::fclose);
  if (file == nullptr) {
    return ErrnoStatus("write", path);
  }
  std::string line;
  for (std::uint64_t sample = 0; sample < samples; ++sample) {
    const CounterRandom random(1, 1, sample);
    line = random.UniformDouble(0) < 0.25 ? "1" : "0";
    for (std::uint32_t i = 0; i < kDense; ++i) {
      const double value = std::exp(8.0 * random.UniformDouble(1 + i)) - 1;
      line += '\t' + std::to_string(static_cast<std::uint64_t>(value));
    }
    for (std::uint32_t field = 0; field < kFields; ++field) {
      line += '\t' + Hexadecimal(Draw(field, random.UniformDouble(100 + field)));
    }
    line += '\n';
    if (std::fwrite(line.data(), 1, line.size(), file.get()) != line.size()) {
      return ErrnoStatus("write", path);
    }
  }
  return std::fflush(file.get()) == 0 ? OkStatus() : ErrnoStatus("write", path);
}

}  // namespace plexus
