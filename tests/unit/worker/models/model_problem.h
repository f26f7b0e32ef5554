// ModelProblem: a small random minibatch for one model shape, with rows and parameters, in float
// and in double.
//
// Thread safety: none.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "proto/dense_layout.h"
#include "worker/models/tape_model.h"

namespace plexus {

// A shape of `fields` embeddings of dimension 4, as many LINEAR fields and 3 dense fields; hidden
// layers of 6 and 5 units.
ModelShape SmallShape(const std::string& model, std::uint32_t fields = 4, std::uint32_t dense = 3);

class ModelProblem {
 public:
  static constexpr std::uint32_t kRows = 7;  // Unique rows a field.

  // Field 1 is jagged with weights, field 2 a jagged mean, if `jagged`.
  ModelProblem(const ModelShape& shape, std::uint32_t samples, bool jagged);

  // Cuts the rows of an embeddings lookup to their first `dim` elements; the model stays.
  void Narrow(std::size_t lookup, std::uint32_t dim);

  Model& model() { return *model_; }
  TapeModel& tape_model() { return dynamic_cast<TapeModel&>(*model_); }
  const DenseLayout& layout() const { return layout_; }

  struct Result {
    double loss = 0;
    std::vector<float> logits;
    std::vector<float> dense_gradients;
    std::vector<std::vector<float>> row_gradients;  // Embeddings, then linears.
  };
  // One Step in float, with buffers of its own.
  Result Step();
  // Without gradients.
  Result Predict();

  // The loss in double; gradients if asked for: dense, then embeddings' and linears' rows.
  double StepDouble(std::vector<std::vector<double>>* gradients, std::vector<double>* logits);

  // Row values, embeddings then linears, [kRows x dim] each.
  std::vector<std::vector<double>>& rows() { return rows_; }
  std::vector<double>& parameters() { return parameters_; }
  std::vector<float>& labels() { return labels_; }
  const std::vector<std::vector<std::uint32_t>>& indices() const { return indices_; }
  const std::vector<double>& dense() const { return dense_; }
  const ModelShape& shape() const { return shape_; }

 private:
  std::size_t embedding_count() const { return shape_.embedding_dims.size(); }
  bool IsJagged(std::size_t lookup) const;
  Result Run(bool training);

  ModelShape shape_;
  std::uint32_t samples_;
  bool jagged_;
  std::unique_ptr<Model> model_;
  DenseLayout layout_;
  std::vector<std::uint32_t> dims_;  // One a lookup.
  std::vector<std::vector<double>> rows_;
  std::vector<std::vector<std::uint32_t>> indices_;  // One a lookup.
  std::vector<std::uint32_t> offsets_;               // Of the jagged lookups.
  std::vector<float> weights_;
  std::vector<double> dense_;
  std::vector<double> parameters_;
  std::vector<float> labels_;
};

}  // namespace plexus
