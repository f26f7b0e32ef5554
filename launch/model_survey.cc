#include "launch/model_survey.h"

#include <algorithm>
#include <cmath>
#include <utility>

namespace plexus {
namespace {

using Json = nlohmann::ordered_json;

// Limits keep counts of occurrences, decayed, as floats.
bool CountsDecay(const TableSpec& spec) {
  return spec.max_rows != 0 && spec.eviction.order == EvictionSpec::Order::kCount;
}

std::optional<HybridAddresses> HybridOf(const TableSpec& spec, std::uint32_t buckets) {
  return spec.kind == TableSpec::Kind::kHybrid
             ? std::optional<HybridAddresses>(std::in_place, spec.hybrid, buckets)
             : std::nullopt;
}

bool IsHotter(const HotKey& a, const HotKey& b) {
  return a.count != b.count ? a.count > b.count : a.key < b.key;
}

}  // namespace

TableSurvey::TableSurvey(const TableSpec& spec, std::uint32_t buckets, std::uint64_t version,
                         std::uint32_t top)
    : spec_(spec),
      layout_(spec, *MakeOptimizer(spec.optimizer)),
      version_(version),
      top_(top),
      decayed_counts_(CountsDecay(spec)),
      has_counts_(spec.keep_counts || decayed_counts_),
      decay_(decayed_counts_ ? spec.eviction.half_life_versions : 0),
      hybrid_(HybridOf(spec, buckets)),
      values_(spec.dim) {}

bool TableSurvey::IsShared(Key key) const {
  const std::uint64_t hash = Mix64(key);
  return hybrid_.has_value() && hybrid_->IsShared(hash, hybrid_->Of(hash).bucket);
}

double TableSurvey::CountOf(const RowView& row) const {
  if (!decayed_counts_) {
    return static_cast<double>(row.count);
  }
  const std::uint64_t age = version_ - std::min(version_, row.last_step);
  return static_cast<double>(FloatOf(static_cast<std::uint32_t>(row.count)) *
                             decay_.Of(static_cast<std::uint32_t>(age)));
}

void TableSurvey::Add(const RowView& row) {
  layout_.ReadValues(row.record.data(), spec_.dim, values_.data());
  double squares = 0;
  for (const float value : values_) {
    squares += static_cast<double>(value) * static_cast<double>(value);
  }
  const double norm = std::sqrt(squares);
  AddNorm(norm);
  ++rows_;
  const bool shared = IsShared(row.key);
  shared_rows_ += shared ? 1 : 0;
  if (!has_counts_) {
    return;
  }
  const HotKey key = {row.key, CountOf(row), row.last_step, norm, shared};
  occurrences_ += key.count;
  if (hottest_.size() < top_) {
    hottest_.push_back(key);
    std::push_heap(hottest_.begin(), hottest_.end(), IsHotter);
  } else if (top_ > 0 && IsHotter(key, hottest_.front())) {
    std::pop_heap(hottest_.begin(), hottest_.end(), IsHotter);
    hottest_.back() = key;
    std::push_heap(hottest_.begin(), hottest_.end(), IsHotter);
  }
}

void TableSurvey::AddNorm(double norm) {
  if (!std::isfinite(norm)) {
    ++not_finite_;
    return;
  }
  norm_min_ = rows_ == not_finite_ ? norm : std::min(norm_min_, norm);
  norm_max_ = std::max(norm_max_, norm);
  norm_sum_ += norm;
  if (norm == 0) {
    ++zeros_;
  } else {
    ++log2_[std::ilogb(norm)];
  }
}

std::vector<HotKey> TableSurvey::Hottest() const {
  std::vector<HotKey> keys = hottest_;
  std::sort(keys.begin(), keys.end(), IsHotter);
  return keys;
}

Json TableSurvey::ToJson() const {
  Json json;
  if (hybrid_.has_value()) {
    json["shared_rows"] = shared_rows_;
  }
  json["occurrences"] = has_counts_ ? Json(occurrences_) : Json(nullptr);
  json["hottest"] = Json::array();
  for (const HotKey& key : Hottest()) {
    json["hottest"].push_back({{"key", key.key},
                               {"count", key.count},
                               {"share", occurrences_ > 0 ? key.count / occurrences_ : 0.0},
                               {"last_step", key.last_step},
                               {"norm", std::isfinite(key.norm) ? Json(key.norm) : Json(nullptr)},
                               {"shared", key.shared}});
  }
  const std::uint64_t finite = rows_ - not_finite_;
  const auto or_null = [finite](double value) { return finite > 0 ? Json(value) : Json(nullptr); };
  Json& norms = json["norms"];
  norms["min"] = or_null(norm_min_);
  norms["mean"] = or_null(norm_sum_ / static_cast<double>(std::max<std::uint64_t>(1, finite)));
  norms["max"] = or_null(norm_max_);
  norms["zero"] = zeros_;
  norms["not_finite"] = not_finite_;
  norms["log2"] = Json::array();
  for (const auto& [exponent, rows] : log2_) {
    norms["log2"].push_back({{"exponent", exponent}, {"rows", rows}});
  }
  return json;
}

}  // namespace plexus
