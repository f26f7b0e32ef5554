#include "ps/table/row_layout.h"

#include <algorithm>
#include <cmath>
#include <cstring>

#include <glog/logging.h>

#include "common/optimizer/vector_float.h"

namespace plexus {
namespace {

constexpr float kFirstLearnedScale = 0.01f;
// Beyond the elements from which initial values are drawn.
constexpr std::uint64_t kFirstDraw = 1u << 20;

constexpr std::uint32_t Padded(std::size_t bytes) {
  return static_cast<std::uint32_t>((bytes + 3) / 4 * 4);
}

const std::uint8_t* BytesOf(const std::byte* record) {
  return reinterpret_cast<const std::uint8_t*>(record);
}
std::uint8_t* BytesOf(std::byte* record) { return reinterpret_cast<std::uint8_t*>(record); }

}  // namespace

RowLayout::RowLayout(const TableSpec& spec, const Optimizer& optimizer)
    : dim_(spec.dim),
      precision_(spec.precision),
      state_precision_(spec.state_precision),
      scale_learning_rate_(spec.learned_scale && HasScale(spec.precision) ? spec.scale_learning_rate
                                                                          : 0),
      exact_floats_(optimizer.exact_state_floats(spec.dim)),
      floats_(spec.dim + optimizer.state_floats(spec.dim)) {
  const std::uint32_t state = floats_ - dim_ - exact_floats_;
  CHECK_EQ(state % dim_, 0u) << "state of " << optimizer.name();
  CHECK(!HasScale(state_precision_)) << "state without a scale";
  state_arrays_ = state / dim_;
  value_bytes_ = Padded(EncodedBytes(precision_, dim_)) + (HasScale(precision_) ? 4 : 0);
  exact_offset_ = value_bytes_ + Padded(EncodedBytes(state_precision_, state));
  record_bytes_ = exact_offset_ + exact_floats_ * 4;
  plain_ = precision_ == Precision::kF32 && (state_precision_ == Precision::kF32 || state == 0);
}

float RowLayout::ReadScale(const std::byte* record) const {
  float scale = 1;
  if (HasScale(precision_)) {
    std::memcpy(&scale, record + value_bytes_ - sizeof(scale), sizeof(scale));
  }
  return scale;
}

void RowLayout::ReadValues(const std::byte* record, std::uint32_t dim, float* values) const {
  Decode(precision_, BytesOf(record), ReadScale(record), dim, values);
}

void RowLayout::Read(const std::byte* record, float* floats) const {
  ReadValues(record, dim_, floats);
  Decode(state_precision_, BytesOf(record + value_bytes_), 1, state_arrays_ * dim_, floats + dim_);
  std::memcpy(floats + floats_ - exact_floats_, record + exact_offset_,
              exact_floats_ * sizeof(float));
}

void RowLayout::Create(const float* floats, const CounterRandom& random, std::byte* record) const {
  std::memset(record, 0, record_bytes_);
  float scale = HasScale(precision_) ? ScaleOf(precision_, floats, dim_) : 1;
  if (scale_learning_rate_ != 0) {
    const bool zeros = std::all_of(floats, floats + dim_, [](float x) { return x == 0; });
    scale = zeros ? kFirstLearnedScale : std::max(scale, kFirstLearnedScale);
  }
  WriteValues(floats, scale, dim_, random, record);
  WriteState(floats + dim_, dim_, random, record);
}

void RowLayout::Write(const float* floats, const float* gradients, std::uint32_t active,
                      const CounterRandom& random, std::byte* record) const {
  float scale = 1;
  if (scale_learning_rate_ != 0) {
    scale = LearnedScale(floats, gradients, active, ReadScale(record));
  } else if (HasScale(precision_)) {
    scale = ScaleOf(precision_, floats, dim_);
  }
  WriteValues(floats, scale, active, random, record);
  WriteState(floats + dim_, active, random, record);
}

void RowLayout::WriteValues(const float* values, float scale, std::uint32_t active,
                            const CounterRandom& random, std::byte* record) const {
  std::uint8_t* to = BytesOf(record);
  if (!HasScale(precision_)) {
    EncodeStochastic(precision_, values, scale, active, random, kFirstDraw, to);
    return;
  }
  std::uint8_t behind = 0;
  if (active < dim_) {
    const std::uint32_t even = active - active % 2;  // kInt4 has two a byte.
    EncodeNearest(precision_, values + even, scale, dim_ - even,
                  to + EncodedBytes(precision_, even));
    behind = precision_ == Precision::kInt4 && active % 2 == 1 ? to[active / 2] & 0xf0 : 0;
  }
  EncodeStochastic(precision_, values, scale, active, random, kFirstDraw, to);
  if (behind != 0) {
    to[active / 2] |= behind;
  }
  std::memcpy(record + value_bytes_ - sizeof(scale), &scale, sizeof(scale));
}

void RowLayout::WriteState(const float* state, std::uint32_t active, const CounterRandom& random,
                           std::byte* record) const {
  const std::uint32_t draws = (dim_ + 3) / 4 * 4;  // Each array has elements of its own.
  for (std::uint32_t a = 0; a < state_arrays_; ++a) {
    EncodeStochastic(
        state_precision_, state + a * dim_, 1, active, random, kFirstDraw + (a + 1) * draws,
        BytesOf(record + value_bytes_ + EncodedBytes(state_precision_, a * std::size_t{dim_})));
  }
  std::memcpy(record + exact_offset_, state + state_arrays_ * dim_, exact_floats_ * sizeof(float));
}

float RowLayout::LearnedScale(const float* values, const float* gradients, std::uint32_t active,
                              float scale) const {
  const std::int32_t largest = LargestInteger(precision_);
  const float gradient = ScaleGradient(values, gradients, active, scale, largest);
  const float factor = 1.0f / std::sqrt(static_cast<float>(dim_) * static_cast<float>(largest));
  const float moved = scale - scale_learning_rate_ * (gradient * factor);
  const float kept = std::isnan(moved) ? scale : moved;
  return std::clamp(kept, std::max(scale * 0.5f, 0x1p-126f), std::min(scale * 2, 0x1p+100f));
}

float ScaleGradient(const float* values, const float* gradients, std::uint32_t n, float scale,
                    std::int32_t largest_integer) {
  const auto largest = static_cast<float>(largest_integer);
  const __m256 high = _mm256_set1_ps(largest);
  const __m256 low = _mm256_set1_ps(-largest);
  __m256 sum = _mm256_setzero_ps();
  const auto add = [&](__m256 w, __m256 g) {
    const __m256 v = _mm256_div_ps(w, _mm256_set1_ps(scale));
    const __m256 inside =
        _mm256_sub_ps(_mm256_round_ps(v, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC), v);
    const __m256 below = _mm256_blendv_ps(inside, low, _mm256_cmp_ps(v, low, _CMP_LE_OQ));
    const __m256 derivative = _mm256_blendv_ps(below, high, _mm256_cmp_ps(v, high, _CMP_GE_OQ));
    sum = _mm256_add_ps(sum, _mm256_mul_ps(g, derivative));
  };
  std::uint32_t i = 0;
  for (; i + 8 <= n; i += 8) {
    add(_mm256_loadu_ps(values + i), _mm256_loadu_ps(gradients + i));
  }
  if (i < n) {  // Lanes behind the end add 0 to what they have.
    float w[8] = {};
    float g[8] = {};
    std::copy_n(values + i, n - i, w);
    std::copy_n(gradients + i, n - i, g);
    add(_mm256_loadu_ps(w), _mm256_loadu_ps(g));
  }
  float lanes[8];
  _mm256_storeu_ps(lanes, sum);
  return ((lanes[0] + lanes[4]) + (lanes[2] + lanes[6])) +
         ((lanes[1] + lanes[5]) + (lanes[3] + lanes[7]));
}

}  // namespace plexus
