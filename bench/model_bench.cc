// model_bench: seconds of one model's Step() on random lookups of Criteo's shape, beside its matrix
// products' arithmetic.
//
//   model_bench --model=deepfm --batch=2048 [--bf16] [--steps=50]
//
// prints one line: microseconds a sample; GFLOP/s of the products with weights (forward and
// backward) that the model needs; and how much longer a step takes than these products would at the
// speed of a bare f32 product, measured between the steps.
#include <algorithm>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <memory>
#include <vector>

#include <gflags/gflags.h>

#include "common/random.h"
#include "worker/models/model.h"
#include "worker/nn/gemm.h"

DEFINE_string(model, "deepfm", "name of the model");
DEFINE_uint32(batch, 2048, "samples a step");
DEFINE_uint32(fields, 26, "sparse fields");
DEFINE_uint32(dim, 16, "dimension of the embeddings");
DEFINE_uint32(dense, 13, "dense fields");
DEFINE_uint32(unique, 12000, "unique rows of a step, over all fields");
DEFINE_uint32(steps, 50, "steps; the median counts");
DEFINE_bool(bf16, false, "bf16 matrix products");
DEFINE_bool(avx2, false, "pin the AVX2 profile instead of AVX512");

namespace plexus {
namespace {

template <typename T>
struct AlignedFree {
  void operator()(T* p) const { std::free(p); }
};
using Floats = std::unique_ptr<float, AlignedFree<float>>;

Floats MakeFloats(std::size_t count, std::uint64_t seed, float scale) {
  Floats floats(static_cast<float*>(std::aligned_alloc(64, (count * 4 + 63) / 64 * 64)));
  const CounterRandom random(seed, 1);
  for (std::size_t i = 0; i < count; ++i) {
    floats.get()[i] = scale * (2 * random.Uniform(i) - 1);
  }
  return floats;
}

// One field's rows, gradients and indices.
struct FieldData {
  FieldData(std::uint32_t field, std::uint32_t dim, std::uint32_t unique)
      : rows(MakeFloats(std::size_t{unique} * dim, field, 0.01F)),
        gradients(MakeFloats(std::size_t{unique} * dim, field, 0)),
        indices(FLAGS_batch) {
    const CounterRandom random(field, 2);
    for (std::uint32_t i = 0; i < FLAGS_batch; ++i) {
      indices[i] = static_cast<std::uint32_t>(random.Below(i, unique));
    }
    lookup.dim = dim;
    lookup.rows = rows.get();
    lookup.row_gradients = gradients.get();
    lookup.indices = indices;
  }
  Floats rows;
  Floats gradients;
  std::vector<std::uint32_t> indices;
  Lookup lookup;
};

// A minibatch of random lookups with its buffers.
struct Minibatch {
  Minibatch() : dense(MakeFloats(std::size_t{FLAGS_batch} * FLAGS_dense, 99, 1)) {
    const std::uint32_t unique = std::max(1U, FLAGS_unique / std::max(1U, FLAGS_fields));
    for (std::uint32_t f = 0; f < FLAGS_fields; ++f) {
      fields.push_back(std::make_unique<FieldData>(f, FLAGS_dim, unique));
      input.embeddings.push_back(fields.back()->lookup);
      fields.push_back(std::make_unique<FieldData>(f, 1, unique));
      input.linears.push_back(fields.back()->lookup);
    }
    for (std::uint32_t i = 0; i < FLAGS_batch; ++i) {
      labels.push_back(i % 4 == 0 ? 1.0F : 0.0F);
    }
    input.samples = FLAGS_batch;
    input.labels = labels;
    input.dense = {dense.get(), std::size_t{FLAGS_batch} * FLAGS_dense};
  }
  std::vector<std::unique_ptr<FieldData>> fields;
  Floats dense;
  std::vector<float> labels;
  ModelInput input;
};

ModelShape Shape() {
  ModelShape shape;
  shape.config.set_name(FLAGS_model);
  shape.bf16 = FLAGS_bf16;
  shape.dense_fields = FLAGS_dense;
  shape.embedding_dims.assign(FLAGS_fields, FLAGS_dim);
  shape.linear_fields = FLAGS_fields;
  shape.ranks = FLAGS_dim;  // What the model "counter" asks for.
  return shape;
}

double MedianSeconds(std::vector<double> seconds) {
  std::sort(seconds.begin(), seconds.end());
  return seconds[seconds.size() / 2];
}

template <typename Function>
double SecondsOf(Function function) {
  const auto start = std::chrono::steady_clock::now();
  function();
  return std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
}

// Seconds of a FLOP in bare f32 products of a tower's middle layer.
class BareProduct {
 public:
  double SecondsOfFlop() {
    const double seconds = SecondsOf([this] {
      for (int i = 0; i < kRepetitions; ++i) {
        Gemm<float>({kRows, kWidth, kWidth}, {x_.get(), kWidth}, {w_.get(), kWidth},
                    {y_.get(), kWidth});
      }
    });
    return seconds / (2.0 * kRepetitions * kRows * kWidth * kWidth);
  }

