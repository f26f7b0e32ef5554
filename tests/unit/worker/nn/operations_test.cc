// What operations compute, where a gradient check would not notice a wrong one.
#include <cmath>
#include <vector>

#include <gtest/gtest.h>

#include "worker/nn/attention.h"
#include "worker/nn/elementwise.h"
#include "worker/nn/embedding.h"
#include "worker/nn/interaction.h"
#include "worker/nn/linear.h"
#include "worker/nn/loss.h"
#include "worker/nn/normalization.h"

namespace plexus {
namespace {

std::vector<double> ValuesOf(const Tensor<double>& x) {
  std::vector<double> values;
  for (std::size_t i = 0; i < x.rows; ++i) {
    values.insert(values.end(), x.row(i), x.row(i) + x.cols);
  }
  return values;
}

class OperationsTest : public testing::Test {
 protected:
  OperationsTest() { tape_.Reset(Tape<double>::Mode::kTrain); }

  Tape<double> tape_;
};

TEST_F(OperationsTest, PoolsSumsAndMeans) {
  const std::vector<double> rows{1, 2, 10, 20, 100, 200};
  const std::vector<std::uint32_t> indices{0, 2, 1};
  const std::vector<std::uint32_t> offsets{0, 2, 2, 3};
  const std::vector<float> weights{2, 3, 0.5F};
  EmbeddingReads<double> reads{
      .dim = 2, .rows = rows.data(), .indices = indices, .offsets = offsets};
  const Tensor<double> out = tape_.New(3, 2);
  EmbedInto<double>(tape_, {&reads, 1}, out);
  EXPECT_EQ(ValuesOf(out), (std::vector<double>{101, 202, 0, 0, 10, 20}));
  reads.mean = true;
  EmbedInto<double>(tape_, {&reads, 1}, out);
  EXPECT_EQ(ValuesOf(out), (std::vector<double>{50.5, 101, 0, 0, 10, 20}));
  reads.mean = false;
  reads.weights = weights;
  EmbedInto<double>(tape_, {&reads, 1}, out);
  EXPECT_EQ(ValuesOf(out), (std::vector<double>{302, 604, 0, 0, 5, 10}));
}

TEST_F(OperationsTest, NarrowFieldsEndWithZeros) {
  const std::vector<double> rows{1, 2, 10, 20};
  std::vector<double> gradients(4);
  const std::vector<double> weights{1, 2, 4, 8, 16, 32};
  const std::vector<float> labels{0, 0};
  const std::vector<std::uint32_t> indices{1, 0};
  const std::vector<std::uint32_t> offsets{0, 1, 2};
  for (const bool jagged : {false, true}) {
    std::fill(gradients.begin(), gradients.end(), 0.0);
    std::vector<EmbeddingReads<double>> reads(2);
    for (EmbeddingReads<double>& field : reads) {
      field.dim = 2;
      field.width = 3;
      field.rows = rows.data();
      field.row_gradients = gradients.data();
      field.indices = indices;
      field.offsets =
          jagged ? std::span<const std::uint32_t>(offsets) : std::span<const std::uint32_t>();
    }
    const Tensor<double> out = tape_.New(2, 6);
    std::fill_n(out.value, 12, 77.0);
    EmbedInto<double>(tape_, reads, out);
    EXPECT_EQ(ValuesOf(out), (std::vector<double>{10, 20, 0, 10, 20, 0, 1, 2, 0, 1, 2, 0}));
    const Tensor<double> logits = MatMul(tape_, out, ConstantTensor(weights.data(), 6, 1));
    BinaryCrossEntropy<double>(tape_, logits, labels);
    tape_.Backward();
    // Large logits of label 0: their own gradients are 1.
    EXPECT_EQ(gradients, (std::vector<double>{9, 18, 9, 18}));
    tape_.Reset(Tape<double>::Mode::kTrain);
  }
}

TEST_F(OperationsTest, AddsUpPairsForTheSecondOrderTerm) {
  // Vectors (1, 2), (3, -1), (2, 5): dot products 1, 12, 1.
  const std::vector<double> x{1, 2, 3, -1, 2, 5};
  EXPECT_EQ(*SecondOrder(tape_, ConstantTensor(x.data(), 1, 6), 3).value, 14);
  const Tensor<double> pairs = tape_.New(1, 3);
  PairwiseDotsInto(tape_, ConstantTensor(x.data(), 1, 6), 3, pairs);
  EXPECT_EQ(ValuesOf(pairs), (std::vector<double>{1, 12, 1}));
}

TEST_F(OperationsTest, SecondOrderOfReadsLetsValuesOfOneFieldInteract) {
  const std::vector<double> rows{1, 2, 3, -1, 2, 5};
  const std::vector<std::uint32_t> indices{0, 1, 2};
  const std::vector<std::uint32_t> offsets{0, 3};
  const EmbeddingReads<double> reads{
      .dim = 2, .rows = rows.data(), .indices = indices, .offsets = offsets};
  EXPECT_EQ(*SecondOrderOfReads<double>(tape_, {&reads, 1}, 1).value, 14);
}

TEST_F(OperationsTest, LossIsFiniteForLargeLogits) {
  const Tensor<double> logits = tape_.New(2, 1);
  logits.value[0] = 800;
  logits.value[1] = -800;
  const std::vector<float> labels{0, 1};
  EXPECT_EQ(BinaryCrossEntropy<double>(tape_, logits, labels), 1600);
  EXPECT_EQ(logits.gradient[0], 1);
  EXPECT_EQ(logits.gradient[1], -1);
}

TEST_F(OperationsTest, LossOfZeroIsLogTwo) {
  const Tensor<double> logits = tape_.New(1, 1);
  logits.value[0] = 0;
  const std::vector<float> labels{1};
  EXPECT_DOUBLE_EQ(BinaryCrossEntropy<double>(tape_, logits, labels), std::log(2.0));
  EXPECT_EQ(logits.gradient[0], -0.5);
}

TEST_F(OperationsTest, DropoutMaskDependsOnTheKeyAlone) {
  const std::vector<double> ones(400, 1.0);
  const Tensor<double> x = ConstantTensor(ones.data(), 20, 20);
  const DropoutKey key{.seed = 1, .stream = 2, .step = 3, .rank = 4, .first_sample = 0};
  const std::vector<double> all = ValuesOf(Dropout(tape_, x, 0.25, key));
  double sum = 0;
  for (const double value : all) {
    EXPECT_TRUE(value == 0 || std::abs(value - 4.0 / 3) < 1e-12);
    sum += value;
  }
  EXPECT_NEAR(sum, 400, 60);
  // Rows 5.. computed on their own get the same mask.
  DropoutKey later = key;
  later.first_sample = 5;
  const Tensor<double> rest = ConstantTensor(ones.data(), 15, 20);
  EXPECT_EQ(ValuesOf(Dropout(tape_, rest, 0.25, later)),
            std::vector<double>(all.begin() + 100, all.end()));
  DropoutKey next = key;
  next.step = 4;
  EXPECT_NE(ValuesOf(Dropout(tape_, x, 0.25, next)), all);
}

TEST_F(OperationsTest, DropoutDoesNothingWhenPredicting) {
  tape_.Reset(Tape<double>::Mode::kPredict);
  const std::vector<double> ones(8, 1.0);
  EXPECT_EQ(ValuesOf(Dropout(tape_, ConstantTensor(ones.data(), 2, 4), 0.5, {})), ones);
}

TEST_F(OperationsTest, BatchNormHandsSumsToTheRunningStatistics) {
  const std::vector<double> x{1, 10, 3, 30};
  const std::vector<double> gamma{1, 1};
  const std::vector<double> beta{0, 0};
  std::vector<double> mean{5, 5};
  std::vector<double> variance{4, 4};
  std::vector<double> sums(4);
  TensorStorage<double> storages[2] = {{sums.data(), 2, false}, {sums.data() + 2, 2, false}};
  const BatchNormParameters<double> parameters{
      ConstantTensor(gamma.data(), 1, 2), ConstantTensor(beta.data(), 1, 2),
      ParameterTensor(mean.data(), storages[0], 1, 2),
      ParameterTensor(variance.data(), storages[1], 1, 2), 0};
  const Tensor<double> input = ConstantTensor(x.data(), 2, 2);
  EXPECT_EQ(ValuesOf(BatchNorm(tape_, input, parameters)), (std::vector<double>{-1, -1, 1, 1}));
  EXPECT_EQ(sums, (std::vector<double>{4, 40, 2, 200}));  // 2 * mean, 2 * variance.
  tape_.Reset(Tape<double>::Mode::kPredict);
  EXPECT_EQ(ValuesOf(BatchNorm(tape_, input, parameters)),
            (std::vector<double>{-2, 2.5, -1, 12.5}));
}

TEST_F(OperationsTest, SoftmaxRowsSumToOne) {
  const std::vector<double> x{1000, 1001, 1002, 0, 0, 0};
  const std::vector<double> y = ValuesOf(Softmax(tape_, ConstantTensor(x.data(), 2, 3)));
  EXPECT_NEAR(y[0] + y[1] + y[2], 1, 1e-12);
  EXPECT_NEAR(y[2] / y[1], std::exp(1.0), 1e-9);
  EXPECT_NEAR(y[4], 1.0 / 3, 1e-12);
}

TEST_F(OperationsTest, OperationsWorkOnNoRows) {
  const std::vector<double> weights(6, 1.0);
  const Tensor<double> empty = tape_.New(0, 3);
  const Tensor<double> y = Linear<double>(tape_, empty, ConstantTensor(weights.data(), 3, 2),
                                          nullptr, Activation::kRelu);
  EXPECT_EQ(y.rows, 0U);
  EXPECT_EQ(y.cols, 2U);
  EXPECT_EQ(SumOfRows(tape_, y).rows, 0U);
}

}  // namespace
}  // namespace plexus
