#include "common/evaluation/evaluation.h"

#include <algorithm>
#include <bit>
#include <cmath>
#include <limits>
#include <tuple>

namespace plexus {
namespace {

using Run = EvaluationPart::Run;
using GroupRun = EvaluationPart::GroupRun;

// Wire form.  Varints are LEB128.
//   u8 version; varint non-finite positives, non-finite negatives; runs; varint number of groups;
//   each: u64 group, runs. runs = varint number; each: varint (score - last score) * 4 + code,
//   where code 0 is one negative, 1 one positive, 2 two varints: positives, negatives.
constexpr std::uint8_t kVersion = 1;
constexpr std::uint64_t kSamplesMax = std::uint64_t{1}
                                      << 48;  // Of one part: its square fits 128 bits with ease.
constexpr std::size_t kSealRuns = 1 << 16;

constexpr double kNaN = std::numeric_limits<double>::quiet_NaN();

std::uint32_t ScoreOf(float logit) {
  const auto bits = std::bit_cast<std::uint32_t>(logit + 0.0f);  // -0 ties with 0.
  return (bits >> 31) != 0 ? ~bits : bits | 0x80000000u;
}

float LogitOf(std::uint32_t score) {
  return std::bit_cast<float>((score >> 31) != 0 ? score & 0x7fffffffu : ~score);
}

auto SortKey(const Run& run) { return std::tuple(run.score, run.positives, run.negatives); }
auto SortKey(const GroupRun& run) {
  return std::tuple_cat(std::tuple(run.group), SortKey(run.run));
}

bool AddTo(Run* to, const Run& run) {
  const std::uint64_t positives = std::uint64_t{to->positives} + run.positives;
  const std::uint64_t negatives = std::uint64_t{to->negatives} + run.negatives;
  if (to->score != run.score || std::max(positives, negatives) > 0xffffffffu) {
    return false;
  }
  to->positives = static_cast<std::uint32_t>(positives);
  to->negatives = static_cast<std::uint32_t>(negatives);
  return true;
}
bool AddTo(GroupRun* to, const GroupRun& run) {
  return to->group == run.group && AddTo(&to->run, run.run);
}

// Sorts and combines `runs`, whose first `sealed` elements are sorted already.
template <typename R>
void SealRuns(std::vector<R>* runs, std::size_t* sealed) {
  if (*sealed == runs->size()) {
    return;
  }
  const auto less = [](const R& a, const R& b) { return SortKey(a) < SortKey(b); };
  const auto middle = runs->begin() + static_cast<std::ptrdiff_t>(*sealed);
  std::sort(middle, runs->end(), less);
  std::inplace_merge(runs->begin(), middle, runs->end(), less);
  auto last = runs->begin();
  for (auto it = std::next(last); it != runs->end(); ++it) {
    if (!AddTo(&*last, *it)) {
      *++last = *it;
    }
  }
  runs->erase(std::next(last), runs->end());
  *sealed = runs->size();
}

void PutVarint(std::uint64_t value, std::string* to) {
  for (; value >= 0x80; value >>= 7) {
    to->push_back(static_cast<char>(value | 0x80));
  }
  to->push_back(static_cast<char>(value));
}

void PutRun(const Run& run, std::uint32_t last_score, std::string* to) {
  const std::uint64_t delta = std::uint64_t{run.score - last_score} * 4;
  if (run.positives + std::uint64_t{run.negatives} == 1) {
    PutVarint(delta + run.positives, to);
    return;
  }
  PutVarint(delta + 2, to);
  PutVarint(run.positives, to);
  PutVarint(run.negatives, to);
}

class Reader {
 public:
  explicit Reader(std::string_view bytes) : bytes_(bytes) {}

  std::size_t remaining() const { return bytes_.size(); }

  bool GetByte(std::uint8_t* value) {
    if (bytes_.empty()) {
      return false;
    }
    *value = static_cast<std::uint8_t>(bytes_.front());
    bytes_.remove_prefix(1);
    return true;
  }

  bool GetVarint(std::uint64_t max, std::uint64_t* value) {
    *value = 0;
    for (int shift = 0; shift < 63; shift += 7) {
      std::uint8_t byte;
      if (!GetByte(&byte)) {
        return false;
      }
      *value |= std::uint64_t{byte & 0x7fu} << shift;
      if (byte < 0x80) {
        return *value <= max;
      }
    }
    return false;
  }

  bool GetU64(std::uint64_t* value) {
    *value = 0;
    for (int shift = 0; shift < 64; shift += 8) {
      std::uint8_t byte;
      if (!GetByte(&byte)) {
        return false;
      }
      *value |= std::uint64_t{byte} << shift;
    }
    return true;
  }

