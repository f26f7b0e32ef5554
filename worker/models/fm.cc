// FM: logistic regression + the factorization machine's second-order term (Rendle, Factorization
// Machines, ICDM 2010, equation 1).
//
// With ModelShape::jagged_features each weighted value of a field is a feature: values of one field
// interact with each other.
#include "worker/models/registry.h"
#include "worker/models/tape_model.h"

namespace plexus {
namespace {

class Fm final : public BuiltModel<Fm> {
 public:
  explicit Fm(const ModelShape& shape) : BuiltModel(shape), first_order_(parameters_, shape) {}

  template <typename T>
  Tensor<T> Build(const Graph<T>& graph) const {
    const Tensor<T> linear = first_order_.Apply(graph);
    if (shape_.jagged_features) {
      return Add(graph.tape, linear,
                 SecondOrderOfReads(graph.tape, graph.embeddings(), graph.samples()));
    }
    const auto fields = static_cast<std::uint32_t>(shape_.embedding_dims.size());
    return Add(graph.tape, linear, SecondOrder(graph.tape, PackedEmbeddings(graph), fields));
  }

 private:
  FirstOrderLayer first_order_;
};

}  // namespace

StatusOr<std::unique_ptr<Model>> MakeFm(const ModelShape& shape) {
  RETURN_IF_ERROR(CheckEmbeddings(shape));
  return std::unique_ptr<Model>(std::make_unique<Fm>(shape));
}

}  // namespace plexus
