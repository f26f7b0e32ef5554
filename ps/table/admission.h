// AdmissionFilter: which keys of a HASHED table get a row; one shard's part of one table.  For the
// rules see proto::Admission.
//
// Deterministic: a decision is a pure function of (seed, table, spec, the calls about keys of the
// same bucket, in order), and all state belongs to a bucket.  So whoever has a bucket decides
// alike, and a bucket's state can be saved, loaded elsewhere and gone on with.
//
//   COUNT               SeenKeys: 21 to 43 bytes a remembered key, filter_keys / V keys a bucket (8
//                       at least)
//   SKETCH              CountMin: 8 bytes a column, sketch_width / V columns a bucket (16 at
//   least).
//                       It cannot forget one key: a key whose row was evicted has one again at
//                       once, until windows forget it
//   PROBABILITY, COUNT_PROBABILITY     no state
//
// A bucket takes memory from its first refused key on.
//
// Thread safety: none; owned by its shard's thread.
#pragma once

#include <cstdint>
#include <string>
#include <utility>
#include <vector>

#include "common/hash.h"
#include "common/optimizer/step_power.h"
#include "common/status.h"
#include "proto/table_spec.h"
#include "ps/table/count_min.h"
#include "ps/table/seen_keys.h"

namespace plexus {

class AdmissionFilter {
 public:
  // Since the filter was made, in calls of Admit: keys of a step, not occurrences.
  struct Counters {
    std::uint64_t admitted = 0;
    std::uint64_t refused = 0;
    std::uint64_t forgotten = 0;  // COUNT: keys that made room for others.
  };

  // `stream` is the table's of random numbers, `buckets` the job's V.  REQUIRES: the kind is not
  // kAll; threshold >= 1, for kSketch <= 65535; 0 < probability <= 1.
  AdmissionFilter(const AdmissionSpec& spec, std::uint64_t seed, std::uint64_t stream,
                  std::uint32_t buckets);

  // True: `key`, which has no row, gets one now, and the filter forgets it.  Called once at most a
  // key and version.  `count` > 0: its occurrences in the step.  REQUIRES: hash is Mix64(key),
  // bucket BucketOfKey(key, buckets); version < 2^32.
  bool Admit(Key key, std::uint64_t hash, std::uint32_t bucket, std::uint64_t count,
             std::uint64_t version);
  // After each version.  SKETCH: halves the counters of those buckets whose turn it is: each one's
  // comes once in window_versions.
  void EndVersion(std::uint64_t version);
  // The buckets [first, second) that EndVersion(version) changes.
  std::pair<std::uint32_t, std::uint32_t> ChangedByEndOf(std::uint64_t version) const;

  // The bucket's state replaces `bytes`; none if there is none.  Equal states give equal bytes.
  void Save(std::uint32_t bucket, std::string* bytes) const;
  // Replaces the bucket's state by what Save gave.  kFailedPrecondition: that was a filter of
  // another spec; kDataLoss: that were no bytes of a filter.  On error the state stays.
  Status Load(std::uint32_t bucket, const std::string& bytes);
  // Sum over the buckets of FilterDigest of what Save gives.
  Digest128 Digest(const std::string& table) const;

  std::uint64_t key_count() const;     // COUNT: keys that are remembered.
  std::uint64_t memory_bytes() const;  // As allocated.
  const Counters& counters() const { return counters_; }

 private:
  bool Decide(Key key, std::uint64_t hash, std::uint32_t bucket, std::uint64_t count,
              std::uint64_t version);
  Status LoadKeys(std::uint32_t bucket, const std::string& bytes);
  Status LoadCounters(std::uint32_t bucket, const std::string& bytes);

  const AdmissionSpec spec_;
  const std::uint64_t seed_;
  const std::uint64_t stream_;
  const std::uint32_t buckets_;
  const std::uint32_t bucket_keys_;   // COUNT: the most a bucket remembers.
  const std::uint32_t bucket_width_;  // SKETCH: columns.
  const StepPower refusal_;           // RefusalProbability to the power of occurrences.
  std::vector<SeenKeys> keys_;        // COUNT, by bucket.
  std::vector<CountMin> sketches_;    // SKETCH, by bucket.
  Counters counters_;
};

// Probability that one occurrence does not admit, the same bits on every machine (no libm): 1 - p
// of PROBABILITY, 0.05^(1 / threshold) of COUNT_PROBABILITY to about 1e-15; 0 for other kinds.
double RefusalProbability(const AdmissionSpec& spec);

}  // namespace plexus
