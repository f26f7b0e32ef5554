// Addresses: vectors that never change, and what each kind promises of them; combining and
// spreading against loops over elements.
#include "worker/addresser.h"

#include <bit>
#include <cmath>
#include <map>
#include <set>
#include <vector>

#include <gtest/gtest.h>

#include "tests/unit/proto/draws.h"

namespace plexus {
namespace {

AddresserSpec Spec(proto::Addresser::Kind kind, std::uint64_t rows, std::uint32_t dim) {
  return {.kind = kind, .rows = rows, .dim = dim, .remainders = rows / 2, .piece = dim, .salt = 9};
}

std::vector<Piece> PiecesOf(const AddresserSpec& spec, Key key) {
  std::vector<Piece> pieces;
  Addresser(spec).AppendPieces(key, &pieces);
  return pieces;
}

Combination Combine(const AddresserSpec& spec, const std::vector<Key>& keys) {
  Combination combination;
  combination.begin.push_back(0);
  for (const Key key : keys) {
    Addresser(spec).AppendPieces(key, &combination.pieces);
    combination.begin.push_back(static_cast<std::uint32_t>(combination.pieces.size()));
  }
  return combination;
}

std::vector<float> VectorOf(const AddresserSpec& spec, const std::vector<float>& rows, Key key) {
  std::vector<float> vector(spec.dim);
  CombineRows(Combine(spec, {key}), rows.data(), spec.dim, spec.dim, vector.data());
  return vector;
}

// Element by element, from the definition.
std::vector<double> NaiveVectors(const Combination& combination, const std::vector<float>& rows,
                                 std::size_t dim, std::size_t width) {
  std::vector<double> vectors(combination.vectors() * width, 0.0);
  for (std::size_t v = 0; v < combination.vectors(); ++v) {
    for (std::size_t p = combination.begin[v]; p < combination.begin[v + 1]; ++p) {
      const Piece& piece = combination.pieces[p];
      for (std::size_t i = 0; i < piece.length; ++i) {
        vectors[v * width + piece.target + i] +=
            static_cast<double>(piece.coefficient) * rows[piece.row * dim + piece.source + i];
      }
    }
  }
  return vectors;
}

// Sixteenths, so that sums of a few are exact.
std::vector<float> Sixteenths(Draws* draws, std::size_t count) {
  std::vector<float> floats;
  for (; count > 0; --count) {
    floats.push_back(static_cast<float>(static_cast<int>(draws->Below(129)) - 64) / 16);
  }
  return floats;
}

AddresserSpec RandomSpec(Draws* draws) {
  const std::uint32_t pieces[] = {1, 2, 4, 8};
  const std::uint32_t piece = pieces[draws->Below(4)];
  AddresserSpec spec;
  spec.kind = static_cast<proto::Addresser::Kind>(draws->Below(4));
  spec.rows = 2 + draws->Below(50);
  spec.piece = piece;
  spec.dim = piece * static_cast<std::uint32_t>(1 + draws->Below(5));
  spec.remainders = 1 + draws->Below(spec.rows - 1);
  spec.salt = draws->Bits();
  return spec;
}

TEST(AddresserTest, AddressesAreFixedForEver) {
  const auto text = [](const AddresserSpec& spec, Key key) {
    std::string all;
    for (const Piece& piece : PiecesOf(spec, key)) {
      all += std::to_string(piece.row) + "[" + std::to_string(piece.source) + "+" +
             std::to_string(piece.length) + "]" + (piece.coefficient < 0 ? "-" : "+") + ">" +
             std::to_string(piece.target) + " ";
    }
    return all;
  };
  constexpr std::uint64_t kRows = 1000003;
  EXPECT_EQ(text(Spec(proto::Addresser::HASH, kRows, 16), ~0ULL), "350686[0+16]+>0 ");
  EXPECT_EQ(text(Spec(proto::Addresser::DOUBLE_HASH, kRows, 16), 0),
            "327524[0+16]+>0 265011[0+16]+>0 ");
  EXPECT_EQ(text(Spec(proto::Addresser::DOUBLE_HASH, kRows, 16), 12345),
            "362857[0+16]+>0 873154[0+16]+>0 ");
  EXPECT_EQ(text(Spec(proto::Addresser::QUOTIENT_REMAINDER, kRows, 16), 12345),
            "124311[0+16]+>0 762216[0+16]+>0 ");
  AddresserSpec robe = Spec(proto::Addresser::ROBE, kRows, 16);
  EXPECT_EQ(text(robe, 12345), "460179[14+2]+>0 460180[0+14]+>2 ");
  robe.piece = 4;
  EXPECT_EQ(text(robe, 12345),
            "460179[14+2]+>0 460180[0+2]+>2 679574[0+4]->4 84183[7+4]+>8 257604[1+4]+>12 ");
  robe.salt = HashBytes("embedding", 0);
  EXPECT_EQ(text(robe, 12345), "612117[6+4]+>0 93224[7+4]->4 226896[3+4]->8 954483[11+4]+>12 ");
}

TEST(AddresserTest, EachElementOfAVectorIsCoveredOnceAndInsideTheTable) {
  SCOPED_TRACE(SeedNote());
  for (std::uint64_t i = 0; i < 300; ++i) {
    Draws draws(i);
    const AddresserSpec spec = RandomSpec(&draws);
    const std::size_t rows_a_vector = spec.kind == proto::Addresser::DOUBLE_HASH ||
                                              spec.kind == proto::Addresser::QUOTIENT_REMAINDER
                                          ? 2
                                          : 1;
    std::vector<std::size_t> covered(spec.dim);
    for (const Piece& piece : PiecesOf(spec, draws.Bits())) {
      ASSERT_LT(piece.row, spec.rows);
      ASSERT_LE(piece.source + piece.length, spec.dim);
      ASSERT_LE(piece.target + piece.length, spec.dim);
      ASSERT_EQ(std::abs(piece.coefficient), 1.0f);
      ASSERT_GT(piece.length, 0);
      for (std::size_t e = 0; e < piece.length; ++e) {
        ++covered[piece.target + e];
      }
    }
    ASSERT_EQ(covered, std::vector<std::size_t>(spec.dim, rows_a_vector));
  }
}

TEST(AddresserTest, HashIsTheKeyModuloRows) {
  for (const Key key : {Key{0}, Key{41}, ~Key{0}}) {
    const std::vector<Piece> pieces = PiecesOf(Spec(proto::Addresser::HASH, 40, 3), key);
    ASSERT_EQ(pieces.size(), 1u);
    EXPECT_EQ(pieces[0].row, key % 40);
    EXPECT_EQ(pieces[0].length, 3);
    EXPECT_EQ(pieces[0].coefficient, 1.0f);
  }
}

TEST(AddresserTest, OnePieceIsACopyBitForBit) {
  const std::vector<float> rows{0.0f, -0.0f, 1e-45f, INFINITY, -1.5f, 3e38f};
  for (Key key = 0; key < 3; ++key) {
    const std::vector<float> vector = VectorOf(Spec(proto::Addresser::HASH, 3, 2), rows, key);
    for (std::size_t e = 0; e < 2; ++e) {
      EXPECT_EQ(std::bit_cast<std::uint32_t>(vector[e]),
                std::bit_cast<std::uint32_t>(rows[key * 2 + e]));
    }
  }
}

TEST(AddresserTest, TablesKeysAndHashesAreIndependent) {
  // Of 20,000 keys in 1,000 rows: how many share both rows of a double hash, or one row over
  // tables.
  constexpr std::uint64_t kKeys = 20000;
  constexpr std::uint64_t kRows = 1000;
  AddresserSpec spec = Spec(proto::Addresser::DOUBLE_HASH, kRows, 1);
  AddresserSpec other = spec;
  other.salt = 10;
  std::uint64_t same_rows = 0;
  std::uint64_t same_in_other = 0;
  std::vector<std::uint64_t> uses(kRows);
  for (Key key = 0; key < kKeys; ++key) {
    const std::vector<Piece> pieces = PiecesOf(spec, key);
    same_rows += pieces[0].row == pieces[1].row ? 1 : 0;
    same_in_other += pieces[0].row == PiecesOf(other, key)[0].row ? 1 : 0;
    ++uses[pieces[0].row];
    ++uses[pieces[1].row];
  }
  // Binomial, mean 20 and standard deviation 4.5.
  EXPECT_NEAR(static_cast<double>(same_rows), 20, 18);
  EXPECT_NEAR(static_cast<double>(same_in_other), 20, 18);
  double chi_squared = 0;
  for (const std::uint64_t count : uses) {
    chi_squared += (static_cast<double>(count) - 40) * (static_cast<double>(count) - 40) / 40;
  }
  // 999 degrees of freedom: standard deviation 44.7.
  EXPECT_NEAR(chi_squared, 999, 4 * 44.7);
}

TEST(AddresserTest, RobeSignsAreFairAndIndependentOfOffsets) {
  AddresserSpec spec = Spec(proto::Addresser::ROBE, 2, 8);
  spec.piece = 1;
  std::map<std::pair<std::uint32_t, float>, double> counts;  // (offset, sign)
  for (Key key = 0; key < 4000; ++key) {
    for (const Piece& piece : PiecesOf(spec, key)) {
      ++counts[{piece.row * 8 + piece.source, piece.coefficient}];
    }
  }
  ASSERT_EQ(counts.size(), 32u);
  for (const auto& [what, count] : counts) {
    EXPECT_NEAR(count, 1000, 4 * std::sqrt(1000.0)) << what.first << ", " << what.second;
  }
}

TEST(AddresserTest, QuotientRemainderPairsAreDistinct) {
  // Every hashed value is reached: as many pairs as remainders * quotients, and no other rows.
  AddresserSpec spec = Spec(proto::Addresser::QUOTIENT_REMAINDER, 12, 1);
  for (const std::uint64_t remainders : {1, 5, 6, 11}) {
    spec.remainders = remainders;
    std::set<std::pair<std::uint32_t, std::uint32_t>> pairs;
    for (Key key = 0; key < 2000; ++key) {
      const std::vector<Piece> pieces = PiecesOf(spec, key);
      ASSERT_EQ(pieces.size(), 2u);
      ASSERT_LT(pieces[0].row, remainders);
      ASSERT_GE(pieces[1].row, remainders);
      pairs.emplace(pieces[0].row, pieces[1].row);
    }
    EXPECT_EQ(pairs.size(), remainders * (12 - remainders));
  }
}

TEST(AddresserTest, RobePiecesCrossRowsAndTheEndOfTheTable) {
  SCOPED_TRACE(SeedNote());
  bool crossed = false;
  bool wrapped = false;
  for (std::uint64_t i = 0; i < 200; ++i) {
    Draws draws(i);
    AddresserSpec spec = RandomSpec(&draws);
    spec.kind = proto::Addresser::ROBE;
    spec.rows = 1 + draws.Below(4);
    const std::vector<float> rows = Sixteenths(&draws, spec.rows * spec.dim);
    const Key key = draws.Bits();
    const std::vector<float> vector = VectorOf(spec, rows, key);
    // The same floats as an array that is not cut into rows, read in a circle.
    std::size_t p = 0;
    const std::vector<Piece> pieces = PiecesOf(spec, key);
    for (std::uint32_t target = 0; target < spec.dim; target += spec.piece) {
      ASSERT_LT(p, pieces.size());
      ASSERT_EQ(pieces[p].target, target);
      const std::size_t first = pieces[p].row * spec.dim + pieces[p].source;
      const float sign = pieces[p].coefficient;
      for (std::uint32_t e = 0; e < spec.piece; ++e) {
        ASSERT_EQ(vector[target + e], sign * rows[(first + e) % rows.size()]);
      }
      const bool split = pieces[p].length < spec.piece;
      crossed = crossed || split;
      wrapped = wrapped || (split && pieces[p].row + 1 == spec.rows);
      if (split) {
        ASSERT_EQ(pieces[p + 1].coefficient, sign);
      }
      p += split ? 2 : 1;
    }
    ASSERT_EQ(p, pieces.size());
  }
  EXPECT_TRUE(crossed);
  EXPECT_TRUE(wrapped);
}

TEST(AddresserTest, CombiningAndSpreadingMatchLoopsOverElements) {
  SCOPED_TRACE(SeedNote());
  for (std::uint64_t i = 0; i < 200; ++i) {
    Draws draws(i);
    const AddresserSpec spec = RandomSpec(&draws);
    std::vector<Key> keys(draws.Below(20));
    for (Key& key : keys) {
      key = draws.Below(30);
    }
    const Combination combination = Combine(spec, keys);
    const std::vector<float> rows = Sixteenths(&draws, spec.rows * spec.dim);
    std::vector<float> vectors(keys.size() * spec.dim, NAN);
    CombineRows(combination, rows.data(), spec.dim, spec.dim, vectors.data());
    const std::vector<double> expected = NaiveVectors(combination, rows, spec.dim, spec.dim);
    ASSERT_EQ(std::vector<double>(vectors.begin(), vectors.end()), expected);

    // L = sum of w_e v_e + v_e^2 / 2: its gradient in the rows, by central differences, exact on
    // sixteenths.
    const std::vector<float> weights = Sixteenths(&draws, vectors.size());
    std::vector<float> gradients(vectors.size());
    for (std::size_t e = 0; e < vectors.size(); ++e) {
      gradients[e] = weights[e] + vectors[e];
    }
    std::vector<float> row_gradients(rows.size(), 0.0f);
    SpreadGradients(combination, gradients.data(), spec.dim, spec.dim, row_gradients.data());
    const auto loss = [&](const std::vector<float>& at) {
      const std::vector<double> made = NaiveVectors(combination, at, spec.dim, spec.dim);
      double sum = 0;
      for (std::size_t e = 0; e < made.size(); ++e) {
        sum += weights[e] * made[e] + made[e] * made[e] / 2;
      }
      return sum;
    };
    for (int probe = 0; probe < 10; ++probe) {
      const std::size_t e = draws.Below(rows.size());
      std::vector<float> above = rows;
      above[e] += 0.25f;
      std::vector<float> below = rows;
      below[e] -= 0.25f;
      ASSERT_NEAR(row_gradients[e], (loss(above) - loss(below)) / 0.5, 1e-4);
    }
  }
}

TEST(AddresserTest, ARowReadTwiceCountsTwice) {
  // Of one row, a double hash reads it twice and a ROBE piece its end and its beginning.
  const std::vector<float> rows{1, 2, 3, 4};
  EXPECT_EQ(VectorOf(Spec(proto::Addresser::DOUBLE_HASH, 1, 4), rows, 7),
            (std::vector<float>{2, 4, 6, 8}));
  const Combination combination = Combine(Spec(proto::Addresser::DOUBLE_HASH, 1, 4), {7, 8});
  const std::vector<float> gradients{1, 1, 1, 1, 10, 10, 10, 10};
  std::vector<float> row_gradients(4, 0.0f);
  SpreadGradients(combination, gradients.data(), 4, 4, row_gradients.data());
  EXPECT_EQ(row_gradients, std::vector<float>(4, 22.0f));
}

TEST(AddresserTest, ASignIsAppliedOnTheWayInAndOnTheWayOut) {
  AddresserSpec spec = Spec(proto::Addresser::ROBE, 10, 4);
  Key negative = 0;
  while (PiecesOf(spec, negative)[0].coefficient > 0) {
    ++negative;
  }
  std::vector<float> rows(40, 0.5f);
  const std::vector<float> before = VectorOf(spec, rows, negative);
  EXPECT_EQ(before, std::vector<float>(4, -0.5f));
  std::vector<float> row_gradients(40, 0.0f);
  const std::vector<float> gradient(4, 2.0f);
  SpreadGradients(Combine(spec, {negative}), gradient.data(), 4, 4, row_gradients.data());
  constexpr float kRate = 0.25f;
  for (std::size_t e = 0; e < rows.size(); ++e) {
    rows[e] -= kRate * row_gradients[e];
  }
  EXPECT_EQ(VectorOf(spec, rows, negative), std::vector<float>(4, -0.5f - kRate * 2));
}

// Chunks side by side, as a field of a multiplexed table reads them.
TEST(AddresserTest, VectorsMayBeWiderThanRows) {
  Combination combination;
  combination.begin = {0, 2};
  combination.pieces = {{.row = 2, .length = 2, .target = 0}, {.row = 0, .length = 2, .target = 2}};
  const std::vector<float> rows{1, 2, 3, 4, 5, 6};
  std::vector<float> vector(4);
  CombineRows(combination, rows.data(), 2, 4, vector.data());
  EXPECT_EQ(vector, (std::vector<float>{5, 6, 1, 2}));
  const std::vector<float> gradient{10, 20, 30, 40};
  std::vector<float> row_gradients(6, 0.0f);
  SpreadGradients(combination, gradient.data(), 4, 2, row_gradients.data());
  EXPECT_EQ(row_gradients, (std::vector<float>{30, 40, 0, 0, 10, 20}));
}

}  // namespace
}  // namespace plexus
