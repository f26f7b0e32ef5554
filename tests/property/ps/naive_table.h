// NaiveTable: what a HASHED table has to hold, as maps and loops: the oracle of
// store_property_test.
//
// Rows are records of the same RowLayout, admission is the same AdmissionFilter (both have tests of
// their own); which rows exist, their order of worth, their updates and where nothing may lie on
// disk are done again, slowly.
//
// Thread safety: none.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstring>
#include <map>
#include <memory>
#include <tuple>
#include <vector>

#include "common/optimizer/lanes.h"
#include "common/optimizer/optimizer.h"
#include "common/random.h"
#include "ps/table/admission.h"
#include "ps/table/count_decay.h"
#include "ps/table/table.h"

namespace plexus {

class NaiveTable {
 public:
  struct Row {
    std::vector<std::byte> record;
    std::uint64_t last_step = 0;
    std::uint32_t count = 0;
  };

  NaiveTable(const TableSpec& spec, std::uint64_t seed, std::uint32_t buckets)
      : spec_(spec),
        seed_(seed),
        buckets_(buckets),
        stream_(HashBytes(spec.name, 0)),
        optimizer_(MakeScalarOptimizer(spec.optimizer)),
        layout_(spec, *optimizer_),
        decay_(spec.eviction.half_life_versions) {
    if (spec.admission.kind != AdmissionSpec::Kind::kAll) {
      filter_ = std::make_unique<AdmissionFilter>(spec.admission, seed, stream_, buckets);
    }
  }

  std::vector<float> Values(Key key) const {
    std::vector<float> values(spec_.dim);
    if (const auto at = rows_.find(key); at != rows_.end()) {
      layout_.ReadValues(at->second.record.data(), spec_.dim, values.data());
      return values;
    }
    const CounterRandom random(seed_, stream_, key);
    for (std::uint32_t e = 0; e < spec_.dim; ++e) {
      values[e] = (2 * random.Uniform(e) - 1) * spec_.init_scale;
    }
    return values;
  }

  void ApplyStep(std::uint64_t version, const std::vector<GradientPart>& parts, float scale) {
    struct Sum {
      std::vector<float> gradients;
      std::uint32_t active = 0;
      std::uint64_t count = 0;
    };
    std::vector<Key> order;
    std::map<Key, Sum> sums;
    for (const GradientPart& part : parts) {
      const std::uint32_t dim = part.dim == 0 ? spec_.dim : part.dim;
      for (std::size_t i = 0; i < part.keys.size(); ++i) {
        const float* gradient = part.gradients + i * dim;
        const auto [at, fresh] = sums.try_emplace(part.keys[i]);
        Sum& sum = at->second;
        if (fresh) {
          order.push_back(part.keys[i]);
          sum.gradients.assign(gradient, gradient + dim);
          sum.gradients.resize(spec_.dim, 0.0f);
        } else {
          for (std::uint32_t e = 0; e < dim; ++e) {
            sum.gradients[e] += gradient[e];
          }
        }
        sum.active = std::max(sum.active, dim);
        sum.count += part.counts[i];
      }
    }
    for (const Key key : order) {
      if (HasRow(key, sums[key].count, version)) {
        Update(key, sums[key].gradients, sums[key].active, sums[key].count, version, scale);
      }
    }
    EvictBeyondLimits(version);
  }

  void EndVersion(std::uint64_t version) {
    const EvictionSpec& eviction = spec_.eviction;
    if (eviction.unseen_versions != 0) {
      for (auto at = rows_.begin(); at != rows_.end();) {
        const bool due = BucketOfKey(at->first, buckets_) % eviction.sweep_versions ==
                         version % eviction.sweep_versions;
        if (due && at->second.last_step + eviction.unseen_versions < version) {
          at = rows_.erase(at);
          ++evicted_unseen_;
        } else {
          ++at;
        }
      }
    }
    if (filter_ != nullptr) {
      filter_->EndVersion(version);
    }
  }

  Digest128 Digest() const {
    Digest128 digest = filter_ == nullptr ? Digest128{} : filter_->Digest(spec_.name);
    for (const auto& [key, row] : rows_) {
      digest += RowDigest(spec_.name, {key, row.last_step, row.count, row.record});
    }
    return digest;
  }

  void set_refuse_new_rows(bool refuse) { refuse_new_rows_ = refuse; }
  const std::map<Key, Row>& rows() const { return rows_; }
  std::uint64_t admitted() const { return admitted_; }
  std::uint64_t evicted_unseen() const { return evicted_unseen_; }
  std::uint64_t evicted_limit() const { return evicted_limit_; }

