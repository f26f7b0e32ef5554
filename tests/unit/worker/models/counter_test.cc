#include <gtest/gtest.h>

#include "tests/unit/worker/models/model_problem.h"

namespace plexus {
namespace {

TEST(CounterTest, AddsAnIntegerOfThePulledValueForEachRead) {
  ModelShape shape;
  shape.config.set_name("counter");
  shape.embedding_dims = {2};
  shape.ranks = 2;
  auto model = CreateModel(shape);
  ASSERT_TRUE(model.ok()) << model.status().ToString();
  EXPECT_TRUE((*model)->dense_parameters().empty());
  const std::vector<float> rows{0, 4, 0, -5, 0, 6};
  std::vector<float> gradients(6);
  const std::vector<std::uint32_t> indices{1, 1, 2};
  ModelInput input;
  input.samples = 3;
  input.rank = 1;
  const std::vector<float> labels(3);
  input.labels = labels;
  input.embeddings.push_back({.dim = 2,
                              .rows = rows.data(),
                              .row_gradients = gradients.data(),
                              .indices = indices,
                              .offsets = {},
                              .weights = {}});
  std::vector<float> logits(3, 1);
  float none = 0;
  EXPECT_EQ((*model)->Step(input, {}, &none, logits), 0);
  // |-5| mod 3 = 2: 3 for each of two reads; 6 mod 3 = 0: 1.
  EXPECT_EQ(gradients, (std::vector<float>{0, 0, 0, 6, 0, 1}));
  EXPECT_EQ(logits, (std::vector<float>{0, 0, 0}));
  (*model)->Step(input, {}, nullptr, logits);
  EXPECT_EQ(gradients, (std::vector<float>{0, 0, 0, 6, 0, 1}));
}

TEST(CounterTest, NeedsAColumnARank) {
  ModelShape shape;
  shape.config.set_name("counter");
  shape.embedding_dims = {3};
  shape.ranks = 2;
  EXPECT_EQ(CreateModel(shape).status().code(), StatusCode::kInvalidArgument);
}

}  // namespace
}  // namespace plexus
