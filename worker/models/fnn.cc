// FNN: an MLP on the concatenated embeddings and dense fields (Zhang et al., Deep Learning over
// Multi-field Categorical Data, ECIR 2016, section 3.1; without its pre-training by an FM).
#include "worker/models/registry.h"
#include "worker/models/tape_model.h"

namespace plexus {
namespace {

class Fnn final : public BuiltModel<Fnn> {
 public:
  explicit Fnn(const ModelShape& shape)
      : BuiltModel(shape),
        tower_(parameters_, "mlp", shape.dense_fields + EmbeddingWidth(shape),
               TowerOptions(shape, {400, 400, 400}, 1)) {}

  template <typename T>
  Tensor<T> Build(const Graph<T>& graph) const {
    return tower_.Apply(graph, ConcatFeatures(graph).all);
  }

 private:
  Mlp tower_;
};

}  // namespace

StatusOr<std::unique_ptr<Model>> MakeFnn(const ModelShape& shape) {
  RETURN_IF_ERROR(CheckInputs(shape));
  return std::unique_ptr<Model>(std::make_unique<Fnn>(shape));
}

}  // namespace plexus