  // Calls visit(run) for each of a list of runs.  `samples` counts up to kSamplesMax.
  template <typename Visit>
  bool GetRuns(std::uint64_t* samples, const Visit& visit) {
    std::uint64_t count;
    if (!GetVarint(remaining(), &count)) {  // A run takes at least a byte.
      return false;
    }
    std::uint64_t score = 0;
    for (; count > 0; --count) {
      std::uint64_t word;
      std::uint64_t positives;
      std::uint64_t negatives;
      if (!GetVarint((std::uint64_t{1} << 34) - 1, &word)) {
        return false;
      }
      score += word / 4;
      positives = word % 4;
      negatives = 1 - positives;
      if (positives == 2 &&
          !(GetVarint(0xffffffff, &positives) && GetVarint(0xffffffff, &negatives))) {
        return false;
      }
      *samples += positives + negatives;
      if (word % 4 == 3 || score > 0xffffffff || *samples > kSamplesMax ||
          positives + negatives == 0 ||
          !std::isfinite(LogitOf(static_cast<std::uint32_t>(score)))) {
        return false;
      }
      visit(Run{static_cast<std::uint32_t>(score), static_cast<std::uint32_t>(positives),
                static_cast<std::uint32_t>(negatives)});
    }
    return true;
  }

 private:
  std::string_view bytes_;
};

// Accumulates runs in the order of logits.
class Auc {
 public:
  void Add(const Run& run) {
    if (run.score != score_) {
      negatives_below_ = negatives_;
      positives_here_ = 0;
      score_ = run.score;
    }
    // A positive wins over the negatives below and half over those of its own logit: over both
    // kinds, counted in halves.
    const std::uint64_t negatives_here = negatives_ - negatives_below_;
    half_wins_ += Wide{run.positives} * (2 * negatives_below_ + negatives_here + run.negatives);
    half_wins_ += Wide{positives_here_} * run.negatives;
    positives_here_ += run.positives;
    positives_ += run.positives;
    negatives_ += run.negatives;
  }

  std::uint64_t positives() const { return positives_; }
  std::uint64_t samples() const { return positives_ + negatives_; }
  double Value() const {
    if (positives_ == 0 || negatives_ == 0) {
      return kNaN;
    }
    return static_cast<double>(half_wins_) / static_cast<double>(2 * Wide{positives_} * negatives_);
  }

 private:
  using Wide = unsigned __int128;

