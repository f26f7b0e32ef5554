// A small valid job, for tests that break one thing of it.
#pragma once

#include <string>

namespace plexus {

inline constexpr char kSampleJob[] = R"(data {
  format: CRITEO
  train: "train.tsv"
  fields { name: "I*" kind: DENSE transform: LOG1P }
  fields { name: "C*" tables: "embedding" tables: "linear" }
}
tables {
  name: "embedding"
  dim: 8
  optimizer { kind: ADAGRAD }
}
tables { name: "linear" role: LINEAR dim: 1 }
model { name: "deepfm" }
train { ranks: 2 batch_size: 64 learning_rate: 0.5 }
cluster { servers: 2 workers: 1 }
)";

inline constexpr char kDelimitedJob[] = R"(data {
  format: DELIMITED
  columns: ["user", "item", "rating"]
  label { column: "rating" positive_at_least: 4 }
  fields { name: "user" tables: "embedding" }
  fields { name: "item" tables: "embedding" }
}
tables { name: "embedding" }
)";

inline constexpr char kLibsvmJob[] = R"(data {
  format: LIBSVM
  fields { name: "features" tables: "weights" }
}
tables { name: "weights" role: LINEAR dim: 1 }
)";

}  // namespace plexus
