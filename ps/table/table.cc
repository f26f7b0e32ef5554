#include "ps/table/table.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <string>
#include <utility>
#include <vector>

#include <glog/logging.h>

#include "common/optimizer/lanes.h"
#include "common/random.h"
#include "ps/table/array_index.h"
#include "ps/table/hash_index.h"
#include "ps/table/part_merger.h"
#include "ps/table/row_slabs.h"

namespace plexus {
namespace {

// Keys between a slot's prefetch and its use, and again between a row's prefetch and its use: about
// one cache miss at the rate at which the loop advances.
constexpr std::size_t kAhead = 16;
constexpr std::size_t kRing = 32;  // A power of two, at least 2 * kAhead.

// Rows updated together.  The next block's rows are on their way while one is computed, so two
// blocks of rows, headers and gradients should fit into L1.
constexpr std::size_t kBlockRowsMax = 64;
constexpr std::size_t kBlockFloats = 4096;

struct Header {
  std::uint64_t last_step;
  std::uint64_t count;
};

// Each cache line once: a superfluous prefetch costs as much as a load.
void PrefetchRow(const std::byte* row, std::size_t bytes) {
  const std::byte* line = row - reinterpret_cast<std::uintptr_t>(row) % 64;
  do {
    __builtin_prefetch(line);
    line += 64;
  } while (line < row + bytes);
}

template <std::uint32_t kDim>
void CopyRow(float* to, const std::byte* from, std::uint32_t dim) {
  std::memcpy(to, from, (kDim == 0 ? dim : kDim) * sizeof(float));
}

}  // namespace

class Table::Impl {
 public:
  Impl(const TableSpec& spec, std::uint64_t seed)
      : spec_(spec),
        seed_(seed),
        stream_(HashBytes(spec.name, 0)),
        optimizer_(MakeOptimizer(spec.optimizer)),
        row_floats_(spec.dim + optimizer_->state_floats(spec.dim)),
        rows_(row_floats_ * sizeof(float)),
        headers_(sizeof(Header)),
        merger_(spec.dim) {
    CHECK(spec.dim >= 1) << "table " << spec.name << " needs a dimension";
  }
  virtual ~Impl() = default;

  virtual void Pull(std::span<const Key> keys, float* values) const = 0;
  virtual void ApplyStep(std::uint64_t version, std::span<const GradientPart> parts, float scale,
                         float rate_factor) = 0;
  virtual void ForEachRow(const std::function<void(const RowView&)>& visit) const = 0;
  virtual void Restore(const RowView& row) = 0;
  virtual std::uint64_t row_count() const = 0;
  virtual std::uint64_t memory_bytes() const = 0;

  const TableSpec& spec() const { return spec_; }
  std::uint32_t row_floats() const { return row_floats_; }

 protected:
  Header* HeaderOf(std::uint32_t handle) const {
    return reinterpret_cast<Header*>(headers_.At(handle));
  }
  float* FloatsOf(std::uint32_t handle) const { return reinterpret_cast<float*>(rows_.At(handle)); }

