#include "worker/data/synth_model.h"

#include <algorithm>
#include <charconv>
#include <cmath>
#include <numeric>
#include <utility>

namespace plexus {
namespace {

// Distinct values of Criteo Kaggle's 26 fields, and how often each is missing: the shape that is
// imitated.
constexpr std::array<double, kSynthFieldsMax> kCriteoCardinalities = {
    1460,  583,  10131227, 2202608, 305, 24,      12517,   633,   3,
    93145, 5683, 8351593,  3194,    27,  14992.0, 5461306, 10,    5652,
    2173,  4,    7046547,  18,      15,  286181,  105,     142572};
constexpr std::array<double, kSynthFieldsMax> kCriteoMissing = {
    0, 0, .03, .03, 0, .12, 0,   0,   0,   0, 0,   .03, 0,
    0, 0, .03, 0,   0, .44, .44, .03, .76, 0, .03, .44, .44};
constexpr std::array<double, kSynthIntegers> kIntegerMissing = {.45, 0,   .2,  .2,  .03, .2, .05,
                                                                0,   .05, .45, .05, .75, .2};

// Values of a field whose effects are kept ready.
constexpr std::uint64_t kHeadValues = 4096;
// A value seen this often has half of its full effect; rarer ones have less.  The second order
// needs more evidence.
constexpr double kHalfEffectCount = 4000;
constexpr double kHalfLatentCount = 10000;
// One field in this many has latent vectors: few interactions that can be seen, rather than
// hundreds that cannot.
constexpr std::size_t kInteractingStride = 4;
// Shares of the logit's variance; the second order is the weakest, because one pass learns it last.
constexpr double kLinearShare = 0.48;
constexpr double kFirstShare = 0.51;
constexpr double kSecondShare = 0.01;
constexpr double kLabelRate = 0.25;
constexpr std::uint64_t kCalibrationRows = 1 << 16;
// Row numbers that no file reaches.
constexpr std::uint64_t kCalibrationFirstRow = std::uint64_t{1} << 62;
constexpr double kCardinalityMax = 1e9;
// Fields that are scaled down keep up to this many values.
constexpr double kSmallCardinality = 10;

constexpr std::uint64_t kRowStream = 0x73796e7468726f77;     // "synthrow".
constexpr std::uint64_t kLabelStream = 0x73796e74686c6162;   // "synthlab".
constexpr std::uint64_t kEffectStream = 0x73796e7468656666;  // "syntheff".
constexpr std::uint64_t kShapeStream = 0x73796e7468736861;   // "synthsha".

// Nearly normal, mean 0, variance 1: the sum of four uniform numbers of 16 bits.
double Normal(const CounterRandom& random, std::uint64_t element) {
  const std::uint64_t bits = random.Bits(element);
  const double sum = static_cast<double>((bits & 0xffff) + ((bits >> 16) & 0xffff) +
                                         ((bits >> 32) & 0xffff) + (bits >> 48));
  return (sum * 0x1p-16 - 2) * std::sqrt(3.0);
}

double Sigmoid(double x) { return 1 / (1 + std::exp(-x)); }

// Sum of k^-exponent for k in 1..count, the tail as an integral.
double HarmonicSum(std::uint64_t count, double exponent) {
  constexpr std::uint64_t kExact = 10000;
  double sum = 0;
  for (std::uint64_t k = 1; k <= std::min(count, kExact); ++k) {
    sum += std::pow(static_cast<double>(k), -exponent);
  }
  if (count > kExact) {
    const double from = kExact + 0.5;
    const double to = static_cast<double>(count) + 0.5;
    sum += exponent == 1
               ? std::log(to / from)
               : (std::pow(to, 1 - exponent) - std::pow(from, 1 - exponent)) / (1 - exponent);
  }
  return sum;
}

// Criteo's cardinalities scaled to add up to `total`: a few are huge, and most are small at any
// total.
std::vector<std::uint64_t> Cardinalities(std::uint32_t fields, std::uint64_t total) {
  std::vector<std::uint64_t> counts(fields);
  const auto fill = [&counts](double scale) {
    std::uint64_t sum = 0;
    for (std::size_t f = 0; f < counts.size(); ++f) {
      const double count = kCriteoCardinalities[f];
      const double floor = std::min(count * std::sqrt(scale), kSmallCardinality);
      counts[f] = static_cast<std::uint64_t>(std::max({2.0, floor, std::round(count * scale)}));
      sum += counts[f];
    }
    return sum;
  };
  double low = 0;
  double high = 1e10;
  for (int i = 0; i < 200; ++i) {
    const double middle = i < 100 ? std::sqrt(std::max(low, 1e-9) * high) : (low + high) / 2;
    (fill(middle) <= total ? low : high) = middle;
  }
  const std::uint64_t sum = fill(low);
  *std::max_element(counts.begin(), counts.end()) += total - sum;
  return counts;
}

// The AUC that ranking by the true probability has in expectation.  `probabilities` ascend.
double ExpectedAuc(const std::vector<double>& probabilities) {
  double negatives = 0;
  double positives = 0;
  double ordered = 0;
  for (const double p : probabilities) {
    ordered += p * (negatives + 0.5 * (1 - p));
    negatives += 1 - p;
    positives += p;
  }
  return ordered / (positives * negatives);
}

}  // namespace

SynthModel::Zipf SynthModel::Zipf::Of(std::uint64_t count, double exponent) {
  Zipf zipf;
  zipf.exponent = exponent;
  zipf.n = static_cast<double>(count);
  zipf.integral_first = zipf.Integral(1.5) - 1;
  zipf.integral_last = zipf.Integral(zipf.n + 0.5);
  zipf.accept = 2 - zipf.InverseIntegral(zipf.Integral(2.5) - std::pow(2.0, -exponent));
  return zipf;
}

double SynthModel::Zipf::Integral(double x) const {
  return exponent == 1 ? std::log(x) : (std::pow(x, 1 - exponent) - 1) / (1 - exponent);
}

double SynthModel::Zipf::InverseIntegral(double y) const {
  return exponent == 1 ? std::exp(y) : std::pow(1 + y * (1 - exponent), 1 / (1 - exponent));
}

std::uint64_t SynthModel::Zipf::Draw(const CounterRandom& random, std::uint64_t* element) const {
  while (true) {
    const double u =
        integral_last + random.UniformDouble((*element)++) * (integral_first - integral_last);
    const double x = InverseIntegral(u);
    const double k = std::clamp(std::floor(x + 0.5), 1.0, n);
    if (k - x <= accept || u >= Integral(k + 0.5) - std::pow(k, -exponent)) {
      return static_cast<std::uint64_t>(k);
    }
  }
}

StatusOr<SynthModel> SynthModel::Create(const SynthModelOptions& options) {
  if (options.fields < 1 || options.fields > kSynthFieldsMax) {
    return InvalidArgument("synth: fields must be 1 to 26");
  }
  if (options.cardinality_total < std::uint64_t{2} * options.fields ||
      static_cast<double>(options.cardinality_total) > kCardinalityMax) {
    return InvalidArgument("synth: cardinality_total must be 2 a field, to 1e9");
  }
  if (!(options.zipf >= 0.5 && options.zipf <= 3)) {
    return InvalidArgument("synth: zipf must be 0.5 to 3");
  }
  if (options.rank > kSynthRankMax) {
    return InvalidArgument("synth: rank must be 0 to 16");
  }
  if (!(options.target_auc >= 0.55 && options.target_auc <= 0.95)) {
    return InvalidArgument("synth: target_auc must be 0.55 to 0.95");
  }
  SynthModel model;
  model.seed_ = options.seed;
  model.rank_ = options.rank;
  model.zipf_ = options.zipf;
  RETURN_IF_ERROR(model.SetFields(options));
  model.SetIntegers();
  model.Calibrate(options.target_auc);
  return model;
}

Status SynthModel::SetFields(const SynthModelOptions& options) {
  const std::vector<std::uint64_t> counts =
      Cardinalities(options.fields, options.cardinality_total);
  const CounterRandom random(seed_, kShapeStream, 0);
  fields_.resize(options.fields);
  for (std::size_t f = 0; f < fields_.size(); ++f) {
    FieldModel& field = fields_[f];
    field.cardinality = counts[f];
    field.zipf = Zipf::Of(counts[f], options.zipf);
    field.missing = kCriteoMissing[f];
    field.first_count = static_cast<double>(options.train_rows) * (1 - field.missing) /
                        HarmonicSum(counts[f], options.zipf);
    field.strength = 0.5 + random.UniformDouble(f);
    std::vector<float> head(std::min(field.cardinality, kHeadValues) * (1 + rank_));
    for (std::uint64_t value = 0; value * (1 + rank_) < head.size(); ++value) {
      Effects(f, value, head.data() + value * (1 + rank_));
    }
    field.head = std::move(head);
  }
  return OkStatus();
}

void SynthModel::SetIntegers() {
  const CounterRandom random(seed_, kShapeStream, 1);
  for (std::size_t i = 0; i < integers_.size(); ++i) {
    IntegerModel& integer = integers_[i];
    integer.mu = 0.5 + 4 * random.UniformDouble(4 * i);
    integer.sigma = 0.6 + 1.2 * random.UniformDouble(4 * i + 1);
    integer.missing = kIntegerMissing[i];
    const double weight = 0.4 + random.UniformDouble(4 * i + 2);
    integer.weight = (random.Below(4 * i + 3, 2) == 0 ? weight : -weight) / integer.sigma;
  }
}

void SynthModel::Effects(std::size_t field, std::uint64_t value, float* out) const {
  const FieldModel& model = fields_[field];
  const std::size_t width = 1 + rank_;
  if ((value + 1) * width <= model.head.size()) {
    std::copy_n(model.head.data() + value * width, width, out);
    return;
  }
  const CounterRandom random(seed_, kEffectStream, field, value);
  const double count = model.first_count * std::pow(static_cast<double>(value + 1), -zipf_);
  const double effect = model.strength * count / (count + kHalfEffectCount);
  const double latent =
      field % kInteractingStride == 1 ? model.strength * count / (count + kHalfLatentCount) : 0;
  out[0] = static_cast<float>(effect * Normal(random, 0));
  for (std::size_t r = 1; r < width; ++r) {
    out[r] = static_cast<float>(latent * Normal(random, r));
  }
}

SynthModel::Parts SynthModel::DrawParts(std::uint64_t row, SynthRow* out) const {
  const CounterRandom random(seed_, kRowStream, row);
  std::uint64_t element = 0;
  Parts parts;
  for (std::size_t i = 0; i < integers_.size(); ++i) {
    const IntegerModel& integer = integers_[i];
    const double normal = Normal(random, element++);
    out->integers[i] = SynthRow::kMissing;
    if (random.UniformDouble(element++) >= integer.missing) {
      out->integers[i] = static_cast<std::int64_t>(std::exp(integer.mu + integer.sigma * normal));
      parts.linear += integer.weight * std::log1p(static_cast<double>(out->integers[i]));
    }
  }
  std::array<float, 1 + kSynthRankMax> effects;
  std::array<double, kSynthRankMax> sums = {};
  double squares = 0;
  for (std::size_t f = 0; f < fields_.size(); ++f) {
    out->has_value[f] = random.UniformDouble(element++) >= fields_[f].missing;
    if (!out->has_value[f]) {
      continue;
    }
    out->values[f] = fields_[f].zipf.Draw(random, &element) - 1;
    Effects(f, out->values[f], effects.data());
    parts.first += effects[0];
    for (std::size_t r = 0; r < rank_; ++r) {
      const double latent = effects[r + 1];
      sums[r] += latent;
      squares += latent * latent;
    }
  }
  for (std::size_t r = 0; r < rank_; ++r) {
    parts.second += 0.5 * sums[r] * sums[r];
  }
  parts.second -= 0.5 * squares;
  return parts;
}

double SynthModel::Logit(const Parts& parts) const {
  return intercept_ + scale_.linear * parts.linear + scale_.first * parts.first +
         scale_.second * parts.second;
}

void SynthModel::Calibrate(double target_auc) {
  std::vector<Parts> parts(kCalibrationRows);
  SynthRow row;
  for (std::uint64_t i = 0; i < kCalibrationRows; ++i) {
    parts[i] = DrawParts(kCalibrationFirstRow + i, &row);
  }
  const auto scale_for = [&parts](double Parts::*part, double share) {
    double sum = 0;
    double squares = 0;
    for (const Parts& p : parts) {
      sum += p.*part;
      squares += p.*part * p.*part;
    }
    const double count = static_cast<double>(parts.size());
    const double variance = squares / count - (sum / count) * (sum / count);
    return variance > 0 ? std::sqrt(share / variance) : 0;
  };
  const Parts unit{scale_for(&Parts::linear, kLinearShare), scale_for(&Parts::first, kFirstShare),
                   scale_for(&Parts::second, kSecondShare)};
  scale_ = unit;
  std::vector<double> logits(parts.size());
  std::transform(parts.begin(), parts.end(), logits.begin(),
                 [this](const Parts& p) { return Logit(p); });
  std::sort(logits.begin(), logits.end());
  std::vector<double> probabilities(logits.size());
  double low = 0.01;
  double high = 20;
  double factor = 1;
  for (int i = 0; i < 30; ++i) {
    factor = (low + high) / 2;
    // Newton's method for the intercept; the mean probability is smooth in it and rises.
    intercept_ = std::log(kLabelRate / (1 - kLabelRate)) -
                 factor * std::accumulate(logits.begin(), logits.end(), 0.0) /
                     static_cast<double>(logits.size());
    for (int step = 0; step < 6; ++step) {
      double mean = 0;
      double slope = 0;
      for (std::size_t k = 0; k < logits.size(); ++k) {
        const double p = Sigmoid(intercept_ + factor * logits[k]);
        probabilities[k] = p;
        mean += p;
        slope += p * (1 - p);
      }
      intercept_ += (kLabelRate * static_cast<double>(logits.size()) - mean) / slope;
    }
    expected_auc_ = ExpectedAuc(probabilities);
    (expected_auc_ < target_auc ? low : high) = factor;
  }
  scale_ = {unit.linear * factor, unit.first * factor, unit.second * factor};
}

double SynthModel::Draw(std::uint64_t row, SynthRow* out) const {
  return Sigmoid(Logit(DrawParts(row, out)));
}

bool SynthModel::DrawLabel(std::uint64_t row, double probability) const {
  return CounterRandom(seed_, kLabelStream, row).UniformDouble(0) < probability;
}

void SynthModel::AppendLine(const SynthRow& row, bool label, std::string* text) const {
  std::array<char, 24> digits;
  *text += label ? '1' : '0';
  for (const std::int64_t integer : row.integers) {
    *text += '\t';
    if (integer != SynthRow::kMissing) {
      const auto end = std::to_chars(digits.data(), digits.data() + digits.size(), integer).ptr;
      text->append(digits.data(), static_cast<std::size_t>(end - digits.data()));
    }
  }
  for (std::size_t f = 0; f < kSynthFieldsMax; ++f) {
    *text += '\t';
    if (f >= fields_.size() || !row.has_value[f]) {
      continue;
    }
    // A bijection of 32 bits, so that no two values of a field look alike.
    std::uint32_t name = static_cast<std::uint32_t>(row.values[f]) * 0x9e3779b1U +
                         static_cast<std::uint32_t>(Mix64(seed_ * kSynthFieldsMax + f + 1));
    name = (name ^ (name >> 16)) * 0x85ebca6bU;
    name = (name ^ (name >> 13)) * 0xc2b2ae35U;
    name ^= name >> 16;
    for (int shift = 28; shift >= 0; shift -= 4) {
      *text += "0123456789abcdef"[(name >> shift) & 15];
    }
  }
  *text += '\n';
}

}  // namespace plexus
