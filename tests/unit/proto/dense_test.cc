#include <cmath>
#include <memory>

#include <gtest/gtest.h>

#include "proto/dense_layout.h"
#include "proto/dense_store.h"

namespace plexus {
namespace {

DenseParameterSpec Parameter(const std::string& name, std::vector<std::uint32_t> shape,
                             DenseParameterSpec::Init init, double scale) {
  return {.name = name, .shape = std::move(shape), .init = init, .scale = scale};
}

std::shared_ptr<JobPlan> MakeDensePlan() {
  auto plan = std::make_shared<JobPlan>();
  plan->job.mutable_train()->set_seed(5);
  plan->dense_optimizer.kind = OptimizerKind::kAdagrad;
  plan->dense_optimizer.learning_rate = 0.5f;
  std::vector<DenseParameterSpec> parameters = {
      Parameter("bias", {3}, DenseParameterSpec::Init::kConstant, 2),
      Parameter("weights", {130, 200}, DenseParameterSpec::Init::kUniform, 0.5),
      Parameter("mean", {5}, DenseParameterSpec::Init::kNormal, 1)};
  parameters[2].kind = DenseParameterSpec::Kind::kStatistic;
  plan->dense = DenseLayout(std::move(parameters));
  return plan;
}

TEST(DenseLayoutTest, CutsParametersIntoBlocks) {
  const DenseLayout layout = MakeDensePlan()->dense;
  ASSERT_EQ(layout.blocks().size(), 4u);
  EXPECT_EQ(layout.parameter_count(), 3u + 26000 + 5);
  EXPECT_EQ(layout.offset(1), 16u);
  EXPECT_EQ(layout.blocks()[1].count, kDenseBlockFloats);
  EXPECT_EQ(layout.blocks()[2].first, kDenseBlockFloats);
  EXPECT_EQ(layout.blocks()[2].count, 26000 - kDenseBlockFloats);
  EXPECT_EQ(layout.blocks()[2].offset, 16u + kDenseBlockFloats);
  EXPECT_EQ(layout.blocks()[3].offset % 16, 0u);
  EXPECT_EQ(layout.size(), 16u + 26000 + 16);
}

TEST(DenseLayoutTest, InitialValuesDoNotDependOnTheCut) {
  const DenseLayout layout = MakeDensePlan()->dense;
  std::vector<float> whole(26000);
  DenseBlock all{.parameter = 1, .first = 0, .count = 26000, .offset = 0};
  layout.InitialValues(all, 5, whole);
  std::vector<float> second(layout.blocks()[2].count);
  layout.InitialValues(layout.blocks()[2], 5, second);
  EXPECT_TRUE(std::equal(second.begin(), second.end(), whole.begin() + kDenseBlockFloats));
  for (const float value : whole) {
    ASSERT_LE(std::abs(value), 0.5f);
  }
  std::vector<float> other(26000);
  layout.InitialValues(all, 6, other);
  EXPECT_NE(whole, other);
}

TEST(DenseStoreTest, AnySplitIntoStoresHasTheSameDigest) {
  const auto plan = MakeDensePlan();
  const DenseStore all(plan, {0, 1, 2, 3});
  DenseStore even(plan, {0, 2});
  DenseStore odd(plan, {1, 3});
  Digest128 sum = even.Digest();
  sum += odd.Digest();
  EXPECT_EQ(sum, all.Digest());
  EXPECT_EQ(even.value_floats(), 3u + 26000 - kDenseBlockFloats);
  EXPECT_EQ(even.state_floats(), 2 * even.value_floats());
}

TEST(DenseStoreTest, AppliesTheRuleOfTheKind) {
  const auto plan = MakeDensePlan();
  DenseStore store(plan, {0, 3});
  EXPECT_TRUE(store.IsWeight(0));
  EXPECT_FALSE(store.IsWeight(1));
  const std::vector<float> before(store.at(1).begin(), store.at(1).end());
  std::vector<float> gradient(5, 4.0f);
  store.Apply(0, gradient.data(), 0.5f, 0.25f);
  // Adagrad: gradient 1, accumulator 1, rate 0.5 * 0.5.
  EXPECT_FLOAT_EQ(store.at(0)[0], 2.0f - 0.25f);
  gradient.assign(5, 4.0f);
  store.Apply(1, gradient.data(), 0.5f, 0.25f);  // Neither rate nor clipping touch statistics.
  for (int i = 0; i < 5; ++i) {
    EXPECT_FLOAT_EQ(store.at(1)[i], before[i] + 0.1f * (4.0f - before[i]));
  }
}

TEST(DenseStoreTest, ReplacesAndRefusesOtherSizes) {
  const auto plan = MakeDensePlan();
  DenseStore store(plan, {0, 3});
  const DenseStore fresh(plan, {0, 3});
  std::vector<float> gradient(5, 1.0f);
  store.Apply(0, gradient.data(), 1, 1);
  EXPECT_FALSE(store.Digest() == fresh.Digest());
  ASSERT_TRUE(store.ReplaceBlock(0, fresh.at(0)).ok());
  EXPECT_EQ(store.Digest(), fresh.Digest());
  EXPECT_EQ(store.ReplaceBlock(0, fresh.at(1)).code(), StatusCode::kInvalidArgument);
  store.Apply(0, gradient.data(), 1, 1);
  store.Replace(fresh.everything());
  EXPECT_EQ(store.Digest(), fresh.Digest());
}

TEST(ClipScaleTest, ScalesOnlyWhatIsAbove) {
  EXPECT_EQ(ClipScale(100, 0), 1.0f);
  EXPECT_EQ(ClipScale(100, 10), 1.0f);
  EXPECT_EQ(ClipScale(400, 10), 0.5f);
  EXPECT_EQ(SumOfSquares(std::vector<float>{3, 4}), 25.0);
}

}  // namespace
}  // namespace plexus
