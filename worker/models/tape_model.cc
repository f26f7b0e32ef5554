#include "worker/models/tape_model.h"

#include <algorithm>

#include "worker/nn/loss.h"

namespace plexus {
namespace {

EmbeddingReads<float> ReadsOf(const Lookup& lookup, bool training) {
  return {.dim = lookup.dim,
          .rows = lookup.rows,
          .row_gradients = training ? lookup.row_gradients : nullptr,
          .indices = lookup.indices,
          .offsets = lookup.offsets,
          .weights = lookup.weights,
          .mean = lookup.pooling == proto::Field::MEAN};
}

void CopyReads(const std::vector<Lookup>& lookups, bool training,
               std::vector<EmbeddingReads<float>>& reads) {
  reads.clear();
  for (const Lookup& lookup : lookups) {
    reads.push_back(ReadsOf(lookup, training));
  }
}

// A lookup is read with the model's width: zeros behind what it has.
template <typename T>
void WidenEmbeddings(const ModelShape& shape, std::vector<EmbeddingReads<T>>& embeddings) {
  for (std::size_t f = 0; f < embeddings.size(); ++f) {
    CHECK_LE(embeddings[f].dim, shape.embedding_dims[f]) << "a lookup wider than the model's";
    embeddings[f].width = shape.embedding_dims[f];
  }
}

template <typename T>
void SliceReads(const std::vector<EmbeddingReads<T>>& all, std::size_t first, std::size_t count,
                std::vector<EmbeddingReads<T>>& part) {
  part.clear();
  for (const EmbeddingReads<T>& reads : all) {
    part.push_back(reads.Samples(first, count));
  }
}

template <typename T>
void SliceBatch(const ModelBatch<T>& all, std::uint32_t first, std::uint32_t count,
                const ModelShape& shape, ModelBatch<T>& part) {
  part.samples = count;
  part.labels = all.labels.empty() ? all.labels : all.labels.subspan(first, count);
  part.dense = all.dense.subspan(std::size_t{first} * shape.dense_fields,
                                 std::size_t{count} * shape.dense_fields);
  SliceReads(all.embeddings, first, count, part.embeddings);
  WidenEmbeddings(shape, part.embeddings);
  SliceReads(all.linears, first, count, part.linears);
  part.seed = all.seed;
  part.step = all.step;
  part.rank = all.rank;
}

}  // namespace

double TapeModel::Step(const ModelInput& input, std::span<const float> dense_values,
                       float* dense_gradients, std::span<float> logits) {
  const bool training = dense_gradients != nullptr;
  batch_.samples = input.samples;
  batch_.labels = input.labels;
  batch_.dense = input.dense;
  CopyReads(input.embeddings, training, batch_.embeddings);
  CopyReads(input.linears, training, batch_.linears);
  batch_.seed = input.seed;
  batch_.step = input.step;
  batch_.rank = input.rank;
  return Run(work_, batch_, dense_values, dense_gradients, logits);
}

double TapeModel::StepDouble(const ModelBatch<double>& batch, std::span<const double> dense_values,
                             double* dense_gradients, std::span<double> logits) {
  return Run(work_double_, batch, dense_values, dense_gradients, logits);
}

template <typename T>
void TapeModel::BindParameters(Workspace<T>& work, std::span<const T> values, T* gradients) const {
  const std::vector<DenseParameterSpec>& specs = parameters_.specs();
  work.storages.assign(specs.size(), {});
  work.tensors.clear();
  for (std::uint32_t p = 0; p < specs.size(); ++p) {
    const std::vector<std::uint32_t>& extents = specs[p].shape;
    const std::uint32_t cols = extents.back();
    const std::uint32_t rows = cols == 0 ? 0 : static_cast<std::uint32_t>(layout_.count(p) / cols);
    work.storages[p].gradient = gradients == nullptr ? nullptr : gradients + layout_.offset(p);
    work.storages[p].count = layout_.count(p);
    work.tensors.push_back(
        ParameterTensor(values.data() + layout_.offset(p), work.storages[p], rows, cols));
  }
}

template <typename T>
double TapeModel::Run(Workspace<T>& work, const ModelBatch<T>& batch,
                      std::span<const T> dense_values, T* dense_gradients, std::span<T> logits) {
  if (layout_.parameters().size() != parameters_.specs().size()) {
    layout_ = DenseLayout(parameters_.specs());
  }
  CHECK_EQ(dense_values.size(), layout_.size()) << "dense values do not fit the model";
  const bool training = dense_gradients != nullptr;
  BindParameters(work, dense_values, dense_gradients);
  // Batch normalisation needs the minibatch as a whole.
  const std::uint32_t run_samples =
      shape_.config.batch_norm() ? std::max(batch.samples, 1U) : run_samples_;
  double loss = 0;
  for (std::uint32_t first = 0; first < batch.samples; first += run_samples) {
    const std::uint32_t count = std::min(run_samples, batch.samples - first);
    SliceBatch(batch, first, count, shape_, work.run);
    work.tape.Reset(training ? Tape<T>::Mode::kTrain : Tape<T>::Mode::kPredict,
                    shape_.bf16 ? ProductPrecision::kBf16 : ProductPrecision::kFull);
    const Tensor<T> z = Logits(Graph<T>{work.tape, shape_, work.run, work.tensors, first});
    for (std::uint32_t i = 0; i < count; ++i) {
      logits[first + i] = *z.row(i);
    }
    if (!batch.labels.empty()) {
      loss += BinaryCrossEntropy(work.tape, z, work.run.labels);
    }
    work.tape.Backward();
  }
  for (std::uint32_t p = 0; training && p < work.storages.size(); ++p) {
    T* const gradient = dense_gradients + layout_.offset(p);
    T* const end = p + 1 < work.storages.size() ? dense_gradients + layout_.offset(p + 1)
                                                : dense_gradients + layout_.size();
    std::fill(work.storages[p].gradient_written ? gradient + layout_.count(p) : gradient, end,
              T{0});
  }
  return loss;
}

}  // namespace plexus
