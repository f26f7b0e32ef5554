#include "ps/table/hybrid_sketch.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <map>
#include <set>
#include <string>
#include <vector>

#include <gtest/gtest.h>

#include "common/random.h"

namespace plexus {
namespace {

constexpr std::uint32_t kGroup = 0;

// Adds to a sketch and promotes whom it may; places count up from 1.
struct Bucket {
  explicit Bucket(std::uint32_t groups, float threshold = 10, float decay = 0.5f)
      : options{threshold, decay}, sketch(groups, &options) {}

  void Add(Key key, float importance, std::uint32_t group = kGroup) {
    HybridSketch::Slot* slot = sketch.Add(key, group, importance);
    if (slot != nullptr && sketch.MayPromote(*slot)) {
      sketch.Promote(slot, ++places);
    }
  }
  std::vector<std::uint32_t> Decay() {
    std::vector<std::uint32_t> demoted;
    sketch.Decay([&](const HybridSketch::Slot& slot) { demoted.push_back(slot.place); });
    return demoted;
  }
  // -1: no slot.
  float ScoreOf(Key key, std::uint32_t group = kGroup) const {
    const HybridSketch::Slot* slot = sketch.Find(key, group);
    return slot == nullptr ? -1.0f : slot->score;
  }
  bool IsExact(Key key, std::uint32_t group = kGroup) const {
    const HybridSketch::Slot* slot = sketch.Find(key, group);
    return slot != nullptr && slot->place != 0;
  }
  std::string Saved() const {
    std::string bytes;
    sketch.Save(&bytes);
    return bytes;
  }

