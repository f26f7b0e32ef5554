// NaiveHybrid: what a HYBRID table has to hold, as maps and loops: the oracle of
// hybrid_property_test.
//
// Rows are records of the same RowLayout, and where keys lie is HybridAddresses (both have tests of
// their own); groups of slots, scores, sums and updates are done again, slowly.
//
// Thread safety: none.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstring>
#include <map>
#include <memory>
#include <set>
#include <string>
#include <utility>
#include <vector>

#include "common/optimizer/lanes.h"
#include "common/optimizer/optimizer.h"
#include "common/random.h"
#include "ps/table/filter_digest.h"
#include "ps/table/hybrid_addresses.h"
#include "ps/table/table.h"

namespace plexus {

class NaiveHybrid {
 public:
  struct Row {
    std::vector<std::byte> record;
    std::uint64_t last_step = 0;
    std::uint64_t count = 0;
  };

  NaiveHybrid(const TableSpec& spec, std::uint64_t seed, std::uint32_t buckets)
      : spec_(spec),
        seed_(seed),
        stream_(HashBytes(spec.name, 0)),
        optimizer_(MakeScalarOptimizer(spec.optimizer)),
        layout_(spec, *optimizer_),
        addresses_(spec.hybrid, buckets),
        buckets_(buckets) {}

  std::vector<float> Values(Key key) const {
    std::vector<float> values(spec_.dim);
    const auto at = rows_.find(RowKey(key));
    if (at != rows_.end()) {
      layout_.ReadValues(at->second.record.data(), spec_.dim, values.data());
      return values;
    }
    return InitialValues(RowKey(key));
  }

  void ApplyStep(std::uint64_t version, const std::vector<GradientPart>& parts, float scale) {
    struct Sum {
      std::vector<float> gradients;
      std::uint32_t active = 0;
      std::uint64_t count = 0;

      void Add(const float* more, std::uint32_t n, std::uint32_t dim, std::uint64_t occurrences) {
        if (gradients.empty()) {
          gradients.assign(more, more + n);
          gradients.resize(dim, 0.0f);
        } else {
          for (std::uint32_t e = 0; e < n; ++e) {
            gradients[e] += more[e];
          }
        }
        active = std::max(active, n);
        count += occurrences;
      }
    };
    std::vector<Key> order;
    std::map<Key, Sum> by_key;
    for (const GradientPart& part : parts) {
      const std::uint32_t dim = part.dim == 0 ? spec_.dim : part.dim;
      for (std::size_t i = 0; i < part.keys.size(); ++i) {
        if (by_key.count(part.keys[i]) == 0) {
          order.push_back(part.keys[i]);
        }
        by_key[part.keys[i]].Add(part.gradients + i * dim, dim, spec_.dim, part.counts[i]);
      }
    }
    std::map<Key, Sum> by_row;
    for (const Key key : order) {
      const Sum& sum = by_key[key];
      by_row[RowKey(key)].Add(sum.gradients.data(), sum.active, spec_.dim, sum.count);
    }
    for (auto& [row, sum] : by_row) {
      Update(row, sum.gradients, sum.active, sum.count, version, scale);
    }
    std::set<std::uint32_t> touched;
    for (const Key key : order) {
      const Sum& sum = by_key[key];
      Raise(key, std::sqrt(ScalarSumOfSquares(sum.gradients.data(), 1.0f, nullptr, 0, sum.active)),
            sum.count, version);
      touched.insert(addresses_.Of(Mix64(key)).bucket);
    }
    for (const std::uint32_t bucket : touched) {
      DecayIfDue(bucket);
    }
  }

  void set_refuse_new_rows(bool refuse) { refuse_ = refuse; }
  // By the row's key.
  const std::map<Key, Row>& rows() const { return rows_; }
  std::uint64_t promoted() const { return promoted_; }
  std::uint64_t demoted() const { return demoted_; }

  // What ForEachFilter gives, as its format has it; empty for an untouched bucket.
  std::string FilterBytes(std::uint32_t bucket) const {
    const Bucket& b = buckets_[bucket];
    if (b.occurrences == 0 && b.groups.empty()) {
      return "";
    }
    std::string bytes;
    const auto append = [&bytes](const auto& value) {
      bytes.append(reinterpret_cast<const char*>(&value), sizeof(value));
    };
    std::uint32_t slots = 0;
    for (const auto& [index, group] : b.groups) {
      slots += static_cast<std::uint32_t>(group.size());
    }
    append(addresses_.exact_rows(bucket));
    append(slots);
    append(b.importance);
    append(b.norm_sum);
    append(b.occurrences);
    for (const auto& [index, group] : b.groups) {
      for (const auto& [key, score] : group) {
        append(key);
        append(score);
        append(static_cast<std::uint32_t>(exact_.count(key)));
      }
    }
    append(addresses_.shared_rows(bucket));
    return bytes;
  }

  Digest128 Digest() const {
    Digest128 digest;
    for (const auto& [key, row] : rows_) {
      digest += RowDigest(spec_.name, {key, row.last_step, row.count, row.record});
    }
    for (std::uint32_t bucket = 0; bucket < buckets_.size(); ++bucket) {
      digest += FilterDigest(spec_.name, bucket, FilterBytes(bucket));
    }
    return digest;
  }

