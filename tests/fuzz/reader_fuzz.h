// What the readers' fuzzers share: a file's bytes through BatchReader, with the invariants of a
// Batch checked.
//
// Thread safety: pure functions.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string_view>
#include <vector>

#include <glog/logging.h>
#include <google/protobuf/text_format.h>

#include "worker/data/batch_reader.h"

namespace plexus {

inline void CheckBatch(const Batch& batch, const FieldPlan& plan) {
  CHECK_EQ(batch.labels.size(), batch.samples);
  CHECK_EQ(batch.dense.size(), batch.samples * plan.dense.size());
  CHECK_EQ(batch.sparse.size(), plan.sparse.size());
  for (std::size_t f = 0; f < batch.sparse.size(); ++f) {
    const SparseColumn& column = batch.sparse[f];
    if (plan.sparse[f].kind == SparseField::Kind::kMultiValued) {
      CHECK_EQ(column.offsets.size(), batch.samples + 1U);
      CHECK_EQ(column.offsets.back(), column.keys.size());
      CHECK_GE(column.keys.size(), batch.samples);
    } else {
      CHECK_EQ(column.keys.size(), batch.samples);
    }
    CHECK_EQ(column.weights.size(), plan.sparse[f].weighted ? column.keys.size() : 0U);
  }
}

// Reads `bytes` as one rank and as three, which must give as many rows.
inline void FuzzReader(const char* data_text, const std::uint8_t* bytes, std::size_t size) {
  proto::Data data;
  CHECK(google::protobuf::TextFormat::ParseFromString(data_text, &data)) << data_text;
  data.set_max_bad_lines(~std::uint64_t{0});
  const std::string_view text(reinterpret_cast<const char*>(bytes), size);
  std::uint64_t rows[2] = {0, 0};
  bool failed = false;
  for (std::uint32_t round = 0; round < 2; ++round) {
    BatchReaderOptions options;
    options.ranks = round == 0 ? 1 : 3;
    options.batch_samples = 3;
    options.shuffle = round == 1;
    options.gzip_block_lines = 2;
    options.line_bytes_max = 2000;
    for (options.rank = 0; options.rank < options.ranks; ++options.rank) {
      auto reader = BatchReader::Open(data, {InputFile::OfMemory("fuzz", text)}, options);
      CHECK(reader.ok()) << reader.status().ToString();
      Batch batch;
      while (true) {
        const StatusOr<bool> more = (*reader)->Next(&batch);
        CheckBatch(batch, (*reader)->plan());
        failed = failed || !more.ok();
        if (!more.ok() || !*more) {
          break;
        }
      }
      rows[round] += (*reader)->rows();
    }
  }
  CHECK(failed || rows[0] == rows[1]) << rows[0] << " rows, and in three ranks " << rows[1];
}

}  // namespace plexus
