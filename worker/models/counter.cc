// counter: a model of integers, for tests of faults.  Each read of a row adds 1 + |value| mod 3 to
// the row's element of the reading rank, as a gradient: a function of the *pulled* value, so that a
// row that missed an update, or got one twice, ends with another sum.
#include <cmath>
#include <cstdlib>

#include "worker/models/registry.h"

namespace plexus {
namespace {

class Counter final : public Model {
 public:
  explicit Counter(std::uint32_t ranks) : ranks_(ranks) {}

  const std::vector<DenseParameterSpec>& dense_parameters() const override { return none_; }

  double Step(const ModelInput& input, std::span<const float>, float* dense_gradients,
              std::span<float> logits) override {
    std::fill_n(logits.begin(), input.samples, 0.0F);
    if (dense_gradients == nullptr) {
      return 0;
    }
    CHECK_LT(input.rank, ranks_);
    for (const Lookup& lookup : input.embeddings) {
      if (lookup.row_gradients == nullptr) {
        continue;
      }
      for (std::size_t read = 0; read < ReadCount(lookup, input.samples); ++read) {
        const std::size_t element = std::size_t{lookup.indices[read]} * lookup.dim + input.rank;
        const long long value = std::llabs(std::llround(lookup.rows[element]));
        lookup.row_gradients[element] += static_cast<float>(1 + value % 3);
      }
    }
    return 0;
  }

 private:
  static std::size_t ReadCount(const Lookup& lookup, std::uint32_t samples) {
    return lookup.offsets.empty() ? samples : lookup.offsets[samples];
  }

  std::uint32_t ranks_;
  std::vector<DenseParameterSpec> none_;
};

}  // namespace

StatusOr<std::unique_ptr<Model>> MakeCounter(const ModelShape& shape) {
  for (const std::uint32_t dim : shape.embedding_dims) {
    if (dim != shape.ranks) {
      return InvalidArgument(
          "model counter needs EMBEDDING tables whose dimension is the number of ranks, " +
          std::to_string(shape.ranks) + ", not " + std::to_string(dim));
    }
  }
  return std::unique_ptr<Model>(std::make_unique<Counter>(shape.ranks));
}

}  // namespace plexus
