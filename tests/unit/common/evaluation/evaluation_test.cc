#include "common/evaluation/evaluation.h"

#include <cmath>
#include <cstring>
#include <limits>
#include <map>
#include <string>
#include <vector>

#include <gtest/gtest.h>

#include "common/random.h"

namespace plexus {
namespace {

struct Sample {
  float logit;
  float label;
  std::uint64_t group;
};

// Few distinct logits, so that ties are many.
std::vector<Sample> RandomSamples(std::uint64_t seed, std::size_t count, std::uint64_t groups) {
  const CounterRandom random(seed, 1);
  std::vector<Sample> samples;
  for (std::uint64_t i = 0; i < count; ++i) {
    const float logit = static_cast<float>(random.Below(4 * i, 41)) / 8 - 2.5f;
    const bool positive = random.UniformDouble(4 * i + 1) < 1 / (1 + std::exp(-logit));
    samples.push_back({logit, positive ? 1.0f : 0.0f, random.Below(4 * i + 2, groups)});
  }
  return samples;
}

void Add(const std::vector<Sample>& samples, bool with_groups, EvaluationPart* part) {
  std::vector<float> logits;
  std::vector<float> labels;
  std::vector<std::uint64_t> groups;
  for (const Sample& sample : samples) {
    logits.push_back(sample.logit);
    labels.push_back(sample.label);
    if (with_groups) {
      groups.push_back(sample.group);
    }
  }
  part->Add(logits, labels, groups);
}

EvaluationPart Part(const std::vector<Sample>& samples, bool with_groups = true) {
  EvaluationPart part;
  Add(samples, with_groups, &part);
  return part;
}

double NaiveAuc(const std::vector<Sample>& samples) {
  double wins = 0;
  double pairs = 0;
  for (const Sample& p : samples) {
    for (const Sample& n : samples) {
      if (p.label == 1 && n.label == 0) {
        wins += p.logit > n.logit ? 1 : p.logit == n.logit ? 0.5 : 0;
        ++pairs;
      }
    }
  }
  return wins / pairs;
}

EvaluationFigures NaiveFigures(const std::vector<Sample>& samples) {
  EvaluationFigures figures;
  double positives = 0;
  double predictions = 0;
  std::map<std::uint64_t, std::vector<Sample>> groups;
  for (const Sample& sample : samples) {
    const double p = 1 / (1 + std::exp(-double{sample.logit}));
    figures.logloss -= sample.label == 1 ? std::log(p) : std::log(1 - p);
    positives += sample.label;
    predictions += p;
    groups[sample.group].push_back(sample);
  }
  const auto n = static_cast<double>(samples.size());
  figures.samples = samples.size();
  figures.auc = NaiveAuc(samples);
  figures.logloss /= n;
  figures.label_rate = positives / n;
  const double rate = figures.label_rate;
  figures.normalised_entropy =
      figures.logloss / -(rate * std::log(rate) + (1 - rate) * std::log(1 - rate));
  figures.calibration = predictions / positives;
  double weight = 0;
  for (const auto& [group, members] : groups) {
    if (const double auc = NaiveAuc(members); !std::isnan(auc)) {
      figures.gauc += auc * static_cast<double>(members.size());
      weight += static_cast<double>(members.size());
    }
  }
  figures.gauc /= weight;
  return figures;
}

void ExpectNear(const EvaluationFigures& a, const EvaluationFigures& b) {
  EXPECT_EQ(a.samples, b.samples);
  EXPECT_NEAR(a.auc, b.auc, 1e-12);
  EXPECT_NEAR(a.logloss, b.logloss, 1e-12);
  EXPECT_NEAR(a.normalised_entropy, b.normalised_entropy, 1e-12);
  EXPECT_NEAR(a.calibration, b.calibration, 1e-12);
  EXPECT_NEAR(a.gauc, b.gauc, 1e-12);
  EXPECT_NEAR(a.label_rate, b.label_rate, 1e-12);
}

bool SameBits(const EvaluationFigures& a, const EvaluationFigures& b) {
  return std::memcmp(&a, &b, sizeof(a)) == 0;
}

TEST(EvaluationTest, AgreesWithTheNaiveFigures) {
  for (std::uint64_t seed = 0; seed < 20; ++seed) {
    const std::vector<Sample> samples = RandomSamples(seed, 50 + seed * 20, 1 + seed);
    ExpectNear(Part(samples).Figures(), NaiveFigures(samples));
  }
}

TEST(EvaluationTest, FiguresDoNotDependOnSplitOrderOrWire) {
  const std::vector<Sample> samples = RandomSamples(5, 3000, 20);
  const EvaluationFigures expected = Part(samples).Figures();
  const std::string bytes = Part(samples).Serialize();
  for (const std::size_t ranks : {1u, 2u, 3u, 7u}) {
    std::vector<std::vector<Sample>> spread(ranks);
    for (std::size_t i = samples.size(); i-- > 0;) {
      spread[i * 31 % ranks].push_back(samples[i]);
    }
    EvaluationPart left;   // ((0 + 1) + 2) + ...
    EvaluationPart right;  // 0 + (1 + (2 + ...))
    for (std::size_t r = 0; r < ranks; ++r) {
      StatusOr<EvaluationPart> part = EvaluationPart::Parse(Part(spread[r]).Serialize());
      ASSERT_TRUE(part.ok());
      left.Merge(*part);
    }
    for (std::size_t r = ranks; r-- > 0;) {
      EvaluationPart part = Part(spread[r]);
      part.Merge(right);
      right = part;
    }
    EXPECT_TRUE(SameBits(left.Figures(), expected)) << ranks;
    EXPECT_TRUE(SameBits(right.Figures(), expected)) << ranks;
    EXPECT_EQ(left.Serialize(), bytes);
    EXPECT_EQ(right.Serialize(), bytes);
  }
}

TEST(EvaluationTest, ManyBatchesGiveWhatOneGives) {
  EvaluationPart many;
  std::vector<Sample> all;
  for (std::uint64_t batch = 0; batch < 60; ++batch) {
    std::vector<Sample> samples = RandomSamples(batch, 4000, 50);
    for (Sample& sample : samples) {
      sample.logit += static_cast<float>(batch) * 0.001f;
    }
    Add(samples, true, &many);
    all.insert(all.end(), samples.begin(), samples.end());
  }
  EXPECT_TRUE(SameBits(many.Figures(), Part(all).Figures()));
}

TEST(EvaluationTest, EmptyPart) {
  const StatusOr<EvaluationPart> part = EvaluationPart::Parse(EvaluationPart().Serialize());
  ASSERT_TRUE(part.ok());
  const EvaluationFigures figures = part->Figures();
  EXPECT_EQ(figures.samples, 0u);
  EXPECT_TRUE(std::isnan(figures.auc));
  EXPECT_TRUE(std::isnan(figures.logloss));
  EXPECT_TRUE(std::isnan(figures.label_rate));
  EvaluationPart other = Part(RandomSamples(1, 100, 3));
  const EvaluationFigures before = other.Figures();
  other.Merge(*part);
  EXPECT_TRUE(SameBits(other.Figures(), before));
}

TEST(EvaluationTest, MergesWithItself) {
  const std::vector<Sample> samples = RandomSamples(2, 100, 3);
  EvaluationPart part = Part(samples);
  part.Merge(part);
  EXPECT_EQ(part.Figures().samples, 200u);
  EXPECT_DOUBLE_EQ(part.Figures().auc, NaiveAuc(samples));
}

TEST(EvaluationTest, OneLabelOnlyHasNoAuc) {
  const EvaluationFigures negative = Part({{1, 0, 1}, {2, 0, 1}}).Figures();
  EXPECT_TRUE(std::isnan(negative.auc));
  EXPECT_TRUE(std::isnan(negative.gauc));
  EXPECT_TRUE(std::isnan(negative.normalised_entropy));
  EXPECT_TRUE(std::isnan(negative.calibration));
  EXPECT_GT(negative.logloss, 0);
  const EvaluationFigures positive = Part({{1, 1, 1}}).Figures();
  EXPECT_TRUE(std::isnan(positive.auc));
  EXPECT_TRUE(std::isnan(positive.normalised_entropy));
}

TEST(EvaluationTest, WithoutGroupsThereIsNoGauc) {
  EXPECT_TRUE(std::isnan(Part(RandomSamples(1, 100, 3), false).Figures().gauc));
}

TEST(EvaluationTest, LossOfExtremeLogitsIsFinite) {
  constexpr float kLargest = std::numeric_limits<float>::max();
  const EvaluationFigures figures =
      Part({{kLargest, 1, 0}, {-kLargest, 0, 0}, {200, 0, 0}, {-200, 1, 0}}).Figures();
  EXPECT_DOUBLE_EQ(figures.logloss, 100);
  EXPECT_DOUBLE_EQ(figures.auc, 0.75);
}

TEST(EvaluationTest, NegativeZeroTiesWithZero) {
  EXPECT_EQ(Part({{0.0f, 1, 0}, {-0.0f, 0, 0}}).Figures().auc, 0.5);
}

TEST(EvaluationTest, NonFiniteLogitsAreCountedAndSpoilTheFigures) {
  EvaluationPart part = Part({{std::nanf(""), 1, 0}, {1, 1, 0}, {0, 0, 0}});
  part.Merge(*EvaluationPart::Parse(Part({{INFINITY, 0, 0}}).Serialize()));
  const EvaluationFigures figures = part.Figures();
  EXPECT_EQ(figures.samples, 4u);
  EXPECT_EQ(figures.non_finite, 2u);
  EXPECT_EQ(figures.label_rate, 0.5);
  EXPECT_TRUE(std::isnan(figures.auc));
  EXPECT_TRUE(std::isnan(figures.logloss));
}

TEST(EvaluationTest, SerializedBytesAreFew) {
  std::vector<Sample> samples;
  const CounterRandom random(3, 3);
  for (std::uint64_t i = 0; i < 20000; ++i) {
    samples.push_back({4 * random.Uniform(i) - 3, random.Below(i, 4) == 0 ? 1.0f : 0.0f, 0});
  }
  EXPECT_LE(Part(samples, false).Serialize().size(), samples.size() * 4);
}

TEST(EvaluationTest, RefusesTruncatedAndExtendedBytes) {
  const std::string bytes = Part(RandomSamples(1, 200, 5)).Serialize();
  for (std::size_t size = 0; size < bytes.size(); ++size) {
    EXPECT_FALSE(EvaluationPart::Parse(std::string_view(bytes).substr(0, size)).ok()) << size;
  }
  EXPECT_EQ(EvaluationPart::Parse(bytes + '\0').status().code(), StatusCode::kInvalidArgument);
}

TEST(EvaluationTest, MutatedBytesAreRefusedOrGiveAUsablePart) {
  const std::string bytes = Part(RandomSamples(1, 300, 5)).Serialize();
  const CounterRandom random(17, 0);
  std::uint64_t draw = 0;
  std::size_t accepted = 0;
  for (int round = 0; round < 20000; ++round) {
    std::string mutated = bytes;
    for (std::uint64_t n = 1 + random.Below(draw++, 4); n > 0; --n) {
      const std::uint64_t at = random.Below(draw++, mutated.size());
      mutated[at] = static_cast<char>(random.Bits(draw++));
    }
    if (const StatusOr<EvaluationPart> part = EvaluationPart::Parse(mutated); part.ok()) {
      ++accepted;
      const EvaluationFigures figures = part->Figures();
      EXPECT_TRUE(std::isnan(figures.auc) || (figures.auc >= 0 && figures.auc <= 1));
      EXPECT_TRUE(EvaluationPart::Parse(part->Serialize()).ok());
    }
  }
  EXPECT_GT(accepted, 0u);
}

TEST(EvaluationTest, HugeCountsAreRefusedBeforeAnythingIsAllocated) {
  // Version, no non-finite samples, then 2^56 runs.
  const std::string bytes("\x01\x00\x00\x80\x80\x80\x80\x80\x80\x80\x80\x01", 12);
  EXPECT_FALSE(EvaluationPart::Parse(bytes).ok());
}

}  // namespace
}  // namespace plexus