 private:
  bool HasRow(Key key, std::uint64_t count, std::uint64_t version) {
    if (rows_.count(key) > 0) {
      return true;
    }
    if (filter_ != nullptr &&
        !filter_->Admit(key, Mix64(key), BucketOfKey(key, buckets_), count, version)) {
      return false;
    }
    if (refuse_new_rows_) {
      return false;
    }
    std::vector<float> floats = Values(key);
    floats.resize(layout_.floats());
    optimizer_->InitState(spec_.dim, floats.data() + spec_.dim);
    Row& row = rows_[key];
    row.record.resize(layout_.record_bytes());
    layout_.Create(floats.data(), CounterRandom(seed_, stream_, key, 0), row.record.data());
    ++admitted_;
    return true;
  }

  void Update(Key key, std::vector<float> gradients, std::uint32_t active, std::uint64_t count,
              std::uint64_t version, float scale) {
    for (float& gradient : gradients) {
      gradient *= scale;
    }
    if (spec_.clip_row_norm > 0) {
      const float norm = std::sqrt(ScalarSumOfSquares(gradients.data(), 1.0f, nullptr, 0, active));
      for (float& gradient : gradients) {
        gradient *= norm > spec_.clip_row_norm ? spec_.clip_row_norm / norm : 1.0f;
      }
    }
    Row& row = rows_[key];
    std::vector<float> floats(layout_.floats());
    layout_.Read(row.record.data(), floats.data());
    const Optimizer::RowStep step{floats.data(), gradients.data()};
    optimizer_->Apply({&step, 1}, spec_.dim, active, 1.0f, 1.0f);
    layout_.Write(floats.data(), gradients.data(), active,
                  CounterRandom(seed_, stream_, key, version), row.record.data());
    if (spec_.max_rows != 0 && spec_.eviction.order == EvictionSpec::Order::kCount) {
      const auto age = static_cast<std::uint32_t>(version - row.last_step);
      row.count = BitsOf(FloatOf(row.count) * decay_.Of(age) + static_cast<float>(count));
    } else {
      row.count += static_cast<std::uint32_t>(count);
    }
    row.last_step = version;
  }

  void EvictBeyondLimits(std::uint64_t version) {
    if (spec_.max_rows == 0) {
      return;
    }
    const std::uint64_t limit = std::max<std::uint64_t>(1, spec_.max_rows / buckets_);
    std::map<std::uint32_t, std::vector<Key>> buckets;
    for (const auto& [key, row] : rows_) {
      buckets[BucketOfKey(key, buckets_)].push_back(key);
    }
    for (auto& [bucket, keys] : buckets) {
      if (keys.size() <= limit) {
        continue;
      }
      std::sort(keys.begin(), keys.end(), [&](Key a, Key b) {
        return std::make_tuple(WorthOf(a, version), Mix64(a)) <
               std::make_tuple(WorthOf(b, version), Mix64(b));
      });
      const std::uint64_t keep = std::max<std::uint64_t>(1, limit - limit / 16);
      for (std::size_t i = 0; i + keep < keys.size(); ++i) {
        rows_.erase(keys[i]);
        ++evicted_limit_;
      }
    }
  }

  double WorthOf(Key key, std::uint64_t version) const {
    const Row& row = rows_.at(key);
    switch (spec_.eviction.order) {
      case EvictionSpec::Order::kOldest:
        return static_cast<double>(row.last_step);
      case EvictionSpec::Order::kCount:
        return FloatOf(row.count) * decay_.Of(static_cast<std::uint32_t>(version - row.last_step));
      case EvictionSpec::Order::kNorm: {
        const std::vector<float> values = Values(key);
        return std::sqrt(ScalarSumOfSquares(values.data(), 1.0f, nullptr, 0, spec_.dim));
      }
    }
    return 0;
  }

  const TableSpec spec_;
  const std::uint64_t seed_;
  const std::uint32_t buckets_;
  const std::uint64_t stream_;
  const std::unique_ptr<Optimizer> optimizer_;
  const RowLayout layout_;
  const CountDecay decay_;
  std::unique_ptr<AdmissionFilter> filter_;
  std::map<Key, Row> rows_;
  bool refuse_new_rows_ = false;
  std::uint64_t admitted_ = 0;
  std::uint64_t evicted_unseen_ = 0;
  std::uint64_t evicted_limit_ = 0;
};

}  // namespace plexus
