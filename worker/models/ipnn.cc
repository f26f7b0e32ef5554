// IPNN: an MLP on the features and the inner products of all pairs of fields (Qu et al.,
// Product-based Neural Networks, ICDM 2016, section III-A, with each product itself as an input).
#include "worker/models/registry.h"
#include "worker/models/tape_model.h"
#include "worker/nn/interaction.h"

namespace plexus {
namespace {

class Ipnn final : public BuiltModel<Ipnn> {
 public:
  explicit Ipnn(const ModelShape& shape)
      : BuiltModel(shape),
        fields_(static_cast<std::uint32_t>(shape.embedding_dims.size())),
        width_(EmbeddingWidth(shape)),
        tower_(parameters_, "mlp", shape.dense_fields + width_ + Products(),
               TowerOptions(shape, {400, 400, 400}, 1)) {}

  template <typename T>
  Tensor<T> Build(const Graph<T>& graph) const {
    // [dense | embeddings | products]
    const std::uint32_t dense = shape_.dense_fields;
    const Features<T> x = ConcatFeatures(graph, Products());
    PairwiseDotsInto(graph.tape, x.fields, fields_, x.all.Columns(dense + width_, Products()));
    return tower_.Apply(graph, x.all);
  }

 private:
  std::uint32_t Products() const { return fields_ * (fields_ - 1) / 2; }

  std::uint32_t fields_;
  std::uint32_t width_;
  Mlp tower_;
};

}  // namespace

StatusOr<std::unique_ptr<Model>> MakeIpnn(const ModelShape& shape) {
  RETURN_IF_ERROR(CheckEmbeddings(shape));
  return std::unique_ptr<Model>(std::make_unique<Ipnn>(shape));
}

}  // namespace plexus