  void InitialValues(Key key, float* values) const {
    const CounterRandom random(seed_, stream_, key);
    switch (spec_.init) {
      case TableSpec::Init::kUniform:
        for (std::uint32_t e = 0; e < spec_.dim; ++e) {
          values[e] = (2.0f * random.Uniform(e) - 1.0f) * spec_.init_scale;
        }
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

  // to = the gradient of one row as the optimizer sees it.
  void ScaleAndClip(const float* sum, float scale, float* to) const {
    for (std::uint32_t e = 0; e < spec_.dim; ++e) {
      to[e] = sum[e] * scale;
    }
    if (spec_.clip_row_norm > 0) {
      const float norm = std::sqrt(SumOfSquares(to, spec_.dim));
      if (norm > spec_.clip_row_norm) {
        const float factor = spec_.clip_row_norm / norm;
        for (std::uint32_t e = 0; e < spec_.dim; ++e) {
          to[e] *= factor;
        }
      }
    }
  }

  const TableSpec spec_;
  const std::uint64_t seed_;
  const std::uint64_t stream_;
  const std::unique_ptr<const Optimizer> optimizer_;
  const std::uint32_t row_floats_;

  RowSlabs rows_;
  RowSlabs headers_;

  PartMerger merger_;  // Scratch of ApplyStep.
};

namespace {

template <typename Index>
class IndexedTable final : public Table::Impl {
 public:
  template <typename... IndexArgs>
  IndexedTable(const TableSpec& spec, std::uint64_t seed, IndexArgs... index_args)
      : Impl(spec, seed),
        index_(index_args...),
        block_rows_(std::clamp<std::size_t>(kBlockFloats / spec.dim, 4, kBlockRowsMax)) {
    for (Block& block : blocks_) {
      block.handles.resize(block_rows_);
      block.rows.resize(block_rows_);
    }
    scaled_.resize(block_rows_ * spec.dim);
  }

  void Pull(std::span<const Key> keys, float* values) const override {
    switch (spec_.dim) {
      case 1:
        return PullRows<1>(keys, values);
      case 4:
        return PullRows<4>(keys, values);
      case 8:
        return PullRows<8>(keys, values);
      case 16:
        return PullRows<16>(keys, values);
      case 32:
        return PullRows<32>(keys, values);
      case 64:
        return PullRows<64>(keys, values);
      default:
        return PullRows<0>(keys, values);
    }
  }

  void ApplyStep(std::uint64_t version, std::span<const GradientPart> parts, float scale,
                 float rate_factor) override {
    const Step step{version, scale, rate_factor};
    const GradientPart* only = nullptr;
    std::size_t parts_with_keys = 0;
    for (const GradientPart& part : parts) {
      if (!part.keys.empty()) {
        only = &part;
        ++parts_with_keys;
      }
    }
    if (parts_with_keys == 0) {
      return;
    }
    if (parts_with_keys == 1) {
      DCHECK_EQ(only->keys.size(), only->counts.size());
      const float* gradients = only->gradients;
      const std::uint32_t dim = spec_.dim;
      UpdateRows(step, only->keys, only->counts,
                 [gradients, dim](std::size_t i) { return gradients + i * dim; });
      return;
    }
    merger_.Merge(parts);
    UpdateRows(step, merger_.keys(), merger_.counts(),
               [this](std::size_t i) { return merger_.gradients(i); });
  }

  void ForEachRow(const std::function<void(const RowView&)>& visit) const override {
    // Rows lie in another order than slots: let the next ones come while one is visited.
    std::pair<Key, std::uint32_t> ring[kRing];
    std::size_t seen = 0;
    const auto visit_at = [&](std::size_t i) {
      const auto [key, handle] = ring[i % kRing];
      const Header* header = HeaderOf(handle);
      visit(RowView{key, header->last_step, header->count, {FloatsOf(handle), row_floats_}});
    };
    index_.ForEach([&](Key key, std::uint32_t handle) {
      __builtin_prefetch(HeaderOf(handle));
      PrefetchRow(rows_.At(handle), rows_.record_bytes());
      if (seen >= kAhead) {
        visit_at(seen - kAhead);
      }
      ring[seen++ % kRing] = {key, handle};
    });
    for (std::size_t i = seen - std::min(seen, kAhead); i < seen; ++i) {
      visit_at(i);
    }
  }

  void Restore(const RowView& row) override {
    CHECK_EQ(row.floats.size(), row_floats_) << "row of another layout for " << spec_.name;
    CheckKey(row.key);
    const std::uint32_t handle = index_.FindOrInsert(row.key, index_.Prefetch(row.key));
    rows_.Touch(handle);
    headers_.Touch(handle);
    std::memcpy(FloatsOf(handle), row.floats.data(), row.floats.size_bytes());
    *HeaderOf(handle) = {row.last_step, row.count};
  }

  std::uint64_t row_count() const override { return index_.row_count(); }
  std::uint64_t memory_bytes() const override {
    return index_.memory_bytes() + rows_.memory_bytes() + headers_.memory_bytes();
  }

 private:
  struct Step {
    std::uint64_t version;
    float scale;
    float rate_factor;
  };
  struct Block {
    std::vector<std::uint32_t> handles;
    std::vector<float*> rows;
    std::size_t first = 0;
    std::size_t size = 0;
  };

  void CheckKey(Key key) const {
    if constexpr (std::is_same_v<Index, ArrayIndex>) {
      CHECK_LT(key, spec_.rows) << "row of ARRAY table " << spec_.name;
    }
  }

  // Three positions in the batch: slots are prefetched 2 * kAhead before a row is copied, rows
  // kAhead before.
  template <std::uint32_t kDim>
  void PullRows(std::span<const Key> keys, float* values) const {
    const std::size_t n = keys.size();
    const std::uint32_t dim = kDim == 0 ? spec_.dim : kDim;
    typename Index::Home homes[kRing];
    const std::byte* rows[kRing];
    const auto prefetch = [&](std::size_t i) {
      CheckKey(keys[i]);
      homes[i % kRing] = index_.Prefetch(keys[i]);
    };
    const auto find = [&](std::size_t i) {
      const std::uint32_t handle = index_.Find(keys[i], homes[i % kRing]);
      const std::byte* row = nullptr;
      if (handle != kNoRow) {
        row = rows_.At(handle);
        PrefetchRow(row, dim * sizeof(float));
      }
      rows[i % kRing] = row;
    };
    const auto copy = [&](std::size_t i) {
      if (const std::byte* row = rows[i % kRing]; row != nullptr) {
        CopyRow<kDim>(values + i * dim, row, dim);
      } else {
        InitialValues(keys[i], values + i * dim);
      }
    };
    const std::size_t head = std::min(n, kAhead);
    for (std::size_t i = 0; i < head; ++i) {
      prefetch(i);
    }
    for (std::size_t i = 0; i < head; ++i) {
      if (i + kAhead < n) {
        prefetch(i + kAhead);
      }
      find(i);
    }
    std::size_t i = head;
    for (; i + kAhead < n; ++i) {
      prefetch(i + kAhead);
      copy(i - kAhead);
      find(i);
    }
    for (; i < n; ++i) {
      copy(i - kAhead);
      find(i);
    }
    for (i = n - head; i < n; ++i) {
      copy(i);
    }
  }

  template <typename Count, typename GradientsOf>
  void UpdateRows(const Step& step, std::span<const Key> keys, std::span<const Count> counts,
                  const GradientsOf& gradients_of) {
    Block* current = &blocks_[0];
    Block* next = &blocks_[1];
    for (std::size_t i = 0; i < std::min(keys.size(), kAhead); ++i) {
      CheckKey(keys[i]);
      homes_[i % kRing] = index_.Prefetch(keys[i]);
    }
    LocateBlock(keys, 0, current);
    while (current->size > 0) {
      LocateBlock(keys, current->first + current->size, next);
      for (std::size_t i = 0; i < current->size; ++i) {
        const std::size_t at = current->first + i;
        ScaleAndClip(gradients_of(at), step.scale, scaled_.data() + i * spec_.dim);
        Header* header = HeaderOf(current->handles[i]);
        header->last_step = step.version;
        header->count += counts[at];
      }
      optimizer_->Apply({current->rows.data(), current->size}, spec_.dim, scaled_.data(),
                        step.rate_factor);
      std::swap(current, next);
    }
  }

  // Finds or makes the rows of the block that begins with keys[first] and prefetches them.
  void LocateBlock(std::span<const Key> keys, std::size_t first, Block* block) {
    block->first = first;
    block->size = std::min(block_rows_, keys.size() - first);
    for (std::size_t i = first; i < first + block->size; ++i) {
      if (i + kAhead < keys.size()) {
        CheckKey(keys[i + kAhead]);
        homes_[(i + kAhead) % kRing] = index_.Prefetch(keys[i + kAhead]);
      }
      const std::uint64_t rows_before = index_.row_count();
      const std::uint32_t handle = index_.FindOrInsert(keys[i], homes_[i % kRing]);
      if (index_.row_count() != rows_before) {
        MakeRow(keys[i], handle);
      } else {
        PrefetchRow(rows_.At(handle), rows_.record_bytes());
        __builtin_prefetch(HeaderOf(handle));
      }
      block->handles[i - first] = handle;
      block->rows[i - first] = FloatsOf(handle);
    }
  }

  void MakeRow(Key key, std::uint32_t handle) {
    rows_.Touch(handle);
    headers_.Touch(handle);
    float* floats = FloatsOf(handle);
    InitialValues(key, floats);
    optimizer_->InitState(spec_.dim, floats + spec_.dim);
    *HeaderOf(handle) = {0, 0};
  }

  Index index_;

  // Scratch of ApplyStep.
  const std::size_t block_rows_;
  typename Index::Home homes_[kRing];
  Block blocks_[2];
  std::vector<float> scaled_;
};

void AppendLittleEndian(std::uint64_t value, std::string* to) {
  for (int shift = 0; shift < 64; shift += 8) {
    to->push_back(static_cast<char>(value >> shift));
  }
}

std::unique_ptr<Table::Impl> MakeImpl(const TableSpec& spec, std::uint64_t seed,
                                      std::uint32_t buckets) {
  if (spec.kind == TableSpec::Kind::kArray) {
    return std::make_unique<IndexedTable<ArrayIndex>>(spec, seed, spec.rows, buckets);
  }
  return std::make_unique<IndexedTable<HashIndex>>(spec, seed);
}

}  // namespace

Table::Table(const TableSpec& spec, std::uint64_t seed, std::uint32_t buckets)
    : impl_(MakeImpl(spec, seed, buckets)) {}

Table::~Table() = default;

const TableSpec& Table::spec() const { return impl_->spec(); }

void Table::Pull(std::span<const Key> keys, float* values) const { impl_->Pull(keys, values); }

void Table::ApplyStep(std::uint64_t version, std::span<const GradientPart> parts, float scale,
                      float rate_factor) {
  impl_->ApplyStep(version, parts, scale, rate_factor);
}

void Table::ForEachRow(const std::function<void(const RowView&)>& visit) const {
  impl_->ForEachRow(visit);
}

void Table::Restore(const RowView& row) { impl_->Restore(row); }

Digest128 Table::Digest() const {
  Digest128 digest;
  const std::string prefix = spec().name + '\0';
  std::string bytes;
  ForEachRow([&](const RowView& row) {
    bytes.assign(prefix);
    AppendLittleEndian(row.key, &bytes);
    AppendLittleEndian(row.last_step, &bytes);
    bytes.append(reinterpret_cast<const char*>(row.floats.data()), row.floats.size_bytes());
    digest += HashBytes128(bytes);
  });
  return digest;
}

std::uint64_t Table::row_count() const { return impl_->row_count(); }
std::uint32_t Table::row_floats() const { return impl_->row_floats(); }
std::uint64_t Table::memory_bytes() const { return impl_->memory_bytes(); }

}  // namespace plexus
