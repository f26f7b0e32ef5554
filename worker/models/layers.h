// Layers with parameters: each declares its DenseParameterSpecs when the model is made, and is
// applied to tensors in each step.
//
// Weights and biases start as PyTorch's nn.Linear does: U(-1/sqrt(in), 1/sqrt(in)).
//
// Thread safety: immutable after construction; Apply works on the graph's tape.
#pragma once

#include <cstdint>
#include <span>
#include <string>
#include <vector>

#include "proto/dense_layout.h"
#include "worker/models/graph.h"
#include "worker/nn/linear.h"

namespace plexus {

// Collects the parameters of a model.
class ParameterList {
 public:
  // Returns the parameter's index in Graph::parameters.  REQUIRES: a new name.
  std::uint32_t Add(DenseParameterSpec spec);
  // U(-scale, scale).
  std::uint32_t AddUniform(std::string name, std::vector<std::uint32_t> shape, double scale);
  std::uint32_t AddConstant(std::string name, std::vector<std::uint32_t> shape, double value);

  std::uint32_t AddStatistic(std::string name, std::uint32_t cols, double value);

  const std::vector<DenseParameterSpec>& specs() const { return specs_; }

 private:
  std::vector<DenseParameterSpec> specs_;
};

// y = act(x W + b), W [in, out].
class LinearLayer {
 public:
  LinearLayer() = default;
  LinearLayer(ParameterList& list, const std::string& name, std::uint32_t in, std::uint32_t out);

  template <typename T>
  Tensor<T> Apply(const Graph<T>& graph, const Tensor<T>& x,
                  Activation activation = Activation::kNone) const {
    return Linear(graph.tape, x, graph.parameters[weight_], &graph.parameters[bias_], activation);
  }

 private:
  std::uint32_t weight_ = 0;
  std::uint32_t bias_ = 0;
};

struct MlpOptions {
  std::vector<std::uint32_t> hidden;
  std::uint32_t out = 0;  // Width of a last layer without activation; 0 = the tower ends with the
                          // last hidden layer.
  double dropout = 0;
  bool batch_norm = false;
};

// Linear, [batch norm,] ReLU, [dropout] for each hidden layer, then the output layer.
class Mlp {
 public:
  Mlp() = default;
  Mlp(ParameterList& list, const std::string& name, std::uint32_t in, MlpOptions options);

  template <typename T>
  Tensor<T> Apply(const Graph<T>& graph, const Tensor<T>& x) const;

  std::uint32_t out() const { return out_; }

 private:
  // Batch normalisation's parameters of one hidden layer.
  struct Norm {
    std::uint32_t gamma = 0;
    std::uint32_t beta = 0;
    std::uint32_t running_mean = 0;
    std::uint32_t running_variance = 0;
  };

  template <typename T>
  Tensor<T> ApplyHidden(const Graph<T>& graph, const Tensor<T>& x, std::size_t layer) const;

  std::vector<LinearLayer> layers_;
  std::vector<Norm> norms_;
  MlpOptions options_;
  std::uint64_t dropout_stream_ = 0;
  std::uint32_t out_ = 0;
};

// The configured tower's options, `hidden` by default `widths`.
MlpOptions TowerOptions(const ModelShape& shape, std::vector<std::uint32_t> widths,
                        std::uint32_t out);

// Logistic regression's part of a model: the sum of all first-order weights, plus a linear layer on
// the dense fields, or just a bias where there are none.
class FirstOrderLayer {
 public:
  FirstOrderLayer() = default;
  FirstOrderLayer(ParameterList& list, const ModelShape& shape);

  template <typename T>
  Tensor<T> Apply(const Graph<T>& graph) const;

 private:
  LinearLayer dense_;
  std::uint32_t bias_ = 0;
};

}  // namespace plexus
