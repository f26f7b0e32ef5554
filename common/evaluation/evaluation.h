// Evaluation of predictions: exact AUC, log loss, normalised entropy, calibration, GAUC, from sums that merge exactly.
//
// Each rank accumulates its samples; parts are merged in rank order.  AUC comes from sorted runs of (score, positives, negatives), so that it is exact (ties count half) and independent of
// how samples were spread over ranks; sums of floating-point numbers are f64, added in rank order.
//
// Thread safety: values.
#pragma once

#include <cstdint>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "common/status.h"

namespace plexus {

struct EvaluationFigures {
  std::uint64_t samples = 0;
  double auc = 0;                  // NaN if there is no positive or no negative sample.
  double logloss = 0;
  double normalised_entropy = 0;   // logloss / entropy of the label rate; NaN if the rate is 0 or 1.
  double calibration = 0;          // mean prediction / label rate; NaN without a positive.
  double gauc = 0;                 // Sample-weighted mean AUC over groups that have both labels; NaN without such a group.
  double label_rate = 0;
};

class EvaluationPart {
 public:
  // One sample each: logits, labels (0 or 1); `groups` is empty or has one entry a sample.
  void Add(std::span<const float> logits, std::span<const float> labels,
           std::span<const std::uint64_t> groups);

  // Bytes for the wire: sorted runs and sums.  Deterministic.
  std::string Serialize() const;

  // kInvalidArgument: not the bytes of a part (bounds are checked before anything is allocated).
  static StatusOr<EvaluationPart> Parse(std::string_view bytes);

  // Appends `other`.
  void Merge(const EvaluationPart& other);

  EvaluationFigures Figures() const;

 private:
  // The author of this file chooses the representation.
};

}  // namespace plexus