  std::uint32_t score_ = 0;  // No finite logit's.
  std::uint64_t positives_here_ = 0;
  std::uint64_t negatives_below_ = 0;
  std::uint64_t positives_ = 0;
  std::uint64_t negatives_ = 0;
  Wide half_wins_ = 0;
};

double GroupAuc(std::span<const GroupRun> runs) {
  double weighted = 0;
  std::uint64_t samples = 0;
  for (std::size_t i = 0; i < runs.size();) {
    const std::uint64_t group = runs[i].group;
    Auc auc;
    for (; i < runs.size() && runs[i].group == group; ++i) {
      auc.Add(runs[i].run);
    }
    if (const double value = auc.Value(); !std::isnan(value)) {
      weighted += value * static_cast<double>(auc.samples());
      samples += auc.samples();
    }
  }
  return samples == 0 ? kNaN : weighted / static_cast<double>(samples);
}

}  // namespace

void EvaluationPart::Add(std::span<const float> logits, std::span<const float> labels,
                         std::span<const std::uint64_t> groups) {
  CHECK_EQ(logits.size(), labels.size());
  CHECK(groups.empty() || groups.size() == logits.size());
  for (std::size_t i = 0; i < logits.size(); ++i) {
    const std::uint32_t positive = labels[i] >= 0.5f ? 1 : 0;
    if (!std::isfinite(logits[i])) {
      ++(positive != 0 ? non_finite_positives_ : non_finite_negatives_);
      continue;
    }
    const Run run{ScoreOf(logits[i]), positive, 1 - positive};
    runs_.push_back(run);
    if (!groups.empty()) {
      group_runs_.push_back({groups[i], run});
    }
  }
  SealIfLarge();
}

void EvaluationPart::Merge(const EvaluationPart& other) {
  const std::size_t runs = other.runs_.size();  // `other` may be *this.
  const std::size_t group_runs = other.group_runs_.size();
  runs_.reserve(runs_.size() + runs);
  group_runs_.reserve(group_runs_.size() + group_runs);
  std::copy_n(other.runs_.begin(), runs, std::back_inserter(runs_));
  std::copy_n(other.group_runs_.begin(), group_runs, std::back_inserter(group_runs_));
  non_finite_positives_ += other.non_finite_positives_;
  non_finite_negatives_ += other.non_finite_negatives_;
  SealIfLarge();
}

// Once as much was appended as was sealed, so that a run is moved a logarithmic number of times.
void EvaluationPart::SealIfLarge() {
  const std::size_t appended =
      runs_.size() - sealed_runs_ + group_runs_.size() - sealed_group_runs_;
  if (appended > std::max(kSealRuns, sealed_runs_ + sealed_group_runs_)) {
    Seal();
  }
}

void EvaluationPart::Seal() {
  SealRuns(&runs_, &sealed_runs_);
  SealRuns(&group_runs_, &sealed_group_runs_);
}

std::string EvaluationPart::Serialize() const {
  EvaluationPart part = *this;
  part.Seal();
  std::string bytes(1, static_cast<char>(kVersion));
  PutVarint(non_finite_positives_, &bytes);
  PutVarint(non_finite_negatives_, &bytes);
  PutVarint(part.runs_.size(), &bytes);
  std::uint32_t last = 0;
  for (const Run& run : part.runs_) {
    PutRun(run, last, &bytes);
    last = run.score;
  }
  std::string group_bytes;
  std::uint64_t groups = 0;
  const std::vector<GroupRun>& runs = part.group_runs_;
  for (std::size_t i = 0, end = 0; i < runs.size(); i = end, ++groups) {
    while (end < runs.size() && runs[end].group == runs[i].group) {
      ++end;
    }
    for (int shift = 0; shift < 64; shift += 8) {
      group_bytes.push_back(static_cast<char>(runs[i].group >> shift));
    }
    PutVarint(end - i, &group_bytes);
    last = 0;
    for (std::size_t j = i; j < end; ++j) {
      PutRun(runs[j].run, last, &group_bytes);
      last = runs[j].run.score;
    }
  }
  PutVarint(groups, &bytes);
  return bytes + group_bytes;
}

StatusOr<EvaluationPart> EvaluationPart::Parse(std::string_view bytes) {
  const Status damaged = InvalidArgument("not the bytes of an evaluation part");
  Reader reader(bytes);
  EvaluationPart part;
  std::uint8_t version;
  std::uint64_t samples = 0;
  std::uint64_t groups;
  if (!reader.GetByte(&version) || version != kVersion ||
      !reader.GetVarint(kSamplesMax, &part.non_finite_positives_) ||
      !reader.GetVarint(kSamplesMax, &part.non_finite_negatives_) ||
      !reader.GetRuns(&samples, [&](const Run& run) { part.runs_.push_back(run); }) ||
      !reader.GetVarint(reader.remaining(), &groups)) {
    return damaged;
  }
  samples = 0;
  for (; groups > 0; --groups) {
    std::uint64_t group;
    if (!reader.GetU64(&group) || !reader.GetRuns(&samples, [&](const Run& run) {
          part.group_runs_.push_back({group, run});
        })) {
      return damaged;
    }
  }
  if (reader.remaining() > 0) {
    return damaged;
  }
  return part;
}

EvaluationFigures EvaluationPart::Figures() const {
  EvaluationPart part = *this;
  part.Seal();
  Auc auc;
  double loss = 0;
  double predictions = 0;
  for (const Run& run : part.runs_) {
    auc.Add(run);
    const double x = LogitOf(run.score);
    const double tail = std::exp(-std::abs(x));
    const double log_term = std::log1p(tail);  // ln(1 + e^x) = max(x, 0) + this.
    loss += run.positives * (std::max(-x, 0.0) + log_term) +
            run.negatives * (std::max(x, 0.0) + log_term);
    predictions +=
        (double{1} * run.positives + run.negatives) * ((x >= 0 ? 1.0 : tail) / (1.0 + tail));
  }
  EvaluationFigures figures;
  figures.non_finite = non_finite_positives_ + non_finite_negatives_;
  figures.samples = auc.samples() + figures.non_finite;
  const auto samples = static_cast<double>(figures.samples);
  const double rate = static_cast<double>(auc.positives() + non_finite_positives_) / samples;
  figures.label_rate = figures.samples == 0 ? kNaN : rate;
  if (figures.samples == 0 || figures.non_finite > 0) {
    figures.auc = figures.logloss = figures.normalised_entropy = kNaN;
    figures.calibration = figures.gauc = kNaN;
    return figures;
  }
  figures.auc = auc.Value();
  figures.logloss = loss / samples;
  const double entropy = -(rate * std::log(rate) + (1 - rate) * std::log1p(-rate));
  figures.normalised_entropy = rate > 0 && rate < 1 ? figures.logloss / entropy : kNaN;
  figures.calibration = rate > 0 ? predictions / samples / rate : kNaN;
  figures.gauc = GroupAuc(part.group_runs_);
  return figures;
}

}  // namespace plexus
