#include "worker/nn/embedding.h"

#include "common/prefetch.h"
#include "worker/nn/kernels.h"

namespace plexus {
namespace {

// Samples for which all fields are read before the next block: a block of the output stays in the
// first-level cache's reach while each field's rows are visited together.
constexpr std::size_t kBlock = 32;
constexpr std::size_t kPrefetch = 8;

// Rows are short: fixed inner widths keep the loops free of remainder code.
template <typename T, typename Body>
inline void ForElements(std::size_t n, Body body) {
  constexpr std::size_t kWidth = 8;
  std::size_t d = 0;
  for (; d + kWidth <= n; d += kWidth) {
    for (std::size_t e = 0; e < kWidth; ++e) {
      body(d + e);
    }
  }
  for (; d < n; ++d) {
    body(d);
  }
}

template <typename T>
void GatherBlock(const EmbeddingReads<T>& field, std::size_t first, std::size_t last,
                 const Tensor<T>& out, std::size_t column) {
  const std::size_t dim = field.dim;
  const std::size_t padding = field.columns() - dim;
  for (std::size_t i = first; i < last; ++i) {
    T* __restrict to = out.row(i) + column;
    if (padding > 0) {
      std::fill_n(to + dim, padding, T{0});
    }
    if (field.single()) {
      const std::size_t ahead = std::min(i + kPrefetch, field.indices.size() - 1);
      PrefetchLine(field.rows + field.indices[ahead] * dim);
      const T* __restrict from = field.rows + field.indices[i] * dim;
      ForElements<T>(dim, [=](std::size_t d) { to[d] = from[d]; });
      continue;
    }
    std::fill_n(to, dim, T{0});
    const T factor = field.pooling_factor(i);
    for (std::size_t r = field.begin(i); r < field.end(i); ++r) {
      const T scale = factor * field.weight(r);
      const T* __restrict from = field.rows + field.indices[r] * dim;
      ForElements<T>(dim, [=](std::size_t d) { to[d] += scale * from[d]; });
    }
  }
}

template <typename T>
void ScatterBlock(const EmbeddingReads<T>& field, std::size_t first, std::size_t last,
                  const Tensor<T>& out, std::size_t column) {
  const std::size_t dim = field.dim;
  for (std::size_t i = first; i < last; ++i) {
    const T* __restrict from = out.gradient_row(i) + column;
    if (field.single()) {
      const std::size_t ahead = std::min(i + kPrefetch, field.indices.size() - 1);
      PrefetchLine(field.row_gradients + field.indices[ahead] * dim);
      T* __restrict to = field.row_gradients + field.indices[i] * dim;
      ForElements<T>(dim, [=](std::size_t d) { to[d] += from[d]; });
      continue;
    }
    const T factor = field.pooling_factor(i);
    for (std::size_t r = field.begin(i); r < field.end(i); ++r) {
      const T scale = factor * field.weight(r);
      T* __restrict to = field.row_gradients + field.indices[r] * dim;
      ForElements<T>(dim, [=](std::size_t d) { to[d] += scale * from[d]; });
    }
  }
}

// Calls visit(field, first sample, last sample, first column) in the fixed order.
template <typename T, typename Visit>
void ForBlocks(std::span<const EmbeddingReads<T>> fields, std::size_t samples, Visit visit) {
  for (std::size_t first = 0; first < samples; first += kBlock) {
    const std::size_t last = std::min(samples, first + kBlock);
    std::size_t column = 0;
    for (const EmbeddingReads<T>& field : fields) {
      visit(field, first, last, column);
      column += field.columns();
    }
  }
}

template <typename T>
void AddSecondOrderGradient(const Tensor<T>& x, const T* sums, std::size_t dim, std::size_t fields,
                            const Tensor<T>& y) {
  const bool add = PrepareGradient(x);
  for (std::size_t i = 0; i < x.rows; ++i) {
    const T g = *y.gradient_row(i);
    const T* __restrict sum = sums + i * dim;
    for (std::size_t f = 0; f < fields; ++f) {
      const T* __restrict v = x.row(i) + f * dim;
      T* __restrict to = x.gradient_row(i) + f * dim;
      if (add) {
        ForElements<T>(dim, [=](std::size_t d) { to[d] += g * (sum[d] - v[d]); });
      } else {
        ForElements<T>(dim, [=](std::size_t d) { to[d] = g * (sum[d] - v[d]); });
      }
    }
  }
}

}  // namespace

template <typename T>
EmbeddingReads<T> EmbeddingReads<T>::Samples(std::size_t first, std::size_t count) const {
  EmbeddingReads part = *this;
  if (offsets.empty()) {
    part.indices = indices.subspan(first, count);
    part.weights = weights.empty() ? weights : weights.subspan(first, count);
  } else {
    part.offsets = offsets.subspan(first, count + 1);
  }
  return part;
}

template <typename T>
void EmbedInto(Tape<T>& tape, std::span<const EmbeddingReads<T>> fields, const Tensor<T>& out) {
  ForBlocks<T>(fields, out.rows,
               [&](const EmbeddingReads<T>& field, std::size_t first, std::size_t last,
                   std::size_t column) { GatherBlock(field, first, last, out, column); });
  tape.Record(out, [fields, out] {
    ForBlocks<T>(fields, out.rows,
                 [&](const EmbeddingReads<T>& field, std::size_t first, std::size_t last,
                     std::size_t column) {
                   if (field.row_gradients != nullptr) {
                     ScatterBlock(field, first, last, out, column);
                   }
                 });
  });
}

template <typename T>
Tensor<T> FirstOrder(Tape<T>& tape, std::span<const EmbeddingReads<T>> fields,
                     std::uint32_t samples) {
  const Tensor<T> y = tape.New(samples, 1);
  std::fill_n(y.value, samples, T{0});
  for (const EmbeddingReads<T>& field : fields) {
    CHECK_EQ(field.dim, 1U) << "first-order rows have dimension 1";
    for (std::size_t i = 0; i < samples; ++i) {
      const T factor = field.pooling_factor(i);
      for (std::size_t r = field.begin(i); r < field.end(i); ++r) {
        *y.row(i) += factor * field.weight(r) * field.rows[field.indices[r]];
      }
    }
  }
  tape.Record(y, [fields, y] {
    for (const EmbeddingReads<T>& field : fields) {
      if (field.row_gradients == nullptr) {
        continue;
      }
      for (std::size_t i = 0; i < y.rows; ++i) {
        const T g = *y.gradient_row(i) * field.pooling_factor(i);
        for (std::size_t r = field.begin(i); r < field.end(i); ++r) {
          field.row_gradients[field.indices[r]] += g * field.weight(r);
        }
      }
    }
  });
  return y;
}

template <typename T>
Tensor<T> SecondOrder(Tape<T>& tape, const Tensor<T>& x, std::uint32_t fields) {
  CHECK(fields > 0 && x.cols % fields == 0) << x.cols << " columns, " << fields << " fields";
  const std::size_t dim = x.cols / fields;
  const Tensor<T> y = tape.New(x.rows, 1);
  T* const sums = tape.Scratch(std::size_t{x.rows} * dim);
  T* const squares = tape.Scratch(dim);
  for (std::size_t i = 0; i < x.rows; ++i) {
    T* __restrict sum = sums + i * dim;
    T* __restrict square = squares;
    std::fill_n(sum, dim, T{0});
    std::fill_n(square, dim, T{0});
    for (std::size_t f = 0; f < fields; ++f) {
      const T* __restrict v = x.row(i) + f * dim;
      ForElements<T>(dim, [=](std::size_t d) {
        sum[d] += v[d];
        square[d] += v[d] * v[d];
      });
    }
    *y.row(i) = T(0.5) * (Dot(sum, sum, dim) - Sum(square, dim));
  }
  tape.Record(y, [x, y, sums, dim, fields] {
    if (x.gradient != nullptr) {
      AddSecondOrderGradient(x, sums, dim, fields, y);
    }
  });
  return y;
}

template <typename T>
Tensor<T> SecondOrderOfReads(Tape<T>& tape, std::span<const EmbeddingReads<T>> fields,
                             std::uint32_t samples) {
  const std::size_t width = fields.empty() ? 0 : fields[0].columns();
  const Tensor<T> y = tape.New(samples, 1);
  T* const sums = tape.Scratch(samples * width);
  T* const squares = tape.Scratch(width);
  // visit(field, read, weighted row's scale)
  const auto for_reads = [fields](std::size_t i, auto visit) {
    for (const EmbeddingReads<T>& field : fields) {
      for (std::size_t r = field.begin(i); r < field.end(i); ++r) {
        visit(field, field.indices[r], field.weight(r));
      }
    }
  };
  for (std::size_t i = 0; i < samples; ++i) {
    T* __restrict sum = sums + i * width;
    T* __restrict square = squares;
    std::fill_n(sum, width, T{0});
    std::fill_n(square, width, T{0});
    for_reads(i, [&](const EmbeddingReads<T>& field, std::size_t index, T weight) {
      const std::size_t dim = field.dim;
      const T* __restrict v = field.rows + index * dim;
      ForElements<T>(dim, [=](std::size_t d) {
        const T wv = weight * v[d];
        sum[d] += wv;
        square[d] += wv * wv;
      });
    });
    *y.row(i) = T(0.5) * (Dot(sum, sum, width) - Sum(square, width));
  }
  tape.Record(y, [y, sums, width, for_reads] {
    for (std::size_t i = 0; i < y.rows; ++i) {
      const T g = *y.gradient_row(i);
      const T* __restrict sum = sums + i * width;
      for_reads(i, [&](const EmbeddingReads<T>& field, std::size_t index, T weight) {
        if (field.row_gradients == nullptr) {
          return;
        }
        const std::size_t dim = field.dim;
        const T* __restrict v = field.rows + index * dim;
        T* __restrict to = field.row_gradients + index * dim;
        ForElements<T>(dim, [=](std::size_t d) { to[d] += g * weight * (sum[d] - weight * v[d]); });
      });
    }
  });
  return y;
}

// A type cannot be parenthesised.
// NOLINTBEGIN(bugprone-macro-parentheses)
#define PLEXUS_INSTANTIATE(T)                                                                 \
  template struct EmbeddingReads<T>;                                                          \
  template void EmbedInto(Tape<T>&, std::span<const EmbeddingReads<T>>, const Tensor<T>&);    \
  template Tensor<T> FirstOrder(Tape<T>&, std::span<const EmbeddingReads<T>>, std::uint32_t); \
  template Tensor<T> SecondOrder(Tape<T>&, const Tensor<T>&, std::uint32_t);                  \
  template Tensor<T> SecondOrderOfReads(Tape<T>&, std::span<const EmbeddingReads<T>>, std::uint32_t)

PLEXUS_INSTANTIATE(float);
PLEXUS_INSTANTIATE(double);
#undef PLEXUS_INSTANTIATE
// NOLINTEND(bugprone-macro-parentheses)

}  // namespace plexus
