#include "ps/table/array_index.h"

#include <algorithm>

#include <glog/logging.h>

namespace plexus {
namespace {

std::uint32_t BucketRows(std::uint64_t rows, std::uint32_t buckets) {
  CHECK_GT(rows, 0u) << "an ARRAY table needs rows";
  const std::uint64_t bucket_rows = (rows + buckets - 1) / buckets;
  CHECK_LT(bucket_rows * buckets, std::uint64_t{kNoRow}) << "rows of an ARRAY table";
  return static_cast<std::uint32_t>(bucket_rows);
}

}  // namespace

ArrayIndex::ArrayIndex(std::uint64_t rows, std::uint32_t buckets)
    : buckets_(static_cast<std::uint32_t>(std::min<std::uint64_t>(rows, buckets))),
      bucket_rows_(BucketRows(rows, buckets_)),
      memory_((std::uint64_t{buckets_} * bucket_rows_ + 63) / 64 * sizeof(std::uint64_t)),
      words_(reinterpret_cast<std::uint64_t*>(memory_.data())) {}

}  // namespace plexus
