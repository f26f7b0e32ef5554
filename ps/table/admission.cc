#include "ps/table/admission.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <span>

#include <glog/logging.h>

#include "common/random.h"
#include "ps/table/filter_digest.h"

namespace plexus {
namespace {

using Kind = AdmissionSpec::Kind;

constexpr std::uint32_t kBucketKeysMin = 8;
constexpr std::uint32_t kBucketKeysMax = 1u << 30;
constexpr std::uint32_t kBucketWidthMin = 16;
constexpr std::uint32_t kBucketWidthMax = 1u << 30;
// Separates decisions from the initial values of the same key.
constexpr std::uint64_t kAdmissionStream = 0x61646d697373696fULL;
// COUNT_PROBABILITY: of keys without a row at the threshold-th occurrence.
constexpr double kRefusedAtThreshold = 0.05;

// Saved state: the kind, how many entries follow, the entries.
struct SavedHead {
  std::uint32_t kind;
  std::uint32_t count;
};

std::uint32_t ShareOf(std::uint64_t whole, std::uint32_t buckets, std::uint32_t least,
                      std::uint32_t most) {
  return static_cast<std::uint32_t>(std::clamp<std::uint64_t>(whole / buckets, least, most));
}

// base^(1 / divisor), the same bits on every machine: the product of base^(2^-k) over the binary
// digits k of 1 / divisor, each the square root of the one before.
double Root(double base, std::uint32_t divisor) {
  double product = 1.0;
  double rest = 1.0 / divisor;
  for (double digit = 1.0; rest > 0 && digit > 0x1p-80; digit *= 0.5) {
    if (rest >= digit) {
      product *= base;
      rest -= digit;
    }
    base = std::sqrt(base);
  }
  return product;
}

void AppendTo(std::string* bytes, const void* data, std::size_t size) {
  bytes->append(static_cast<const char*>(data), size);
}

// The entries behind the head; empty if their number is wrong.
template <typename Entry>
std::vector<Entry> EntriesOf(const std::string& bytes, std::size_t count) {
  std::vector<Entry> entries;
  if (bytes.size() == sizeof(SavedHead) + count * sizeof(Entry)) {
    entries.resize(count);
    std::memcpy(entries.data(), bytes.data() + sizeof(SavedHead), count * sizeof(Entry));
  }
  return entries;
}

}  // namespace

double RefusalProbability(const AdmissionSpec& spec) {
  switch (spec.kind) {
    case Kind::kProbability:
      return 1.0 - spec.probability;
    case Kind::kCountProbability:
      return Root(kRefusedAtThreshold, spec.threshold);
    case Kind::kAll:
    case Kind::kCount:
    case Kind::kSketch:
      break;
  }
  return 0.0;
}

AdmissionFilter::AdmissionFilter(const AdmissionSpec& spec, std::uint64_t seed,
                                 std::uint64_t stream, std::uint32_t buckets)
    : spec_(spec),
      seed_(seed),
      stream_(stream ^ kAdmissionStream),
      buckets_(buckets),
      bucket_keys_(ShareOf(spec.filter_keys, buckets, kBucketKeysMin, kBucketKeysMax)),
      bucket_width_(ShareOf(spec.sketch_width, buckets, kBucketWidthMin, kBucketWidthMax)),
      refusal_(RefusalProbability(spec)),
      keys_(spec.kind == Kind::kCount ? buckets : 0),
      sketches_(spec.kind == Kind::kSketch ? buckets : 0) {
  CHECK(spec.kind != Kind::kAll) << "a filter that filters nothing";
  CHECK_GE(spec.threshold, 1u);
  CHECK(spec.kind != Kind::kSketch || spec.threshold <= CountMin::kCountMax)
      << "a sketch counts to " << CountMin::kCountMax;
}

bool AdmissionFilter::Admit(Key key, std::uint64_t hash, std::uint32_t bucket, std::uint64_t count,
                            std::uint64_t version) {
  const bool admitted = Decide(key, hash, bucket, count, version);
  ++(admitted ? counters_.admitted : counters_.refused);
  return admitted;
}

bool AdmissionFilter::Decide(Key key, std::uint64_t hash, std::uint32_t bucket, std::uint64_t count,
                             std::uint64_t version) {
  switch (spec_.kind) {
    case Kind::kAll:
      break;
    case Kind::kCount:
      return keys_[bucket].Reaches(key, hash, count, static_cast<std::uint32_t>(version),
                                   {spec_.threshold, bucket_keys_}, &counters_.forgotten);
    case Kind::kSketch:
      return sketches_[bucket].Reaches(hash, count, spec_.threshold, bucket_width_);
    case Kind::kProbability:
    case Kind::kCountProbability: {
      const CounterRandom random(seed_, stream_, key, version);
      const auto n = static_cast<std::uint32_t>(std::min<std::uint64_t>(count, 0xffffffff));
      return random.UniformDouble(0) < 1.0 - refusal_.Of(n);
    }
  }
  return true;
}

std::pair<std::uint32_t, std::uint32_t> AdmissionFilter::ChangedByEndOf(
    std::uint64_t version) const {
  if (spec_.kind != Kind::kSketch || spec_.window_versions == 0) {
    return {0, 0};
  }
  // Bucket b's turn is when version mod window = floor(b * window / V).
  const unsigned __int128 turn = version % spec_.window_versions;
  const auto first_of = [this](unsigned __int128 t) {
    return static_cast<std::uint32_t>((t * buckets_ + spec_.window_versions - 1) /
                                      spec_.window_versions);
  };
  return {first_of(turn), first_of(turn + 1)};
}

void AdmissionFilter::EndVersion(std::uint64_t version) {
  const auto [first, end] = ChangedByEndOf(version);
  for (std::uint32_t bucket = first; bucket < end; ++bucket) {
    sketches_[bucket].Halve(bucket_width_);
  }
}

void AdmissionFilter::Save(std::uint32_t bucket, std::string* bytes) const {
  bytes->clear();
  if (spec_.kind == Kind::kCount && keys_[bucket].size() > 0) {
    const std::vector<SeenKey> keys = keys_[bucket].Sorted();
    const SavedHead head{static_cast<std::uint32_t>(spec_.kind),
                         static_cast<std::uint32_t>(keys.size())};
    AppendTo(bytes, &head, sizeof(head));
    AppendTo(bytes, keys.data(), keys.size() * sizeof(SeenKey));
  } else if (spec_.kind == Kind::kSketch) {
    const std::span<const std::uint16_t> counters = sketches_[bucket].counters(bucket_width_);
    if (!counters.empty()) {
      const SavedHead head{static_cast<std::uint32_t>(spec_.kind), bucket_width_};
      AppendTo(bytes, &head, sizeof(head));
      AppendTo(bytes, counters.data(), counters.size_bytes());
    }
  }
}

Status AdmissionFilter::Load(std::uint32_t bucket, const std::string& bytes) {
  CHECK_LT(bucket, buckets_);
  SavedHead head{static_cast<std::uint32_t>(spec_.kind), 0};
  if (!bytes.empty()) {
    if (bytes.size() < sizeof(head)) {
      return DataLoss("admission filter of bucket " + std::to_string(bucket) + " is cut off");
    }
    std::memcpy(&head, bytes.data(), sizeof(head));
  }
  if (head.kind != static_cast<std::uint32_t>(spec_.kind)) {
    return FailedPrecondition("an admission filter of another kind");
  }
  switch (spec_.kind) {
    case Kind::kCount:
      return LoadKeys(bucket, bytes);
    case Kind::kSketch:
      return LoadCounters(bucket, bytes);
    case Kind::kAll:
    case Kind::kProbability:
    case Kind::kCountProbability:
      break;
  }
  return bytes.empty() ? OkStatus() : DataLoss("state of an admission filter that has none");
}

Status AdmissionFilter::LoadKeys(std::uint32_t bucket, const std::string& bytes) {
  if (bytes.empty()) {
    keys_[bucket].Assign({}, bucket_keys_);
    return OkStatus();
  }
  SavedHead head;
  std::memcpy(&head, bytes.data(), sizeof(head));
  const std::vector<SeenKey> keys = EntriesOf<SeenKey>(bytes, head.count);
  const std::string what = "admission filter of bucket " + std::to_string(bucket);
  if (keys.empty()) {
    return DataLoss(what + " is cut off");
  }
  for (std::size_t i = 0; i < keys.size(); ++i) {
    const bool ascends = i == 0 || Mix64(keys[i - 1].key) < Mix64(keys[i].key);
    if (!ascends || keys[i].count == 0 || BucketOfKey(keys[i].key, buckets_) != bucket) {
      return DataLoss(what + " has keys that it cannot have");
    }
  }
  if (keys.size() > bucket_keys_) {
    return FailedPrecondition(what + " remembers " + std::to_string(keys.size()) +
                              " keys, of which admission.filter_keys has room for " +
                              std::to_string(bucket_keys_));
  }
  keys_[bucket].Assign(keys, bucket_keys_);
  return OkStatus();
}

Status AdmissionFilter::LoadCounters(std::uint32_t bucket, const std::string& bytes) {
  if (bytes.empty()) {
    sketches_[bucket].Assign({});
    return OkStatus();
  }
  SavedHead head;
  std::memcpy(&head, bytes.data(), sizeof(head));
  const std::string what = "admission filter of bucket " + std::to_string(bucket);
  if (head.count != bucket_width_) {
    return FailedPrecondition(what + " has " + std::to_string(head.count) +
                              " columns, of which admission.sketch_width gives " +
                              std::to_string(bucket_width_));
  }
  const std::vector<std::uint16_t> counters =
      EntriesOf<std::uint16_t>(bytes, std::size_t{CountMin::kRows} * head.count);
  if (counters.empty()) {
    return DataLoss(what + " is cut off");
  }
  sketches_[bucket].Assign(counters);
  return OkStatus();
}

Digest128 AdmissionFilter::Digest(const std::string& table) const {
  Digest128 digest;
  std::string bytes;
  for (std::uint32_t bucket = 0; bucket < buckets_; ++bucket) {
    Save(bucket, &bytes);
    digest += FilterDigest(table, bucket, bytes);
  }
  return digest;
}

std::uint64_t AdmissionFilter::key_count() const {
  std::uint64_t keys = 0;
  for (const SeenKeys& bucket : keys_) {
    keys += bucket.size();
  }
  return keys;
}

std::uint64_t AdmissionFilter::memory_bytes() const {
  std::uint64_t bytes = keys_.size() * sizeof(SeenKeys) + sketches_.size() * sizeof(CountMin);
  for (const SeenKeys& bucket : keys_) {
    bytes += bucket.memory_bytes();
  }
  for (const CountMin& bucket : sketches_) {
    bytes += bucket.memory_bytes(bucket_width_);
  }
  return bytes;
}

}  // namespace plexus
