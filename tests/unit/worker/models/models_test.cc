// What every model must do: right gradients, same bits, learning, empty minibatches.
#include <algorithm>
#include <bit>
#include <cmath>
#include <functional>
#include <ostream>
#include <string>

#include <gtest/gtest.h>

#include "tests/unit/worker/models/model_problem.h"
#include "worker/nn/gemm.h"

namespace plexus {
namespace {

struct ModelCase {
  std::string name;
  ModelShape shape;
  bool jagged = false;
};

std::ostream& operator<<(std::ostream& out, const ModelCase& c) { return out << c.name; }

std::vector<ModelCase> Cases() {
  std::vector<ModelCase> cases;
  for (const std::string& model : ModelNames()) {
    if (model != "counter") {
      cases.push_back({model, SmallShape(model), false});
      cases.push_back({model + "WithoutDense", SmallShape(model, 4, 0), true});
    }
  }
  const auto add = [&cases](const std::string& name, const std::string& model,
                            const std::function<void(ModelShape&)>& change) {
    cases.push_back({name, SmallShape(model), true});
    change(cases.back().shape);
  };
  add("dcnv2LowRank", "dcnv2", [](ModelShape& s) { s.config.set_cross_rank(2); });
  add("deepfmBatchNorm", "deepfm", [](ModelShape& s) { s.config.set_batch_norm(true); });
  add("deepfmDropout", "deepfm", [](ModelShape& s) { s.config.set_dropout(0.3); });
  add("fmJaggedFeatures", "fm", [](ModelShape& s) { s.jagged_features = true; });
  add("lrJaggedFeatures", "lr", [](ModelShape& s) { s.jagged_features = true; });
  for (const std::string model : {"autoint", "deepfm", "dlrm", "fm", "fnn", "ipnn"}) {
    add(model + "UnequalDims", model, [](ModelShape& s) { s.embedding_dims = {2, 5, 3, 4}; });
  }
  add("fmJaggedUnequalDims", "fm", [](ModelShape& s) {
    s.jagged_features = true;
    s.embedding_dims = {2, 5, 3, 4};
  });
  add("autointAlone", "autoint", [](ModelShape& s) { s.config.clear_hidden(); });
  return cases;
}

bool SameBits(const std::vector<float>& a, const std::vector<float>& b) {
  return std::equal(a.begin(), a.end(), b.begin(), b.end(), [](float x, float y) {
    return std::bit_cast<std::uint32_t>(x) == std::bit_cast<std::uint32_t>(y);
  });
}

class ModelsTest : public testing::TestWithParam<ModelCase> {
 protected:
  // Compares `gradient` with central differences of the loss in `values`.
  static void CheckGradient(ModelProblem& problem, std::vector<double>& values,
                            const std::vector<double>& gradient, std::size_t first,
                            std::size_t count, const std::string& name) {
    constexpr double kStep = 1e-6;
    for (std::size_t e = first; e < first + count; ++e) {
      const double kept = values[e];
      values[e] = kept + kStep;
      const double above = problem.StepDouble(nullptr, nullptr);
      values[e] = kept - kStep;
      const double below = problem.StepDouble(nullptr, nullptr);
      values[e] = kept;
      ASSERT_NEAR(gradient[e], (above - below) / (2 * kStep), 2e-7)
          << name << "[" << e - first << "]";
    }
  }
};

TEST_P(ModelsTest, GradientsEqualCentralDifferences) {
  ModelProblem problem(GetParam().shape, 6, GetParam().jagged);
  std::vector<std::vector<double>> gradients;
  problem.StepDouble(&gradients, nullptr);
  const DenseLayout& layout = problem.layout();
  for (std::uint32_t p = 0; p < layout.parameters().size(); ++p) {
    if (layout.parameters()[p].kind == DenseParameterSpec::Kind::kWeight) {
      CheckGradient(problem, problem.parameters(), gradients[0], layout.offset(p), layout.count(p),
                    layout.parameters()[p].name);
    }
  }
  for (std::size_t l = 0; l < problem.rows().size(); ++l) {
    CheckGradient(problem, problem.rows()[l], gradients[1 + l], 0, problem.rows()[l].size(),
                  "rows of lookup " + std::to_string(l));
  }
}

TEST_P(ModelsTest, FloatAgreesWithDouble) {
  // Beyond two runs of samples.
  const std::uint32_t samples = 2 * kRunSamples + 77;
  ModelProblem problem(GetParam().shape, samples, GetParam().jagged);
  std::vector<std::vector<double>> gradients;
  std::vector<double> logits;
  const double loss = problem.StepDouble(&gradients, &logits);
  const ModelProblem::Result result = problem.Step();
  EXPECT_NEAR(result.loss / samples, loss / samples, 1e-5);
  for (std::uint32_t i = 0; i < samples; ++i) {
    ASSERT_NEAR(result.logits[i], logits[i], 1e-3) << i;
  }
  const double bound = 1e-5 * samples;
  for (std::size_t e = 0; e < gradients[0].size(); ++e) {
    ASSERT_NEAR(result.dense_gradients[e], gradients[0][e], bound) << e;
  }
  for (std::size_t l = 0; l < result.row_gradients.size(); ++l) {
    for (std::size_t e = 0; e < result.row_gradients[l].size(); ++e) {
      ASSERT_NEAR(result.row_gradients[l][e], gradients[1 + l][e], bound) << l << ", " << e;
    }
  }
}

TEST_P(ModelsTest, GivesTheSameBitsFromOtherBuffers) {
  ModelProblem problem(GetParam().shape, kRunSamples + 33, GetParam().jagged);
  const ModelProblem::Result first = problem.Step();
  problem.Predict();  // Another shape of the tape's memory in between.
  const ModelProblem::Result second = problem.Step();
  ModelProblem other(GetParam().shape, kRunSamples + 33, GetParam().jagged);
  for (const ModelProblem::Result& result : {second, other.Step()}) {
    EXPECT_EQ(std::bit_cast<std::uint64_t>(first.loss), std::bit_cast<std::uint64_t>(result.loss));
    EXPECT_TRUE(SameBits(first.logits, result.logits));
    EXPECT_TRUE(SameBits(first.dense_gradients, result.dense_gradients));
    for (std::size_t l = 0; l < first.row_gradients.size(); ++l) {
      EXPECT_TRUE(SameBits(first.row_gradients[l], result.row_gradients[l])) << l;
    }
  }
}

TEST_P(ModelsTest, ReadsZerosBehindNarrowRows) {
  const ModelShape& shape = GetParam().shape;
  ModelProblem problem(shape, 40, GetParam().jagged);
  const auto kept = [&shape](std::size_t l) {
    const bool narrow = l % 2 == 1 && l < shape.embedding_dims.size();
    return narrow ? shape.embedding_dims[l] / 2 : 0;
  };
  for (std::size_t l = 0; l < shape.embedding_dims.size(); ++l) {
    for (std::size_t e = 0; kept(l) > 0 && e < problem.rows()[l].size(); ++e) {
      problem.rows()[l][e] *= e % shape.embedding_dims[l] < kept(l) ? 1 : 0;
    }
  }
  const ModelProblem::Result padded = problem.Step();
  for (std::size_t l = 0; l < shape.embedding_dims.size(); ++l) {
    if (kept(l) > 0) {
      problem.Narrow(l, kept(l));
    }
  }
  const ModelProblem::Result narrow = problem.Step();
  EXPECT_TRUE(SameBits(padded.logits, narrow.logits));
  EXPECT_TRUE(SameBits(padded.dense_gradients, narrow.dense_gradients));
  for (std::size_t l = 0; l < padded.row_gradients.size(); ++l) {
    const std::size_t width = padded.row_gradients[l].size() / ModelProblem::kRows;
    const std::size_t dim = narrow.row_gradients[l].size() / ModelProblem::kRows;
    EXPECT_EQ(dim, kept(l) > 0 ? kept(l) : width);
    for (std::size_t e = 0; e < narrow.row_gradients[l].size(); ++e) {
      const float expected = padded.row_gradients[l][e / dim * width + e % dim];
      ASSERT_EQ(narrow.row_gradients[l][e], expected) << "lookup " << l << ", " << e;
    }
  }
}

TEST_P(ModelsTest, EmptyBatchHasNoLossAndZeroGradients) {
  ModelProblem problem(GetParam().shape, 0, GetParam().jagged);
  const ModelProblem::Result result = problem.Step();
  EXPECT_EQ(result.loss, 0);
  for (const float gradient : result.dense_gradients) {
    EXPECT_EQ(gradient, 0);
  }
}

TEST_P(ModelsTest, PaddingsOfTheGradientAreZero) {
  ModelProblem problem(GetParam().shape, 5, GetParam().jagged);
  const ModelProblem::Result result = problem.Step();
  const DenseLayout& layout = problem.layout();
  for (std::uint32_t p = 0; p < layout.parameters().size(); ++p) {
    const std::uint64_t end =
        p + 1 < layout.parameters().size() ? layout.offset(p + 1) : layout.size();
    for (std::uint64_t e = layout.offset(p) + layout.count(p); e < end; ++e) {
      EXPECT_EQ(result.dense_gradients[e], 0);
    }
  }
}

TEST_P(ModelsTest, LearnsAPlantedRule) {
  ModelProblem problem(GetParam().shape, 96, GetParam().jagged);
  // Positive: an even value in the first field, or a low one in the last.
  const auto& indices = problem.indices();
  const std::size_t samples = problem.labels().size();
  for (std::size_t i = 0; i < samples; ++i) {
    problem.labels()[i] = indices[0][i] % 2 == 0 || indices[3][i] < 3 ? 1 : 0;
  }
  const double before = problem.Step().loss / static_cast<double>(samples);
  for (int step = 0; step < 300; ++step) {
    std::vector<std::vector<double>> gradients;
    problem.StepDouble(&gradients, nullptr);
    const double rate = 0.3 / static_cast<double>(samples);
    const DenseLayout& layout = problem.layout();
    for (std::uint32_t p = 0; p < layout.parameters().size(); ++p) {
      if (layout.parameters()[p].kind == DenseParameterSpec::Kind::kWeight) {
        for (std::uint64_t e = layout.offset(p); e < layout.offset(p) + layout.count(p); ++e) {
          problem.parameters()[e] -= rate * gradients[0][e];
        }
      }
    }
    for (std::size_t l = 0; l < problem.rows().size(); ++l) {
      for (std::size_t e = 0; e < problem.rows()[l].size(); ++e) {
        problem.rows()[l][e] -= rate * gradients[1 + l][e];
      }
    }
  }
  const double after = problem.Step().loss / static_cast<double>(samples);
  EXPECT_LT(after, 0.85 * before);
}

INSTANTIATE_TEST_SUITE_P(Models, ModelsTest, testing::ValuesIn(Cases()),
                         [](const auto& test) { return test.param.name; });

TEST(ModelTest, PredictingAgreesWithTrainingWithoutRandomLayers) {
  ModelProblem problem(SmallShape("deepfm"), 40, true);
  EXPECT_TRUE(SameBits(problem.Step().logits, problem.Predict().logits));
}

TEST(ModelTest, DropoutActsOnlyWhileTraining) {
  ModelShape shape = SmallShape("deepfm");
  ModelProblem plain(shape, 40, false);
  shape.config.set_dropout(0.5);
  ModelProblem dropped(shape, 40, false);
  EXPECT_TRUE(SameBits(plain.Predict().logits, dropped.Predict().logits));
  EXPECT_FALSE(SameBits(plain.Step().logits, dropped.Step().logits));
}

TEST(ModelTest, BatchNormReportsStatisticsPerSample) {
  ModelShape shape = SmallShape("fnn");
  shape.config.set_batch_norm(true);
  ModelProblem problem(shape, 50, false);
  const ModelProblem::Result result = problem.Step();
  const DenseLayout& layout = problem.layout();
  std::uint32_t statistics = 0;
  for (std::uint32_t p = 0; p < layout.parameters().size(); ++p) {
    if (layout.parameters()[p].kind == DenseParameterSpec::Kind::kStatistic) {
      ++statistics;
      EXPECT_NE(result.dense_gradients[layout.offset(p)], 0) << layout.parameters()[p].name;
    }
  }
  EXPECT_EQ(statistics, 4U);  // Mean and variance of two hidden layers.
}

TEST(ModelTest, BfloatAgreesWithFloatRoughly) {
  if (!CpuSupportsBf16()) {
    GTEST_SKIP() << "this CPU has no avx512_bf16";
  }
  ModelShape shape = SmallShape("deepfm");
  ModelProblem full(shape, 100, false);
  shape.bf16 = true;
  ModelProblem rounded(shape, 100, false);
  const ModelProblem::Result expected = full.Step();
  const ModelProblem::Result result = rounded.Step();
  EXPECT_NEAR(result.loss, expected.loss, 0.02 * expected.loss);
  EXPECT_FALSE(SameBits(expected.logits, result.logits));
  EXPECT_TRUE(SameBits(result.dense_gradients, rounded.Step().dense_gradients));
}

}  // namespace
}  // namespace plexus
