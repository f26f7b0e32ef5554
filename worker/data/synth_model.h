// SynthModel: the planted truth behind synthetic Criteo data.
//
// A row's values are Zipf-distributed per field; its logit is a factorisation machine over them (an
// effect and a latent vector a value) plus a linear part of the integers' logarithms.  Effects
// shrink with a value's rarity, so that what the data says can be learnt from the data.  Everything
// is counter-based: nothing is stored a value, and row i is the same whoever draws it.
//
// Thread safety: immutable after Create().
#pragma once

#include <array>
#include <cstdint>
#include <string>
#include <vector>

#include "common/random.h"
#include "common/status.h"

namespace plexus {

inline constexpr std::size_t kSynthIntegers = 13;
inline constexpr std::size_t kSynthFieldsMax = 26;
inline constexpr std::uint32_t kSynthRankMax = 16;

struct SynthModelOptions {
  std::uint64_t seed = 1;
  // Rows that will be trained on: what "rare" means.
  std::uint64_t train_rows = 1000000;
  std::uint32_t fields = 26;
  std::uint64_t cardinality_total = 300000;
  double zipf = 1.05;
  std::uint32_t rank = 4;  // Of the latent vectors; 0 = no second order.
  double target_auc = 0.80;
};

// One row without its label.
struct SynthRow {
  static constexpr std::int64_t kMissing = INT64_MIN;
  // 0 is the most frequent value of its field.
  std::array<std::uint64_t, kSynthFieldsMax> values;
  std::array<bool, kSynthFieldsMax> has_value;
  std::array<std::int64_t, kSynthIntegers> integers;  // Or kMissing.
};

class SynthModel {
 public:
  // kInvalidArgument: an option is out of its range; the message says which range.
  static StatusOr<SynthModel> Create(const SynthModelOptions& options);

  // Row `row` of the infinite data set, and the probability that its label is 1.
  double Draw(std::uint64_t row, SynthRow* out) const;
  // Its label, given that probability.
  bool DrawLabel(std::uint64_t row, double probability) const;

  // Appends the row as a Criteo line, with LF.
  void AppendLine(const SynthRow& row, bool label, std::string* text) const;

  // Values of field f, f < fields.
  std::uint64_t cardinality(std::size_t field) const { return fields_[field].cardinality; }
  // The Bayes-optimal AUC that the calibration's sample has.
  double expected_auc() const { return expected_auc_; }

 private:
  // Draws from 1..n with probability proportional to k^-s, by Hoermann and Derflinger's
  // rejection-inversion.
  struct Zipf {
    double exponent = 1;
    double n = 1;
    double integral_first = 0;
    double integral_last = 0;
    double accept = 0;

    static Zipf Of(std::uint64_t count, double exponent);
    double Integral(double x) const;
    double InverseIntegral(double y) const;
    std::uint64_t Draw(const CounterRandom& random, std::uint64_t* element) const;
  };
  struct FieldModel {
    std::uint64_t cardinality = 1;
    Zipf zipf;
    double missing = 0;  // Probability.
    double first_count =
        0;  // Expected occurrences of the most frequent value in the training rows.
    double strength = 1;
    std::vector<float>
        head;  // [kHeadValues x (1 + rank)], what Effects() gives for frequent values.
  };
  struct IntegerModel {
    double mu = 0;
    double sigma = 1;
    double missing = 0;
    double weight = 0;
  };
  // The three parts of the logit.
  struct Parts {
    double linear = 0;
    double first = 0;
    double second = 0;
  };

  SynthModel() = default;

  Status SetFields(const SynthModelOptions& options);
  void SetIntegers();
  // Scales the parts to their shares of the variance, and all of it to the target.
  void Calibrate(double target_auc);
  // effect and latent vector of a value: 1 + rank numbers.
  void Effects(std::size_t field, std::uint64_t value, float* out) const;
  Parts DrawParts(std::uint64_t row, SynthRow* out) const;
  double Logit(const Parts& parts) const;

  std::uint64_t seed_ = 1;
  std::uint32_t rank_ = 0;
  double zipf_ = 1;
  std::vector<FieldModel> fields_;
  std::array<IntegerModel, kSynthIntegers> integers_;
  Parts scale_{1, 1, 1};
  double intercept_ = 0;
  double expected_auc_ = 0;
};

}  // namespace plexus
