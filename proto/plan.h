// JobPlan: the job as every process understands it, derived from the resolved job alone: tables,
// who reads them, dense layout.
//
// launch/plan.cc makes it (it needs the model's parameters); shards, scheduler and workers only
// read it.
//
// Thread safety: immutable once made; share it as shared_ptr<const JobPlan>.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "common/optimizer/optimizer.h"
#include "proto/dense_layout.h"
#include "proto/job.pb.h"
#include "proto/table_spec.h"

namespace plexus {

inline constexpr std::uint32_t kNoTable = 0xffffffffu;

// How a worker makes a key's vector out of rows of an ARRAY table; see proto::Addresser and
// worker/addresser.h.
struct AddresserSpec {
  proto::Addresser::Kind kind = proto::Addresser::HASH;
  std::uint64_t rows = 0;
  std::uint32_t dim = 0;         // Floats of a row on the wire, and of a vector.
  std::uint64_t remainders = 0;  // QUOTIENT_REMAINDER: 1 .. rows - 1.
  std::uint32_t piece = 0;       // ROBE: divides dim.
  std::uint64_t salt = 0;        // Of the table: other tables have other addresses.
};

// Tables whose wire keys are the same because the same sparse fields read them: keys are
// deduplicated and sent once for all of them.  A table may be in several groups, whose fields read
// other parts of its rows, or another table beside it.
struct KeyGroup {
  std::vector<std::uint32_t> fields;  // Sparse fields, ascending.
  std::vector<std::uint32_t>
      tables;  // Indices into JobPlan::tables, ascending; none is an ARRAY, or all of `array_rows`.
  std::vector<std::uint32_t> dims;  // Floats of a row on the wire, per table; at most its dim.
  std::uint64_t array_rows = 0;     // Wire keys are less than that; 0: any key.
  // Of the group's only table; absent: a wire key is the field's key (mod array_rows).
  std::optional<AddresserSpec> addresser;
};

// The tables that one sparse field reads, each with the group of its keys; kNoTable: none of that
// role.
struct FieldTables {
  std::uint32_t embedding = kNoTable;
  std::uint32_t linear = kNoTable;
  std::uint32_t embedding_group = 0;
  std::uint32_t linear_group = 0;
  proto::Field::Pooling pooling = proto::Field::SUM;
};

struct JobPlan {
  proto::Job job;                 // Resolved: defaults written out.
  std::vector<TableSpec> tables;  // Those that the model reads, in the job's order.
  std::vector<KeyGroup> groups;
  std::vector<FieldTables> fields;  // One a sparse field.
  DenseLayout dense;
  OptimizerOptions dense_optimizer;
  std::uint64_t memory_limit_bytes = 0;  // 0 = none.
  std::uint64_t log_limit_bytes = 0;     // Of checkpoint.log_limit.

  std::uint32_t ranks() const { return job.train().ranks(); }
  std::uint32_t shards() const { return job.cluster().servers(); }
  std::uint32_t buckets() const { return job.cluster().buckets(); }
  std::uint64_t seed() const { return job.train().seed(); }
  bool dense_on_servers() const { return job.train().dense_sync() == proto::Train::SERVERS; }
  // Steps and commits are logged: the death of a server or of the scheduler is recovered from.
  bool durable() const { return job.checkpoint().durability() != proto::Checkpoint::NONE; }
  bool asp() const { return job.train().staleness() < 0; }
};

// Floats of a row of the group's t-th table on the wire.
inline std::uint32_t WireDim(const JobPlan&, const KeyGroup& group, std::size_t t) {
  return group.dims[t];
}
inline Precision PrecisionOf(proto::Precision precision) {
  return static_cast<Precision>(precision);
}
inline Precision PullPrecision(const JobPlan& plan) {
  return PrecisionOf(plan.job.train().pull_precision());
}
inline Precision PushPrecision(const JobPlan& plan) {
  return PrecisionOf(plan.job.train().push_precision());
}

// Which shard owns a bucket, under generation 1: bucket mod shards.
inline std::vector<std::uint32_t> InitialBucketMap(std::uint32_t buckets, std::uint32_t shards) {
  std::vector<std::uint32_t> map(buckets);
  for (std::uint32_t b = 0; b < buckets; ++b) {
    map[b] = b % shards;
  }
  return map;
}

}  // namespace plexus
