#include "worker/nn/interaction.h"

namespace plexus {

template <typename T>
void PairwiseDotsInto(Tape<T>& tape, const Tensor<T>& x, std::uint32_t fields,
                      const Tensor<T>& out) {
  CHECK(fields > 0 && x.cols % fields == 0) << x.cols << " columns, " << fields << " fields";
  CHECK_EQ(out.cols, fields * (fields - 1) / 2);
  const std::size_t dim = x.cols / fields;
  T* const products = tape.Scratch(std::size_t{fields} * fields);
  for (std::size_t i = 0; i < x.rows; ++i) {
    GemmBatch<T>({fields, fields, dim}, {.count = 1}, {x.row(i), dim}, {x.row(i), dim, true},
                 {products, fields});
    T* to = out.row(i);
    for (std::size_t f = 0; f < fields; ++f) {
      to = std::copy(products + f * fields + f + 1, products + (f + 1) * fields, to);
    }
  }
  tape.Record(out, [x, out, products, fields, dim] {
    if (x.gradient == nullptr) {
      return;
    }
    // The gradient of vector i is the sum of g(i, j) times vector j: a product with the symmetric
    // matrix of g.
    const bool add = PrepareGradient(x);
    for (std::size_t i = 0; i < x.rows; ++i) {
      const T* from = out.gradient_row(i);
      for (std::size_t f = 0; f < fields; ++f) {
        products[f * fields + f] = T{0};
        for (std::size_t g = f + 1; g < fields; ++g, ++from) {
          products[f * fields + g] = *from;
          products[g * fields + f] = *from;
        }
      }
      GemmBatch<T>({fields, dim, fields}, {.count = 1}, {products, fields}, {x.row(i), dim},
                   {x.gradient_row(i), dim, add});
    }
  });
}

template <typename T>
void ScaleVectorsInto(Tape<T>& tape, const Tensor<T>& x, const Tensor<T>& vectors,
                      const Tensor<T>& out) {
  const std::size_t dim = vectors.cols;
  CHECK(x.cols == vectors.rows && out.cols == x.cols * dim && out.rows == x.rows);
  for (std::size_t i = 0; i < x.rows; ++i) {
    for (std::size_t f = 0; f < x.cols; ++f) {
      for (std::size_t d = 0; d < dim; ++d) {
        out.row(i)[f * dim + d] = x.row(i)[f] * vectors.row(f)[d];
      }
    }
  }
  tape.Record(out, [x, vectors, out, dim] {
    if (vectors.gradient != nullptr) {
      if (!PrepareGradient(vectors)) {
        for (std::size_t f = 0; f < vectors.rows; ++f) {
          std::fill_n(vectors.gradient_row(f), dim, T{0});
        }
      }
      for (std::size_t i = 0; i < x.rows; ++i) {
        for (std::size_t f = 0; f < x.cols; ++f) {
          for (std::size_t d = 0; d < dim; ++d) {
            vectors.gradient_row(f)[d] += x.row(i)[f] * out.gradient_row(i)[f * dim + d];
          }
        }
      }
    }
    WriteGradient(x, [&](std::size_t i, std::size_t f) {
      T sum{0};
      for (std::size_t d = 0; d < dim; ++d) {
        sum += out.gradient_row(i)[f * dim + d] * vectors.row(f)[d];
      }
      return sum;
    });
  });
}

#define PLEXUS_INSTANTIATE(T)                                                                  \
  template void PairwiseDotsInto(Tape<T>&, const Tensor<T>&, std::uint32_t, const Tensor<T>&); \
  template void ScaleVectorsInto(Tape<T>&, const Tensor<T>&, const Tensor<T>&, const Tensor<T>&)

PLEXUS_INSTANTIATE(float);
PLEXUS_INSTANTIATE(double);
#undef PLEXUS_INSTANTIATE

}  // namespace plexus
