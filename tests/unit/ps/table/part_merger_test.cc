#include "ps/table/part_merger.h"

#include <algorithm>
#include <cstring>
#include <map>
#include <vector>

#include <gtest/gtest.h>

#include "common/random.h"

namespace plexus {
namespace {

struct OwnedPart {
  std::vector<Key> keys;
  std::vector<std::uint32_t> counts;
  std::vector<float> gradients;
  std::uint32_t dim = 0;

  GradientPart View() const { return {keys, counts, gradients.data(), dim}; }
};

// Distinct keys of few, magnitudes far apart, so that the order of additions matters.
OwnedPart RandomPart(std::uint64_t seed, std::uint32_t dim, std::uint32_t floats) {
  const CounterRandom random(31, seed);
  OwnedPart part;
  part.dim = dim;
  for (Key key = 0; key < 40; ++key) {
    if (random.Below(3 * key, 2) == 0) {
      continue;
    }
    part.keys.push_back(Mix64(key));
    part.counts.push_back(static_cast<std::uint32_t>(1 + random.Below(3 * key + 1, 9)));
    for (std::uint32_t e = 0; e < floats; ++e) {
      const std::uint64_t element = 1000 + key * 64 + e;
      part.gradients.push_back((2 * random.Uniform(element) - 1) *
                               (random.Below(element + 100000, 2) == 0 ? 1e-3f : 1e4f));
    }
  }
  return part;
}

TEST(PartMergerTest, SumsInTheOrderOfPartsAndPadsWithZeros) {
  constexpr std::uint32_t kDim = 7;
  PartMerger merger(kDim);
  for (std::uint64_t round = 0; round < 50; ++round) {
    std::vector<OwnedPart> parts;
    std::vector<GradientPart> views;
    for (std::uint64_t p = 0; p < 5; ++p) {
      const auto dim = static_cast<std::uint32_t>((round + 3 * p) % (kDim + 1));  // 0: all.
      parts.push_back(RandomPart(10 * round + p, dim, dim == 0 ? kDim : dim));
    }
    struct Sum {
      std::vector<float> gradients = std::vector<float>(kDim, 0.0f);
      std::uint64_t count = 0;
      std::uint32_t active = 0;
    };
    std::map<Key, Sum> expected;
    for (const OwnedPart& part : parts) {
      views.push_back(part.View());
      const std::uint32_t floats = part.dim == 0 ? kDim : part.dim;
      for (std::size_t i = 0; i < part.keys.size(); ++i) {
        Sum& sum = expected[part.keys[i]];
        sum.count += part.counts[i];
        sum.active = std::max(sum.active, floats);
        for (std::uint32_t e = 0; e < floats; ++e) {
          sum.gradients[e] += part.gradients[i * floats + e];
        }
      }
    }
    merger.Merge(views);
    ASSERT_EQ(merger.keys().size(), expected.size());
    for (std::size_t i = 0; i < merger.keys().size(); ++i) {
      const Sum& sum = expected.at(merger.keys()[i]);
      ASSERT_EQ(merger.count(i), sum.count);
      ASSERT_EQ(merger.active(i), sum.active);
      for (std::uint32_t e = 0; e < sum.active; ++e) {
        ASSERT_EQ(merger.gradients(i)[e], sum.gradients[e]) << "element " << e;
      }
    }
  }
}

TEST(PartMergerTest, AKeyOfOnePartIsReadWhereItLies) {
  OwnedPart first = {{1, 2}, {1, 1}, {1, 2, 3, 4}, 2};
  OwnedPart second = {{2, 3}, {1, 5}, {10, 20, 30, 40, 50, 60}, 0};
  PartMerger merger(3);
  merger.Merge(std::vector<GradientPart>{first.View(), second.View()});
  ASSERT_EQ(merger.keys().size(), 3u);
  EXPECT_EQ(merger.gradients(0), first.gradients.data());
  EXPECT_EQ(merger.active(0), 2u);
  EXPECT_EQ(std::vector<float>(merger.gradients(1), merger.gradients(1) + 3),
            (std::vector<float>{13, 24, 30}));
  EXPECT_EQ(merger.active(1), 3u);
  EXPECT_EQ(merger.gradients(2), second.gradients.data() + 3);
  EXPECT_EQ(merger.count(2), 5u);
}

}  // namespace
}  // namespace plexus
