#include "tests/unit/worker/models/model_problem.h"

#include <cstdlib>
#include <cstring>
#include <utility>

#include "common/random.h"

namespace plexus {
namespace {

// A copy at a 64-byte boundary, as the product's buffers are.
class AlignedFloats {
 public:
  template <typename T>
  explicit AlignedFloats(const std::vector<T>& from)
      : size_(from.size()),
        data_(static_cast<float*>(std::aligned_alloc(64, (size_ * 4 / 64 + 1) * 64))) {
    for (std::size_t i = 0; i < size_; ++i) {
      data_[i] = static_cast<float>(from[i]);
    }
  }
  AlignedFloats(const AlignedFloats&) = delete;
  AlignedFloats& operator=(const AlignedFloats&) = delete;
  ~AlignedFloats() { std::free(data_); }

  float* data() const { return data_; }
  std::span<float> span() const { return {data_, size_}; }
  std::vector<float> copy() const { return {data_, data_ + size_}; }

 private:
  std::size_t size_;
  float* data_;
};

}  // namespace

ModelShape SmallShape(const std::string& model, std::uint32_t fields, std::uint32_t dense) {
  ModelShape shape;
  shape.config.set_name(model);
  shape.config.add_hidden(6);
  shape.config.add_hidden(5);
  shape.config.add_bottom_hidden(7);
  shape.config.set_cross_layers(2);
  shape.config.set_attention_dim(3);
  shape.dense_fields = dense;
  shape.embedding_dims.assign(fields, 4);
  shape.linear_fields = fields;
  shape.ranks = 4;
  return shape;
}

ModelProblem::ModelProblem(const ModelShape& shape, std::uint32_t samples, bool jagged)
    : shape_(shape), samples_(samples), jagged_(jagged) {
  auto model = CreateModel(shape);
  CHECK(model.ok()) << model.status().ToString();
  model_ = *std::move(model);
  layout_ = DenseLayout(model_->dense_parameters());
  const CounterRandom random(21, 22);
  std::uint64_t drawn = 0;
  const auto next = [&] { return 2 * random.UniformDouble(drawn++) - 1; };
  offsets_.push_back(0);
  for (std::uint32_t i = 0; i < samples; ++i) {
    offsets_.push_back(offsets_.back() + static_cast<std::uint32_t>(random.Below(drawn++, 4)));
    labels_.push_back(random.Below(drawn++, 3) == 0 ? 1 : 0);
  }
  for (std::uint32_t r = 0; r < offsets_.back(); ++r) {
    weights_.push_back(static_cast<float>(next()));
  }
  for (std::size_t l = 0; l < embedding_count() + shape.linear_fields; ++l) {
    dims_.push_back(l < embedding_count() ? shape.embedding_dims[l] : 1);
    rows_.emplace_back(std::size_t{kRows} * dims_[l]);
    for (double& value : rows_.back()) {
      value = static_cast<float>(0.5 * next());
    }
    indices_.emplace_back(IsJagged(l) ? offsets_.back() : samples);
    for (std::uint32_t& index : indices_.back()) {
      index = static_cast<std::uint32_t>(random.Below(drawn++, kRows));
    }
  }
  dense_.resize(std::size_t{samples} * shape.dense_fields);
  for (double& value : dense_) {
    value = static_cast<float>(next());
  }
  std::vector<float> initial(layout_.size(), 0);
  for (const DenseBlock& block : layout_.blocks()) {
    layout_.InitialValues(block, 5, {initial.data() + block.offset, block.count});
  }
  parameters_.assign(initial.begin(), initial.end());
}

void ModelProblem::Narrow(std::size_t lookup, std::uint32_t dim) {
  std::vector<double> cut;
  for (std::size_t row = 0; row < kRows; ++row) {
    const auto first = rows_[lookup].begin() + static_cast<std::ptrdiff_t>(row * dims_[lookup]);
    cut.insert(cut.end(), first, first + dim);
  }
  rows_[lookup] = std::move(cut);
  dims_[lookup] = dim;
}

bool ModelProblem::IsJagged(std::size_t lookup) const {
  const std::size_t field = lookup < embedding_count() ? lookup : lookup - embedding_count();
  return jagged_ && (field == 1 || field == 2);
}

ModelProblem::Result ModelProblem::Step() { return Run(true); }

ModelProblem::Result ModelProblem::Predict() { return Run(false); }

ModelProblem::Result ModelProblem::Run(bool training) {
  std::vector<std::unique_ptr<AlignedFloats>> rows;
  std::vector<std::unique_ptr<AlignedFloats>> gradients;
  const AlignedFloats dense(dense_);
  ModelInput input;
  input.samples = samples_;
  input.labels = labels_;
  input.dense = dense.span();
  input.seed = 3;
  input.step = 4;
  for (std::size_t l = 0; l < rows_.size(); ++l) {
    rows.push_back(std::make_unique<AlignedFloats>(rows_[l]));
    gradients.push_back(std::make_unique<AlignedFloats>(std::vector<float>(rows_[l].size())));
    Lookup lookup{.dim = dims_[l],
                  .rows = rows.back()->data(),
                  .row_gradients = training ? gradients.back()->data() : nullptr,
                  .indices = indices_[l],
                  .offsets = {},
                  .weights = {}};
    if (IsJagged(l)) {
      lookup.offsets = offsets_;
      const bool mean = (l < embedding_count() ? l : l - embedding_count()) == 2;
      lookup.weights = mean ? std::span<const float>() : weights_;
      lookup.pooling = mean ? proto::Field::MEAN : proto::Field::SUM;
    }
    (l < embedding_count() ? input.embeddings : input.linears).push_back(lookup);
  }
  const AlignedFloats parameters(parameters_);
  // What must be overwritten is not zero before.
  const AlignedFloats dense_gradients(std::vector<float>(layout_.size(), 77));
  Result result;
  result.logits.resize(samples_);
  result.loss = model_->Step(input, parameters.span(), training ? dense_gradients.data() : nullptr,
                             result.logits);
  result.dense_gradients = dense_gradients.copy();
  for (const auto& gradient : gradients) {
    result.row_gradients.push_back(gradient->copy());
  }
  return result;
}

double ModelProblem::StepDouble(std::vector<std::vector<double>>* gradients,
                                std::vector<double>* logits) {
  ModelBatch<double> batch;
  batch.samples = samples_;
  batch.labels = labels_;
  batch.dense = dense_;
  batch.seed = 3;
  batch.step = 4;
  std::vector<std::vector<double>> row_gradients;
  for (const std::vector<double>& rows : rows_) {
    row_gradients.emplace_back(rows.size(), 0.0);
  }
  for (std::size_t l = 0; l < rows_.size(); ++l) {
    EmbeddingReads<double> reads;
    reads.dim = dims_[l];
    reads.rows = rows_[l].data();
    reads.row_gradients = row_gradients[l].data();
    reads.indices = indices_[l];
    if (IsJagged(l)) {
      reads.offsets = offsets_;
      reads.mean = (l < embedding_count() ? l : l - embedding_count()) == 2;
      reads.weights = reads.mean ? std::span<const float>() : weights_;
    }
    (l < embedding_count() ? batch.embeddings : batch.linears).push_back(reads);
  }
  std::vector<double> dense_gradients(layout_.size());
  std::vector<double> results(samples_);
  const double loss = tape_model().StepDouble(batch, parameters_, dense_gradients.data(), results);
  if (gradients != nullptr) {
    *gradients = {dense_gradients};
    gradients->insert(gradients->end(), row_gradients.begin(), row_gradients.end());
  }
  if (logits != nullptr) {
    *logits = results;
  }
  return loss;
}

}  // namespace plexus
