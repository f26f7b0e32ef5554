// DenseLayout: which dense parameters a model has and where they lie in one flat vector of floats.
//
// A model declares DenseParameterSpecs; every process derives the same layout from the job.  A
// parameter starts at a multiple of 16 floats (64 bytes).  It is cut into blocks of at most
// kDenseBlockFloats; a block is what a shard owns, stores and updates, and bucket = block mod V.
//
// Thread safety: immutable after construction.
#pragma once

#include <cstdint>
#include <span>
#include <string>
#include <vector>

namespace plexus {

inline constexpr std::uint32_t kDenseBlockFloats =
    16384;  // 64 KiB: a few dozen blocks for a CTR tower.

struct DenseParameterSpec {
  enum class Init { kConstant, kUniform, kNormal };
  enum class Kind {
    kWeight,     // Updated by the dense optimizer.
    kStatistic,  // "Gradient" is a sum over samples of a statistic; value += momentum * (mean -
                 // value).
  };
  std::string name;  // Unique in the model; persistent: part of digest and saved model.
  std::vector<std::uint32_t> shape;
  Init init = Init::kConstant;
  double scale =
      0;  // kConstant: the value; kUniform: U(-scale, scale); kNormal: standard deviation.
  Kind kind = Kind::kWeight;
};

struct DenseBlock {
  std::uint32_t parameter;  // Index of the parameter.
  std::uint32_t first;      // First element within the parameter.
  std::uint32_t count;      // Elements, 1..kDenseBlockFloats.
  std::uint64_t offset;     // First float in the flat vector.
};

class DenseLayout {
 public:
  DenseLayout() = default;
  explicit DenseLayout(std::vector<DenseParameterSpec> parameters);

  const std::vector<DenseParameterSpec>& parameters() const { return parameters_; }
  const std::vector<DenseBlock>& blocks() const { return blocks_; }
  std::uint64_t offset(std::uint32_t parameter) const { return offsets_[parameter]; }
  std::uint64_t count(std::uint32_t parameter) const { return counts_[parameter]; }
  // Floats of the flat vector, paddings included.
  std::uint64_t size() const { return size_; }
  // Floats without paddings.
  std::uint64_t parameter_count() const;

  // The initial values of `block`: a pure function of (seed, name, element).
  void InitialValues(const DenseBlock& block, std::uint64_t seed, std::span<float> values) const;

 private:
  std::vector<DenseParameterSpec> parameters_;
  std::vector<std::uint64_t> offsets_;
  std::vector<std::uint64_t> counts_;
  std::vector<DenseBlock> blocks_;
  std::uint64_t size_ = 0;
};

}  // namespace plexus