  HybridSketchOptions options;
  HybridSketch sketch;
  std::uint32_t places = 0;
};

TEST(HybridAddressesTest, UnmixIsTheInverseOfMix) {
  for (std::uint64_t i = 0; i < 1000; ++i) {
    const std::uint64_t x = i < 10 ? i : CounterRandom(1, 2).Bits(i);
    ASSERT_EQ(Mix64(UnmixHash(x)), x);
    ASSERT_EQ(UnmixHash(Mix64(x)), x);
  }
}

TEST(HybridAddressesTest, KeysLieInTheirBucketAndSharesAddUp) {
  for (const std::uint32_t buckets : {1u, 3u, 64u, 1000u}) {
    for (const std::uint64_t rows : {1ull, 63ull, 64ull, 12345ull}) {
      HybridSpec spec;
      spec.exact_rows = rows;
      spec.shared_rows = 2 * rows + 1;
      const HybridAddresses addresses(spec, buckets);
      std::uint64_t exact = 0;
      std::uint64_t shared = 0;
      for (std::uint32_t b = 0; b < buckets; ++b) {
        EXPECT_EQ(addresses.first_shared(b), shared);
        EXPECT_GE(addresses.exact_rows(b), 1u);
        exact += addresses.exact_rows(b);
        shared += addresses.shared_rows(b);
        const std::uint32_t last = addresses.shared_rows(b) - 1;
        for (const std::uint32_t row : {0u, last}) {
          const Key key = addresses.SharedKey(b, row);
          ASSERT_EQ(BucketOfKey(key, buckets), b);
          ASSERT_TRUE(addresses.IsShared(Mix64(key), b));
          ASSERT_EQ(addresses.SharedRow(Mix64(key), b), row);
        }
        ASSERT_FALSE(addresses.IsShared(Mix64(addresses.SharedKey(b, last)) + 1, b));
      }
      EXPECT_EQ(exact, std::max<std::uint64_t>(rows, buckets));
      EXPECT_EQ(shared, std::max<std::uint64_t>(2 * rows + 1, buckets));
      for (Key key = 0; key < 1000; ++key) {
        const HybridAddresses::Address address = addresses.Of(Mix64(key));
        ASSERT_EQ(address.bucket, BucketOfKey(key, buckets));
        ASSERT_LT(address.group, addresses.exact_rows(address.bucket));
        ASSERT_LT(address.shared, addresses.shared_rows(address.bucket));
      }
    }
  }
}

// Keys spread evenly, and two keys of one group share a row no more often than others.
TEST(HybridAddressesTest, GroupAndSharedRowAreIndependent) {
  HybridSpec spec;
  spec.exact_rows = 4 * 8;
  spec.shared_rows = 4 * 8;
  const HybridAddresses addresses(spec, 4);
  std::map<std::vector<std::uint32_t>, int> cells;
  constexpr int kKeys = 4 * 8 * 8 * 100;
  for (Key key = 0; key < kKeys; ++key) {
    const HybridAddresses::Address address = addresses.Of(Mix64(key));
    ++cells[{address.bucket, address.group, address.shared}];
  }
  EXPECT_EQ(cells.size(), 4u * 8 * 8);
  double chi_square = 0;
  for (const auto& [cell, count] : cells) {
    chi_square += (count - 100.0) * (count - 100.0) / 100.0;
  }
  EXPECT_LT(chi_square, 255 + 5 * std::sqrt(2.0 * 255));
}

TEST(HybridSketchTest, KeyIsHotExactlyAtTheThreshold) {
  for (const float importance : {0.5f, 1.0f, 2.5f, 4.0f}) {
    Bucket bucket(3);
    const int pushes = static_cast<int>(std::ceil(10 / importance));
    for (int i = 1; i <= pushes; ++i) {
      EXPECT_FALSE(bucket.IsExact(77));
      bucket.Add(77, importance);
      EXPECT_EQ(bucket.ScoreOf(77), importance * static_cast<float>(i));
    }
    EXPECT_TRUE(bucket.IsExact(77));
    EXPECT_EQ(bucket.sketch.exact_count(), 1u);
  }
}

TEST(HybridSketchTest, AnyKeyAndNoImportance) {
  Bucket bucket(1);
  EXPECT_EQ(bucket.sketch.memory_bytes(), 0u);
  for (const float nothing : {0.0f, -1.0f, std::numeric_limits<float>::quiet_NaN()}) {
    bucket.Add(5, nothing);
  }
  EXPECT_EQ(bucket.sketch.memory_bytes(), 0u);
  EXPECT_TRUE(bucket.Saved().empty());
  EXPECT_EQ(bucket.ScoreOf(0), -1);
  bucket.Add(0, 1);
  bucket.Add(~Key{0}, 2);
  EXPECT_EQ(bucket.ScoreOf(0), 1);
  EXPECT_EQ(bucket.ScoreOf(~Key{0}), 2);
  EXPECT_EQ(bucket.sketch.memory_bytes(), 64u);
}

TEST(HybridSketchTest, LightKeysNeverDisplaceHotOnes) {
  Bucket bucket(4);
  for (Key key = 1; key <= 4; ++key) {
    bucket.Add(key, 10.0f + static_cast<float>(key));
  }
  for (Key key = 100; key < 1100; ++key) {
    bucket.Add(key, 9);
    EXPECT_EQ(bucket.ScoreOf(key), -1);
  }
  for (Key key = 1; key <= 4; ++key) {
    EXPECT_TRUE(bucket.IsExact(key));
    EXPECT_EQ(bucket.ScoreOf(key), 10.0f + static_cast<float>(key));
  }
}

TEST(HybridSketchTest, NewcomerTakesTheWeakestSlotWithItsScore) {
  Bucket bucket(4);
  bucket.Add(1, 3);
  bucket.Add(2, 20);
  bucket.Add(3, 5);
  bucket.Add(4, 4);
  bucket.Add(9, 0.5f);
  EXPECT_EQ(bucket.ScoreOf(1), -1);
  EXPECT_EQ(bucket.ScoreOf(9), 3.5f);
  bucket.Add(10, 7);  // Early, as the paper has it.
  EXPECT_EQ(bucket.ScoreOf(9), -1);
  EXPECT_EQ(bucket.ScoreOf(10), 10.5f);
  EXPECT_TRUE(bucket.IsExact(10));
}

TEST(HybridSketchTest, DecayFreesRowsBelowTheThreshold) {
  Bucket bucket(3);
  bucket.Add(1, 40);
  bucket.Add(2, 19);
  bucket.Add(3, 12, 1);
  EXPECT_EQ(bucket.sketch.exact_count(), 3u);
  bucket.Add(4, 50, 2);
  EXPECT_FALSE(bucket.IsExact(4, 2)) << "no row is left";
  EXPECT_EQ(bucket.Decay(), (std::vector<std::uint32_t>{2, 3}));
  EXPECT_TRUE(bucket.IsExact(1));
  EXPECT_FALSE(bucket.IsExact(2));
  EXPECT_EQ(bucket.ScoreOf(2), 9.5f) << "it keeps its slot";
  EXPECT_FALSE(bucket.IsExact(4, 2)) << "rows are given at a push";
  bucket.Add(4, 1, 2);
  EXPECT_TRUE(bucket.IsExact(4, 2));
  bucket.Add(2, 0.5f);
  EXPECT_TRUE(bucket.IsExact(2));
  EXPECT_EQ(bucket.sketch.exact_count(), 3u);
  EXPECT_EQ(bucket.places, 5u);
}

TEST(HybridSketchTest, DecayIsDueByImportanceSeen) {
  Bucket bucket(3);  // 10 * 3 * 10.
  for (int i = 0; i < 300; ++i) {
    EXPECT_FALSE(bucket.sketch.DecayIsDue());
    bucket.Add(static_cast<Key>(i), 1);
  }
  EXPECT_FALSE(bucket.sketch.DecayIsDue());
  bucket.Add(1, 0.5f);
  EXPECT_TRUE(bucket.sketch.DecayIsDue());
  bucket.Decay();
  EXPECT_FALSE(bucket.sketch.DecayIsDue());
}

TEST(HybridSketchTest, ScoresVanishInTheEnd) {
  Bucket bucket(1);
  bucket.Add(1, 1e6f);
  for (int i = 0; i < 300; ++i) {
    bucket.Decay();
  }
  EXPECT_EQ(bucket.ScoreOf(1), -1);
  EXPECT_EQ(bucket.sketch.exact_count(), 0u);
  bucket.Add(2, 1);
  EXPECT_EQ(bucket.ScoreOf(2), 1);
}

TEST(HybridSketchTest, AnOccurrenceAddsOneOnAverage) {
  Bucket bucket(10);
  const CounterRandom random(3, 4);
  double importance = 0;
  double occurrences = 0;
  for (std::uint64_t i = 0; i < 5000; ++i) {
    const std::uint64_t count = 1 + random.Below(2 * i, 4);
    // Gradients that shrink tenfold.
    const float norm =
        (0.5f + random.Uniform(2 * i + 1)) * static_cast<float>(count) * (i < 2000 ? 1e-3f : 1e-4f);
    const float v = bucket.sketch.ImportanceOf(norm, count);
    bucket.Add(i, v);
    if (bucket.sketch.DecayIsDue()) {
      bucket.Decay();
    }
    if (i < 2000 || i >= 3000) {
      importance += v;
      occurrences += static_cast<double>(count);
    }
  }
  EXPECT_NEAR(importance / occurrences, 1, 0.15);
}

TEST(HybridSketchTest, NormsThatAreNoneCountNothing) {
  Bucket bucket(1);
  EXPECT_EQ(bucket.sketch.ImportanceOf(0, 1), 0);
  EXPECT_EQ(bucket.sketch.ImportanceOf(std::numeric_limits<float>::infinity(), 1), 0);
  EXPECT_EQ(bucket.sketch.ImportanceOf(std::numeric_limits<float>::quiet_NaN(), 1), 0);
  EXPECT_EQ(bucket.sketch.ImportanceOf(2, 1), 4) << "of all four occurrences";
  EXPECT_EQ(bucket.sketch.ImportanceOf(std::numeric_limits<float>::max(), 1), 5);
}

// Scores of a group as one would keep them: a list, sorted after each change.
class NaiveGroup {
 public:
  void Add(Key key, float importance, float threshold) {
    auto at = std::find_if(slots_.begin(), slots_.end(), [&](auto& s) { return s.first == key; });
    if (at == slots_.end() && slots_.size() < 4) {
      at = slots_.insert(slots_.end(), {key, 0.0f});
    }
    if (at == slots_.end()) {
      at = slots_.end() - 1;
      if (at->second >= threshold) {
        return;
      }
      at->first = key;
    }
    at->second += importance;
    std::stable_sort(slots_.begin(), slots_.end(),
                     [](auto& a, auto& b) { return a.second > b.second; });
  }
  std::vector<std::pair<Key, float>>& slots() { return slots_; }

