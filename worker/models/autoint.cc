// AutoInt: layers of multi-head self-attention between the fields' vectors, then a linear layer
// (Song et al., AutoInt, CIKM 2019, equations 3 and 5-9).  A dense field is its value times a
// vector of its own.  With `hidden` an MLP runs beside it (AutoInt+).
#include <cmath>

#include "worker/models/registry.h"
#include "worker/models/tape_model.h"
#include "worker/nn/attention.h"
#include "worker/nn/interaction.h"

namespace plexus {
namespace {

// 39 fields make 2 * 39^2 scores a sample and layer, several times over: 64 samples fill the cache.
constexpr std::uint32_t kRunSamplesOfAttention = 64;

class AutoInt final : public BuiltModel<AutoInt> {
 public:
  explicit AutoInt(const ModelShape& shape)
      : BuiltModel(shape, kRunSamplesOfAttention),
        fields_(shape.dense_fields + static_cast<std::uint32_t>(shape.embedding_dims.size())),
        dim_(shape.embedding_dims[0]) {
    const std::uint32_t width = shape.config.attention_heads() * shape.config.attention_dim();
    if (shape.dense_fields > 0) {
      vectors_ = parameters_.AddUniform("dense.vectors", {shape.dense_fields, dim_}, 0.01);
    }
    std::uint32_t in = dim_;
    for (std::uint32_t l = 0; l < shape.config.attention_layers(); ++l) {
      const std::string name = "attention." + std::to_string(l);
      const double scale = 1.0 / std::sqrt(static_cast<double>(in));
      layers_.push_back(
          {.query = parameters_.AddUniform(name + ".query", {in, width}, scale),
           .key = parameters_.AddUniform(name + ".key", {in, width}, scale),
           .value = parameters_.AddUniform(name + ".value", {in, width}, scale),
           .residual = parameters_.AddUniform(name + ".residual", {in, width}, scale)});
      in = width;
    }
    out_ = LinearLayer(parameters_, "out", fields_ * in, 1);
    if (!shape.config.hidden().empty()) {
      deep_ = Mlp(parameters_, "mlp", fields_ * dim_, TowerOptions(shape, {}, 1));
    }
  }

  template <typename T>
  Tensor<T> Build(const Graph<T>& graph) const {
    const std::uint32_t samples = graph.samples();
    const std::uint32_t dense = shape_.dense_fields * dim_;
    // [dense vectors | embeddings]
    const Tensor<T> flat = graph.tape.New(samples, fields_ * dim_, Tape<T>::Rows::kPacked);
    if (dense > 0) {
      ScaleVectorsInto(graph.tape, graph.Dense(), graph.parameters[vectors_],
                       flat.Columns(0, dense));
    }
    EmbedInto(graph.tape, graph.embeddings(), flat.Columns(dense, EmbeddingWidth(shape_)));
    Tensor<T> x = flat.Reshape(samples * fields_, dim_);
    for (const Layer& layer : layers_) {
      x = Interact(graph, layer, x);
    }
    const Tensor<T> logits = out_.Apply(graph, x.Reshape(samples, fields_ * x.cols));
    return deep_.out() == 0 ? logits : Add(graph.tape, logits, deep_.Apply(graph, flat));
  }

 private:
  struct Layer {
    std::uint32_t query = 0;
    std::uint32_t key = 0;
    std::uint32_t value = 0;
    std::uint32_t residual = 0;
  };

  template <typename T>
  Tensor<T> Interact(const Graph<T>& graph, const Layer& layer, const Tensor<T>& x) const {
    Tape<T>& tape = graph.tape;
    const Tensor<T> attended =
        MultiHeadAttention(tape, MatMul(tape, x, graph.parameters[layer.query]),
                           MatMul(tape, x, graph.parameters[layer.key]),
                           MatMul(tape, x, graph.parameters[layer.value]),
                           {.batch = graph.samples(), .heads = shape_.config.attention_heads()});
    const Tensor<T> residual = MatMul(tape, x, graph.parameters[layer.residual]);
    return Relu(tape, Add(tape, attended, residual));
  }

  std::uint32_t fields_;
  std::uint32_t dim_;
  std::uint32_t vectors_ = 0;
  std::vector<Layer> layers_;
  LinearLayer out_;
  Mlp deep_;
};

}  // namespace

StatusOr<std::unique_ptr<Model>> MakeAutoInt(const ModelShape& shape) {
  RETURN_IF_ERROR(CheckEmbeddings(shape));
  if (shape.config.attention_heads() == 0 || shape.config.attention_dim() == 0) {
    return InvalidArgument("model autoint needs attention_heads and attention_dim of at least 1");
  }
  return std::unique_ptr<Model>(std::make_unique<AutoInt>(shape));
}

}  // namespace plexus
