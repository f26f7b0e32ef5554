#include "ps/table/admission.h"

#include <algorithm>
#include <cmath>
#include <map>
#include <memory>
#include <string>
#include <tuple>
#include <utility>
#include <vector>

#include <gtest/gtest.h>

#include "common/random.h"

namespace plexus {
namespace {

using Kind = AdmissionSpec::Kind;

constexpr std::uint64_t kSeed = 5;
constexpr std::uint64_t kStream = 77;

AdmissionSpec Spec(Kind kind, std::uint32_t threshold = 3) {
  AdmissionSpec spec;
  spec.kind = kind;
  spec.threshold = threshold;
  return spec;
}

// A filter that is asked by key.
struct Filter {
  Filter(const AdmissionSpec& spec, std::uint32_t v)
      : buckets(v), filter(spec, kSeed, kStream, v) {}

  bool Admit(Key key, std::uint64_t count, std::uint64_t version) {
    return filter.Admit(key, Mix64(key), BucketOfKey(key, buckets), count, version);
  }
  std::string Saved(std::uint32_t bucket) const {
    std::string bytes;
    filter.Save(bucket, &bytes);
    return bytes;
  }

  const std::uint32_t buckets;
  AdmissionFilter filter;
};

struct Occurrence {
  Key key;
  std::uint64_t count;
};

// Distinct keys of one step: some that come often, some that drift, some never seen again.
std::vector<Occurrence> StepOf(std::uint64_t version, std::uint64_t keys) {
  const CounterRandom random(kSeed, 1234, version);
  std::vector<Occurrence> step;
  std::map<Key, bool> seen;
  for (std::uint64_t i = 0; i < keys; ++i) {
    const std::uint64_t draw = random.Bits(2 * i);
    const Key key = draw % 3 == 0   ? Mix64(draw % 50)
                    : draw % 3 == 1 ? Mix64(version / 4 + draw % 1000)
                                    : draw;
    if (seen.try_emplace(key, true).second) {
      step.push_back({key, 1 + random.Below(2 * i + 1, 3) / 2});
    }
  }
  return step;
}

// COUNT as one would write it down: per bucket a map that forgets.
class NaiveCounts {
 public:
  NaiveCounts(std::uint32_t threshold, std::size_t capacity, std::uint32_t buckets)
      : threshold_(threshold), capacity_(capacity), buckets_(buckets), maps_(buckets) {}

  bool Admit(Key key, std::uint64_t count, std::uint64_t version) {
    auto& map = maps_[BucketOfKey(key, buckets_)];
    const auto at = map.find(key);
    const std::uint64_t total = count + (at == map.end() ? 0 : at->second.first);
    if (total >= threshold_) {
      map.erase(key);
      return true;
    }
    if (at == map.end() && map.size() == capacity_) {
      std::vector<std::tuple<std::uint64_t, std::uint64_t, Key>> by_age;
      for (const auto& [other, entry] : map) {
        by_age.emplace_back(entry.second, Mix64(other), other);
      }
      std::sort(by_age.begin(), by_age.end());
      for (std::size_t i = 0; i < capacity_ / 4; ++i) {
        map.erase(std::get<2>(by_age[i]));
      }
    }
    map[key] = {total, version};
    return false;
  }

  std::size_t size() const {
    std::size_t keys = 0;
    for (const auto& map : maps_) {
      keys += map.size();
    }
    return keys;
  }