 private:
  static constexpr int kRepetitions = 8;
  static constexpr std::size_t kRows = 512;
  static constexpr std::size_t kWidth = 400;
  Floats x_ = MakeFloats(kRows * kWidth, 1, 1);
  Floats w_ = MakeFloats(kWidth * kWidth, 2, 1);
  Floats y_ = MakeFloats(kRows * kWidth, 3, 1);
};

int Run() {
  const auto profile = FLAGS_avx2 ? NumericProfile::kAvx2 : NumericProfile::kAvx512;
  if (const Status status = SetNumericProfile(profile); !status.ok()) {
    std::fprintf(stderr, "%s\n", status.ToString().c_str());
    return 1;
  }
  auto model = CreateModel(Shape());
  if (!model.ok()) {
    std::fprintf(stderr, "%s\n", model.status().ToString().c_str());
    return 1;
  }
  const Minibatch minibatch;
  const DenseLayout layout((*model)->dense_parameters());
  const Floats values = MakeFloats(layout.size(), 7, 0.05F);
  const Floats gradients = MakeFloats(layout.size(), 7, 0);
  std::vector<float> logits(FLAGS_batch);
  double flop = 0;  // Products with weights: once forward and twice backward.
  for (const DenseParameterSpec& spec : layout.parameters()) {
    flop += spec.shape.size() == 2 ? 6.0 * spec.shape[0] * spec.shape[1] : 0;
  }
  BareProduct bare;
  std::vector<double> seconds;
  std::vector<double> ratios;
  double loss = 0;
  for (std::uint32_t step = 0; step < std::max(1U, FLAGS_steps); ++step) {
    const double seconds_of_flop = bare.SecondsOfFlop();
    seconds.push_back(SecondsOf([&] {
                        loss = (*model)->Step(minibatch.input, {values.get(), layout.size()},
                                              gradients.get(), logits);
                      }) /
                      FLAGS_batch);
    ratios.push_back(seconds.back() / (flop * seconds_of_flop));
  }
  const double median = MedianSeconds(seconds);
  std::printf(
      "%s batch %u%s: %.2f us/sample, %.1f GFLOP/s, %.2f MFLOP/sample, %.2f x bare products, "
      "loss %.6f\n",
      FLAGS_model.c_str(), FLAGS_batch, FLAGS_bf16 ? " bf16" : "", median * 1e6,
      flop / median / 1e9, flop / 1e6, MedianSeconds(ratios), loss / FLAGS_batch);
  return 0;
}

}  // namespace
}  // namespace plexus

int main(int argc, char** argv) {
  gflags::ParseCommandLineFlags(&argc, &argv, true);
  return plexus::Run();
}
