// DCN: cross layers x' = x0 (x . w) + b + x beside an MLP, joined by a linear layer (Wang et al.,
// Deep & Cross Network, ADKDD 2017, equations 3 and 6).
#include <cmath>

#include "worker/models/registry.h"
#include "worker/models/tape_model.h"

namespace plexus {
namespace {

class Dcn final : public BuiltModel<Dcn> {
 public:
  explicit Dcn(const ModelShape& shape)
      : BuiltModel(shape), width_(shape.dense_fields + EmbeddingWidth(shape)) {
    for (std::uint32_t l = 0; l < shape.config.cross_layers(); ++l) {
      const std::string name = "cross." + std::to_string(l);
      const double scale = 1.0 / std::sqrt(static_cast<double>(width_));
      cross_.push_back({.weight = parameters_.AddUniform(name + ".weight", {width_, 1}, scale),
                        .bias = parameters_.AddConstant(name + ".bias", {width_}, 0)});
    }
    deep_ = Mlp(parameters_, "mlp", width_, TowerOptions(shape, {400, 400, 400}, 0));
    out_ = LinearLayer(parameters_, "out", width_ + deep_.out(), 1);
  }

  template <typename T>
  Tensor<T> Build(const Graph<T>& graph) const {
    Tape<T>& tape = graph.tape;
    const Tensor<T> x0 = ConcatFeatures(graph).all;
    const Tensor<T> deep = deep_.Apply(graph, x0);
    Tensor<T> x = x0;
    for (const CrossLayer& layer : cross_) {
      const Tensor<T> score = MatMul(tape, x, graph.parameters[layer.weight]);
      x = Add(tape, Add(tape, Mul(tape, x0, score), graph.parameters[layer.bias]), x);
    }
    const Tensor<T> parts[] = {x, deep};
    return out_.Apply(graph, Concat<T>(tape, parts));
  }

 private:
  struct CrossLayer {
    std::uint32_t weight = 0;
    std::uint32_t bias = 0;
  };

  std::uint32_t width_;
  std::vector<CrossLayer> cross_;
  Mlp deep_;
  LinearLayer out_;
};

}  // namespace

StatusOr<std::unique_ptr<Model>> MakeDcn(const ModelShape& shape) {
  RETURN_IF_ERROR(CheckInputs(shape));
  return std::unique_ptr<Model>(std::make_unique<Dcn>(shape));
}

}  // namespace plexus
