#include "ps/table/hybrid_table.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <map>
#include <utility>

#include <glog/logging.h>

#include "common/optimizer/lanes.h"
#include "common/prefetch.h"
#include "ps/table/filter_digest.h"

namespace plexus {
namespace {

constexpr std::uint64_t kCountMax = 0xffffffff;

}  // namespace

HybridTable::HybridTable(const TableSpec& spec, std::uint64_t seed, std::uint32_t buckets)
    : shared_(spec, seed),
      exact_(spec, seed),
      addresses_(spec.hybrid, buckets),
      options_{static_cast<float>(spec.hybrid.threshold), static_cast<float>(spec.hybrid.decay)},
      merger_(spec.dim) {
  buckets_.reserve(buckets);
  for (std::uint32_t bucket = 0; bucket < buckets; ++bucket) {
    buckets_.push_back({HybridSketch(addresses_.exact_rows(bucket), &options_), nullptr});
  }
  block_.Resize(shared_.block_rows());
}

HybridTable::Address HybridTable::Locate(Key key) const {
  const Address address = addresses_.Of(Mix64(key));
  buckets_[address.bucket].sketch.Prefetch(address.group);
  if (const SharedRow* shared = SharedOf(address); shared != nullptr) {
    PrefetchLine(shared);
  }
  return address;
}

void HybridTable::Pull(std::span<const Key> keys, std::uint32_t dim, Precision precision,
                       std::uint8_t* out, PullHint*) const {
  const std::size_t n = keys.size();
  const std::size_t out_bytes = WireRowBytes(precision, dim);
  Address addresses[kRing];
  const std::byte* records[kRing];
  const auto find = [&](std::size_t i) {
    const Address& address = addresses[i % kRing];
    const Bucket& bucket = buckets_[address.bucket];
    const HybridSketch::Slot* slot = bucket.sketch.Find(keys[i], address.group);
    const std::byte* record = nullptr;
    if (slot != nullptr && slot->place != 0) {
      record = exact_.RecordOf(slot->place - 1);
    } else if (bucket.shared != nullptr && bucket.shared[address.shared].step != 0) {
      record = shared_.RecordOf(SharedPlace(address));
    }
    if (record != nullptr) {
      shared_.PrefetchValues(record);
    }
    records[i % kRing] = record;
  };
  const auto copy = [&](std::size_t i) {
    if (records[i % kRing] != nullptr) {
      shared_.WriteWireRow(records[i % kRing], dim, precision, out + i * out_bytes);
    } else {
      const Address& address = addresses[i % kRing];
      shared_.WriteInitialWireRow(addresses_.SharedKey(address.bucket, address.shared), dim,
                                  precision, out + i * out_bytes);
    }
  };
  for (std::size_t i = 0; i < n + 2 * kAhead; ++i) {
    if (i >= 2 * kAhead) {
      copy(i - 2 * kAhead);
    }
    if (i < n) {
      addresses[i % kRing] = Locate(keys[i]);
    }
    if (i >= kAhead && i - kAhead < n) {
      find(i - kAhead);
    }
  }
}

void HybridTable::ApplyStep(std::uint64_t version, std::span<const GradientPart> parts, float scale,
                            float rate_factor) {
  CHECK_LT(version, kCountMax) << "versions have 32 bits";
  merger_.ForStep(parts, [this](const auto& source) {
    for (std::size_t i = 0; snapshot_.active() && i < source.keys().size(); ++i) {
      AddSketch(addresses_.Of(Mix64(source.keys()[i])).bucket);
    }
    GatherRows(source);
  });
  if (entries_.empty()) {
    return;
  }
  if (snapshot_.active()) {
    AddBeforeUpdate();
  }
  UpdateRows({version, scale, rate_factor});
  Promote(version);
  Decay();
}

// Finds each key's row before its score is raised: a key that is promoted still has its gradients
// applied to the row that it shared.
template <typename Source>
void HybridTable::GatherRows(const Source& source) {
  const std::span<const Key> keys = source.keys();
  const bool by_norm = spec().hybrid.importance == HybridSpec::Importance::kGradientNorm;
  entries_.reserve(keys.size());
  Address addresses[kAhead];
  for (std::size_t i = 0; i < std::min(keys.size(), kAhead); ++i) {
    addresses[i] = Locate(keys[i]);
  }
  for (std::size_t i = 0; i < keys.size(); ++i) {
    const Address address = addresses[i % kAhead];
    if (i + kAhead < keys.size()) {
      addresses[i % kAhead] = Locate(keys[i + kAhead]);
    }
    const Key key = keys[i];
    const std::uint64_t count = source.count(i);
    const float* gradients = source.gradients(i);
    const std::uint32_t active = source.active(i);
    HybridSketch& sketch = buckets_[address.bucket].sketch;
    const HybridSketch::Slot* slot = sketch.Find(key, address.group);
    if (slot != nullptr && slot->place != 0) {
      const std::uint32_t handle = slot->place - 1;
      entries_.push_back({key, count, gradients, kNoSum, active, handle, nullptr});
    } else {
      AddShared(address, count, gradients, active);
    }
    const float norm = by_norm ? std::sqrt(SumOfSquares(gradients, active)) : 0.0f;
    RaiseScore(key, address,
               by_norm ? sketch.ImportanceOf(norm, count) : static_cast<float>(count));
  }
}

HybridTable::SharedRow* HybridTable::MakeShared(const Address& address) {
  std::unique_ptr<SharedRow[]>& rows = buckets_[address.bucket].shared;
  if (rows == nullptr) {
    rows = std::make_unique<SharedRow[]>(addresses_.shared_rows(address.bucket));
  }
  return rows.get() + address.shared;
}

void HybridTable::AddShared(const Address& address, std::uint64_t count, const float* gradients,
                            std::uint32_t active) {
  SharedRow* row = MakeShared(address);
  if (row->entry == 0) {
    entries_.push_back({addresses_.SharedKey(address.bucket, address.shared), count, gradients,
                        kNoSum, active, SharedPlace(address), row});
    row->entry = static_cast<std::uint32_t>(entries_.size());
    return;
  }
  Entry& entry = entries_[row->entry - 1];
  if (entry.sum == kNoSum) {
    entry.sum = sums_.size();
    sums_.insert(sums_.end(), entry.gradients, entry.gradients + entry.active);
    sums_.resize(entry.sum + spec().dim, 0.0f);
  }
  entry.count += count;
  entry.active = std::max(entry.active, active);
  float* sum = sums_.data() + entry.sum;
  for (std::uint32_t e = 0; e < active; ++e) {
    sum[e] += gradients[e];
  }
}

void HybridTable::RaiseScore(Key key, const Address& address, float importance) {
  HybridSketch& sketch = buckets_[address.bucket].sketch;
  const bool was_due = sketch.DecayIsDue();
  HybridSketch::Slot* slot = sketch.Add(key, address.group, importance);
  if (slot != nullptr && sketch.MayPromote(*slot) &&
      !addresses_.IsShared(Mix64(key), address.bucket)) {
    if (refuse_new_rows_) {
      ++counters_.refused_memory;
    } else {
      const std::uint32_t handle = AddHandle();
      sketch.Promote(slot, handle + 1);
      promotions_.push_back({handle, SharedPlace(address)});
    }
  }
  if (!was_due && sketch.DecayIsDue()) {
    decays_.push_back(address.bucket);
  }
}

void HybridTable::UpdateRows(const StepRates& rates) {
  const std::size_t block_rows = shared_.block_rows();
  const auto prefetch = [this](const Entry& entry) {
    if (entry.shared == nullptr) {
      exact_.PrefetchRow(entry.place);
      PrefetchLine(&exact_steps_[entry.place]);
    } else {
      shared_.Touch(entry.place);
      shared_.PrefetchRow(entry.place);
      PrefetchLine(entry.shared);
    }
  };
  for (std::size_t i = 0; i < std::min(entries_.size(), block_rows); ++i) {
    prefetch(entries_[i]);
  }
  for (std::size_t begin = 0; begin < entries_.size(); begin += block_rows) {
    const std::size_t end = std::min(entries_.size(), begin + block_rows);
    for (std::size_t i = end; i < std::min(entries_.size(), end + block_rows); ++i) {
      prefetch(entries_[i]);
    }
    block_.size = 0;
    for (std::size_t i = begin; i < end; ++i) {
      const Entry& entry = entries_[i];
      const float* gradients = entry.sum == kNoSum ? entry.gradients : sums_.data() + entry.sum;
      block_.Add(TakeRecord(entry, rates.version), entry.key, gradients, entry.active);
    }
    shared_.Update(block_, rates);
  }
  entries_.clear();
  sums_.clear();
}

std::byte* HybridTable::TakeRecord(const Entry& entry, std::uint64_t version) {
  if (entry.shared == nullptr) {
    exact_steps_[entry.place] = static_cast<std::uint32_t>(version);
    if (exact_.counts()) {
      exact_.AddCount(entry.place, entry.count);
    }
    return exact_.RecordOf(entry.place);
  }
  if (entry.shared->step == 0) {
    shared_.Make(entry.key, entry.place);
    ++shared_count_;
    ++counters_.admitted;
  }
  *entry.shared = {static_cast<std::uint32_t>(version) + 1, 0};
  if (shared_.counts()) {
    shared_.AddCount(entry.place, entry.count);
  }
  return shared_.RecordOf(entry.place);
}

void HybridTable::Promote(std::uint64_t version) {
  for (const Promotion& promotion : promotions_) {
    exact_.Touch(promotion.handle);
    std::memcpy(exact_.RecordOf(promotion.handle), shared_.RecordOf(promotion.shared_place),
                layout().record_bytes());
    if (exact_.counts()) {
      exact_.SetCount(promotion.handle, 0);
    }
    exact_steps_[promotion.handle] = static_cast<std::uint32_t>(version);
  }
  counters_.promoted += promotions_.size();
  promotions_.clear();
}

void HybridTable::Decay() {
  for (const std::uint32_t bucket : decays_) {
    buckets_[bucket].sketch.Decay([&](const HybridSketch::Slot& slot) {
      const std::uint32_t handle = slot.place - 1;
      if (snapshot_.active() && snapshot_.IsAhead(bucket) &&
          snapshot_.Holds(exact_steps_[handle])) {
        snapshot_.Add(ViewOfExact(slot.key, handle));
      }
      erased_.Note(slot.key);
      handles_.Free(handle);
      ++counters_.demoted;
    });
  }
  decays_.clear();
}

std::uint32_t HybridTable::AddHandle() {
  const std::uint32_t handle = handles_.Allocate();
  if (handle >= exact_steps_.size()) {
    exact_steps_.resize(std::max<std::size_t>(64, handle + handle / 4));
    exact_steps_.resize(std::max<std::size_t>(exact_steps_.size(), std::size_t{handle} + 1));
  }
  return handle;
}

RowView HybridTable::ViewOfExact(Key key, std::uint32_t handle) const {
  return {key,
          exact_steps_[handle],
          exact_.counts() ? exact_.CountOf(handle) : 0,
          {exact_.RecordOf(handle), layout().record_bytes()}};
}

RowView HybridTable::ViewOfShared(std::uint32_t bucket, std::uint32_t row) const {
  const std::uint32_t place = addresses_.first_shared(bucket) + row;
  return {addresses_.SharedKey(bucket, row),
          buckets_[bucket].shared[row].step - 1,
          shared_.counts() ? shared_.CountOf(place) : 0,
          {shared_.RecordOf(place), layout().record_bytes()}};
}

void HybridTable::Visit(std::uint32_t b, const std::function<void(const RowView&)>& visit) const {
  const Bucket& bucket = buckets_[b];
  bucket.sketch.ForEachExact(
      [&](const HybridSketch::Slot& slot) { visit(ViewOfExact(slot.key, slot.place - 1)); });
  for (std::uint32_t row = 0; bucket.shared != nullptr && row < addresses_.shared_rows(b); ++row) {
    if (bucket.shared[row].step != 0) {
      visit(ViewOfShared(b, row));
    }
  }
}

void HybridTable::ForEachRow(const std::function<void(const RowView&)>& visit) const {
  for (std::uint32_t b = 0; b < buckets_.size(); ++b) {
    Visit(b, visit);
  }
}

void HybridTable::AddSketch(std::uint32_t bucket) {
  if (snapshot_.ClaimFilter(bucket)) {
    std::string bytes = SketchBytes(bucket);
    if (!bytes.empty()) {
      snapshot_.AddFilter(bucket, std::move(bytes));
    }
  }
}

void HybridTable::AddBeforeUpdate() {
  for (const Entry& entry : entries_) {
    const std::uint32_t bucket = addresses_.Of(Mix64(entry.key)).bucket;
    if (!snapshot_.IsAhead(bucket)) {
      continue;
    }
    if (entry.shared == nullptr) {
      if (snapshot_.Holds(exact_steps_[entry.place])) {
        snapshot_.Add(ViewOfExact(entry.key, entry.place));
      }
    } else if (entry.shared->step != 0 && snapshot_.Holds(entry.shared->step - 1)) {
      snapshot_.Add(ViewOfShared(bucket, entry.place - addresses_.first_shared(bucket)));
    }
  }
}

// A bucket at a time.
bool HybridTable::GatherSlice(std::uint64_t bytes) {
  const std::uint64_t enough = snapshot_.bytes() + bytes;
  while (!snapshot_.walked() && snapshot_.bytes() < enough) {
    const auto bucket = static_cast<std::uint32_t>(snapshot_.next());
    AddSketch(bucket);
    Visit(bucket, [this](const RowView& row) {
      if (snapshot_.Holds(row.last_step)) {
        snapshot_.Add(row);
      }
    });
    snapshot_.MoveTo(bucket + 1);
    if (bucket + 1 == buckets_.size()) {
      snapshot_.FinishWalk();
    }
  }
  return !snapshot_.walked();
}

void HybridTable::Restore(const RowView& row) {
  CHECK_EQ(row.record.size(), layout().record_bytes())
      << "row of another layout for " << spec().name;
  const std::uint64_t hash = Mix64(row.key);
  Address address = addresses_.Of(hash);
  RowStore* store = &exact_;
  std::uint32_t place = 0;
  if (addresses_.IsShared(hash, address.bucket)) {
    address.shared = addresses_.SharedRow(hash, address.bucket);
    SharedRow* shared = MakeShared(address);
    shared_count_ += shared->step == 0 ? 1 : 0;
    counters_.restored += shared->step == 0 ? 1 : 0;
    shared->step = static_cast<std::uint32_t>(row.last_step) + 1;
    store = &shared_;
    place = SharedPlace(address);
  } else {
    HybridSketch& sketch = buckets_[address.bucket].sketch;
    const HybridSketch::Slot* slot = sketch.Find(row.key, address.group);
    if (slot != nullptr && slot->place != 0) {
      place = slot->place - 1;
    } else {
      place = AddHandle();
      if (!sketch.AddExact(row.key, address.group, place + 1)) {
        handles_.Free(place);
        return;
      }
      ++counters_.restored;
    }
    exact_steps_[place] = static_cast<std::uint32_t>(row.last_step);
  }
  store->Touch(place);
  std::memcpy(store->RecordOf(place), row.record.data(), row.record.size());
  if (store->counts()) {
    store->SetCount(place, static_cast<std::uint32_t>(row.count));
  }
}

std::string HybridTable::SketchBytes(std::uint32_t bucket) const {
  std::string bytes;
  buckets_[bucket].sketch.Save(&bytes);
  if (!bytes.empty()) {
    const std::uint32_t shared_rows = addresses_.shared_rows(bucket);
    bytes.append(reinterpret_cast<const char*>(&shared_rows), sizeof(shared_rows));
  }
  return bytes;
}

void HybridTable::ForEachFilter(
    const std::function<void(std::uint32_t, const std::string&)>& visit) const {
  for (std::uint32_t b = 0; b < buckets_.size(); ++b) {
    if (const std::string bytes = SketchBytes(b); !bytes.empty()) {
      visit(b, bytes);
    }
  }
}

Status HybridTable::RestoreFilter(std::uint32_t bucket, const std::string& bytes) {
  CHECK_LT(bucket, buckets_.size());
  std::uint32_t shared_rows = 0;
  if (bytes.size() < sizeof(shared_rows)) {
    return DataLoss("sketch of table " + spec().name + " is cut off");
  }
  const std::size_t sketch_bytes = bytes.size() - sizeof(shared_rows);
  std::memcpy(&shared_rows, bytes.data() + sketch_bytes, sizeof(shared_rows));
  if (shared_rows != addresses_.shared_rows(bucket)) {
    return FailedPrecondition("bucket " + std::to_string(bucket) + " of table " + spec().name +
                              " has " + std::to_string(shared_rows) +
                              " shared rows, and hybrid.shared_rows gives " +
                              std::to_string(addresses_.shared_rows(bucket)));
  }
  HybridSketch& sketch = buckets_[bucket].sketch;
  std::map<Key, std::uint32_t> places;  // Of rows that came before.
  sketch.ForEachExact([&](const HybridSketch::Slot& slot) { places[slot.key] = slot.place; });
  const Status status =
      sketch.Load(bytes.substr(0, sketch_bytes), addresses_, bucket, [&](Key key) {
        if (const auto at = places.find(key); at != places.end()) {
          const std::uint32_t place = at->second;
          places.erase(at);
          return place;
        }
        const std::uint32_t handle = AddHandle();
        exact_.Make(key, handle);
        exact_steps_[handle] = 0;
        ++counters_.restored;
        return handle + 1;
      });
  RETURN_IF_ERROR(status.Annotate("table " + spec().name));
  for (const auto& [key, place] : places) {
    handles_.Free(place - 1);
    --counters_.restored;
  }
  return OkStatus();
}

Digest128 HybridTable::Digest() const {
  Digest128 digest;
  ForEachRow([&](const RowView& row) { digest += RowDigest(spec().name, row); });
  ForEachFilter([&](std::uint32_t bucket, const std::string& bytes) {
    digest += FilterDigest(spec().name, bucket, bytes);
  });
  return digest;
}

TableMemory HybridTable::memory() const {
  TableMemory memory;
  for (std::uint32_t b = 0; b < buckets_.size(); ++b) {
    memory.filter_bytes += buckets_[b].sketch.memory_bytes();
    memory.index_bytes +=
        buckets_[b].shared == nullptr ? 0 : addresses_.shared_rows(b) * sizeof(SharedRow);
  }
  memory.filter_bytes += buckets_.capacity() * sizeof(Bucket);
  memory.row_bytes = shared_.record_memory_bytes() + exact_.record_memory_bytes();
  memory.header_bytes = shared_.count_memory_bytes() + exact_.count_memory_bytes() +
                        handles_.memory_bytes() + exact_steps_.capacity() * sizeof(std::uint32_t) +
                        erased_.memory_bytes();
  const std::uint64_t used = row_count() * layout().record_bytes();
  memory.free_bytes = memory.row_bytes - std::min(memory.row_bytes, used);
  return memory;
}

}  // namespace plexus
