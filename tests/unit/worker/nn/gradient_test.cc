// Every operation's gradient against central differences, in double precision.
#include <cmath>
#include <functional>
#include <ostream>
#include <span>
#include <string>
#include <vector>

#include <gtest/gtest.h>

#include "common/random.h"
#include "worker/nn/attention.h"
#include "worker/nn/elementwise.h"
#include "worker/nn/embedding.h"
#include "worker/nn/interaction.h"
#include "worker/nn/linear.h"
#include "worker/nn/loss.h"
#include "worker/nn/normalization.h"
#include "worker/nn/tape.h"

namespace plexus {
namespace {

using Inputs = std::vector<Tensor<double>>;

struct Shape {
  std::uint32_t rows;
  std::uint32_t cols;
};

struct OperationCase {
  std::string name;
  std::vector<Shape> inputs;
  std::function<Tensor<double>(Tape<double>&, const Inputs&)> build;
};

std::ostream& operator<<(std::ostream& out, const OperationCase& c) { return out << c.name; }

// 3 fields of 4 dimensions over the rows of inputs[f]: one index a sample, jagged sum with weights,
// jagged mean.
struct JaggedReads {
  static constexpr std::uint32_t kSamples = 4;
  std::vector<std::uint32_t> single{2, 0, 2, 1};
  std::vector<std::uint32_t> many{0, 1, 1, 2, 0, 2, 2};
  std::vector<std::uint32_t> offsets{0, 3, 3, 4, 7};
  std::vector<float> weights{0.5F, -1.5F, 2, 1, 0.25F, 3, -0.75F};

