#include "worker/models/registry.h"

#include <algorithm>
#include <set>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "tests/unit/worker/models/model_problem.h"

namespace plexus {
namespace {

std::uint64_t ParameterCount(const ModelShape& shape) {
  return DenseLayout(CreateModel(shape).value()->dense_parameters()).parameter_count();
}

TEST(RegistryTest, NamesAreSortedAndEachMakesAModel) {
  const std::vector<std::string> names = ModelNames();
  EXPECT_TRUE(std::is_sorted(names.begin(), names.end()));
  EXPECT_EQ(names.size(), 11U);
  for (const std::string& name : names) {
    EXPECT_TRUE(CreateModel(SmallShape(name)).ok()) << name;
    EXPECT_TRUE(NeedsOfModel(name).ok()) << name;
  }
}

TEST(RegistryTest, UnknownNameListsTheKnownOnes) {
  const Status status = CreateModel(SmallShape("resnet")).status();
  EXPECT_EQ(status.code(), StatusCode::kInvalidArgument);
  EXPECT_THAT(status.message(), testing::HasSubstr("deepfm"));
  EXPECT_EQ(NeedsOfModel("resnet").status().code(), StatusCode::kInvalidArgument);
}

TEST(RegistryTest, SaysWhatAModelReads) {
  EXPECT_TRUE(NeedsOfModel("lr")->linears);
  EXPECT_FALSE(NeedsOfModel("lr")->embeddings);
  EXPECT_TRUE(NeedsOfModel("deepfm")->linears);
  EXPECT_TRUE(NeedsOfModel("deepfm")->embeddings);
  EXPECT_FALSE(NeedsOfModel("dlrm")->linears);
}

TEST(RegistryTest, MultipliedVectorsHaveTheLargestWidth) {
  for (const std::string name : {"fm", "deepfm", "ipnn", "dlrm", "autoint"}) {
    ModelShape unequal = SmallShape(name);
    unequal.embedding_dims[1] = 8;
    ModelShape equal = SmallShape(name);
    equal.embedding_dims.assign(equal.embedding_dims.size(), 8);
    EXPECT_EQ(ParameterCount(unequal), ParameterCount(equal)) << name;
  }
  ModelShape concatenated = SmallShape("fnn");
  concatenated.embedding_dims[1] += 4;
  // Four more inputs of the six units of the first layer.
  EXPECT_EQ(ParameterCount(concatenated), ParameterCount(SmallShape("fnn")) + 4 * 6);
}

TEST(RegistryTest, RefusesImpossibleShapes) {
  ModelShape shape = SmallShape("lr", 0, 0);
  EXPECT_EQ(CreateModel(shape).status().code(), StatusCode::kInvalidArgument);
  shape = SmallShape("fnn", 0, 0);
  EXPECT_EQ(CreateModel(shape).status().code(), StatusCode::kInvalidArgument);
  shape = SmallShape("deepfm");
  shape.config.set_dropout(1);
  EXPECT_EQ(CreateModel(shape).status().code(), StatusCode::kInvalidArgument);
  shape = SmallShape("deepfm");
  shape.config.set_hidden(0, 0);
  EXPECT_EQ(CreateModel(shape).status().code(), StatusCode::kInvalidArgument);
}

TEST(RegistryTest, ParametersHaveDifferentNamesAndDefaultWidths) {
  ModelShape shape = SmallShape("deepfm", 26, 13);
  shape.embedding_dims.assign(26, 16);
  shape.config.clear_hidden();
  auto model = CreateModel(shape);
  ASSERT_TRUE(model.ok());
  std::set<std::string> names;
  for (const DenseParameterSpec& spec : (*model)->dense_parameters()) {
    EXPECT_TRUE(names.insert(spec.name).second) << spec.name;
  }
  // 429-400-400-400-1 with biases, and the 13 dense weights with theirs.
  EXPECT_EQ(DenseLayout((*model)->dense_parameters()).parameter_count(),
            429U * 400 + 400 + 2 * (400 * 400 + 400) + 400 + 1 + 13 + 1);
}

}  // namespace
}  // namespace plexus
