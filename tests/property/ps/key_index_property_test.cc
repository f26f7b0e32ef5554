// KeyIndex against std::unordered_map: random operations on keys that are spread, skewed, or
// crafted to crowd, through growing and shrinking. Repeat one run with --gtest_random_seed=N.
#include <algorithm>
#include <string>
#include <unordered_map>
#include <vector>

#include <gtest/gtest.h>

#include "common/random.h"
#include "ps/table/key_index.h"

namespace plexus {
namespace {

std::uint64_t Seed() {
  const int seed = ::testing::UnitTest::GetInstance()->random_seed();
  return seed == 0 ? 1 : static_cast<std::uint64_t>(seed);
}

// Draws in sequence from a CounterRandom.
class Draws {
 public:
  explicit Draws(std::uint64_t stream) : random_(Seed(), stream) {}
  std::uint64_t Bits() { return random_.Bits(next_++); }
  std::uint64_t Below(std::uint64_t bound) { return random_.Below(next_++, bound); }

 private:
  CounterRandom random_;
  std::uint64_t next_ = 0;
};

// The key whose Mix64 is `hash`: each line undoes one of its, from the last to the first.
Key KeyOfHash(std::uint64_t hash) {
  std::uint64_t x = hash;
  x ^= x >> 31 ^ x >> 62;
  x *= 0x319642b2d24d8ec3ULL;  // The inverse of 0x94d049bb133111eb modulo 2^64.
  x ^= x >> 27 ^ x >> 54;
  x *= 0x96de1b173f119089ULL;  // Of 0xbf58476d1ce4e5b9.
  x ^= x >> 30 ^ x >> 60;
  return x;
}

TEST(KeyOfHashTest, UndoesMix64) {
  Draws draws(1);
  for (int i = 0; i < 1000; ++i) {
    const std::uint64_t hash = draws.Bits();
    ASSERT_EQ(Mix64(KeyOfHash(hash)), hash);
  }
}

// How keys of a run are drawn from `universe` many.
struct Keys {
  std::string name;
  std::uint64_t universe;
  Key (*key_of)(std::uint64_t i, std::uint64_t universe);
};

// Bits of `i` that look random, but are always the same.
std::uint64_t Scatter(std::uint64_t i) { return Mix64(i + 0x9e3779b97f4a7c15ULL); }

// Around the first hash of a group, in each of the sizes that a small index goes through.
Key KeyAtEdge(std::uint64_t i, std::uint64_t) {
  const std::uint64_t pages = 1 + i % 10;
  const std::uint64_t groups = 32 * pages - std::min<std::uint64_t>(2 * pages, 32);
  const std::uint64_t group = Scatter(i) % groups;
  const auto first = static_cast<std::uint64_t>(
      ((static_cast<unsigned __int128>(group) << 64) + groups - 1) / groups);
  return KeyOfHash(first + i / 10 % 3 - 1);
}

const Keys kKeys[] = {
    {"Edges", 2500, KeyAtEdge},
    {"Small", 300, [](std::uint64_t i, std::uint64_t) { return Key{i}; }},
    {"Sequential", 200000, [](std::uint64_t i, std::uint64_t) { return Key{i}; }},
    {"Uniform", 150000, [](std::uint64_t i, std::uint64_t) { return Key{Scatter(i)}; }},
    // Few home groups, far apart, each with a long run behind it.
    {"Crowds", 60000,
     [](std::uint64_t i, std::uint64_t) { return KeyOfHash(Scatter(i % 97) + i); }},
    // All in the last homes: they pass the end of the array as it was made.
    {"AllAtTheEnd", 3000, [](std::uint64_t i, std::uint64_t) { return KeyOfHash(~i); }},
    {"AllAtTheFront", 3000, [](std::uint64_t i, std::uint64_t) { return KeyOfHash(i); }},
    // A quarter of all hashes is twice as full as the rest.
    {"Slope", 150000,
     [](std::uint64_t i, std::uint64_t) {
       const std::uint64_t hash = Scatter(i);
       return KeyOfHash(hash % 5 < 2 ? hash / 4 : hash);
     }},
};

class KeyIndexPropertyTest : public ::testing::TestWithParam<Keys> {
 protected:
  struct Row {
    std::uint32_t last_step = 0;
    std::uint32_t place = 0;
    bool operator==(const Row&) const = default;
  };

  Slot* Find(Key key) { return index_.Find(key, index_.Prefetch(key)); }

  void Insert(Key key, std::uint32_t place) {
    bool inserted = false;
    Slot* slot = index_.FindOrInsert(key, index_.Prefetch(key), &inserted);
    ASSERT_NE(slot, nullptr);
    ASSERT_EQ(slot->key, key);
    ASSERT_EQ(inserted, rows_.find(key) == rows_.end());
    if (inserted) {
      ASSERT_EQ(slot->place, 0u);
      ASSERT_EQ(slot->last_step, 0u);
    } else {
      ASSERT_EQ((Row{slot->last_step, slot->place}), rows_[key]);
    }
    slot->place = place;
    slot->last_step = place ^ 5;
    rows_[key] = {place ^ 5, place};
  }

  void Check(Key key) {
    const auto row = rows_.find(key);
    Slot* slot = Find(key);
    ASSERT_EQ(slot != nullptr, row != rows_.end());
    if (slot != nullptr) {
      ASSERT_EQ(slot->key, key);
      ASSERT_EQ((Row{slot->last_step, slot->place}), row->second);
    }
  }

