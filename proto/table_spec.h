// TableSpec: what every process knows of one table; derived from the job, the same everywhere.
//
// Thread safety: a value.
#pragma once

#include <cstdint>
#include <string>

#include "common/optimizer/optimizer.h"

namespace plexus {

struct TableSpec {
  enum class Kind { kHashed, kArray };
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
};

}  // namespace plexus