 private:
  std::vector<std::pair<Key, float>> slots_;
};

TEST(HybridSketchTest, EqualsTheNaiveGroups) {
  constexpr std::uint32_t kGroups = 5;
  Bucket bucket(kGroups, 8, 0.6f);
  std::vector<NaiveGroup> naive(kGroups);
  std::set<Key> rows;
  const CounterRandom random(8, 9);
  for (std::uint64_t i = 0; i < 100000; ++i) {
    const Key key = i / 100 + random.Below(3 * i, 1 + random.Below(3 * i + 1, 60));
    const auto group = static_cast<std::uint32_t>(Mix64(key) % kGroups);
    const float importance = static_cast<float>(1 + random.Below(3 * i + 2, 8)) / 4;
    bucket.Add(key, importance, group);
    naive[group].Add(key, importance, 8);
    for (const auto& [slot_key, score] : naive[group].slots()) {
      if (slot_key == key && score >= 8 && rows.size() < kGroups) {
        rows.insert(key);
      }
    }
    if (bucket.sketch.DecayIsDue()) {
      bucket.Decay();
      for (NaiveGroup& g : naive) {
        for (auto& [slot_key, score] : g.slots()) {
          score *= 0.6f;
          if (score < 8) {
            rows.erase(slot_key);
          }
        }
      }
    }
    for (const auto& [slot_key, score] : naive[group].slots()) {
      ASSERT_EQ(bucket.ScoreOf(slot_key, group), score);
      ASSERT_EQ(bucket.IsExact(slot_key, group), rows.count(slot_key) > 0);
    }
    ASSERT_EQ(bucket.sketch.exact_count(), rows.size());
  }
  EXPECT_GT(bucket.places, 100u) << "keys came and went";
}

class HybridSketchFileTest : public ::testing::Test {
 protected:
  static constexpr std::uint32_t kBuckets = 2;