  void Erase(Key key) {
    if (Slot* slot = Find(key); slot != nullptr) {
      index_.Erase(slot);
      ASSERT_EQ(rows_.erase(key), 1u);
    } else {
      ASSERT_EQ(rows_.find(key), rows_.end());
    }
  }

  void CheckAll() {
    ASSERT_EQ(index_.row_count(), rows_.size());
    for (const auto& [key, row] : rows_) {
      const Slot* slot = Find(key);
      ASSERT_NE(slot, nullptr) << key;
      ASSERT_EQ((Row{slot->last_step, slot->place}), row);
    }
    std::uint64_t visited = 0;
    index_.ForEach([&](const Slot& slot) { visited += rows_.contains(slot.key); });
    ASSERT_EQ(visited, rows_.size());
  }

  // Ranges of hashes partition the rows, and a visit may write.
  void CheckRanges(std::uint64_t ranges, std::uint64_t salt) {
    std::uint64_t visited = 0;
    for (std::uint64_t r = 0; r < ranges; ++r) {
      const unsigned __int128 whole = static_cast<unsigned __int128>(1) << 64;
      const auto first = static_cast<std::uint64_t>((whole * r + ranges - 1) / ranges);
      const auto last = static_cast<std::uint64_t>((whole * (r + 1) + ranges - 1) / ranges - 1);
      index_.ForEachBetween(first, last, [&](Slot& slot) {
        ++visited;
        const std::uint64_t hash = Mix64(slot.key);
        EXPECT_TRUE(first <= hash && hash <= last);
        const auto row = rows_.find(slot.key);
        ASSERT_NE(row, rows_.end());
        EXPECT_EQ((Row{slot.last_step, slot.place}), row->second);
        slot.place = static_cast<std::uint32_t>((slot.key ^ salt) % 1000000 + 1);
        row->second.place = slot.place;
      });
    }
    ASSERT_EQ(visited, rows_.size());
  }

  KeyIndex index_;
  std::unordered_map<Key, Row> rows_;
  std::uint64_t migrating_checks_ = 0;
};

TEST_P(KeyIndexPropertyTest, HoldsWhatAMapHolds) {
  constexpr std::uint64_t kPhases = 10;
  constexpr std::uint64_t kOperations = 20000;
  Draws draws(2);
  const auto draw_key = [&] {
    // Half of the draws from the first tenth.
    const std::uint64_t universe = GetParam().universe;
    const std::uint64_t i = draws.Below(draws.Below(2) == 0 ? universe / 10 : universe);
    return GetParam().key_of(i, universe);
  };
  for (std::uint64_t phase = 0; phase < kPhases; ++phase) {
    // Of 16 operations so many insert and erase: it grows, stays, and falls.
    const std::uint64_t inserts[] = {12, 5, 1};
    const std::uint64_t insert_share = inserts[phase % 3];
    for (std::uint64_t i = 0; i < kOperations; ++i) {
      const std::uint64_t what = draws.Below(16);
      if (what < insert_share) {
        Insert(draw_key(), static_cast<std::uint32_t>(draws.Below(0xfffffffe) + 1));
      } else if (what < 13 && phase % 3 != 0) {
        Erase(draw_key());
      } else if (what < 15) {
        Check(draw_key());
      } else if (draws.Below(100) == 0) {
        index_.Maintain();
      }
      if (HasFatalFailure()) {
        return;
      }
      if (i % 2500 == 0) {
        CheckAll();
        CheckRanges(1 + draws.Below(40), draws.Bits());
        migrating_checks_ += index_.migrating();
      }
    }
  }
}

// Every key comes, then every key goes, in another order: all sizes on the way, both ways.
TEST_P(KeyIndexPropertyTest, GrowsAndShrinksKeyByKey) {
  std::vector<Key> keys;
  const std::uint64_t universe = std::min<std::uint64_t>(GetParam().universe, 40000);
  for (std::uint64_t i = 0; i < universe; ++i) {
    keys.push_back(GetParam().key_of(i, GetParam().universe));
  }
  std::sort(keys.begin(), keys.end());
  keys.erase(std::unique(keys.begin(), keys.end()), keys.end());
  Draws draws(3);
  const auto shuffle = [&] {
    for (std::uint64_t i = keys.size(); i > 1; --i) {
      std::swap(keys[i - 1], keys[draws.Below(i)]);
    }
  };
  const std::uint64_t check_every = keys.size() / 25 + 1;
  for (int round = 0; round < 2; ++round) {
    shuffle();
    for (std::uint64_t i = 0; i < keys.size(); ++i) {
      Insert(keys[i], static_cast<std::uint32_t>(i + 1));
      if (i % check_every == 0) {
        CheckAll();
        CheckRanges(7, i);
      }
    }
    shuffle();
    for (std::uint64_t i = 0; i < keys.size(); ++i) {
      Erase(keys[i]);
      if (i % check_every == 0) {
        CheckAll();
        CheckRanges(7, i);
      }
    }
    ASSERT_EQ(index_.row_count(), 0u);
    for (std::uint64_t bytes = 0; bytes != index_.memory_bytes() || index_.migrating();) {
      bytes = index_.memory_bytes();
      index_.Maintain();
    }
    // One page, and one for keys that passed its end.
    EXPECT_LE(index_.memory_bytes(), 8192u);
  }
}

INSTANTIATE_TEST_SUITE_P(Keys, KeyIndexPropertyTest, ::testing::ValuesIn(kKeys),
                         [](const auto& param_info) { return param_info.param.name; });

}  // namespace
}  // namespace plexus
