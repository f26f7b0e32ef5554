// What tests of shards share: random pushes that own their arrays, a naive oracle of a step, and a
// driver that speaks to one shard in frames.
//
// Thread safety: none.
#pragma once

#include <algorithm>
#include <map>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "ps/shard.h"
#include "ps/shard_state.h"
#include "tests/unit/proto/draws.h"
#include "tests/unit/proto/test_plan.h"

namespace plexus {

struct OwnedPush {
  std::uint32_t rank = 0;
  std::uint32_t samples = 0;
  double loss_sum = 0;
  std::vector<std::vector<Key>> keys;  // [group], as are counts.
  std::vector<std::vector<std::uint32_t>> counts;
  std::vector<std::vector<std::vector<float>>> gradients;  // [group][table of the group]
  std::vector<float> dense;                                // Of the shard's blocks; empty: none.

  // As a job with push_precision F32 has them.
  std::vector<KeyBlock> Blocks() const {
    std::vector<KeyBlock> blocks;
    for (std::uint32_t g = 0; g < keys.size(); ++g) {
      KeyBlock& block = blocks.emplace_back();
      block.group = g;
      block.keys = keys[g];
      block.counts = counts[g];
      for (const std::vector<float>& floats : gradients[g]) {
        block.gradients.emplace_back(reinterpret_cast<const std::uint8_t*>(floats.data()),
                                     floats.size() * sizeof(float));
      }
    }
    return blocks;
  }

  PushBody Body() const {
    return {.samples = samples,
            .loss_sum = loss_sum,
            .groups = Blocks(),
            .dense = dense,
            .dense_state = {}};
  }

  Bytes Frame(const JobPlan& plan, FrameHeader header) const {
    header.type = FrameType::kPush;
    header.flags |= dense.empty() ? 0 : kFlagDense;
    const std::vector<KeyBlock> blocks = Blocks();
    ByteWriter writer = StartFrame(header, PushBytes(plan, blocks, dense.size()));
    EncodePush(writer, plan, samples, loss_sum, blocks,
               [this](std::size_t g, std::size_t t) { return gradients[g][t].data(); });
    writer.PutArray(std::span<const float>(dense));
    return writer.Finish();
  }
};

// Few keys, so that ranks meet; magnitudes far apart, so that the order of additions matters.
inline OwnedPush RandomPush(Draws* draws, const JobPlan& plan, std::uint32_t rank,
                            std::uint64_t dense_floats) {
  const auto value = [draws] {
    const float scales[] = {1e-4f, 1.0f, 3e3f};
    return draws->Float() * scales[draws->Below(3)];
  };
  OwnedPush push;
  push.rank = rank;
  push.samples = static_cast<std::uint32_t>(1 + draws->Below(9));
  push.loss_sum = draws->Float();
  for (const KeyGroup& group : plan.groups) {
    std::map<Key, std::uint32_t> counts;
    for (std::uint64_t n = draws->Below(12); n > 0; --n) {
      ++counts[group.array_rows > 0 ? draws->Below(group.array_rows) : Mix64(draws->Below(9))];
    }
    auto& keys = push.keys.emplace_back();
    auto& key_counts = push.counts.emplace_back();
    for (const auto& [key, count] : counts) {
      keys.push_back(key);
      key_counts.push_back(count);
    }
    auto& gradients = push.gradients.emplace_back();
    for (const std::uint32_t dim : group.dims) {
      std::vector<float>& floats = gradients.emplace_back(keys.size() * dim);
      std::generate(floats.begin(), floats.end(), value);
    }
  }
  push.dense.resize(dense_floats);
  std::generate(push.dense.begin(), push.dense.end(), value);
  return push;
}

// The model as maps, updated by the scalar rules; for plans without clipping and statistics.
class StepOracle {
 public:
  explicit StepOracle(std::shared_ptr<const JobPlan> plan)
      : plan_(std::move(plan)), fresh_(plan_, 0, 1), rows_(plan_->tables.size()) {
    for (std::size_t b = 0; b < fresh_.dense().blocks().size(); ++b) {
      dense_.emplace_back(fresh_.dense().at(b).begin(), fresh_.dense().at(b).end());
    }
  }

  void ApplyStep(const std::vector<OwnedPush>& in_rank_order, float rate_factor) {
    std::uint32_t samples = 0;
    for (const OwnedPush& push : in_rank_order) {
      samples += push.samples;
    }
    const float scale = 1.0f / static_cast<float>(samples);
    for (std::uint32_t table = 0; table < plan_->tables.size(); ++table) {
      ApplyTable(in_rank_order, table, scale, rate_factor);
    }
    ApplyDense(in_rank_order, scale, rate_factor);
  }

