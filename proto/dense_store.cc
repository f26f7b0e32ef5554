#include "proto/dense_store.h"

#include <algorithm>
#include <cmath>
#include <utility>

namespace plexus {
namespace {

OptimizerOptions StatisticOptions() {
  OptimizerOptions options;
  options.kind = OptimizerKind::kAverage;
  options.momentum = 0.1f;  // PyTorch's default for running statistics.
  return options;
}

}  // namespace

DenseStore::DenseStore(std::shared_ptr<const JobPlan> plan, std::vector<std::uint32_t> blocks)
    : plan_(std::move(plan)),
      blocks_(std::move(blocks)),
      weight_rule_(MakeOptimizer(plan_->dense_optimizer)),
      statistic_rule_(MakeOptimizer(StatisticOptions())),
      offsets_{0} {
  for (std::size_t i = 0; i < blocks_.size(); ++i) {
    const std::uint32_t count = block(i).count;
    const Optimizer& rule = RuleOf(block(i));
    floats_.resize(offsets_.back() + count + rule.state_floats(count));
    float* values = floats_.data() + offsets_.back();
    plan_->dense.InitialValues(block(i), plan_->seed(), {values, count});
    rule.InitState(count, values + count);
    offsets_.push_back(floats_.size());
    value_floats_ += count;
  }
}

bool DenseStore::IsWeight(std::size_t position) const {
  return plan_->dense.parameters()[block(position).parameter].kind ==
         DenseParameterSpec::Kind::kWeight;
}

const Optimizer& DenseStore::RuleOf(const DenseBlock& block) const {
  const DenseParameterSpec& spec = plan_->dense.parameters()[block.parameter];
  return spec.kind == DenseParameterSpec::Kind::kStatistic ? *statistic_rule_ : *weight_rule_;
}

std::span<const float> DenseStore::at(std::size_t position) const {
  return {floats_.data() + offsets_[position], offsets_[position + 1] - offsets_[position]};
}

void DenseStore::CopyValues(float* out) const {
  for (std::size_t i = 0; i < blocks_.size(); ++i) {
    out = std::copy_n(floats_.data() + offsets_[i], block(i).count, out);
  }
}

void DenseStore::Replace(std::span<const float> floats) {
  CHECK_EQ(floats.size(), floats_.size());
  std::copy(floats.begin(), floats.end(), floats_.begin());
}

Status DenseStore::ReplaceBlock(std::size_t position, std::span<const float> floats) {
  if (floats.size() != at(position).size()) {
    return InvalidArgument("dense block " + std::to_string(blocks_[position]) + " has " +
                           std::to_string(floats.size()) + " floats, the job's model has " +
                           std::to_string(at(position).size()));
  }
  std::copy(floats.begin(), floats.end(), floats_.data() + offsets_[position]);
  return OkStatus();
}

void DenseStore::Apply(std::size_t position, float* mean_gradient, float rate_factor,
                       float dense_scale) {
  const std::uint32_t count = block(position).count;
  const bool weight = IsWeight(position);
  if (weight && dense_scale != 1.0f) {
    for (std::uint32_t i = 0; i < count; ++i) {
      mean_gradient[i] *= dense_scale;
    }
  }
  const Optimizer::RowStep step{floats_.data() + offsets_[position], mean_gradient};
  RuleOf(block(position)).Apply({&step, 1}, count, count, 1.0f, weight ? rate_factor : 1.0f);
}

Digest128 DenseStore::Digest() const {
  Digest128 digest;
  for (std::size_t i = 0; i < blocks_.size(); ++i) {
    std::string bytes = plan_->dense.parameters()[block(i).parameter].name;
    bytes.push_back('\0');
    const std::uint64_t first = block(i).first;
    bytes.append(reinterpret_cast<const char*>(&first), sizeof(first));
    bytes.append(reinterpret_cast<const char*>(at(i).data()), at(i).size_bytes());
    digest += HashBytes128(bytes);
  }
  return digest;
}

double SumOfSquares(std::span<const float> values) {
  double sum = 0;
  for (const float value : values) {
    sum += static_cast<double>(value) * value;
  }
  return sum;
}

float ClipScale(double sum_of_squares, double clip) {
  const double norm = std::sqrt(sum_of_squares);
  return clip > 0 && norm > clip ? static_cast<float>(clip / norm) : 1.0f;
}

}  // namespace plexus
