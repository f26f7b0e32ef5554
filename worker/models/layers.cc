#include "worker/models/layers.h"

#include <cmath>
#include <utility>

#include "common/hash.h"
#include "worker/nn/normalization.h"

namespace plexus {

std::uint32_t ParameterList::Add(DenseParameterSpec spec) {
  for (const DenseParameterSpec& other : specs_) {
    CHECK_NE(other.name, spec.name) << "two dense parameters of one name";
  }
  specs_.push_back(std::move(spec));
  return static_cast<std::uint32_t>(specs_.size() - 1);
}

std::uint32_t ParameterList::AddUniform(std::string name, std::vector<std::uint32_t> shape,
                                        double scale) {
  return Add({.name = std::move(name),
              .shape = std::move(shape),
              .init = DenseParameterSpec::Init::kUniform,
              .scale = scale});
}

std::uint32_t ParameterList::AddConstant(std::string name, std::vector<std::uint32_t> shape,
                                         double value) {
  return Add({.name = std::move(name), .shape = std::move(shape), .scale = value});
}

std::uint32_t ParameterList::AddStatistic(std::string name, std::uint32_t cols, double value) {
  return Add({.name = std::move(name),
              .shape = {cols},
              .scale = value,
              .kind = DenseParameterSpec::Kind::kStatistic});
}

LinearLayer::LinearLayer(ParameterList& list, const std::string& name, std::uint32_t in,
                         std::uint32_t out) {
  const double scale = in == 0 ? 0.0 : 1.0 / std::sqrt(static_cast<double>(in));
  weight_ = list.AddUniform(name + ".weight", {in, out}, scale);
  bias_ = list.AddUniform(name + ".bias", {out}, scale);
}

Mlp::Mlp(ParameterList& list, const std::string& name, std::uint32_t in, MlpOptions options)
    : options_(std::move(options)), dropout_stream_(HashBytes(name + ".dropout", 0)) {
  std::uint32_t width = in;
  for (std::size_t l = 0; l < options_.hidden.size(); ++l) {
    const std::string layer = name + "." + std::to_string(l);
    layers_.emplace_back(list, layer, width, options_.hidden[l]);
    width = options_.hidden[l];
    if (options_.batch_norm) {
      norms_.push_back({.gamma = list.AddConstant(layer + ".norm.gamma", {width}, 1),
                        .beta = list.AddConstant(layer + ".norm.beta", {width}, 0),
                        .running_mean = list.AddStatistic(layer + ".norm.mean", width, 0),
                        .running_variance = list.AddStatistic(layer + ".norm.variance", width, 1)});
    }
  }
  if (options_.out > 0) {
    layers_.emplace_back(list, name + ".out", width, options_.out);
    width = options_.out;
  }
  out_ = width;
}

template <typename T>
Tensor<T> Mlp::ApplyHidden(const Graph<T>& graph, const Tensor<T>& x, std::size_t layer) const {
  Tensor<T> y;
  if (options_.batch_norm) {
    const Norm& norm = norms_[layer];
    y = layers_[layer].Apply(graph, x);
    y = BatchNorm(
        graph.tape, y,
        BatchNormParameters<T>{.gamma = graph.parameters[norm.gamma],
                               .beta = graph.parameters[norm.beta],
                               .running_mean = graph.parameters[norm.running_mean],
                               .running_variance = graph.parameters[norm.running_variance]});
    y = Relu(graph.tape, y);
  } else {
    y = layers_[layer].Apply(graph, x, Activation::kRelu);
  }
  return Dropout(graph.tape, y, options_.dropout,
                 {.seed = graph.batch.seed,
                  .stream = dropout_stream_ + layer,
                  .step = graph.batch.step,
                  .rank = graph.batch.rank,
                  .first_sample = graph.first_sample});
}

template <typename T>
Tensor<T> Mlp::Apply(const Graph<T>& graph, const Tensor<T>& x) const {
  Tensor<T> y = x;
  for (std::size_t l = 0; l < options_.hidden.size(); ++l) {
    y = ApplyHidden(graph, y, l);
  }
  return options_.out > 0 ? layers_.back().Apply(graph, y) : y;
}

MlpOptions TowerOptions(const ModelShape& shape, std::vector<std::uint32_t> widths,
                        std::uint32_t out) {
  const auto& hidden = shape.config.hidden();
  if (!hidden.empty()) {
    widths.assign(hidden.begin(), hidden.end());
  }
  return {.hidden = std::move(widths),
          .out = out,
          .dropout = shape.config.dropout(),
          .batch_norm = shape.config.batch_norm()};
}

FirstOrderLayer::FirstOrderLayer(ParameterList& list, const ModelShape& shape) {
  if (shape.dense_fields > 0) {
    dense_ = LinearLayer(list, "linear", shape.dense_fields, 1);
  } else {
    bias_ = list.AddConstant("linear.bias", {1}, 0);
  }
}

template <typename T>
Tensor<T> FirstOrderLayer::Apply(const Graph<T>& graph) const {
  const Tensor<T> sum = FirstOrder(graph.tape, graph.linears(), graph.samples());
  return Add(
      graph.tape, sum,
      graph.shape.dense_fields > 0 ? dense_.Apply(graph, graph.Dense()) : graph.parameters[bias_]);
}

template Tensor<float> Mlp::Apply(const Graph<float>&, const Tensor<float>&) const;
template Tensor<double> Mlp::Apply(const Graph<double>&, const Tensor<double>&) const;
template Tensor<float> FirstOrderLayer::Apply(const Graph<float>&) const;
template Tensor<double> FirstOrderLayer::Apply(const Graph<double>&) const;

}  // namespace plexus
