// Graph: what a model builds its logits from: the tape, one minibatch (or a run of its samples) and
// the parameters.
//
// ModelBatch is ModelInput on a scalar type: float to train, double to check gradients.
//
// Thread safety: one object per rank, used by one thread.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "worker/models/model.h"
#include "worker/nn/elementwise.h"
#include "worker/nn/embedding.h"
#include "worker/nn/tape.h"

namespace plexus {

template <typename T>
struct ModelBatch {
  std::uint32_t samples = 0;
  std::span<const float> labels;
  std::span<const T> dense;
  std::vector<EmbeddingReads<T>> embeddings;
  std::vector<EmbeddingReads<T>> linears;
  std::uint64_t seed = 0;
  std::uint64_t step = 0;
  std::uint32_t rank = 0;
};

template <typename T>
struct Graph {
  Tape<T>& tape;
  const ModelShape& shape;
  const ModelBatch<T>& batch;             // The samples to compute.
  std::span<const Tensor<T>> parameters;  // As declared.
  std::uint32_t first_sample = 0;         // The first one's position in the minibatch.

  std::uint32_t samples() const { return batch.samples; }
  Tensor<T> Dense() const {
    return ConstantTensor(batch.dense.data(), batch.samples, shape.dense_fields);
  }
  std::span<const EmbeddingReads<T>> embeddings() const { return batch.embeddings; }
  std::span<const EmbeddingReads<T>> linears() const { return batch.linears; }
};

// [dense | embeddings], built without copies of the embeddings; `fields` is a view of the
// embeddings.
template <typename T>
struct Features {
  Tensor<T> all;
  Tensor<T> fields;
};

template <typename T>
Features<T> ConcatFeatures(const Graph<T>& graph, std::uint32_t extra = 0);

// The pooled embeddings alone, row by row without padding, so that [samples, F * dim] can be
// reshaped.
template <typename T>
Tensor<T> PackedEmbeddings(const Graph<T>& graph);

// Sum of the embeddings' widths.
std::uint32_t EmbeddingWidth(const ModelShape& shape);

// kInvalidArgument unless there is an input: an embedding or a dense field.
Status CheckInputs(const ModelShape& shape);

// kInvalidArgument unless there is at least one embedding.
Status CheckEmbeddings(const ModelShape& shape);

}  // namespace plexus
