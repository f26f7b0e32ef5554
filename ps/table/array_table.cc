#include "ps/table/array_table.h"

#include <algorithm>
#include <cstring>

#include <glog/logging.h>

#include "common/prefetch.h"

namespace plexus {
namespace {

constexpr std::size_t kAhead = 16;                  // Rows between a prefetch and its use.
constexpr std::uint32_t kPlacesPerSlice = 1 << 17;  // That a slice of a snapshot looks at.

std::uint32_t BucketRows(std::uint64_t rows, std::uint32_t buckets) {
  CHECK_GT(rows, 0u) << "an ARRAY table needs rows";
  const std::uint64_t bucket_rows = (rows + buckets - 1) / buckets;
  CHECK_LT(bucket_rows * buckets, std::uint64_t{0xffffffff}) << "rows of an ARRAY table";
  return static_cast<std::uint32_t>(bucket_rows);
}

}  // namespace

ArrayTable::ArrayTable(const TableSpec& spec, std::uint64_t seed, std::uint32_t buckets)
    : store_(spec, seed),
      buckets_(static_cast<std::uint32_t>(std::min<std::uint64_t>(spec.rows, buckets))),
      bucket_rows_(BucketRows(spec.rows, buckets_)),
      steps_memory_(std::uint64_t{buckets_} * bucket_rows_ * sizeof(std::uint32_t)),
      steps_(reinterpret_cast<std::uint32_t*>(steps_memory_.data())),
      merger_(spec.dim) {
  block_.Resize(store_.block_rows());
}

std::uint32_t ArrayTable::CheckedPlace(Key row) const {
  CHECK_LT(row, spec().rows) << "row of ARRAY table " << spec().name;
  return Place(row);
}

void ArrayTable::Pull(std::span<const Key> keys, std::uint32_t dim, Precision precision,
                      std::uint8_t* out, PullHint*) const {
  const std::size_t out_bytes = WireRowBytes(precision, dim);
  const auto prefetch = [&](std::size_t i) {
    const std::uint32_t place = CheckedPlace(keys[i]);
    PrefetchLine(steps_ + place);
    store_.PrefetchValues(store_.RecordOf(place));  // Whatever lies there, if anything.
  };
  for (std::size_t i = 0; i < std::min(keys.size(), kAhead); ++i) {
    prefetch(i);
  }
  for (std::size_t i = 0; i < keys.size(); ++i) {
    if (i + kAhead < keys.size()) {
      prefetch(i + kAhead);
    }
    const std::uint32_t place = Place(keys[i]);
    if (steps_[place] != 0) {
      store_.WriteWireRow(store_.RecordOf(place), dim, precision, out + i * out_bytes);
    } else {
      store_.WriteInitialWireRow(keys[i], dim, precision, out + i * out_bytes);
    }
  }
}

void ArrayTable::ApplyStep(std::uint64_t version, std::span<const GradientPart> parts, float scale,
                           float rate_factor) {
  const StepRates rates{version, scale, rate_factor};
  merger_.ForStep(parts, [&](const auto& source) {
    if (snapshot_.active()) {
      AddBeforeStep(source.keys());
    }
    UpdateRows(rates, source);
  });
}

template <typename Source>
void ArrayTable::UpdateRows(const StepRates& rates, const Source& source) {
  const std::span<const Key> keys = source.keys();
  const std::size_t block_rows = store_.block_rows();
  const auto prefetch = [&](std::size_t i) {
    const std::uint32_t place = CheckedPlace(keys[i]);
    PrefetchLine(steps_ + place);
    store_.Touch(place);
    store_.PrefetchRow(place);
  };
  for (std::size_t i = 0; i < std::min(keys.size(), block_rows); ++i) {
    prefetch(i);
  }
  for (std::size_t begin = 0; begin < keys.size(); begin += block_rows) {
    const std::size_t end = std::min(keys.size(), begin + block_rows);
    for (std::size_t i = end; i < std::min(keys.size(), end + block_rows); ++i) {
      prefetch(i);
    }
    block_.size = 0;
    for (std::size_t i = begin; i < end; ++i) {
      AddRow(keys[i], source.count(i), source.gradients(i), source.active(i), rates.version);
    }
    store_.Update(block_, rates);
  }
}

void ArrayTable::AddRow(Key key, std::uint64_t count, const float* gradients, std::uint32_t active,
                        std::uint64_t version) {
  const std::uint32_t place = Place(key);
  if (!MarkUpdated(place, version)) {
    store_.Make(key, place);
    ++counters_.admitted;
  }
  if (store_.counts()) {
    store_.AddCount(place, count);
  }
  block_.Add(store_.RecordOf(place), key, gradients, active);
}

bool ArrayTable::MarkUpdated(std::uint32_t place, std::uint64_t version) {
  CHECK_LT(version, std::uint64_t{0xffffffff}) << "versions have 32 bits";
  const bool updated = steps_[place] != 0;
  steps_[place] = static_cast<std::uint32_t>(version) + 1;
  row_count_ += updated ? 0 : 1;
  return updated;
}

RowView ArrayTable::ViewOf(std::uint32_t place) const {
  return {Key{place % bucket_rows_} * buckets_ + place / bucket_rows_,
          steps_[place] - 1,
          store_.counts() ? store_.CountOf(place) : 0,
          {store_.RecordOf(place), layout().record_bytes()}};
}

void ArrayTable::ForEachRow(const std::function<void(const RowView&)>& visit) const {
  for (std::uint32_t place = 0; place < buckets_ * bucket_rows_; ++place) {
    if (steps_[place] != 0) {
      visit(ViewOf(place));
    }
  }
}

void ArrayTable::AddBeforeStep(std::span<const Key> keys) {
  for (const Key key : keys) {
    const std::uint32_t place = CheckedPlace(key);
    if (steps_[place] != 0 && snapshot_.IsAhead(place) && snapshot_.Holds(steps_[place] - 1)) {
      snapshot_.Add(ViewOf(place));
    }
  }
}

// Rows lie in the order of the walk: the hardware sees what comes next.
bool ArrayTable::GatherSlice(std::uint64_t bytes) {
  const std::uint32_t places = buckets_ * bucket_rows_;
  const std::uint64_t enough = snapshot_.bytes() + bytes;
  auto place = static_cast<std::uint32_t>(snapshot_.next());
  const std::uint32_t end = places - place > kPlacesPerSlice ? place + kPlacesPerSlice : places;
  for (; place < end && snapshot_.bytes() < enough; ++place) {
    if (steps_[place] != 0 && snapshot_.Holds(steps_[place] - 1)) {
      snapshot_.Add(ViewOf(place));
    }
  }
  snapshot_.MoveTo(place);
  if (place == places) {
    snapshot_.FinishWalk();
  }
  return !snapshot_.walked();
}

void ArrayTable::Restore(const RowView& row) {
  CHECK_EQ(row.record.size(), layout().record_bytes())
      << "row of another layout for " << spec().name;
  const std::uint32_t place = CheckedPlace(row.key);
  counters_.restored += MarkUpdated(place, row.last_step) ? 0 : 1;
  store_.Touch(place);
  std::memcpy(store_.RecordOf(place), row.record.data(), row.record.size());
  if (store_.counts()) {
    store_.SetCount(place, static_cast<std::uint32_t>(row.count));
  }
}

Digest128 ArrayTable::Digest() const {
  Digest128 digest;
  ForEachRow([&](const RowView& row) { digest += RowDigest(spec().name, row); });
  return digest;
}

TableMemory ArrayTable::memory() const {
  TableMemory memory;
  memory.index_bytes = steps_memory_.bytes();
  memory.row_bytes = store_.record_memory_bytes();
  memory.header_bytes = store_.count_memory_bytes();
  const std::uint64_t used = row_count_ * layout().record_bytes();
  memory.free_bytes = memory.row_bytes - std::min(memory.row_bytes, used);
  return memory;
}

}  // namespace plexus