  std::vector<float> Values(std::uint32_t table, Key key) const {
    const std::uint32_t dim = plan_->tables[table].dim;
    const auto at = rows_[table].find(key);
    if (at == rows_[table].end()) {
      std::vector<float> values(dim);
      fresh_.table(table).Pull({&key, 1}, values.data());
      return values;
    }
    return {at->second.begin(), at->second.begin() + dim};
  }
  std::size_t row_count(std::uint32_t table) const { return rows_[table].size(); }
  // Values of all blocks, one after the other.
  std::vector<float> DenseValues() const {
    std::vector<float> values;
    for (std::size_t b = 0; b < dense_.size(); ++b) {
      values.insert(values.end(), dense_[b].begin(),
                    dense_[b].begin() + fresh_.dense().block(b).count);
    }
    return values;
  }

 private:
  // Adds up what the pushes say of a table's rows, group by group; a gradient may be of a row's
  // first elements.
  std::map<Key, std::vector<float>> SumsOf(const std::vector<OwnedPush>& pushes,
                                           std::uint32_t table) const {
    std::map<Key, std::vector<float>> sums;
    for (const OwnedPush& push : pushes) {
      for (std::size_t g = 0; g < plan_->groups.size(); ++g) {
        const KeyGroup& group = plan_->groups[g];
        for (std::size_t t = 0; t < group.tables.size(); ++t) {
          for (std::size_t i = 0; group.tables[t] == table && i < push.keys[g].size(); ++i) {
            const float* gradient = push.gradients[g][t].data() + i * group.dims[t];
            const auto [at, first] =
                sums.try_emplace(push.keys[g][i], gradient, gradient + group.dims[t]);
            at->second.resize(plan_->tables[table].dim, 0.0f);
            for (std::uint32_t e = 0; !first && e < group.dims[t]; ++e) {
              at->second[e] += gradient[e];
            }
          }
        }
      }
    }
    return sums;
  }

  void ApplyTable(const std::vector<OwnedPush>& pushes, std::uint32_t table, float scale,
                  float rate_factor) {
    const std::uint32_t dim = plan_->tables[table].dim;
    const auto rule = MakeScalarOptimizer(plan_->tables[table].optimizer);
    std::map<Key, std::vector<float>> sums = SumsOf(pushes, table);
    for (auto& [key, sum] : sums) {
      for (float& value : sum) {
        value *= scale;
      }
      if (!rows_[table].contains(key)) {
        std::vector<float> row = Values(table, key);
        row.resize(dim + rule->state_floats(dim));
        rule->InitState(dim, row.data() + dim);
        rows_[table][key] = std::move(row);
      }
      const Optimizer::RowStep step{rows_[table][key].data(), sum.data()};
      rule->Apply({&step, 1}, dim, dim, 1.0f, rate_factor);
    }
  }

  void ApplyDense(const std::vector<OwnedPush>& pushes, float scale, float rate_factor) {
    const auto rule = MakeScalarOptimizer(plan_->dense_optimizer);
    std::size_t first = 0;
    for (std::size_t b = 0; b < dense_.size(); ++b) {
      const std::uint32_t count = fresh_.dense().block(b).count;
      std::vector<float> sum;
      for (const OwnedPush& push : pushes) {
        for (std::uint32_t i = 0; i < count && !push.dense.empty(); ++i) {
          if (sum.size() <= i) {
            sum.push_back(push.dense[first + i]);
          } else {
            sum[i] += push.dense[first + i];
          }
        }
      }
      for (float& value : sum) {
        value *= scale;
      }
      if (!sum.empty()) {
        const Optimizer::RowStep step{dense_[b].data(), sum.data()};
        rule->Apply({&step, 1}, count, count, 1.0f, rate_factor);
      }
      first += count;
    }
  }

  const std::shared_ptr<const JobPlan> plan_;
  const ShardState fresh_;
  std::vector<std::map<Key, std::vector<float>>> rows_;
  std::vector<std::vector<float>> dense_;
};

inline proto::Phase PhaseOf(std::uint32_t number, proto::Phase::Kind kind, std::uint64_t first_step,
                            std::uint64_t last_step = 0) {
  proto::Phase phase;
  phase.set_number(number);
  phase.set_kind(kind);
  phase.set_first_step(first_step);
  phase.set_last_step(last_step);
  return phase;
}

// Speaks to shard `index` in frames; "peer/R" is rank R.
class ShardDriver {
 public:
  static constexpr std::uint64_t kIncarnation = 77;

  explicit ShardDriver(std::shared_ptr<const JobPlan> plan, std::uint32_t index = 0,
                       bool spill_always = false)
      : plan_(std::move(plan)), shard_(plan_, Options(index, spill_always)) {}

  Shard& shard() { return shard_; }
  const JobPlan& plan() const { return *plan_; }

