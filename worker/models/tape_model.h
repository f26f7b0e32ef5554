// TapeModel: a Model whose logits are built on the tape.  Runs a minibatch as runs of at most
// kRunSamples samples, whose activations stay in the cache, and adds up their gradients in order.
//
// A model derives from BuiltModel<Itself> and has one template, Build<T>(const Graph<T>&) -> logits
// [samples, 1].
//
// Thread safety: one object per rank, used by one thread.
#pragma once

#include <span>
#include <vector>

#include "worker/models/graph.h"
#include "worker/models/layers.h"
#include "worker/models/model.h"

namespace plexus {

// Part of what fixes the trained bits, like the order of any sum.
inline constexpr std::uint32_t kRunSamples = 512;

class TapeModel : public Model {
 public:
  const std::vector<DenseParameterSpec>& dense_parameters() const override {
    return parameters_.specs();
  }
  const ModelShape& shape() const { return shape_; }

  double Step(const ModelInput& input, std::span<const float> dense_values, float* dense_gradients,
              std::span<float> logits) override;

  // Step in double precision, for gradient checks.
  double StepDouble(const ModelBatch<double>& batch, std::span<const double> dense_values,
                    double* dense_gradients, std::span<double> logits);

 protected:
  // Models with large activations a sample take smaller runs.
  TapeModel(const ModelShape& shape, std::uint32_t run_samples)
      : shape_(shape), run_samples_(run_samples) {}

  virtual Tensor<float> Logits(const Graph<float>& graph) const = 0;
  virtual Tensor<double> Logits(const Graph<double>& graph) const = 0;

  ModelShape shape_;
  std::uint32_t run_samples_;
  ParameterList parameters_;

 private:
  // What lives from step to step, so that a steady loop allocates nothing.
  template <typename T>
  struct Workspace {
    Tape<T> tape;
    ModelBatch<T> run;
    std::vector<TensorStorage<T>> storages;
    std::vector<Tensor<T>> tensors;
  };

  template <typename T>
  double Run(Workspace<T>& work, const ModelBatch<T>& batch, std::span<const T> dense_values,
             T* dense_gradients, std::span<T> logits);
  template <typename T>
  void BindParameters(Workspace<T>& work, std::span<const T> values, T* gradients) const;

  DenseLayout layout_;  // Made at the first step, when all parameters are declared.
  ModelBatch<float> batch_;
  Workspace<float> work_;
  Workspace<double> work_double_;
};

template <typename Derived>
class BuiltModel : public TapeModel {
 protected:
  explicit BuiltModel(const ModelShape& shape, std::uint32_t run_samples = kRunSamples)
      : TapeModel(shape, run_samples) {}

  Tensor<float> Logits(const Graph<float>& graph) const final {
    return static_cast<const Derived*>(this)->template Build<float>(graph);
  }
  Tensor<double> Logits(const Graph<double>& graph) const final {
    return static_cast<const Derived*>(this)->template Build<double>(graph);
  }
};

}  // namespace plexus
