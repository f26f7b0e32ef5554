// Interactions of field vectors.
//
// Thread safety: functions on one tape, which belongs to one thread.
#pragma once

#include "worker/nn/tape.h"

namespace plexus {

// Writes the dot products of all pairs i < j of the `fields` vectors that lie side by side in x
// into `out` [samples, fields * (fields - 1) / 2], in the order (0,1), (0,2), ..., (1,2), ...
// (inner products of IPNN, Qu et al., ICDM 2016, equation 7; DLRM, Naumov et al., arXiv 1906.00091,
// section 2.1.4).
template <typename T>
void PairwiseDotsInto(Tape<T>& tape, const Tensor<T>& x, std::uint32_t fields,
                      const Tensor<T>& out);

// [samples, features * dim]: feature j's column of x times row j of `vectors` [features, dim]
// (numerical fields as embeddings: AutoInt, Song et al., CIKM 2019, equation 3).  Written into
// `out`.
template <typename T>
void ScaleVectorsInto(Tape<T>& tape, const Tensor<T>& x, const Tensor<T>& vectors,
                      const Tensor<T>& out);

}  // namespace plexus