  std::vector<EmbeddingReads<double>> Over(const Inputs& rows) const {
    std::vector<EmbeddingReads<double>> reads(3);
    for (std::size_t f = 0; f < 3; ++f) {
      reads[f].dim = rows[f].cols;
      reads[f].rows = rows[f].value;
      reads[f].row_gradients = rows[f].gradient;
      reads[f].indices = f == 0 ? single : many;
      if (f > 0) {
        reads[f].offsets = offsets;
      }
    }
    reads[1].weights = weights;
    reads[2].mean = true;
    return reads;
  }
};

const JaggedReads& Jagged() {
  static const JaggedReads reads;
  return reads;
}

// The reads live as long as the tape's closures: a span of them is recorded.
Tensor<double> EmbedCase(Tape<double>& tape, const Inputs& in) {
  static std::vector<EmbeddingReads<double>> reads;
  reads = Jagged().Over(in);
  const Tensor<double> out = tape.New(JaggedReads::kSamples, 1 + 12);
  std::fill_n(out.value, out.storage->count, 0.0);
  EmbedInto<double>(tape, reads, out.Columns(1, 12));
  return out;
}

Tensor<double> SecondOrderOfReadsCase(Tape<double>& tape, const Inputs& in) {
  static std::vector<EmbeddingReads<double>> reads;
  reads = Jagged().Over(in);
  return SecondOrderOfReads<double>(tape, reads, JaggedReads::kSamples);
}

Tensor<double> FirstOrderCase(Tape<double>& tape, const Inputs& in) {
  static std::vector<EmbeddingReads<double>> reads;
  reads = Jagged().Over(in);
  return FirstOrder<double>(tape, reads, JaggedReads::kSamples);
}

Tensor<double> PairwiseCase(Tape<double>& tape, const Inputs& in) {
  const Tensor<double> out = tape.New(in[0].rows, 10);
  PairwiseDotsInto(tape, in[0], 5, out);
  return out;
}

Tensor<double> ScaleVectorsCase(Tape<double>& tape, const Inputs& in) {
  const Tensor<double> out = tape.New(in[0].rows, in[0].cols * in[1].cols);
  ScaleVectorsInto(tape, in[0], in[1], out);
  return out;
}

Tensor<double> BatchNormCase(Tape<double>& tape, const Inputs& in) {
  // Running statistics are not differentiated: constants.
  const Tensor<double> none = ConstantTensor(in[1].value, 1, in[1].cols);
  return BatchNorm<double>(tape, in[0], {in[1], in[2], none, none});
}

Tensor<double> ConcatCase(Tape<double>& tape, const Inputs& in) {
  // One operand twice, and a view of it: their gradients add up.
  const Tensor<double> parts[] = {in[0], in[1], in[0].Columns(1, 2)};
  return Concat<double>(tape, parts);
}

std::vector<OperationCase> Operations() {
  const DropoutKey key{.seed = 5, .stream = 6, .step = 7, .rank = 1, .first_sample = 3};
  return {
      {"MatMul", {{5, 7}, {7, 3}}, [](auto& t, auto& in) { return MatMul(t, in[0], in[1]); }},
      {"LinearRelu",
       {{5, 7}, {7, 3}, {1, 3}},
       [](auto& t, auto& in) { return Linear(t, in[0], in[1], &in[2], Activation::kRelu); }},
      {"LinearBias",
       {{5, 7}, {7, 3}, {1, 3}},
       [](auto& t, auto& in) { return Linear(t, in[0], in[1], &in[2]); }},
      {"LinearColumn",
       {{5, 21}, {21, 1}, {1, 1}},
       [](auto& t, auto& in) { return Linear(t, in[0], in[1], &in[2]); }},
      {"LinearOfView",
       {{5, 7}, {4, 3}, {1, 3}},
       [](auto& t, auto& in) { return Linear(t, in[0].Columns(2, 4), in[1], &in[2]); }},
      {"Relu", {{4, 6}}, [](auto& t, auto& in) { return Relu(t, in[0]); }},
      {"Sigmoid", {{4, 6}}, [](auto& t, auto& in) { return Sigmoid(t, in[0]); }},
      {"Tanh", {{4, 6}}, [](auto& t, auto& in) { return Tanh(t, in[0]); }},
      {"Add", {{4, 6}, {4, 6}}, [](auto& t, auto& in) { return Add(t, in[0], in[1]); }},
      {"AddRow", {{4, 6}, {1, 6}}, [](auto& t, auto& in) { return Add(t, in[0], in[1]); }},
      {"AddColumn", {{4, 6}, {4, 1}}, [](auto& t, auto& in) { return Add(t, in[0], in[1]); }},
      {"AddItself", {{4, 6}}, [](auto& t, auto& in) { return Add(t, in[0], in[0]); }},
      {"Mul", {{4, 6}, {4, 6}}, [](auto& t, auto& in) { return Mul(t, in[0], in[1]); }},
      {"MulRow", {{4, 6}, {1, 6}}, [](auto& t, auto& in) { return Mul(t, in[0], in[1]); }},
      {"MulColumn", {{4, 6}, {4, 1}}, [](auto& t, auto& in) { return Mul(t, in[0], in[1]); }},
      {"MulItself", {{4, 6}}, [](auto& t, auto& in) { return Mul(t, in[0], in[0]); }},
      {"MulAdd",
       {{4, 6}, {4, 6}},
       [](auto& t, auto& in) { return MulAdd(t, in[0], in[1], in[0]); }},
      {"Scale", {{4, 6}}, [](auto& t, auto& in) { return Scale(t, in[0], -1.5); }},
      {"Concat", {{4, 3}, {4, 5}}, ConcatCase},
      {"SliceColumns",
       {{4, 6}},
       [](auto& t, auto& in) { return Scale(t, in[0].Columns(1, 3), 2.0); }},
      {"SumOfRows", {{4, 19}}, [](auto& t, auto& in) { return SumOfRows(t, in[0]); }},
      {"SumOfColumns", {{4, 19}}, [](auto& t, auto& in) { return SumOfColumns(t, in[0]); }},
      {"EmbedInto", {{3, 4}, {3, 4}, {3, 4}}, EmbedCase},
      {"FirstOrder", {{3, 1}, {3, 1}, {3, 1}}, FirstOrderCase},
      {"SecondOrder", {{4, 15}}, [](auto& t, auto& in) { return SecondOrder(t, in[0], 3); }},
      {"SecondOrderOfReads", {{3, 9}, {3, 9}, {3, 9}}, SecondOrderOfReadsCase},
      {"PairwiseDots", {{3, 15}}, PairwiseCase},
      {"ScaleVectors", {{4, 3}, {3, 5}}, ScaleVectorsCase},
      {"BatchMatMul",
       {{6, 4}, {8, 5}},
       [](auto& t, auto& in) { return BatchMatMul(t, in[0], in[1], TransposeB::kNo, 2); }},
      {"BatchMatMulTransposed",
       {{6, 4}, {10, 4}},
       [](auto& t, auto& in) { return BatchMatMul(t, in[0], in[1], TransposeB::kYes, 2); }},
      {"Softmax", {{4, 18}}, [](auto& t, auto& in) { return Softmax(t, in[0]); }},
      {"MultiHeadAttention",
       {{6, 4}, {10, 4}, {10, 6}},
       [](auto& t, auto& in) {
         return MultiHeadAttention<double>(t, in[0], in[1], in[2],
                                           {.batch = 2, .heads = 2, .score_scale = 0.5});
       }},
      {"LayerNorm",
       {{4, 18}, {1, 18}, {1, 18}},
       [](auto& t, auto& in) { return LayerNorm(t, in[0], in[1], in[2]); }},
      {"BatchNorm", {{5, 6}, {1, 6}, {1, 6}}, BatchNormCase},
      {"Dropout", {{4, 18}}, [key](auto& t, auto& in) { return Dropout(t, in[0], 0.4, key); }},
      {"LossOfLogits", {{4, 1}}, [](auto& t, auto& in) { return Scale(t, in[0], 3.0); }},
  };
}

class GradientTest : public testing::TestWithParam<OperationCase> {
 protected:
  GradientTest() {
    const CounterRandom random(11, 12);
    std::uint64_t drawn = 0;
    for (const Shape& shape : GetParam().inputs) {
      std::vector<double>& input = values_.emplace_back(shape.rows * shape.cols);
      for (double& value : input) {
        value = 2 * random.UniformDouble(drawn++) - 1;
      }
    }
  }

