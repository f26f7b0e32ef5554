#include "proto/dense_layout.h"

#include <algorithm>
#include <utility>

#include "common/hash.h"
#include "common/random.h"

namespace plexus {
namespace {

constexpr std::uint64_t kAlignFloats = 16;
constexpr std::uint64_t kInitStream = 0x64656e7365ULL;  // "dense"

}  // namespace

DenseLayout::DenseLayout(std::vector<DenseParameterSpec> parameters)
    : parameters_(std::move(parameters)) {
  for (std::uint32_t p = 0; p < parameters_.size(); ++p) {
    std::uint64_t count = 1;
    for (const std::uint32_t extent : parameters_[p].shape) {
      count *= extent;
    }
    offsets_.push_back(size_);
    counts_.push_back(count);
    for (std::uint64_t first = 0; first < count; first += kDenseBlockFloats) {
      blocks_.push_back({.parameter = p,
                         .first = static_cast<std::uint32_t>(first),
                         .count = static_cast<std::uint32_t>(
                             std::min<std::uint64_t>(kDenseBlockFloats, count - first)),
                         .offset = size_ + first});
    }
    size_ += (count + kAlignFloats - 1) / kAlignFloats * kAlignFloats;
  }
}

std::uint64_t DenseLayout::parameter_count() const {
  std::uint64_t total = 0;
  for (const std::uint64_t count : counts_) {
    total += count;
  }
  return total;
}

void DenseLayout::InitialValues(const DenseBlock& block, std::uint64_t seed,
                                std::span<float> values) const {
  const DenseParameterSpec& spec = parameters_[block.parameter];
  const CounterRandom random(seed, kInitStream, HashBytes(spec.name, 0));
  for (std::uint32_t i = 0; i < block.count; ++i) {
    const std::uint64_t element = block.first + i;
    switch (spec.init) {
      case DenseParameterSpec::Init::kConstant:
        values[i] = static_cast<float>(spec.scale);
        break;
      case DenseParameterSpec::Init::kUniform:
        values[i] = static_cast<float>((2.0 * random.UniformDouble(element) - 1.0) * spec.scale);
        break;
      case DenseParameterSpec::Init::kNormal:
        values[i] = static_cast<float>(NormalDouble(random, element) * spec.scale);
        break;
    }
  }
}

}  // namespace plexus
