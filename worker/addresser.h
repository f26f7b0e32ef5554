// Addresser: which physical rows of an ARRAY table a key's vector is made of, and how.
//
// A vector is a linear combination of pieces of rows: element target + i of it is the sum over its
// pieces of coefficient * row[source + i].  Its gradient g goes the same way back: coefficient *
// g[target + i] is added to the gradient of row[source + i].  So the servers know rows only, and
// each row is updated once a step, with the sum over all keys, fields and pieces that touch it.
//
// Addresses are part of every trained model: they never change.  Test vectors:
// tests/unit/worker/addresser_test.cc.
//
// Thread safety: Addresser is immutable; the functions are pure.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

#include "common/hash.h"
#include "proto/plan.h"

namespace plexus {

// Part of a vector.  source + length <= the row's floats, target + length <= the vector's.
struct Piece {
  std::uint32_t row = 0;     // Of the table; in a Combination: of the step's rows.
  std::uint16_t source = 0;  // First element of the row.
  std::uint16_t length = 0;
  std::uint16_t target = 0;  // First element of the vector.
  float coefficient = 1;
};
static_assert(sizeof(Piece) == 16);

class Addresser {
 public:
  explicit Addresser(const AddresserSpec& spec) : spec_(spec) {}

  // Appends the pieces of `key`'s vector, which has spec.dim elements:
  //   HASH                one row, key mod rows: what an ARRAY without an addresser reads
  //   DOUBLE_HASH         the sum of rows h0 mod rows and h1 mod rows; they may be the same row
  //   QUOTIENT_REMAINDER  with c remainders and x = h0 mod (c * (rows - c)): the sum of row x mod c
  //                       and row c + x / c, so that different x differ in a row (Shi et al.,
  //                       Compositional Embeddings, KDD 2020, section 3)
  //   ROBE                element j * piece + i is +-element (hj mod N) + i of the N = rows * dim
  //                       floats of the table in a circle (Desai et al., Random Offset Block
  //                       Embedding, MLSys 2022, section 4); the sign is hj's top bit
  // hj is a 64-bit hash of (spec.salt, key, j).
  void AppendPieces(Key key, std::vector<Piece>* pieces) const;

 private:
  void AppendRobe(Key key, std::vector<Piece>* pieces) const;

  AddresserSpec spec_;
};

// How the vectors of one step are made of its rows.
struct Combination {
  std::vector<std::uint32_t> begin;  // vectors + 1: vector v has pieces [begin[v], begin[v + 1]).
  std::vector<Piece> pieces;         // Their rows are positions.

  std::size_t vectors() const { return begin.empty() ? 0 : begin.size() - 1; }
  void Clear() {
    begin.clear();
    pieces.clear();
  }
};

// vectors[v * width ..] = the combination's v-th vector, out of rows of `dim` floats; the pieces
// are added in their order.  One piece of coefficient 1 is a copy, bit for bit.
void CombineRows(const Combination& combination, const float* rows, std::uint32_t dim,
                 std::uint32_t width, float* vectors);

// Adds the vectors' gradients to those of the rows, in the order of vectors and pieces.
void SpreadGradients(const Combination& combination, const float* vector_gradients,
                     std::uint32_t width, std::uint32_t dim, float* row_gradients);

}  // namespace plexus
