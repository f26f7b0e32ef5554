// TableSpec: what every process knows of one table; derived from the job, the same everywhere.
//
// Thread safety: a value.
#pragma once

#include <cstdint>
#include <string>

#include "common/optimizer/optimizer.h"
#include "common/precision/precision.h"

namespace plexus {

// Which keys get a row; see proto::Admission.
struct AdmissionSpec {
  enum class Kind { kAll, kCount, kSketch, kProbability, kCountProbability };
  Kind kind = Kind::kAll;
  std::uint32_t threshold = 2;
  double probability = 0.1;
  std::uint64_t filter_keys = 1 << 20;  // Over all buckets.
  std::uint64_t sketch_width = 1 << 20;
  std::uint64_t window_versions = 0;
};

// Which rows go; see proto::Eviction.
struct EvictionSpec {
  enum class Order { kOldest, kCount, kNorm };
  std::uint64_t unseen_versions = 0;  // 0 = never.
  std::uint64_t sweep_versions = 64;
  Order order = Order::kOldest;
  std::uint64_t half_life_versions = 0;
};

// See proto::Hybrid.
struct HybridSpec {
  enum class Importance { kGradientNorm, kFrequency };
  std::uint64_t exact_rows = 0;
  std::uint64_t shared_rows = 0;
  Importance importance = Importance::kGradientNorm;
  double threshold = 10;
  double decay = 0.99;
};

struct TableSpec {
  enum class Kind { kHashed, kArray, kHybrid };
  enum class Init { kUniform, kNormal, kConstant };

  std::string name;  // Persistent: part of keys' initial values, digest and saved model.
  Kind kind = Kind::kHashed;
  std::uint32_t dim = 16;  // 1..512
  std::uint64_t rows = 0;  // kArray: physical rows; the wire's key is the row's index.
  OptimizerOptions optimizer;
  Init init = Init::kUniform;
  float init_scale = 0.01f;
  float clip_row_norm = 0;     // 0 = off.
  bool sum_gradients = false;  // A step's gradient is the sum over its samples, not their mean.

  Precision precision = Precision::kF32;
  Precision state_precision = Precision::kF32;  // kF32 or kBf16.
  bool learned_scale = false;
  float scale_learning_rate = 2e-5f;
  std::uint64_t max_rows = 0;  // Over all buckets; 0 = no limit.  What max_bytes asks for is in it.
  AdmissionSpec admission;
  EvictionSpec eviction;
  bool keep_counts = true;
  HybridSpec hybrid;

  // Physical: may change no bit of the model.
  bool spills = false;  // Its rows may go to disk.
  // Versions that a pull may be older than the push that answers it; for counting, no decision.
  std::uint32_t staleness = 0;
};

}  // namespace plexus
