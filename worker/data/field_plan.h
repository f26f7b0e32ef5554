// FieldPlan: the job's `fields`, resolved: which columns feed the dense part, and which give keys,
// in what order.
//
// Readers and the trainer use the same plan, so that column i of Batch::sparse is sparse[i] here,
// and float j of a sample's dense part is dense[j].  Both orders are the job's.
//
// Thread safety: a value.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "common/hash.h"
#include "common/status.h"
#include "proto/job.pb.h"

namespace plexus {

// A column that feeds the model's dense part.  A missing value is 0 after any transform.
struct DenseField {
  std::string name;
  std::string column;
  proto::Field::Transform transform = proto::Field::IDENTITY;
  double mean = 0;
  double stddev = 1;
};

// A column whose values are keys: key = HashBytes(value, hash_seed).
struct SparseField {
  enum class Kind {
    kCategorical,  // One key a sample.
    kMultiValued,  // Jagged: pieces between `separator`s; empty pieces are left out.
    kBucketed,  // A number; the value hashed is the decimal text of floor(ln(x)^2), or x's text if
                // x <= 2.
  };
  std::string name;
  std::string column;
  Kind kind = Kind::kCategorical;
  std::string separator;  // kMultiValued only.
  proto::Field::Pooling pooling = proto::Field::SUM;
  std::vector<std::string> tables;
  std::uint32_t dim = 0;  // Elements that it reads of a row of its EMBEDDING table; 0: all.
  bool weighted = false;  // Each key has a weight (LIBSVM's values).
  std::uint64_t hash_seed =
      0;                // data.hash_seed, or with salt_by_field HashBytes(name, data.hash_seed).
  Key missing_key = 0;  // MissingKey(name, data.hash_seed).
};

struct FieldPlan {
  std::vector<DenseField> dense;
  std::vector<SparseField> sparse;
  // The columns of each line where the job fixes them (CRITEO, or DELIMITED with `columns`); else
  // empty.
  std::vector<std::string> columns;
};

// The key that stands for "no value" of a field: HashBytes("\0missing\0" + name, hash_seed).  It
// depends on the name, so that fields that share a table do not share what a missing value means.
Key MissingKey(std::string_view field_name, std::uint64_t hash_seed);

// Resolves data.fields.  A trailing '*' stands for every column with that prefix, in the columns'
// order, but never for the label's.  kInvalidArgument: a field without a name, named twice, or
// without a column; '*' where the columns are not known; LIBSVM with any field but "features";
// stddev that is not above 0.
StatusOr<FieldPlan> PlanFields(const proto::Data& data);

}  // namespace plexus
