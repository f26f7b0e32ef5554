// Evaluation of predictions: exact AUC, log loss, normalised entropy, calibration, GAUC, from sums
// that merge exactly.
//
// A part is a multiset of (logit, label) and, with groups, of (group, logit, label), kept as sorted
// runs of (logit, positives, negatives).  All figures are computed from the merged runs in the
// order of logits: AUC exactly (ties count half), sums in f64.  They therefore depend neither on
// how samples were spread over ranks nor on the order of samples or merges.
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
  double auc = 0;                 // NaN if there is no positive or no negative sample.
  double logloss = 0;             // NaN without samples.
  double normalised_entropy = 0;  // logloss / entropy of the label rate; NaN if the rate is 0 or 1.
  double calibration = 0;         // mean prediction / label rate; NaN without a positive.
  double gauc =
      0;  // Sample-weighted mean AUC over groups that have both labels; NaN without such a group.
  double label_rate = 0;  // NaN without samples.
  // Samples with a NaN or infinite logit.  If there is one, all figures but the counts and
  // label_rate are NaN.
  std::uint64_t non_finite = 0;
};

class EvaluationPart {
 public:
  // One sample each: logits, labels (0 or 1); `groups` is empty or has one entry a sample.
  void Add(std::span<const float> logits, std::span<const float> labels,
           std::span<const std::uint64_t> groups);

  // Bytes for the wire.  The same for equal multisets.
  std::string Serialize() const;

  // kInvalidArgument: not the bytes of a part (bounds are checked before anything is allocated).
  static StatusOr<EvaluationPart> Parse(std::string_view bytes);

  // Adds the samples of `other`.
  void Merge(const EvaluationPart& other);

  EvaluationFigures Figures() const;

  // Samples of one logit.  Several runs may have the same logit, where a count would not fit.
  struct Run {
    std::uint32_t score;  // The logit's bits, mapped so that integers compare as the floats do.
    std::uint32_t positives;
    std::uint32_t negatives;
  };
  struct GroupRun {
    std::uint64_t group;
    Run run;
  };

 private:
  // Sorts and combines what was appended since.
  void Seal();
  void SealIfLarge();

  // Each list: [0, sealed) is sorted and combined, the rest as it was appended.
  std::vector<Run> runs_;
  std::vector<GroupRun> group_runs_;
  std::size_t sealed_runs_ = 0;
  std::size_t sealed_group_runs_ = 0;
  std::uint64_t non_finite_positives_ = 0;
  std::uint64_t non_finite_negatives_ = 0;
};

}  // namespace plexus
