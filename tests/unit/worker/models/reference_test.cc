// DeepFM, DCN-V2 and DLRM against their definitions, written down sample by sample.
#include <cmath>
#include <functional>
#include <string>
#include <vector>

#include <gtest/gtest.h>

#include "tests/unit/worker/models/model_problem.h"

namespace plexus {
namespace {

using Vector = std::vector<double>;

class ReferenceTest : public testing::Test {
 protected:
  // x W + b of the parameters `name`.
  Vector Linear(const std::string& name, const Vector& x) const {
    const double* const weight = Parameter(name + ".weight");
    const double* const bias = Parameter(name + ".bias");
    const std::uint32_t out = Extent(name + ".weight", 1);
    EXPECT_EQ(Extent(name + ".weight", 0), x.size()) << name;
    Vector y(bias, bias + out);
    for (std::size_t i = 0; i < x.size(); ++i) {
      for (std::uint32_t j = 0; j < out; ++j) {
        y[j] += x[i] * weight[i * out + j];
      }
    }
    return y;
  }

  static Vector Relu(Vector x) {
    for (double& value : x) {
      value = std::max(value, 0.0);
    }
    return x;
  }

  static Vector Concat(Vector a, const Vector& b) {
    a.insert(a.end(), b.begin(), b.end());
    return a;
  }

  Vector DenseOf(std::size_t i) const {
    const auto first = problem_->dense().begin() + static_cast<std::ptrdiff_t>(i * 3);
    return {first, first + 3};
  }

  Vector EmbeddingOf(std::size_t i, std::size_t field) const {
    const auto first =
        problem_->rows()[field].begin() + std::ptrdiff_t{problem_->indices()[field][i]} * 4;
    return {first, first + 4};
  }

  Vector EmbeddingsOf(std::size_t i) const {
    Vector all;
    for (std::size_t f = 0; f < 4; ++f) {
      all = Concat(all, EmbeddingOf(i, f));
    }
    return all;
  }

  static double Dot(const Vector& a, const Vector& b) {
    double sum = 0;
    for (std::size_t d = 0; d < a.size(); ++d) {
      sum += a[d] * b[d];
    }
    return sum;
  }

  void ExpectLogits(const std::string& model, const std::function<double(std::size_t)>& logit) {
    problem_ = std::make_unique<ModelProblem>(SmallShape(model), 9, false);
    Vector logits;
    problem_->StepDouble(nullptr, &logits);
    for (std::size_t i = 0; i < logits.size(); ++i) {
      EXPECT_NEAR(logits[i], logit(i), 1e-12) << model << ", sample " << i;
    }
  }

  std::unique_ptr<ModelProblem> problem_;

 private:
  std::uint32_t IndexOf(const std::string& name) const {
    const auto& specs = problem_->layout().parameters();
    for (std::uint32_t p = 0; p < specs.size(); ++p) {
      if (specs[p].name == name) {
        return p;
      }
    }
    ADD_FAILURE() << "no parameter " << name;
    return 0;
  }
  const double* Parameter(const std::string& name) const {
    return problem_->parameters().data() + problem_->layout().offset(IndexOf(name));
  }
  std::uint32_t Extent(const std::string& name, std::size_t axis) const {
    return problem_->layout().parameters()[IndexOf(name)].shape[axis];
  }
};

TEST_F(ReferenceTest, DeepFm) {
  ExpectLogits("deepfm", [this](std::size_t i) {
    const Vector x = Concat(DenseOf(i), EmbeddingsOf(i));
    double z = Linear("mlp.out", Relu(Linear("mlp.1", Relu(Linear("mlp.0", x)))))[0];
    for (std::size_t a = 0; a < 4; ++a) {
      for (std::size_t b = a + 1; b < 4; ++b) {
        z += Dot(EmbeddingOf(i, a), EmbeddingOf(i, b));
      }
      z += problem_->rows()[4 + a][problem_->indices()[4 + a][i]];
    }
    return z + Linear("linear", DenseOf(i))[0];
  });
}

TEST_F(ReferenceTest, DcnV2) {
  ExpectLogits("dcnv2", [this](std::size_t i) {
    const Vector x0 = Concat(DenseOf(i), EmbeddingsOf(i));
    Vector x = x0;
    for (const std::string layer : {"cross.0", "cross.1"}) {
      const Vector y = Linear(layer, x);
      for (std::size_t j = 0; j < x.size(); ++j) {
        x[j] += x0[j] * y[j];
      }
    }
    const Vector deep = Relu(Linear("mlp.1", Relu(Linear("mlp.0", x0))));
    return Linear("out", Concat(x, deep))[0];
  });
}

TEST_F(ReferenceTest, Dlrm) {
  ExpectLogits("dlrm", [this](std::size_t i) {
    const Vector bottom = Relu(Linear("bottom.1", Relu(Linear("bottom.0", DenseOf(i)))));
    std::vector<Vector> vectors{bottom};
    for (std::size_t f = 0; f < 4; ++f) {
      vectors.push_back(EmbeddingOf(i, f));
    }
    Vector x = bottom;
    for (std::size_t a = 0; a < vectors.size(); ++a) {
      for (std::size_t b = a + 1; b < vectors.size(); ++b) {
        x.push_back(Dot(vectors[a], vectors[b]));
      }
    }
    return Linear("top.out", Relu(Linear("top.1", Relu(Linear("top.0", x)))))[0];
  });
}

}  // namespace
}  // namespace plexus
