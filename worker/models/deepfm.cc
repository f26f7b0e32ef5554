// DeepFM: first order + second order of the factorization machine + an MLP on the same embeddings
// (Guo et al., DeepFM, IJCAI 2017, equations 1-4).
#include "worker/models/registry.h"
#include "worker/models/tape_model.h"

namespace plexus {
namespace {

class DeepFm final : public BuiltModel<DeepFm> {
 public:
  explicit DeepFm(const ModelShape& shape)
      : BuiltModel(shape),
        first_order_(parameters_, shape),
        tower_(parameters_, "mlp", shape.dense_fields + EmbeddingWidth(shape),
               TowerOptions(shape, {400, 400, 400}, 1)) {}

  template <typename T>
  Tensor<T> Build(const Graph<T>& graph) const {
    const auto fields = static_cast<std::uint32_t>(shape_.embedding_dims.size());
    const Features<T> x = ConcatFeatures(graph);
    // Recorded before the tower, so that the tower's product writes the embeddings' gradient and
    // this adds to it.
    const Tensor<T> second_order = SecondOrder(graph.tape, x.fields, fields);
    const Tensor<T> deep = tower_.Apply(graph, x.all);
    const Tensor<T> shallow = Add(graph.tape, first_order_.Apply(graph), second_order);
    return Add(graph.tape, deep, shallow);
  }

 private:
  FirstOrderLayer first_order_;
  Mlp tower_;
};

}  // namespace

StatusOr<std::unique_ptr<Model>> MakeDeepFm(const ModelShape& shape) {
  RETURN_IF_ERROR(CheckEmbeddings(shape));
  return std::unique_ptr<Model>(std::make_unique<DeepFm>(shape));
}

}  // namespace plexus