  // A fixed random weighting of the result's elements, passed through the loss, so that each
  // element's gradient is another one.
  double Evaluate(std::vector<std::vector<double>>* gradients) {
    Tape<double> tape;
    tape.Reset(Tape<double>::Mode::kTrain);
    std::vector<TensorStorage<double>> storages(values_.size());
    std::vector<std::vector<double>> buffers;
    Inputs inputs;
    for (std::size_t p = 0; p < values_.size(); ++p) {
      // What accumulates into rows starts at zero; the rest is overwritten.
      buffers.emplace_back(values_[p].size(), 0.0);
    }
    for (std::size_t p = 0; p < values_.size(); ++p) {
      storages[p] = {buffers[p].data(), buffers[p].size(), false};
      const Shape& shape = GetParam().inputs[p];
      inputs.push_back(ParameterTensor(values_[p].data(), storages[p], shape.rows, shape.cols));
    }
    const Tensor<double> result = GetParam().build(tape, inputs);
    std::vector<double> weights(result.cols);
    const CounterRandom random(13, 14);
    for (std::size_t j = 0; j < weights.size(); ++j) {
      weights[j] = 2 * random.UniformDouble(j) - 1;
    }
    const Tensor<double> logits =
        MatMul(tape, result, ConstantTensor(weights.data(), result.cols, 1));
    std::vector<float> labels(result.rows);
    for (std::size_t i = 0; i < labels.size(); ++i) {
      labels[i] = i % 2 == 0 ? 1 : 0;
    }
    const double loss = BinaryCrossEntropy<double>(tape, logits, labels);
    tape.Backward();
    if (gradients != nullptr) {
      *gradients = buffers;
    }
    return loss;
  }

  std::vector<std::vector<double>> values_;
};

TEST_P(GradientTest, EqualsCentralDifferences) {
  std::vector<std::vector<double>> gradients;
  Evaluate(&gradients);
  constexpr double kStep = 1e-5;
  for (std::size_t p = 0; p < values_.size(); ++p) {
    double largest = 0;
    for (std::size_t e = 0; e < values_[p].size(); ++e) {
      double& value = values_[p][e];
      const double kept = value;
      value = kept + kStep;
      const double above = Evaluate(nullptr);
      value = kept - kStep;
      const double below = Evaluate(nullptr);
      value = kept;
      EXPECT_NEAR(gradients[p][e], (above - below) / (2 * kStep), 1e-7)
          << "input " << p << ", element " << e;
      largest = std::max(largest, std::abs(gradients[p][e]));
    }
    EXPECT_GT(largest, 1e-3) << "the check sees no gradient of input " << p;
  }
}

INSTANTIATE_TEST_SUITE_P(Operations, GradientTest, testing::ValuesIn(Operations()),
                         [](const auto& test) { return test.param.name; });

}  // namespace
}  // namespace plexus
