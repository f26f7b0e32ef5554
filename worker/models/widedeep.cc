// Wide & Deep: logistic regression beside an MLP on the embeddings (Cheng et al., DLRS 2016,
// equation 3).
#include "worker/models/registry.h"
#include "worker/models/tape_model.h"

namespace plexus {
namespace {

class WideDeep final : public BuiltModel<WideDeep> {
 public:
  explicit WideDeep(const ModelShape& shape)
      : BuiltModel(shape),
        wide_(parameters_, shape),
        deep_(parameters_, "mlp", shape.dense_fields + EmbeddingWidth(shape),
              TowerOptions(shape, {400, 400, 400}, 1)) {}

  template <typename T>
  Tensor<T> Build(const Graph<T>& graph) const {
    const Tensor<T> deep = deep_.Apply(graph, ConcatFeatures(graph).all);
    return Add(graph.tape, deep, wide_.Apply(graph));
  }

 private:
  FirstOrderLayer wide_;
  Mlp deep_;
};

}  // namespace

StatusOr<std::unique_ptr<Model>> MakeWideDeep(const ModelShape& shape) {
  RETURN_IF_ERROR(CheckInputs(shape));
  return std::unique_ptr<Model>(std::make_unique<WideDeep>(shape));
}

}  // namespace plexus
