#include "common/optimizer/lanes.h"

#include "common/optimizer/vector_float.h"

namespace plexus {
namespace {

constexpr std::uint32_t kLanes = 8;

float Combine(const float* lanes) {
  return ((lanes[0] + lanes[4]) + (lanes[2] + lanes[6])) +
         ((lanes[1] + lanes[5]) + (lanes[3] + lanes[7]));
}

}  // namespace

float SumOfSquares(const float* x, std::uint32_t n) {
  Float8 sum = {};
  std::uint32_t i = 0;
  for (; i + kLanes <= n; i += kLanes) {
    const Float8 v = LoadFloats<Float8>(x + i);
    sum += v * v;
  }
  float lanes[kLanes];
  StoreFloats(lanes, sum);
  for (; i < n; ++i) {
    lanes[i % kLanes] += x[i] * x[i];
  }
  return Combine(lanes);
}

float SumOfSquares(const float* x, float scale, const float* w, float l2, std::uint32_t n) {
  Float8 sum = {};
  std::uint32_t i = 0;
  for (; i + kLanes <= n; i += kLanes) {
    const Float8 v = LoadFloats<Float8>(x + i) * scale + l2 * LoadFloats<Float8>(w + i);
    sum += v * v;
  }
  float lanes[kLanes];
  StoreFloats(lanes, sum);
  for (; i < n; ++i) {
    const float v = x[i] * scale + l2 * w[i];
    lanes[i % kLanes] += v * v;
  }
  return Combine(lanes);
}

float ScalarSumOfSquares(const float* x, float scale, const float* w, float l2, std::uint32_t n) {
  float lanes[kLanes] = {};
  for (std::uint32_t i = 0; i < n; ++i) {
    const float v = w == nullptr ? x[i] * scale : x[i] * scale + l2 * w[i];
    lanes[i % kLanes] += v * v;
  }
  return Combine(lanes);
}

}  // namespace plexus
