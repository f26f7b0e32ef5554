#include "worker/addresser.h"

#include <algorithm>

#include <glog/logging.h>

#include "common/prefetch.h"

namespace plexus {
namespace {

// Pieces ahead whose rows are on their way to the cache.
constexpr std::size_t kAhead = 8;

// Bijective in `key` for each `index`.
std::uint64_t HashOf(std::uint64_t salt, Key key, std::uint64_t index) {
  return Mix64(Mix64(key ^ salt) + (index + 1) * 0x9e3779b97f4a7c15ULL);
}

}  // namespace

void Addresser::AppendPieces(Key key, std::vector<Piece>* pieces) const {
  const auto whole_row = [&](std::uint64_t row) {
    pieces->push_back(
        {.row = static_cast<std::uint32_t>(row), .length = static_cast<std::uint16_t>(spec_.dim)});
  };
  switch (spec_.kind) {
    case proto::Addresser::HASH:
      whole_row(key % spec_.rows);
      return;
    case proto::Addresser::DOUBLE_HASH:
      whole_row(HashOf(spec_.salt, key, 0) % spec_.rows);
      whole_row(HashOf(spec_.salt, key, 1) % spec_.rows);
      return;
    case proto::Addresser::QUOTIENT_REMAINDER: {
      const std::uint64_t quotients = spec_.rows - spec_.remainders;
      const std::uint64_t x = HashOf(spec_.salt, key, 0) % (spec_.remainders * quotients);
      whole_row(x % spec_.remainders);
      whole_row(spec_.remainders + x / spec_.remainders);
      return;
    }
    case proto::Addresser::ROBE:
      AppendRobe(key, pieces);
      return;
  }
  LOG(FATAL) << "addresser kind " << spec_.kind;
}

void Addresser::AppendRobe(Key key, std::vector<Piece>* pieces) const {
  for (std::uint32_t target = 0, j = 0; target < spec_.dim; target += spec_.piece, ++j) {
    const std::uint64_t hash = HashOf(spec_.salt, key, j);
    const std::uint64_t first = hash % (spec_.rows * spec_.dim);
    const float sign = hash >> 63 == 0 ? 1.0f : -1.0f;
    const std::uint64_t row = first / spec_.dim;
    const auto source = static_cast<std::uint32_t>(first % spec_.dim);
    const std::uint32_t length = std::min(spec_.piece, spec_.dim - source);
    pieces->push_back({.row = static_cast<std::uint32_t>(row),
                       .source = static_cast<std::uint16_t>(source),
                       .length = static_cast<std::uint16_t>(length),
                       .target = static_cast<std::uint16_t>(target),
                       .coefficient = sign});
    if (length < spec_.piece) {  // The rest lies in the next row; behind the last, the first.
      pieces->push_back({.row = static_cast<std::uint32_t>(row + 1 == spec_.rows ? 0 : row + 1),
                         .source = 0,
                         .length = static_cast<std::uint16_t>(spec_.piece - length),
                         .target = static_cast<std::uint16_t>(target + length),
                         .coefficient = sign});
    }
  }
}

void CombineRows(const Combination& combination, const float* rows, std::uint32_t dim,
                 std::uint32_t width, float* vectors) {
  const std::vector<Piece>& pieces = combination.pieces;
  // x + -0 is x, also of -0.
  std::fill_n(vectors, combination.vectors() * width, -0.0f);
  for (std::size_t v = 0; v < combination.vectors(); ++v) {
    for (std::size_t p = combination.begin[v]; p < combination.begin[v + 1]; ++p) {
      const std::size_t ahead = std::min(p + kAhead, pieces.size() - 1);
      PrefetchLine(rows + std::size_t{pieces[ahead].row} * dim + pieces[ahead].source);
      const Piece& piece = pieces[p];
      const float coefficient = piece.coefficient;
      const float* __restrict from = rows + std::size_t{piece.row} * dim + piece.source;
      float* __restrict to = vectors + v * width + piece.target;
      for (std::size_t i = 0; i < piece.length; ++i) {
        to[i] += coefficient * from[i];
      }
    }
  }
}

void SpreadGradients(const Combination& combination, const float* vector_gradients,
                     std::uint32_t width, std::uint32_t dim, float* row_gradients) {
  const std::vector<Piece>& pieces = combination.pieces;
  for (std::size_t v = 0; v < combination.vectors(); ++v) {
    for (std::size_t p = combination.begin[v]; p < combination.begin[v + 1]; ++p) {
      const std::size_t ahead = std::min(p + kAhead, pieces.size() - 1);
      PrefetchLine(row_gradients + std::size_t{pieces[ahead].row} * dim + pieces[ahead].source);
      const Piece& piece = pieces[p];
      const float coefficient = piece.coefficient;
      const float* __restrict from = vector_gradients + v * width + piece.target;
      float* __restrict to = row_gradients + std::size_t{piece.row} * dim + piece.source;
      for (std::size_t i = 0; i < piece.length; ++i) {
        to[i] += coefficient * from[i];
      }
    }
  }
}

}  // namespace plexus
