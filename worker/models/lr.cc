// Logistic regression: a bias, one weight a key, and a linear layer on the dense fields (McMahan et
// al., Ad Click Prediction, KDD 2013).
#include "worker/models/registry.h"
#include "worker/models/tape_model.h"

namespace plexus {
namespace {

class LogisticRegression final : public BuiltModel<LogisticRegression> {
 public:
  explicit LogisticRegression(const ModelShape& shape)
      : BuiltModel(shape), first_order_(parameters_, shape) {}

  template <typename T>
  Tensor<T> Build(const Graph<T>& graph) const {
    return first_order_.Apply(graph);
  }

 private:
  FirstOrderLayer first_order_;
};

}  // namespace

StatusOr<std::unique_ptr<Model>> MakeLogisticRegression(const ModelShape& shape) {
  return std::unique_ptr<Model>(std::make_unique<LogisticRegression>(shape));
}

}  // namespace plexus
