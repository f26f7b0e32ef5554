// Model: the part of a recommender that a rank computes: pulled rows and dense parameters in,
// logits and gradient sums out.  It knows no keys, servers or files.
//
// A model is one file in worker/models/ that declares its dense parameters, builds the logits on
// the tape (worker/nn) and registers itself under its name.
//
// Thread safety: one object per rank, used by one thread.
#pragma once

#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "common/status.h"
#include "proto/dense_layout.h"
#include "proto/job.pb.h"

namespace plexus {

// One field's reads of one table in a batch: sample i reads rows[indices[offsets[i]]] ..
// rows[indices[offsets[i + 1]]), pooled.
struct Lookup {
  std::uint32_t dim = 0;           // At most the model's own for this field: it reads zeros behind.
  const float* rows = nullptr;     // [unique rows x dim]
  float* row_gradients = nullptr;  // Same shape; gradients are added.  Null when only predicting.
  std::span<const std::uint32_t> indices;
  std::span<const std::uint32_t> offsets;  // samples + 1, or empty: one index a sample.
  std::span<const float> weights;          // One an index, or empty: all 1.
  proto::Field::Pooling pooling = proto::Field::SUM;
};

struct ModelInput {
  std::uint32_t samples = 0;
  std::span<const float> labels;  // [samples]
  std::span<const float> dense;   // [samples x dense fields]
  std::vector<Lookup>
      embeddings;               // One a sparse field with an EMBEDDING table, in the job's order.
  std::vector<Lookup> linears;  // One a sparse field with a LINEAR table.
  // Who computes, for counter-based random numbers (dropout).
  std::uint64_t seed = 0;
  std::uint64_t step = 0;
  std::uint32_t rank = 0;
};

// What a model is built for: the job's model message and the shape of its inputs.
struct ModelShape {
  proto::Model config;
  bool bf16 = false;
  std::uint32_t dense_fields = 0;
  // One an `embeddings` lookup: floats of its rows.  Models that multiply vectors with each other
  // read all of them with the largest, zeros behind a narrower one.
  std::vector<std::uint32_t> embedding_dims;
  std::uint32_t linear_fields = 0;
  // Whether every weighted value of a multi-valued field is a feature of its own (LIBSVM: FM and LR
  // over all values).
  bool jagged_features = false;
  std::uint32_t ranks = 1;
};

class Model {
 public:
  virtual ~Model() = default;

  // In a fixed order; the same for equal shapes.
  virtual const std::vector<DenseParameterSpec>& dense_parameters() const = 0;

  // Computes logits[i] for each sample and returns the sum of the samples' log losses.
  // `dense_values` is the flat vector of DenseLayout. If `dense_gradients` is not null (same
  // layout; overwritten, paddings zero), also the gradients of that *sum*: into dense_gradients,
  // and added to the lookups' row_gradients.  Training-only layers (dropout, batch statistics) act
  // only then.
  virtual double Step(const ModelInput& input, std::span<const float> dense_values,
                      float* dense_gradients, std::span<float> logits) = 0;
};

// kInvalidArgument: no model of that name (the message lists them), or one that cannot work on this
// shape: the message says what it needs.
StatusOr<std::unique_ptr<Model>> CreateModel(const ModelShape& shape);

// Names of the registered models, sorted.
std::vector<std::string> ModelNames();

// Whether the model reads LINEAR rows, EMBEDDING rows.  kInvalidArgument: no model of that name.
struct ModelNeeds {
  bool linears = false;
  bool embeddings = false;
};
StatusOr<ModelNeeds> NeedsOfModel(const std::string& name);

}  // namespace plexus
