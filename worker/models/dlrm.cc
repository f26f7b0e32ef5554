// DLRM: a bottom MLP turns the dense fields into one more vector; dot products of all pairs of
// vectors and that vector go into the top MLP (Naumov et al., Deep Learning Recommendation Model,
// arXiv 1906.00091, section 2.1).
#include "worker/models/registry.h"
#include "worker/models/tape_model.h"
#include "worker/nn/interaction.h"

namespace plexus {
namespace {

constexpr std::uint32_t kBottomHidden = 64;

class Dlrm final : public BuiltModel<Dlrm> {
 public:
  explicit Dlrm(const ModelShape& shape)
      : BuiltModel(shape),
        vectors_(static_cast<std::uint32_t>(shape.embedding_dims.size()) +
                 (shape.dense_fields > 0 ? 1 : 0)),
        dim_(shape.embedding_dims[0]) {
    if (shape.dense_fields > 0) {
      const auto& hidden = shape.config.bottom_hidden();
      std::vector<std::uint32_t> widths(hidden.begin(), hidden.end());
      if (widths.empty()) {
        widths.push_back(kBottomHidden);
      }
      widths.push_back(dim_);  // With its ReLU, as the others.
      bottom_ = Mlp(parameters_, "bottom", shape.dense_fields, {.hidden = std::move(widths)});
    }
    top_ = Mlp(parameters_, "top", BottomWidth() + Products(), TowerOptions(shape, {400, 400}, 1));
  }

  template <typename T>
  Tensor<T> Build(const Graph<T>& graph) const {
    Tape<T>& tape = graph.tape;
    // [bottom | embeddings], and the top's input [bottom | products].
    const Tensor<T> vectors = tape.New(graph.samples(), vectors_ * dim_);
    const Tensor<T> x = tape.New(graph.samples(), BottomWidth() + Products());
    EmbedInto(tape, graph.embeddings(), vectors.Columns(BottomWidth(), EmbeddingWidth(shape_)));
    if (BottomWidth() > 0) {
      const Tensor<T> bottom = bottom_.Apply(graph, graph.Dense());
      CopyInto(tape, bottom, vectors.Columns(0, dim_));
      CopyInto(tape, bottom, x.Columns(0, dim_));
    }
    PairwiseDotsInto(tape, vectors, vectors_, x.Columns(BottomWidth(), Products()));
    return top_.Apply(graph, x);
  }

 private:
  std::uint32_t BottomWidth() const { return shape_.dense_fields > 0 ? dim_ : 0; }
  std::uint32_t Products() const { return vectors_ * (vectors_ - 1) / 2; }

  std::uint32_t vectors_;
  std::uint32_t dim_;
  Mlp bottom_;
  Mlp top_;
};

}  // namespace

StatusOr<std::unique_ptr<Model>> MakeDlrm(const ModelShape& shape) {
  RETURN_IF_ERROR(CheckEmbeddings(shape));
  if (shape.dense_fields == 0 && shape.embedding_dims.size() < 2) {
    return InvalidArgument("model dlrm needs at least two vectors: sparse fields, or dense fields");
  }
  return std::unique_ptr<Model>(std::make_unique<Dlrm>(shape));
}

}  // namespace plexus
