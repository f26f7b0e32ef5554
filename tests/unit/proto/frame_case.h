// FrameCase: a random plan with a random pull or push for it, encoded.
//
// Thread safety: none.
#pragma once

#include <algorithm>
#include <cstring>
#include <vector>

#include "proto/frame.h"
#include "tests/unit/proto/draws.h"
#include "tests/unit/proto/exact_bytes.h"

namespace plexus {

// The frame with its body replaced, its length right.
inline Bytes WithBody(const Bytes& frame, std::span<const std::uint8_t> body) {
  FrameHeader header = HeaderOf(frame);
  header.body_bytes = static_cast<std::uint32_t>(body.size());
  std::vector<std::uint8_t> bytes(sizeof(header) + body.size());
  std::memcpy(bytes.data(), &header, sizeof(header));
  std::copy(body.begin(), body.end(), bytes.begin() + sizeof(header));
  return ExactBytes(bytes);
}

struct FrameCase {
  JobPlan plan;
  DenseExtent dense;
  std::vector<std::vector<Key>> keys;  // By block, as are counts.
  std::vector<std::vector<std::uint32_t>> counts;
  std::vector<KeyBlock> blocks;
  std::vector<std::vector<std::vector<float>>> gradients;  // [block][table of the group]
  // The same as wire rows.
  std::vector<std::vector<std::vector<std::uint8_t>>> wire_gradients;
  std::vector<float> dense_gradients;
  std::vector<float> dense_state;

  explicit FrameCase(Draws* draws) {
    plan.job.mutable_train()->set_push_precision(static_cast<proto::Precision>(draws->Below(4)));
    const std::uint64_t groups = 1 + draws->Below(4);
    for (std::uint64_t g = 0; g < groups; ++g) {
      KeyGroup& group = plan.groups.emplace_back();
      group.array_rows = draws->OneIn(2) ? 1 + draws->Below(1000) : 0;
      for (std::uint64_t t = 1 + draws->Below(2); t > 0; --t) {
        group.tables.push_back(static_cast<std::uint32_t>(plan.tables.size()));
        TableSpec& table = plan.tables.emplace_back();
        table.dim = static_cast<std::uint32_t>(1 + draws->Below(9));
        group.dims.push_back(static_cast<std::uint32_t>(1 + draws->Below(table.dim)));
        table.kind = group.array_rows > 0 ? TableSpec::Kind::kArray : TableSpec::Kind::kHashed;
        table.rows = group.array_rows;
      }
    }
    dense = {draws->Below(6), 6 + draws->Below(9)};
    for (std::uint32_t g = 0; g < groups; ++g) {
      if (!draws->OneIn(4)) {
        AddBlock(draws, g);
      }
    }
    Fill(draws, dense.values, &dense_gradients);
    Fill(draws, dense.with_state, &dense_state);
    for (std::size_t b = 0; b < blocks.size(); ++b) {
      blocks[b].keys = keys[b];
      blocks[b].counts = counts[b];
    }
  }

  Bytes Pull() const {
    FrameHeader header;
    header.type = FrameType::kPull;
    ByteWriter writer = StartFrame(header, PullBytes(plan, blocks));
    EncodePull(writer, blocks);
    return writer.Finish();
  }

  Bytes Push(std::uint32_t flags) const {
    FrameHeader header;
    header.type = FrameType::kPush;
    header.flags = flags;
    const bool with_dense = (flags & kFlagDense) != 0;
    const bool with_state = (flags & kFlagDenseState) != 0;
    const std::uint64_t floats =
        (with_dense ? dense_gradients.size() : 0) + (with_state ? dense_state.size() : 0);
    ByteWriter writer = StartFrame(header, PushBytes(plan, blocks, floats));
    EncodePush(writer, plan, 17, -2.5, blocks,
               [this](std::size_t g, std::size_t t) { return gradients[g][t].data(); });
    if (with_dense) {
      writer.PutArray(std::span<const float>(dense_gradients));
    }
    if (with_state) {
      writer.PutArray(std::span<const float>(dense_state));
    }
    return writer.Finish();
  }

 private:
  static void Fill(Draws* draws, std::uint64_t count, std::vector<float>* floats) {
    for (; count > 0; --count) {
      floats->push_back(draws->Float());
    }
  }

  void AddBlock(Draws* draws, std::uint32_t group) {
    blocks.emplace_back().group = group;
    keys.emplace_back();
    counts.emplace_back();
    gradients.emplace_back();
    wire_gradients.emplace_back();
    const std::uint64_t rows = plan.groups[group].array_rows;
    for (std::uint64_t n = draws->Below(7); n > 0; --n) {
      keys.back().push_back(rows > 0 ? draws->Below(rows) : draws->Bits());
      counts.back().push_back(static_cast<std::uint32_t>(draws->Below(100)));
    }
    const Precision precision = PushPrecision(plan);
    for (const std::uint32_t dim : plan.groups[group].dims) {
      std::vector<float>& floats = gradients.back().emplace_back();
      Fill(draws, keys.back().size() * dim, &floats);
      std::vector<std::uint8_t>& wire = wire_gradients.back().emplace_back();
      for (std::size_t i = 0; i < floats.size(); i += dim) {
        wire.resize(wire.size() + WireRowBytes(precision, dim));
        EncodeWireRow(precision, &floats[i], dim,
                      &wire[wire.size() - WireRowBytes(precision, dim)]);
      }
    }
  }
};

}  // namespace plexus