  HybridSketchFileTest() : addresses_(Spec(), kBuckets) {}

  static HybridSpec Spec() {
    HybridSpec spec;
    spec.exact_rows = 10 * kBuckets;
    spec.shared_rows = kBuckets;
    return spec;
  }
  void Fill(Bucket* bucket, std::uint64_t from, std::uint64_t to) {
    for (Key key = from; key < to; ++key) {
      const HybridAddresses::Address address = addresses_.Of(Mix64(key % 200));
      const float norm = 1 + static_cast<float>(key % 13);
      if (address.bucket == 1) {
        bucket->Add(key % 200, bucket->sketch.ImportanceOf(norm, 1 + key % 3), address.group);
        if (bucket->sketch.DecayIsDue()) {
          bucket->Decay();
        }
      }
    }
  }
  Status Load(const std::string& bytes, Bucket* bucket, std::uint32_t number = 1) {
    return bucket->sketch.Load(bytes, addresses_, number, [&](Key) { return ++bucket->places; });
  }

  HybridAddresses addresses_;
};

TEST_F(HybridSketchFileTest, LoadedSketchGoesOnAsTheSavedOne) {
  Bucket original(10);
  Fill(&original, 0, 3000);
  ASSERT_GT(original.sketch.exact_count(), 0u);
  Bucket loaded(10);
  loaded.Add(3, 100);
  ASSERT_TRUE(Load(original.Saved(), &loaded).ok());
  EXPECT_EQ(loaded.Saved(), original.Saved());
  EXPECT_EQ(loaded.sketch.exact_count(), original.sketch.exact_count());
  Fill(&original, 3000, 9000);
  Fill(&loaded, 3000, 9000);
  EXPECT_EQ(loaded.Saved(), original.Saved());
  ASSERT_TRUE(Load("", &loaded).ok());
  EXPECT_TRUE(loaded.Saved().empty());
}

TEST_F(HybridSketchFileTest, LoadRefusesWhatCannotBe) {
  Bucket original(10);
  Fill(&original, 0, 3000);
  const std::string bytes = original.Saved();
  Bucket other(10);
  other.Add(5, 1);
  const std::string before = other.Saved();
  for (std::size_t size = 1; size < bytes.size(); size += 5) {
    EXPECT_EQ(Load(bytes.substr(0, size), &other).code(), StatusCode::kDataLoss) << size;
  }
  EXPECT_EQ(Load(bytes, &other, 0).code(), StatusCode::kDataLoss) << "another bucket";
  Bucket wider(11);
  EXPECT_EQ(Load(bytes, &wider).code(), StatusCode::kFailedPrecondition);
  const auto damaged = [&](std::size_t at, std::size_t size, const void* with) {
    std::string copy = bytes;
    copy.replace(at, size, static_cast<const char*>(with), size);
    return Load(copy, &other).code();
  };
  const std::size_t slot = 32;
  const float nan = std::numeric_limits<float>::quiet_NaN();
  const float small = 1e-9f;
  const std::uint32_t two = 2;
  const double minus = -1;
  EXPECT_EQ(damaged(slot + 8, 4, &nan), StatusCode::kDataLoss);
  EXPECT_EQ(damaged(slot + 8, 4, &small), StatusCode::kDataLoss);
  EXPECT_EQ(damaged(slot + 12, 4, &two), StatusCode::kDataLoss);
  EXPECT_EQ(damaged(8, 8, &minus), StatusCode::kDataLoss);
  EXPECT_EQ(damaged(slot, 8, bytes.data() + slot + 16), StatusCode::kDataLoss) << "a key twice";
  EXPECT_EQ(other.Saved(), before);
}

TEST_F(HybridSketchFileTest, RowsMayComeBeforeTheSketch) {
  Bucket original(10);
  Fill(&original, 0, 3000);
  Bucket loaded(10);
  original.sketch.ForEachExact([&](const HybridSketch::Slot& slot) {
    EXPECT_TRUE(loaded.sketch.AddExact(slot.key, addresses_.Of(Mix64(slot.key)).group, 7));
  });
  EXPECT_EQ(loaded.sketch.exact_count(), original.sketch.exact_count());
  Bucket full(1);
  EXPECT_TRUE(full.sketch.AddExact(1, 0, 1));
  EXPECT_FALSE(full.sketch.AddExact(2, 0, 2)) << "one exact row";
  ASSERT_TRUE(Load(original.Saved(), &loaded).ok());
  EXPECT_EQ(loaded.Saved(), original.Saved());
}

}  // namespace
}  // namespace plexus
