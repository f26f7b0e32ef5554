#include "worker/models/graph.h"

#include <numeric>

namespace plexus {

template <typename T>
Features<T> ConcatFeatures(const Graph<T>& graph, std::uint32_t extra) {
  const std::uint32_t dense = graph.shape.dense_fields;
  const std::uint32_t width = EmbeddingWidth(graph.shape);
  Features<T> features;
  features.all = graph.tape.New(graph.samples(), dense + width + extra);
  features.all.input_columns = dense;
  features.fields = features.all.Columns(dense, width);
  for (std::size_t i = 0; i < graph.samples(); ++i) {
    std::copy_n(graph.batch.dense.data() + i * dense, dense, features.all.row(i));
  }
  EmbedInto(graph.tape, graph.embeddings(), features.fields);
  return features;
}

template <typename T>
Tensor<T> PackedEmbeddings(const Graph<T>& graph) {
  const Tensor<T> packed =
      graph.tape.New(graph.samples(), EmbeddingWidth(graph.shape), Tape<T>::Rows::kPacked);
  EmbedInto(graph.tape, graph.embeddings(), packed);
  return packed;
}

std::uint32_t EmbeddingWidth(const ModelShape& shape) {
  return std::accumulate(shape.embedding_dims.begin(), shape.embedding_dims.end(), 0U);
}

Status CheckInputs(const ModelShape& shape) {
  if (shape.embedding_dims.empty() && shape.dense_fields == 0) {
    return InvalidArgument("model " + shape.config.name() +
                           " needs a sparse field with an EMBEDDING table, or a dense field");
  }
  return OkStatus();
}

Status CheckEmbeddings(const ModelShape& shape) {
  if (shape.embedding_dims.empty()) {
    return InvalidArgument("model " + shape.config.name() +
                           " needs at least one sparse field with an EMBEDDING table");
  }
  return OkStatus();
}

template Features<float> ConcatFeatures(const Graph<float>&, std::uint32_t);
template Features<double> ConcatFeatures(const Graph<double>&, std::uint32_t);
template Tensor<float> PackedEmbeddings(const Graph<float>&);
template Tensor<double> PackedEmbeddings(const Graph<double>&);

}  // namespace plexus
