// The limits that store_bench holds tables against: loops that one would write by hand for one
// thing only.  They know their number of rows, that every key is present, and that none is 0.
//
// Thread safety: none.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <span>

#include <immintrin.h>

#include "common/hash.h"
#include "common/prefetch.h"
#include "common/random.h"
#include "ps/table/mapped_memory.h"

namespace plexus {

// Open addressing over a power of two of {key, value} slots, made for `rows` of them at a load of
// at most 2/3, in huge pages; what is random is prefetched 16 ahead.
template <typename Value>
class HandWrittenIndex {
 public:
  static constexpr std::size_t kAhead = 16;

  explicit HandWrittenIndex(std::uint64_t rows) {
    std::uint64_t slots = 1;
    std::uint32_t bits = 0;
    while (slots < rows * 3 / 2) {
      slots *= 2;
      ++bits;
    }
    memory_ = MappedMemory(slots * sizeof(Slot));
    slots_ = reinterpret_cast<Slot*>(memory_.data());
    mask_ = slots - 1;
    shift_ = 64 - bits;
  }

  // Commits all of its memory, which is no part of what it is a limit of.
  void Touch() {
    for (std::size_t i = 0; i < memory_.bytes(); i += kPageBytes) {
      memory_.data()[i] = std::byte{0};
    }
  }

  void Prefetch(Key key) const { PrefetchLine(slots_ + Home(key)); }
  void Put(Key key, Value value) {
    std::uint64_t at = Home(key);
    while (slots_[at].key != 0) {
      at = (at + 1) & mask_;
    }
    slots_[at] = {key, value};
  }
  // REQUIRES: the key is present.
  Value Find(Key key) const {
    std::uint64_t i = Home(key);
    while (slots_[i].key != key) {
      i = (i + 1) & mask_;
    }
    return slots_[i].value;
  }

 private:
  struct Slot {
    Key key;
    Value value;
  };
  std::uint64_t Home(Key key) const { return (key * 0x9e3779b97f4a7c15ULL) >> shift_; }

  MappedMemory memory_;
  Slot* slots_;
  std::uint64_t mask_;
  std::uint32_t shift_;
};

// Calls visit(i, value of keys[i]) for each key; slots are prefetched, and `prefetch` is called
// with each value 16 keys before its visit.
template <typename Value, typename Prefetch, typename Visit>
void HandWrittenForEach(const HandWrittenIndex<Value>& index, std::span<const Key> keys,
                        const Prefetch& prefetch, const Visit& visit) {
  constexpr std::size_t kAhead = HandWrittenIndex<Value>::kAhead;
  Value ring[2 * kAhead];
  const std::size_t n = keys.size();
  for (std::size_t i = 0; i < std::min(kAhead, n); ++i) {
    index.Prefetch(keys[i]);
  }
  for (std::size_t i = 0; i < n + kAhead; ++i) {
    if (i + kAhead < n) {
      index.Prefetch(keys[i + kAhead]);
    }
    if (i >= kAhead) {
      visit(i - kAhead, ring[(i - kAhead) % (2 * kAhead)]);
    }
    if (i < n) {
      const Value value = index.Find(keys[i]);
      prefetch(value);
      ring[i % (2 * kAhead)] = value;
    }
  }
}

// Finds keys and copies the first 16 floats of their rows.
inline void HandWrittenPull(const HandWrittenIndex<float*>& index, std::span<const Key> keys,
                            float* values) {
  HandWrittenForEach(
      index, keys, [](const float* row) { PrefetchLine(row); },
      [values](std::size_t i, const float* row) {
        _mm256_storeu_ps(values + i * 16, _mm256_load_ps(row));
        _mm256_storeu_ps(values + i * 16 + 8, _mm256_load_ps(row + 8));
      });
}

// One step of Adagrad on a row of 16 values and 16 accumulators, 128 bytes.
inline void AdagradRow(const float* gradient, float* row) {
  const __m256 rate = _mm256_set1_ps(0.01f);
  const __m256 epsilon = _mm256_set1_ps(1e-8f);
  for (std::size_t e = 0; e < 16; e += 8) {
    const __m256 g = _mm256_loadu_ps(gradient + e);
    const __m256 sum = _mm256_add_ps(_mm256_load_ps(row + 16 + e), _mm256_mul_ps(g, g));
    _mm256_store_ps(row + 16 + e, sum);
    const __m256 step =
        _mm256_div_ps(_mm256_mul_ps(rate, g), _mm256_add_ps(_mm256_sqrt_ps(sum), epsilon));
    _mm256_store_ps(row + e, _mm256_sub_ps(_mm256_load_ps(row + e), step));
  }
}
inline void PrefetchAdagradRow(const float* row) {
  PrefetchLine(row);
  PrefetchLine(row + 16);
}

// Updates rows whose numbers are known: what an update costs without finding its row.
inline void HandWrittenUpdate(float* floats, std::span<const std::uint32_t> rows,
                              const float* gradients) {
  constexpr std::size_t kAhead = 16;
  for (std::size_t i = 0; i < rows.size(); ++i) {
    if (i + kAhead < rows.size()) {
      PrefetchAdagradRow(floats + std::size_t{rows[i + kAhead]} * 32);
    }
    AdagradRow(gradients + i * 16, floats + std::size_t{rows[i]} * 32);
  }
}

// Finds keys and updates their rows.
inline void HandWrittenPush(const HandWrittenIndex<float*>& index, std::span<const Key> keys,
                            const float* gradients) {
  HandWrittenForEach(index, keys, PrefetchAdagradRow, [gradients](std::size_t i, float* row) {
    AdagradRow(gradients + i * 16, row);
  });
}

// 0 .. n - 1, each with a probability that falls with its number to the power of -s, by rejection
// and inversion (Hoermann and Derflinger, "Rejection-inversion to generate variates from monotone
// discrete distributions", 1996).  REQUIRES: s > 0, s != 1.
class Zipf {
 public:
  Zipf(double n, double s)
      : n_(n),
        s_(s),
        first_(H(1.5) - 1),
        last_(H(n + 0.5)),
        sure_(2 - Inverse(H(2.5) - Weight(2))) {}

  // Takes as many elements of `random` from *next on as it needs.
  std::uint64_t Draw(const CounterRandom& random, std::uint64_t* next) const {
    while (true) {
      const double u = last_ + random.UniformDouble((*next)++) * (first_ - last_);
      const double x = Inverse(u);
      const double k = std::clamp(std::floor(x + 0.5), 1.0, n_);
      if (k - x <= sure_ || u >= H(k + 0.5) - Weight(k)) {
        return static_cast<std::uint64_t>(k) - 1;
      }
    }
  }

 private:
  double Weight(double x) const { return std::pow(x, -s_); }
  double H(double x) const { return (std::pow(x, 1 - s_) - 1) / (1 - s_); }
  double Inverse(double x) const { return std::pow(1 + x * (1 - s_), 1 / (1 - s_)); }

  double n_, s_, first_, last_, sure_;
};

}  // namespace plexus
