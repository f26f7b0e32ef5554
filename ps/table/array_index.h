// ArrayIndex: row number -> row handle of an ARRAY table, by arithmetic; and which rows were ever
// updated, one bit each.
//
// The handle is the row's place when rows are ordered by bucket (row mod V), so that a bucket's
// rows lie together and a shard touches the memory of its own buckets only.
//
// Thread safety: none.
#pragma once

#include <cstdint>

#include "common/hash.h"
#include "ps/table/hash_index.h"
#include "ps/table/mapped_memory.h"

namespace plexus {

class ArrayIndex {
 public:
  using Home = std::uint32_t;  // The handle, whether the row was updated or not.

  // REQUIRES: 0 < rows < 2^32 - buckets.
  ArrayIndex(std::uint64_t rows, std::uint32_t buckets);

  // REQUIRES: key < rows, here and below.
  Home Prefetch(Key key) const {
    const Home home = Place(static_cast<std::uint32_t>(key));
    __builtin_prefetch(words_ + home / 64);
    return home;
  }

  std::uint32_t Find(Key, Home home) const {
    return (words_[home / 64] >> (home % 64) & 1) != 0 ? home : kNoRow;
  }

  std::uint32_t FindOrInsert(Key, Home home) {
    const std::uint64_t bit = std::uint64_t{1} << (home % 64);
    row_count_ += (words_[home / 64] & bit) == 0 ? 1 : 0;
    words_[home / 64] |= bit;
    return home;
  }

  // Calls visit(key, handle) for each updated row, bucket by bucket.
  template <typename Visit>
  void ForEach(const Visit& visit) const {
    const std::uint64_t word_count = memory_.bytes() / sizeof(std::uint64_t);
    for (std::uint64_t word = 0; word < word_count; ++word) {
      for (std::uint64_t bits = words_[word]; bits != 0; bits &= bits - 1) {
        const auto handle = static_cast<std::uint32_t>(word * 64 + __builtin_ctzll(bits));
        visit(Key{handle % bucket_rows_} * buckets_ + handle / bucket_rows_, handle);
      }
    }
  }

  std::uint64_t row_count() const { return row_count_; }
  std::uint64_t memory_bytes() const { return memory_.bytes(); }

 private:
  std::uint32_t Place(std::uint32_t row) const {
    return row % buckets_ * bucket_rows_ + row / buckets_;
  }

  const std::uint32_t buckets_;
  const std::uint32_t bucket_rows_;  // Rows of the largest bucket.
  MappedMemory memory_;
  std::uint64_t* words_;
  std::uint64_t row_count_ = 0;
};

}  // namespace plexus