 private:
  using Group = std::vector<std::pair<Key, float>>;  // By falling score.
  struct Bucket {
    std::map<std::uint32_t, Group> groups;
    std::uint32_t exact = 0;
    double importance = 0;
    double norm_sum = 0;
    double occurrences = 0;
  };

  // The key itself if it has an exact row, else that of its shared row.
  Key RowKey(Key key) const {
    const HybridAddresses::Address address = addresses_.Of(Mix64(key));
    return exact_.count(key) > 0 ? key : addresses_.SharedKey(address.bucket, address.shared);
  }

  std::vector<float> InitialValues(Key row) const {
    const CounterRandom random(seed_, stream_, row);
    std::vector<float> values;
    for (std::uint32_t e = 0; e < spec_.dim; ++e) {
      values.push_back((2 * random.Uniform(e) - 1) * spec_.init_scale);
    }
    return values;
  }

  void Update(Key key, std::vector<float> gradients, std::uint32_t active, std::uint64_t count,
              std::uint64_t version, float scale) {
    for (float& gradient : gradients) {
      gradient *= scale;
    }
    Row& row = rows_[key];
    std::vector<float> floats(layout_.floats());
    if (row.record.empty()) {
      const std::vector<float> values = InitialValues(key);
      std::copy(values.begin(), values.end(), floats.begin());
      optimizer_->InitState(spec_.dim, floats.data() + spec_.dim);
      row.record.resize(layout_.record_bytes());
      layout_.Create(floats.data(), CounterRandom(seed_, stream_, key, 0), row.record.data());
    }
    layout_.Read(row.record.data(), floats.data());
    const Optimizer::RowStep step{floats.data(), gradients.data()};
    optimizer_->Apply({&step, 1}, spec_.dim, active, 1.0f, 1.0f);
    layout_.Write(floats.data(), gradients.data(), active,
                  CounterRandom(seed_, stream_, key, version), row.record.data());
    row.count += count;
    row.last_step = version;
  }

  float ImportanceOf(float norm, std::uint64_t count, Bucket* bucket, double period) {
    if (spec_.hybrid.importance == HybridSpec::Importance::kFrequency) {
      return static_cast<float>(count);
    }
    if (bucket->occurrences > period) {
      bucket->occurrences /= 2;
      bucket->norm_sum /= 2;
    }
    bucket->occurrences += static_cast<double>(count);
    bucket->norm_sum += norm;
    return norm == 0 ? 0 : static_cast<float>(norm * bucket->occurrences / bucket->norm_sum);
  }

  double PeriodOf(std::uint32_t bucket) const {
    return 10.0 * addresses_.exact_rows(bucket) * spec_.hybrid.threshold;
  }

  void Raise(Key key, float norm, std::uint64_t count, std::uint64_t version) {
    const HybridAddresses::Address address = addresses_.Of(Mix64(key));
    Bucket& bucket = buckets_[address.bucket];
    const auto threshold = static_cast<float>(spec_.hybrid.threshold);
    const float importance = ImportanceOf(norm, count, &bucket, PeriodOf(address.bucket));
    if (importance == 0) {
      return;
    }
    bucket.importance += importance;
    Group& group = bucket.groups[address.group];
    const auto is_key = [key](const auto& slot) { return slot.first == key; };
    auto slot = std::find_if(group.begin(), group.end(), is_key);
    if (slot == group.end() && group.size() < 4) {
      slot = group.insert(group.end(), {key, 0.0f});
    } else if (slot == group.end() && group.back().second < threshold) {
      slot = group.end() - 1;
      slot->first = key;
    } else if (slot == group.end()) {
      return;
    }
    const float score = slot->second += importance;
    std::stable_sort(group.begin(), group.end(),
                     [](const auto& a, const auto& b) { return a.second > b.second; });
    if (score < threshold || exact_.count(key) > 0 || refuse_ ||
        addresses_.IsShared(Mix64(key), address.bucket) ||
        bucket.exact == addresses_.exact_rows(address.bucket)) {
      return;
    }
    rows_[key] = rows_.at(RowKey(key));
    rows_[key].count = 0;
    rows_[key].last_step = version;
    exact_.insert(key);
    ++bucket.exact;
    ++promoted_;
  }

  void DecayIfDue(std::uint32_t number) {
    Bucket& bucket = buckets_[number];
    if (bucket.importance <= PeriodOf(number)) {
      return;
    }
    bucket.importance = 0;
    for (auto& [index, group] : bucket.groups) {
      for (auto& [key, score] : group) {
        score *= static_cast<float>(spec_.hybrid.decay);
        if (score < static_cast<float>(spec_.hybrid.threshold) && exact_.erase(key) > 0) {
          rows_.erase(key);
          --bucket.exact;
          ++demoted_;
        }
      }
      while (!group.empty() && group.back().second == 0) {
        group.pop_back();
      }
    }
  }

  const TableSpec spec_;
  const std::uint64_t seed_;
  const std::uint64_t stream_;
  const std::unique_ptr<Optimizer> optimizer_;
  const RowLayout layout_;
  const HybridAddresses addresses_;
  std::vector<Bucket> buckets_;
  std::set<Key> exact_;
  std::map<Key, Row> rows_;
  bool refuse_ = false;
  std::uint64_t promoted_ = 0;
  std::uint64_t demoted_ = 0;
};

}  // namespace plexus