 private:
  const std::uint64_t threshold_;
  const std::size_t capacity_;
  const std::uint32_t buckets_;
  std::vector<std::map<Key, std::pair<std::uint64_t, std::uint64_t>>> maps_;
};

TEST(AdmissionTest, CountsExactly) {
  Filter filter(Spec(Kind::kCount, 3), 4);
  EXPECT_FALSE(filter.Admit(0, 1, 1));
  EXPECT_FALSE(filter.Admit(0, 1, 5));
  EXPECT_FALSE(filter.Admit(~Key{0}, 2, 5));
  EXPECT_TRUE(filter.Admit(0, 1, 6));
  EXPECT_FALSE(filter.Admit(0, 1, 7)) << "an admitted key is forgotten";
  EXPECT_TRUE(filter.Admit(~Key{0}, 1, 7));
  EXPECT_TRUE(filter.Admit(9, 3, 7)) << "all at once";
  EXPECT_EQ(filter.filter.key_count(), 1u);
  EXPECT_EQ(filter.filter.counters().admitted, 3u);
  EXPECT_EQ(filter.filter.counters().refused, 4u);
}

TEST(AdmissionTest, CountsAsTheNaiveMapWithAndWithoutRoom) {
  for (const std::uint64_t filter_keys : {1ull, 16ull * 100, 16ull * 4000}) {
    AdmissionSpec spec = Spec(Kind::kCount, 4);
    spec.filter_keys = filter_keys;
    Filter filter(spec, 16);
    NaiveCounts naive(4, std::max<std::uint64_t>(8, filter_keys / 16), 16);
    std::uint64_t admitted = 0;
    for (std::uint64_t version = 1; version <= 150; ++version) {
      for (const Occurrence& o : StepOf(version, 400)) {
        const bool expected = naive.Admit(o.key, o.count, version);
        ASSERT_EQ(filter.Admit(o.key, o.count, version), expected) << "version " << version;
        admitted += expected ? 1 : 0;
      }
      filter.filter.EndVersion(version);
      ASSERT_EQ(filter.filter.key_count(), naive.size());
    }
    EXPECT_GT(admitted, 100u);
    EXPECT_EQ(filter.filter.counters().admitted, admitted);
    EXPECT_EQ(filter.filter.counters().forgotten > 0, filter_keys < 16 * 4000);
  }
}

// The count that a window's end halves: what a sketch must never stay below.
TEST(AdmissionTest, SketchAdmitsNeverLaterThanTheExactCount) {
  constexpr std::uint32_t kThreshold = 6;
  constexpr std::uint32_t kBuckets = 10;
  for (const std::uint64_t window : {0ull, 3ull, 7ull, 40ull}) {
    AdmissionSpec spec = Spec(Kind::kSketch, kThreshold);
    spec.sketch_width = kBuckets * 512;
    spec.window_versions = window;
    Filter filter(spec, kBuckets);
    std::map<Key, std::uint64_t> exact;
    std::map<Key, bool> rows;
    std::uint64_t early = 0;
    std::uint64_t on_time = 0;
    for (std::uint64_t version = 1; version <= 120; ++version) {
      for (const Occurrence& o : StepOf(version, 60)) {
        if (rows.count(o.key) > 0) {
          continue;
        }
        const std::uint64_t count = exact[o.key] += o.count;
        if (filter.Admit(o.key, o.count, version)) {
          ++(count >= kThreshold ? on_time : early);
          rows[o.key] = true;
        } else {
          ASSERT_LT(count, kThreshold) << "window " << window << " version " << version;
        }
      }
      filter.filter.EndVersion(version);
      for (auto& [key, count] : exact) {
        const std::uint64_t turn = window == 0 ? 1 : BucketOfKey(key, kBuckets) * window / kBuckets;
        count /= window != 0 && version % window == turn ? 2 : 1;
      }
    }
    EXPECT_GT(on_time, window == 3 ? 0u : 40u) << "window " << window;
    EXPECT_LE(early, on_time / 10) << "window " << window;
  }
}

// 16 heavy keys a sketch of 64 columns: e N / 64 is 0.68 of a heavy key's count, so an absent key
// is beyond the bound if it meets one in all 4 rows: 0.2 % of keys if rows are independent.
TEST(AdmissionTest, SketchIsRarelyBeyondItsBound) {
  constexpr std::uint32_t kWidth = 64;
  std::uint64_t beyond = 0;
  constexpr std::uint64_t kSketches = 200;
  constexpr std::uint64_t kProbes = 500;
  for (std::uint64_t s = 0; s < kSketches; ++s) {
    CountMin sketch;
    std::uint64_t total = 0;
    for (std::uint64_t heavy = 0; heavy < 16; ++heavy) {
      total += 1000;
      ASSERT_FALSE(sketch.Reaches(Mix64(s << 32 | heavy), 1000, CountMin::kCountMax, kWidth));
    }
    const auto bound =
        static_cast<std::uint32_t>(std::exp(1.0) * static_cast<double>(total) / kWidth);
    for (std::uint64_t probe = 0; probe < kProbes; ++probe) {
      beyond += sketch.Estimate(Mix64(s << 32 | 1u << 20 | probe), kWidth) > bound ? 1 : 0;
    }
  }
  const double share = static_cast<double>(beyond) / (kSketches * kProbes);
  EXPECT_LT(share, std::exp(-4.0));
  EXPECT_NEAR(share, 0.0024, 0.0012);
}

TEST(AdmissionTest, SketchCountersStayAtTheirLargest) {
  Filter filter(Spec(Kind::kSketch, 65535), 1);
  EXPECT_FALSE(filter.Admit(1, 65534, 1));
  EXPECT_TRUE(filter.Admit(1, 1, 2));
  EXPECT_TRUE(filter.Admit(1, ~std::uint64_t{0} >> 1, 3));
  EXPECT_FALSE(filter.Admit(2, 1, 3)) << "what was admitted adds nothing to others";
}

TEST(AdmissionTest, SketchGivesMemoryBackWhenAllIsHalvedAway) {
  AdmissionSpec spec = Spec(Kind::kSketch, 5);
  spec.sketch_width = 8 * 1000;
  spec.window_versions = 4;
  Filter filter(spec, 8);
  const std::uint64_t empty = filter.filter.memory_bytes();
  EXPECT_TRUE(filter.Admit(3, 5, 1));
  EXPECT_EQ(filter.filter.memory_bytes(), empty) << "nothing to remember";
  EXPECT_FALSE(filter.Admit(3, 4, 1));
  EXPECT_EQ(filter.filter.memory_bytes(), empty + 8000);
  EXPECT_FALSE(filter.filter.Digest("t") == Digest128());
  for (std::uint64_t version = 1; version <= 12; ++version) {
    filter.filter.EndVersion(version);
  }
  EXPECT_EQ(filter.filter.memory_bytes(), empty);
  EXPECT_EQ(filter.filter.Digest("t"), Digest128());
}

TEST(AdmissionTest, EachBucketsWindowComesOnceInItsTime) {
  for (const std::uint64_t window : {1ull, 2ull, 5ull, 64ull, 1000ull}) {
    AdmissionSpec spec = Spec(Kind::kSketch, 60000);
    spec.window_versions = window;
    spec.sketch_width = 1;
    Filter filter(spec, 20);
    for (Key key = 0; key < 2000; ++key) {
      filter.Admit(key, 1024, 1);
    }
    std::map<std::uint32_t, std::string> before;
    for (std::uint32_t bucket = 0; bucket < 20; ++bucket) {
      before[bucket] = filter.Saved(bucket);
    }
    std::map<std::uint32_t, std::uint64_t> halvings;
    std::uint64_t most_at_once = 0;
    for (std::uint64_t version = 3; version < 3 + 2 * window; ++version) {
      filter.filter.EndVersion(version);
      std::uint64_t at_once = 0;
      for (std::uint32_t bucket = 0; bucket < 20; ++bucket) {
        const std::string now = filter.Saved(bucket);
        if (now != before[bucket]) {
          ++halvings[bucket];
          ++at_once;
          before[bucket] = now;
        }
      }
      most_at_once = std::max(most_at_once, at_once);
    }
    for (std::uint32_t bucket = 0; bucket < 20; ++bucket) {
      EXPECT_EQ(halvings[bucket], 2u) << "window " << window << " bucket " << bucket;
    }
    EXPECT_LE(most_at_once, (20 + window - 1) / window);
  }
}

TEST(AdmissionTest, ProbabilityIsThatOfIndependentOccurrences) {
  AdmissionSpec spec = Spec(Kind::kProbability);
  spec.probability = 0.1;
  Filter filter(spec, 64);
  for (const std::uint64_t count : {1ull, 2ull, 5ull, 40ull}) {
    constexpr std::uint64_t kKeys = 40000;
    std::uint64_t admitted = 0;
    for (Key key = 0; key < kKeys; ++key) {
      admitted += filter.Admit(Mix64(key), count, 3 + count) ? 1 : 0;
    }
    const double p = 1 - std::pow(0.9, static_cast<double>(count));
    EXPECT_NEAR(static_cast<double>(admitted), p * kKeys, 4 * std::sqrt(p * (1 - p) * kKeys) + 1)
        << count;
  }
  spec.probability = 1;
  EXPECT_TRUE(Filter(spec, 1).Admit(7, 1, 1));
  EXPECT_EQ(filter.filter.key_count(), 0u);
  EXPECT_EQ(filter.filter.Digest("t"), Digest128());
  EXPECT_TRUE(filter.Saved(0).empty());
}

TEST(AdmissionTest, CountProbabilityAdmitsNineteenOfTwentyKeysByTheThreshold) {
  for (const std::uint32_t threshold : {1u, 2u, 10u}) {
    Filter filter(Spec(Kind::kCountProbability, threshold), 64);
    constexpr std::uint64_t kKeys = 20000;
    std::uint64_t admitted = 0;
    for (Key key = 0; key < kKeys; ++key) {
      bool admits = false;
      for (std::uint64_t version = 1; version <= threshold && !admits; ++version) {
        admits = filter.Admit(Mix64(key), 1, version);
      }
      admitted += admits ? 1 : 0;
    }
    EXPECT_NEAR(static_cast<double>(admitted), 0.95 * kKeys, 4 * std::sqrt(0.0475 * kKeys))
        << threshold;
  }
}

TEST(AdmissionTest, RefusalProbabilityIsTheRootWithoutLibm) {
  for (const std::uint32_t threshold : {1u, 2u, 3u, 7u, 100u, 12345u, 65535u}) {
    const double root = RefusalProbability(Spec(Kind::kCountProbability, threshold));
    EXPECT_NEAR(root, std::pow(0.05, 1.0 / threshold), 1e-14) << threshold;
    EXPECT_NEAR(std::pow(root, threshold), 0.05, 1e-9) << threshold;
  }
}

// Decisions that are fixed for ever: models depend on them.
TEST(AdmissionTest, DecisionsAreFixedForEver) {
  std::uint64_t bits = 0;
  for (const Kind kind :
       {Kind::kCount, Kind::kSketch, Kind::kProbability, Kind::kCountProbability}) {
    AdmissionSpec spec = Spec(kind, 4);
    spec.sketch_width = 64;
    spec.filter_keys = 1;
    spec.window_versions = 5;
    Filter filter(spec, 4);
    for (std::uint64_t version = 1; version <= 20; ++version) {
      for (const Occurrence& o : StepOf(version, 40)) {
        bits = Mix64(bits * 2 + (filter.Admit(o.key, o.count, version) ? 1 : 0) + 1);
      }
      filter.filter.EndVersion(version);
    }
    const Digest128 digest = filter.filter.Digest("t");
    bits = Mix64(bits ^ digest.low);
  }
  EXPECT_EQ(bits, 18101459211078035021u);
}

class AdmissionKindTest : public ::testing::TestWithParam<Kind> {
 protected:
  static constexpr std::uint32_t kBuckets = 32;

