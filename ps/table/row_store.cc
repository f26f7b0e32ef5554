#include "ps/table/row_store.h"

#include <algorithm>
#include <cmath>
#include <cstring>

#include <glog/logging.h>

#include "common/optimizer/lanes.h"
#include "common/random.h"

namespace plexus {
namespace {

constexpr std::size_t kBlockRowsMax = 64;
constexpr std::size_t kBlockFloats = 4096;
constexpr std::uint32_t kDimMax = 512;

// Its counts are decayed floats.
bool IsOrderedByCount(const TableSpec& spec) {
  return spec.max_rows != 0 && spec.eviction.order == EvictionSpec::Order::kCount;
}

// A count is kept where someone reads it.
bool NeedsCounts(const TableSpec& spec) { return spec.keep_counts || IsOrderedByCount(spec); }

}  // namespace

RowStore::RowStore(const TableSpec& spec, std::uint64_t seed)
    : spec_(spec),
      seed_(seed),
      stream_(HashBytes(spec.name, 0)),
      optimizer_(MakeOptimizer(spec.optimizer)),
      layout_(spec, *optimizer_),
      has_counts_(NeedsCounts(spec)),
      block_rows_(std::clamp<std::size_t>(kBlockFloats / spec.dim, 4, kBlockRowsMax)),
      records_(layout_.record_bytes()),
      counts_(IsOrderedByCount(spec) ? RowCounts::Kind::kFloats : RowCounts::Kind::kOccurrences),
      scaled_(block_rows_ * spec.dim),
      decoded_(layout_.plain() ? 0 : block_rows_ * layout_.floats()),
      steps_(block_rows_) {
  CHECK(spec.dim >= 1 && spec.dim <= kDimMax) << "table " << spec.name << " needs a dimension";
}

void RowStore::InitialValues(Key key, float* values) const {
  const CounterRandom random(seed_, stream_, key);
  switch (spec_.init) {
    case TableSpec::Init::kUniform:
      random.Symmetric(spec_.init_scale, spec_.dim, values);
      break;
    case TableSpec::Init::kNormal:
      for (std::uint32_t e = 0; e < spec_.dim; ++e) {
        values[e] = static_cast<float>(NormalDouble(random, e) * spec_.init_scale);
      }
      break;
    case TableSpec::Init::kConstant:
      std::fill_n(values, spec_.dim, spec_.init_scale);
      break;
  }
}

void RowStore::Touch(std::uint32_t handle) {
  records_.Touch(handle);
  if (has_counts_) {
    counts_.Touch(handle);
  }
}

void RowStore::Make(Key key, std::uint32_t handle) {
  Touch(handle);
  std::byte* record = RecordOf(handle);
  if (layout_.plain()) {
    auto* floats = reinterpret_cast<float*>(record);
    InitialValues(key, floats);
    optimizer_->InitState(spec_.dim, floats + spec_.dim);
  } else {
    std::vector<float> floats(layout_.floats());
    InitialValues(key, floats.data());
    optimizer_->InitState(spec_.dim, floats.data() + spec_.dim);
    layout_.Create(floats.data(), CounterRandom(seed_, stream_, key, 0), record);
  }
  if (has_counts_) {
    SetCount(handle, 0);
  }
}

void RowStore::Move(std::uint32_t from, std::uint32_t to) {
  Touch(to);
  std::memcpy(RecordOf(to), RecordOf(from), layout_.record_bytes());
  if (has_counts_) {
    SetCount(to, CountOf(from));
  }
}

void RowStore::ReleaseFrom(std::uint32_t first_handle) {
  records_.ReleaseFrom(first_handle);
  if (has_counts_) {
    counts_.ReleaseFrom(first_handle);
  }
}

void RowStore::WriteWireRow(const std::byte* record, std::uint32_t dim, Precision precision,
                            std::uint8_t* out) const {
  if (spec_.precision == precision && !HasScale(precision)) {
    const std::size_t bytes = EncodedBytes(precision, dim);
    std::memcpy(out, record, bytes);
    std::memset(out + bytes, 0, WireRowBytes(precision, dim) - bytes);
    return;
  }
  if (spec_.precision == Precision::kF32) {
    EncodeWireRow(precision, reinterpret_cast<const float*>(record), dim, out);
    return;
  }
  float values[kDimMax];
  layout_.ReadValues(record, dim, values);
  EncodeWireRow(precision, values, dim, out);
}

void RowStore::WriteInitialWireRow(Key key, std::uint32_t dim, Precision precision,
                                   std::uint8_t* out) const {
  float values[kDimMax];
  InitialValues(key, values);
  EncodeWireRow(precision, values, dim, out);
}

void RowStore::Block::Resize(std::size_t rows) {
  steps.resize(rows);
  keys.resize(rows);
  active.resize(rows);
}

void RowStore::ScaleAndClip(const float* sum, std::uint32_t active, float scale, float* to) const {
  for (std::uint32_t e = 0; e < active; ++e) {
    to[e] = sum[e] * scale;
  }
  if (spec_.clip_row_norm > 0) {
    const float norm = std::sqrt(SumOfSquares(to, active));
    if (norm > spec_.clip_row_norm) {
      const float factor = spec_.clip_row_norm / norm;
      for (std::uint32_t e = 0; e < active; ++e) {
        to[e] *= factor;
      }
    }
  }
}

void RowStore::Update(const Block& block, std::size_t begin, std::size_t end,
                      const StepRates& rates) {
  while (begin < end) {
    std::size_t run_end = begin + 1;
    while (run_end < end && block.active[run_end] == block.active[begin]) {
      ++run_end;
    }
    UpdateRun(block, begin, run_end, rates);
    begin = run_end;
  }
}

void RowStore::UpdateRun(const Block& block, std::size_t begin, std::size_t end,
                         const StepRates& rates) {
  if (layout_.plain() && spec_.clip_row_norm == 0) {
    optimizer_->Apply({block.steps.data() + begin, end - begin}, spec_.dim, block.active[begin],
                      rates.scale, rates.rate_factor);
  } else {
    UpdateCopies(block, begin, end, rates);
  }
}

void RowStore::UpdateCopies(const Block& block, std::size_t begin, std::size_t end,
                            const StepRates& rates) {
  const std::uint32_t active = block.active[begin];
  const std::size_t n = end - begin;
  const auto record_of = [&](std::size_t i) {
    return reinterpret_cast<std::byte*>(block.steps[begin + i].row);
  };
  for (std::size_t i = 0; i < n; ++i) {
    float* gradients = scaled_.data() + i * active;
    ScaleAndClip(block.steps[begin + i].sums, active, rates.scale, gradients);
    steps_[i] = {block.steps[begin + i].row, gradients};
    if (!layout_.plain()) {
      steps_[i].row = decoded_.data() + i * layout_.floats();
      layout_.Read(record_of(i), steps_[i].row);
    }
  }
  optimizer_->Apply({steps_.data(), n}, spec_.dim, active, 1.0f, rates.rate_factor);
  for (std::size_t i = 0; !layout_.plain() && i < n; ++i) {
    const CounterRandom random(seed_, stream_, block.keys[begin + i], rates.version);
    layout_.Write(steps_[i].row, steps_[i].sums, active, random, record_of(i));
  }
}

float RowStore::NormOf(const std::byte* record) const {
  float values[kDimMax];
  layout_.ReadValues(record, spec_.dim, values);
  return std::sqrt(SumOfSquares(values, spec_.dim));
}

}  // namespace plexus
