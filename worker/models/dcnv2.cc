// DCN-V2, parallel: cross layers x' = x0 * (W x + b) + x beside an MLP, joined by a linear layer
// (Wang et al., DCN V2, WWW 2021, equations 1 and 3, figure 1b). cross_rank > 0: W = U V^T of that
// rank (equation 2 of section 3.4, one expert).
#include <cmath>

#include "worker/models/registry.h"
#include "worker/models/tape_model.h"

namespace plexus {
namespace {

class DcnV2 final : public BuiltModel<DcnV2> {
 public:
  explicit DcnV2(const ModelShape& shape)
      : BuiltModel(shape),
        width_(shape.dense_fields + EmbeddingWidth(shape)),
        rank_(shape.config.cross_rank()) {
    for (std::uint32_t l = 0; l < shape.config.cross_layers(); ++l) {
      const std::string name = "cross." + std::to_string(l);
      CrossLayer layer;
      if (rank_ > 0) {
        const double scale = 1.0 / std::sqrt(static_cast<double>(width_));
        layer.reduce = parameters_.AddUniform(name + ".reduce.weight", {width_, rank_}, scale);
        layer.full = LinearLayer(parameters_, name, rank_, width_);
      } else {
        layer.full = LinearLayer(parameters_, name, width_, width_);
      }
      cross_.push_back(layer);
    }
    deep_ = Mlp(parameters_, "mlp", width_, TowerOptions(shape, {400, 400}, 0));
    out_ = LinearLayer(parameters_, "out", width_ + deep_.out(), 1);
  }

  template <typename T>
  Tensor<T> Build(const Graph<T>& graph) const {
    const Tensor<T> x0 = ConcatFeatures(graph).all;
    const Tensor<T> deep = deep_.Apply(graph, x0);
    Tensor<T> x = x0;
    for (const CrossLayer& layer : cross_) {
      const Tensor<T> reduced =
          rank_ > 0 ? MatMul(graph.tape, x, graph.parameters[layer.reduce]) : x;
      x = MulAdd(graph.tape, x0, layer.full.Apply(graph, reduced), x);
    }
    const Tensor<T> parts[] = {x, deep};
    return out_.Apply(graph, Concat<T>(graph.tape, parts));
  }

 private:
  struct CrossLayer {
    std::uint32_t reduce = 0;  // V, if the rank is limited.
    LinearLayer full;          // W, or U, with the bias.
  };

  std::uint32_t width_;
  std::uint32_t rank_;
  std::vector<CrossLayer> cross_;
  Mlp deep_;
  LinearLayer out_;
};

}  // namespace

StatusOr<std::unique_ptr<Model>> MakeDcnV2(const ModelShape& shape) {
  RETURN_IF_ERROR(CheckInputs(shape));
  return std::unique_ptr<Model>(std::make_unique<DcnV2>(shape));
}

}  // namespace plexus