  AdmissionSpec SmallSpec() const {
    AdmissionSpec spec = Spec(GetParam(), 4);
    spec.filter_keys = kBuckets * 30;
    spec.sketch_width = kBuckets * 100;
    spec.window_versions = 9;
    spec.probability = 0.3;
    return spec;
  }
};

TEST_P(AdmissionKindTest, DecisionsDoNotDependOnWhoHasTheBuckets) {
  Filter whole(SmallSpec(), kBuckets);
  for (const std::uint32_t shards : {2u, 3u, 7u}) {
    Filter one(SmallSpec(), kBuckets);
    std::vector<std::unique_ptr<Filter>> parts;
    for (std::uint32_t s = 0; s < shards; ++s) {
      parts.push_back(std::make_unique<Filter>(SmallSpec(), kBuckets));
    }
    for (std::uint64_t version = 1; version <= 60; ++version) {
      const std::vector<Occurrence> step = StepOf(version, 300);
      std::map<Key, bool> expected;
      for (const Occurrence& o : step) {
        expected[o.key] = one.Admit(o.key, o.count, version);
      }
      for (std::uint32_t s = 0; s < shards; ++s) {
        for (const Occurrence& o : step) {
          if (BucketOfKey(o.key, kBuckets) % shards == s) {
            ASSERT_EQ(parts[s]->Admit(o.key, o.count, version), expected[o.key]);
          }
        }
        parts[s]->filter.EndVersion(version);
      }
      one.filter.EndVersion(version);
    }
    Digest128 sum;
    for (const auto& part : parts) {
      sum += part->filter.Digest("table");
    }
    EXPECT_EQ(sum, one.filter.Digest("table"));
    const bool has_state = GetParam() == Kind::kCount || GetParam() == Kind::kSketch;
    EXPECT_EQ(sum == Digest128(), !has_state);
    EXPECT_EQ(sum == one.filter.Digest("another"), !has_state);
  }
}

TEST_P(AdmissionKindTest, LoadedFilterGoesOnAsTheSavedOne) {
  Filter original(SmallSpec(), kBuckets);
  std::unique_ptr<Filter> other = std::make_unique<Filter>(SmallSpec(), kBuckets);
  for (std::uint64_t version = 1; version <= 90; ++version) {
    for (const Occurrence& o : StepOf(version, 300)) {
      const bool expected = original.Admit(o.key, o.count, version);
      if (version > 30) {
        ASSERT_EQ(other->Admit(o.key, o.count, version), expected);
      }
    }
    original.filter.EndVersion(version);
    other->filter.EndVersion(version);
    if (version == 30 || version == 60) {
      std::unique_ptr<Filter> loaded = std::make_unique<Filter>(SmallSpec(), kBuckets);
      // What is there already is replaced.
      loaded->Admit(12345, 2, 1);
      for (std::uint32_t bucket = 0; bucket < kBuckets; ++bucket) {
        ASSERT_TRUE(loaded->filter.Load(bucket, original.Saved(bucket)).ok());
        ASSERT_EQ(loaded->Saved(bucket), original.Saved(bucket));
      }
      EXPECT_LE(loaded->filter.memory_bytes(), original.filter.memory_bytes());
      other = std::move(loaded);
    }
  }
  EXPECT_EQ(other->filter.Digest("t"), original.filter.Digest("t"));
}

INSTANTIATE_TEST_SUITE_P(Kinds, AdmissionKindTest,
                         ::testing::Values(Kind::kCount, Kind::kSketch, Kind::kProbability,
                                           Kind::kCountProbability));

TEST(AdmissionTest, LoadRefusesWhatIsNotItsOwn) {
  AdmissionSpec spec = Spec(Kind::kCount, 9);
  Filter count(spec, 8);
  Filter sketch(Spec(Kind::kSketch, 9), 8);
  for (Key key = 0; key < 400; ++key) {
    count.Admit(key, 1, 1);
    sketch.Admit(key, 1, 1);
  }
  const std::string keys = count.Saved(3);
  const std::string counters = sketch.Saved(3);
  const auto code = [](Filter* filter, std::uint32_t bucket, const std::string& bytes) {
    const std::string before = filter->Saved(bucket);
    const Status status = filter->filter.Load(bucket, bytes);
    EXPECT_TRUE(status.ok() || filter->Saved(bucket) == before);
    return status.code();
  };
  EXPECT_EQ(code(&count, 3, keys), StatusCode::kOk);
  EXPECT_EQ(code(&count, 4, keys), StatusCode::kDataLoss) << "keys of another bucket";
  EXPECT_EQ(code(&count, 3, counters), StatusCode::kFailedPrecondition);
  EXPECT_EQ(code(&sketch, 3, keys), StatusCode::kFailedPrecondition);
  EXPECT_EQ(code(&sketch, 3, counters), StatusCode::kOk);
  for (std::size_t size = 1; size < keys.size(); size += 7) {
    EXPECT_NE(code(&count, 3, keys.substr(0, size)), StatusCode::kOk);
  }
  EXPECT_EQ(code(&sketch, 3, counters + "x"), StatusCode::kDataLoss);
  std::string twice = keys;
  twice.replace(24, 16, keys, 8, 16);
  EXPECT_EQ(code(&count, 3, twice), StatusCode::kDataLoss);
  spec.filter_keys = 1;
  Filter narrow(spec, 8);
  EXPECT_EQ(code(&narrow, 3, keys), StatusCode::kFailedPrecondition);
  Filter none(Spec(Kind::kProbability), 8);
  EXPECT_EQ(code(&none, 3, ""), StatusCode::kOk);
  EXPECT_EQ(code(&none, 3, keys), StatusCode::kFailedPrecondition);
}

TEST(AdmissionTest, MemoryIsBoundedUnderAMillionDistinctKeys) {
  constexpr std::uint32_t kBuckets = 64;
  AdmissionSpec spec = Spec(Kind::kCount, 2);
  spec.filter_keys = 100000;
  spec.sketch_width = 100000;
  Filter count(spec, kBuckets);
  spec.kind = Kind::kSketch;
  spec.threshold = 65535;
  Filter sketch(spec, kBuckets);
  EXPECT_LE(count.filter.memory_bytes(), 16u * kBuckets);
  std::uint64_t most = 0;
  for (std::uint64_t i = 0; i < 1000000; ++i) {
    ASSERT_FALSE(count.Admit(Mix64(i), 1, i / 1000));
    sketch.Admit(Mix64(i), 1, i / 1000);
    if (i % 50000 == 0) {
      most = std::max(most, count.filter.memory_bytes());
    }
  }
  most = std::max(most, count.filter.memory_bytes());
  const std::uint64_t per_bucket = spec.filter_keys / kBuckets;
  EXPECT_LE(most, kBuckets * (16 + (per_bucket * 4 + 2) / 3 * 16 + 16));
  EXPECT_LE(count.filter.key_count(), spec.filter_keys);
  EXPECT_GE(count.filter.key_count(), kBuckets * (per_bucket - per_bucket / 4));
  EXPECT_EQ(count.filter.counters().forgotten + count.filter.key_count(), 1000000u);
  EXPECT_EQ(sketch.filter.memory_bytes(), kBuckets * (8 + per_bucket * 8));
}

}  // namespace
}  // namespace plexus
