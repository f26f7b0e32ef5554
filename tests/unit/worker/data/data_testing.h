// What the data layer's tests share: rows as values that compare, and a job section from its text.
//
// Thread safety: pure functions.
#pragma once

#include <string>
#include <string_view>
#include <vector>

#include <google/protobuf/text_format.h>
#include <gtest/gtest.h>
#include <zlib.h>

#include "proto/job.pb.h"
#include "worker/data/batch_reader.h"

namespace plexus {

inline proto::Data DataOf(const std::string& text) {
  proto::Data data;
  EXPECT_TRUE(google::protobuf::TextFormat::ParseFromString(text, &data)) << text;
  return data;
}

// Of a categorical or multi-valued value of a field that is not salted.
inline Key KeyOf(std::string_view value, std::uint64_t seed = 0) { return HashBytes(value, seed); }

// One sample of a Batch.
struct Row {
  float label = 0;
  std::vector<float> dense;
  std::vector<std::vector<Key>> keys;
  std::vector<std::vector<float>> weights;
  std::uint64_t group = 0;

  bool operator==(const Row&) const = default;
};

inline std::vector<Row> RowsOf(const Batch& batch, const FieldPlan& plan) {
  std::vector<Row> rows(batch.samples);
  for (std::size_t i = 0; i < rows.size(); ++i) {
    rows[i].label = batch.labels.at(i);
    for (std::size_t d = 0; d < plan.dense.size(); ++d) {
      rows[i].dense.push_back(batch.dense.at(i * plan.dense.size() + d));
    }
    for (const SparseColumn& column : batch.sparse) {
      const std::size_t begin = column.offsets.empty() ? i : column.offsets.at(i);
      const std::size_t end = column.offsets.empty() ? i + 1 : column.offsets.at(i + 1);
      EXPECT_LE(end, column.keys.size());
      std::vector<Key> keys;
      std::vector<float> weights;
      for (std::size_t k = begin; k < end; ++k) {
        keys.push_back(column.keys.at(k));
        if (!column.weights.empty()) {
          weights.push_back(column.weights.at(k));
        }
      }
      rows[i].keys.push_back(keys);
      rows[i].weights.push_back(weights);
    }
    rows[i].group = batch.groups.empty() ? 0 : batch.groups.at(i);
  }
  return rows;
}

// Reads `reader` to its end.
inline std::vector<Row> ReadAll(BatchReader* reader) {
  std::vector<Row> all;
  Batch batch;
  while (true) {
    const StatusOr<bool> more = reader->Next(&batch);
    EXPECT_TRUE(more.ok()) << more.status().ToString();
    if (!more.ok() || !*more) {
      return all;
    }
    const std::vector<Row> rows = RowsOf(batch, reader->plan());
    all.insert(all.end(), rows.begin(), rows.end());
  }
}

// One gzip member.
inline std::string Gzip(std::string_view bytes) {
  z_stream stream = {};
  EXPECT_EQ(deflateInit2(&stream, 6, Z_DEFLATED, 15 + 16, 8, Z_DEFAULT_STRATEGY), Z_OK);
  std::string out(deflateBound(&stream, bytes.size()) + 64, '\0');
  stream.next_in = reinterpret_cast<Bytef*>(const_cast<char*>(bytes.data()));
  stream.avail_in = static_cast<uInt>(bytes.size());
  stream.next_out = reinterpret_cast<Bytef*>(out.data());
  stream.avail_out = static_cast<uInt>(out.size());
  EXPECT_EQ(deflate(&stream, Z_FINISH), Z_STREAM_END);
  out.resize(out.size() - stream.avail_out);
  deflateEnd(&stream);
  return out;
}

}  // namespace plexus