  void View(const proto::View& view) {
    proto::Control control;
    *control.mutable_view() = view;
    shard_.OnMessage(kSchedulerPeer, ControlFrame(control), 0);
  }
  // The View that starts phase 1, training; carriers have epoch 1.
  void Start(std::uint64_t last_step = 0) {
    proto::View view;
    view.set_incarnation(kIncarnation);
    view.set_fence(1);
    view.set_version(0);
    for (std::uint32_t rank = 0; rank < plan_->ranks(); ++rank) {
      view.add_carrier_epochs(1);
    }
    *view.mutable_phase() = PhaseOf(1, proto::Phase::TRAIN, 1, last_step);
    View(view);
  }
  void Commit(std::uint64_t step, std::uint32_t phase = 1,
              const std::optional<proto::Phase>& next = std::nullopt, const std::string& save = "",
              const std::optional<std::uint64_t>& checkpoint_base = std::nullopt) {
    proto::Control control;
    control.mutable_commit()->set_step(step);
    control.mutable_commit()->set_phase(phase);
    control.mutable_commit()->set_rate_factor(1);
    control.mutable_commit()->set_save(save);
    if (next.has_value()) {
      *control.mutable_commit()->mutable_next() = *next;
    }
    if (checkpoint_base.has_value()) {
      control.mutable_commit()->mutable_checkpoint()->set_base(*checkpoint_base);
    }
    shard_.OnMessage(kSchedulerPeer, ControlFrame(control), 0);
  }

  FrameHeader Header(FrameType type, std::uint32_t rank, std::uint64_t step,
                     std::uint32_t flags = 0) {
    FrameHeader header;
    header.type = type;
    header.rank = rank;
    header.step = step;
    header.flags = flags;
    header.epoch = 1;
    header.phase = 1;
    header.generation = 1;
    header.sequence = ++sequence_;
    return header;
  }
  void Send(const Bytes& frame) {
    shard_.OnMessage("peer/" + std::to_string(HeaderOf(frame).rank), frame, 0);
  }
  // Pulls `keys` of group 0.
  Bytes PullFrame(FrameHeader header, const std::vector<Key>& keys = {}) const {
    KeyBlock block;
    block.keys = keys;
    ByteWriter writer = StartFrame(header, PullBytes(*plan_, {&block, 1}));
    EncodePull(writer, {&block, 1});
    return writer.Finish();
  }
  void Pull(std::uint32_t rank, std::uint64_t step, std::uint32_t flags = 0) {
    Send(PullFrame(Header(FrameType::kPull, rank, step, flags), {5}));
  }
  void EmptyPush(std::uint32_t rank, std::uint64_t step, std::uint32_t flags = 0) {
    OwnedPush push;
    Send(push.Frame(*plan_, Header(FrameType::kPush, rank, step, flags)));
  }
  // Every rank's empty part of `step`.
  void PushAll(std::uint64_t step, std::uint32_t flags = 0) {
    for (std::uint32_t rank = 0; rank < plan_->ranks(); ++rank) {
      EmptyPush(rank, step, flags);
    }
  }

  // What lies in the outbox since: replies to ranks, and what the scheduler is told.
  struct Said {
    std::vector<Envelope> replies;
    std::vector<proto::Control> controls;

    std::vector<ReplyCode> codes() const {
      std::vector<ReplyCode> codes;
      for (const Envelope& reply : replies) {
        codes.push_back(HeaderOf(reply.frame).code);
      }
      return codes;
    }
    // Steps that were said to be complete.
    std::vector<std::uint64_t> completes() const {
      std::vector<std::uint64_t> steps;
      for (const proto::Control& control : controls) {
        if (control.has_complete()) {
          steps.push_back(control.complete().step());
        }
      }
      return steps;
    }
  };
  Said Take() {
    Said said;
    for (Envelope& envelope : shard_.outbox().Take()) {
      if (envelope.peer == kSchedulerPeer) {
        said.controls.push_back(DecodeControl(envelope.frame).value());
      } else {
        said.replies.push_back(std::move(envelope));
      }
    }
    return said;
  }
  // pushes = applied + void + duplicate + refused + dropped + waiting.
  void ExpectCountersAddUp() const {
    const ShardCounters& c = shard_.counters();
    EXPECT_EQ(c.pushes, c.push_applied + c.push_void + c.push_duplicate + c.push_refused +
                            c.push_dropped + shard_.pending_parts());
  }

 private:
  static ShardOptions Options(std::uint32_t index, bool spill_always) {
    ShardOptions options;
    options.spill_always = spill_always;
    options.shard = index;
    options.registration.set_role(proto::SERVER);
    options.registration.set_index(index);
    options.registration.set_incarnation(kIncarnation);
    return options;
  }

  const std::shared_ptr<const JobPlan> plan_;
  Shard shard_;
  std::uint64_t sequence_ = 0;
};

}  // namespace plexus
