// DistinctKeys: the distinct ones of a stream of keys, in about 8 bytes each, sorted when asked
// for.
//
// Keys gather in a buffer; a full one is sorted and merged into those known so far, so that n
// distinct keys of a stream of m cost O(m log n).  What came lately is not buffered again.
//
// Thread safety: none.
#pragma once

#include <algorithm>
#include <cstddef>
#include <iterator>
#include <utility>
#include <vector>

#include "common/hash.h"

namespace plexus {

class DistinctKeys {
 public:
  void Add(Key key) {
    Key& lately = lately_[Mix64(key) % kLately];
    if (lately == key && key != 0) {
      return;
    }
    lately = key;
    buffer_.push_back(key);
    if (buffer_.size() >= std::max(kBufferMin, sorted_.size() / 2)) {
      Merge();
    }
  }

  // Ascending; valid until the next call.
  const std::vector<Key>& Sorted() {
    Merge();
    return sorted_;
  }

 private:
  static constexpr std::size_t kBufferMin = 1 << 14;
  static constexpr std::size_t kLately = 1 << 10;

  void Merge() {
    if (buffer_.empty()) {
      return;
    }
    std::sort(buffer_.begin(), buffer_.end());
    buffer_.erase(std::unique(buffer_.begin(), buffer_.end()), buffer_.end());
    std::vector<Key> merged;
    merged.reserve(sorted_.size() + buffer_.size());
    std::set_union(sorted_.begin(), sorted_.end(), buffer_.begin(), buffer_.end(),
                   std::back_inserter(merged));
    sorted_ = std::move(merged);
    buffer_.clear();
  }

  std::vector<Key> sorted_;
  std::vector<Key> buffer_;
  std::vector<Key> lately_ = std::vector<Key>(kLately, 0);  // 0: nothing, so 0 is always buffered.
};

}  // namespace plexus
