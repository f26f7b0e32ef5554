#include "worker/rank_client.h"

#include <algorithm>
#include <cstring>
#include <utility>

namespace plexus {

RankClient::RankClient(std::shared_ptr<const JobPlan> plan, std::uint32_t rank, std::uint32_t epoch,
                       Millis resend_ms)
    : plan_(std::move(plan)),
      rank_(rank),
      epoch_(epoch),
      resend_ms_(resend_ms),
      shards_(plan_->shards()),
      shard_blocks_(shards_),
      shard_dense_floats_(shards_, 0),
      phases_(shards_) {
  const auto map = InitialBucketMap(plan_->buckets(), shards_);
  const auto& blocks = plan_->dense.blocks();
  for (std::uint32_t b = 0; b < blocks.size(); ++b) {
    const std::uint32_t shard = map[BucketOfRow(b, plan_->buckets())];
    shard_blocks_[shard].push_back(b);
    shard_dense_floats_[shard] += blocks[b].count;
  }
}

FrameHeader RankClient::Header(FrameType type, std::uint32_t phase, std::uint64_t step,
                               std::uint32_t flags) {
  FrameHeader header;
  header.type = type;
  header.phase = phase;
  header.step = step;
  header.rank = rank_;
  header.epoch = epoch_;
  header.generation = 1;
  header.flags = flags;
  header.sequence = sequence_;
  return header;
}

void RankClient::SendTo(std::uint32_t shard, const Bytes& frame) {
  bytes_sent_ += frame.size();
  outbox_.Send(ShardPeer(shard), frame);
}

void RankClient::Start(std::map<std::uint64_t, Request>& requests, Request request, Millis now) {
  request.missing = shards_;
  request.replies.resize(shards_);
  request.sent = now;
  for (std::uint32_t shard = 0; shard < shards_; ++shard) {
    SendTo(shard, request.frames[shard]);
  }
  requests.emplace(sequence_, std::move(request));
}

std::vector<KeyBlock> RankClient::BlocksOf(const StepKeys& keys, std::uint32_t shard) const {
  std::vector<KeyBlock> blocks;
  for (std::uint32_t g = 0; g < keys.groups.size(); ++g) {
    const GroupKeys& group = keys.groups[g];
    const std::uint32_t begin = group.shard_begin[shard];
    const std::uint32_t count = group.shard_begin[shard + 1] - begin;
    KeyBlock block;
    block.group = g;
    block.keys = std::span<const Key>(group.keys).subspan(begin, count);
    block.counts = std::span<const std::uint32_t>(group.counts).subspan(begin, count);
    blocks.push_back(block);
  }
  return blocks;
}

std::uint64_t RankClient::Pull(const proto::Phase& phase, std::uint64_t step, std::uint32_t flags,
                               const StepKeys* keys, Millis now) {
  ++sequence_;
  Request request{
      .type = FrameType::kPull, .step = step, .frames = {}, .reply_bytes = {}, .replies = {}};
  for (std::uint32_t shard = 0; shard < shards_; ++shard) {
    PullBody pull;
    if (keys != nullptr) {
      pull.groups = BlocksOf(*keys, shard);
    }
    ByteWriter writer = StartFrame(Header(FrameType::kPull, phase.number(), step, flags),
                                   PullBytes(*plan_, pull.groups));
    EncodePull(writer, pull.groups);
    request.frames.push_back(writer.Finish());
    const bool dense = (flags & kFlagDense) != 0;
    request.reply_bytes.push_back(
        PullReplyBytes(*plan_, pull, dense ? shard_dense_floats_[shard] : 0));
  }
  Start(pulls_, std::move(request), now);
  return sequence_;
}

std::optional<RankClient::Pulled> RankClient::TakePulled(std::uint64_t request) {
  const auto at = pulls_.find(request);
  if (at == pulls_.end() || (at->second.missing > 0 && at->second.code == ReplyCode::kOk)) {
    return std::nullopt;
  }
  Pulled pulled{at->second.code, at->second.version, std::move(at->second.replies)};
  pulls_.erase(at);
  return pulled;
}

void RankClient::Push(const proto::Phase& phase, std::uint64_t step, std::uint32_t flags,
                      const Gradients& gradients, Millis now) {
  if (!gradients.finite) {
    Gradients empty;
    empty.dense_state = gradients.dense_state;
    Push(phase, step, flags | kFlagVoid, empty, now);
    return;
  }
  ++sequence_;
  Request request{
      .type = FrameType::kPush, .step = step, .frames = {}, .reply_bytes = {}, .replies = {}};
  flags |= gradients.dense != nullptr ? kFlagDense : 0;
  flags |= gradients.dense_state != nullptr ? kFlagDenseState : 0;
  for (std::uint32_t shard = 0; shard < shards_; ++shard) {
    const std::vector<KeyBlock> blocks =
        gradients.keys == nullptr ? std::vector<KeyBlock>() : BlocksOf(*gradients.keys, shard);
    std::uint64_t dense_floats = gradients.dense != nullptr ? shard_dense_floats_[shard] : 0;
    if (gradients.dense_state != nullptr) {
      dense_floats += (*gradients.dense_state)[shard].size();
    }
    ByteWriter writer = StartFrame(Header(FrameType::kPush, phase.number(), step, flags),
                                   PushBytes(*plan_, blocks, dense_floats));
    EncodePush(writer, *plan_, gradients.samples, gradients.loss_sum, blocks,
               [&](std::size_t g, std::size_t t) {
                 const std::size_t first = gradients.keys->groups[g].shard_begin[shard];
                 return gradients.groups[g][t] + first * WireDim(*plan_, plan_->groups[g], t);
               });
    if (gradients.dense != nullptr) {
      for (const std::uint32_t b : shard_blocks_[shard]) {
        const DenseBlock& block = plan_->dense.blocks()[b];
        writer.PutArray(std::span<const float>(gradients.dense + block.offset, block.count));
      }
    }
    if (gradients.dense_state != nullptr) {
      writer.PutArray(std::span<const float>((*gradients.dense_state)[shard]));
    }
    request.frames.push_back(writer.Finish());
  }
  if (plan_->durable()) {
    last_push_ = request.frames;
    last_push_sequence_ = sequence_;
  }
  Start(pushes_, std::move(request), now);
}

void RankClient::OnServerReturned(Millis now) {
  if (!last_push_.empty()) {
    Request& request = pushes_[last_push_sequence_];
    request.type = FrameType::kPush;
    request.frames = last_push_;
    request.replies.resize(shards_);
    request.missing = shards_;
  }
  for (auto* requests : {&pulls_, &pushes_, &queries_}) {
    for (auto& [sequence, request] : *requests) {
      request.sent = now - resend_ms_;
    }
    Resend(*requests, now);
  }
}

void RankClient::QueryPhase(std::uint32_t after, Millis now) {
  ++sequence_;
  pulls_.clear();
  queries_.clear();
  phases_.assign(shards_, std::nullopt);
  Request request{
      .type = FrameType::kPhaseQuery, .step = 0, .frames = {}, .reply_bytes = {}, .replies = {}};
  for (std::uint32_t shard = 0; shard < shards_; ++shard) {
    request.frames.push_back(MakeFrame(Header(FrameType::kPhaseQuery, after, 0, 0)));
  }
  Start(queries_, std::move(request), now);
}

std::optional<RankClient::PhaseAnswer> RankClient::TakePhase() {
  if (queries_.empty() || queries_.begin()->second.missing > 0) {
    return std::nullopt;
  }
  PhaseAnswer answer = *phases_[0];
  for (const auto& phase : phases_) {
    answer.next_step = std::min(answer.next_step, phase->next_step);
  }
  answer.next_step = std::max<std::uint64_t>(answer.next_step, answer.phase.first_step());
  queries_.clear();
  report_.reset();
  return answer;
}

void RankClient::Report(const proto::EvaluationReport& report, Millis now) {
  report_ = report;
  report_sent_ = now;
  proto::Control control;
  *control.mutable_evaluation() = report;
  outbox_.Send(kSchedulerPeer, ControlFrame(control));
}

void RankClient::OnMessage(const std::string& peer, const Bytes& frame, Millis now) {
  const FrameHeader header = HeaderOf(frame);
  bytes_received_ += frame.size();
  const std::size_t slash = peer.find('/');
  const std::uint32_t shard =
      slash == std::string::npos
          ? shards_
          : static_cast<std::uint32_t>(std::strtoul(peer.c_str() + slash + 1, nullptr, 10));
  if (shard >= shards_ || header.rank != rank_ || header.epoch != epoch_) {
    return;
  }
  switch (header.type) {
    case FrameType::kPullReply:
      OnPullReply(shard, header, frame);
      break;
    case FrameType::kPushReply:
      OnPushReply(shard, header);
      break;
    case FrameType::kPhaseReply:
      OnPhaseReply(shard, header, frame, now);
      break;
    case FrameType::kError:
      if (header.code == ReplyCode::kFenced) {
        fenced_ = true;
      } else if (failure_.empty()) {
        const auto body = BodyOf(frame);
        failure_ = "server " + std::to_string(shard) + " refused a request of rank " +
                   std::to_string(rank_) + " at step " + std::to_string(header.step) + ": " +
                   std::string(body.begin(), body.end());
      }
      break;
    default:
      break;
  }
}

void RankClient::OnPullReply(std::uint32_t shard, const FrameHeader& header, const Bytes& frame) {
  const auto at = pulls_.find(header.sequence);
  if (at == pulls_.end() || at->second.frames[shard].empty()) {
    return;  // Answered already.
  }
  Request& request = at->second;
  const std::size_t bytes = BodyOf(frame).size();
  if (header.code == ReplyCode::kOk && bytes != request.reply_bytes[shard]) {
    failure_ = "server " + std::to_string(shard) + " answered a pull with " +
               std::to_string(bytes) + " bytes, not " + std::to_string(request.reply_bytes[shard]) +
               ": another build, or another job";
    return;
  }
  request.frames[shard] = Bytes();
  request.replies[shard] = frame;
  --request.missing;
  request.version = std::min(request.version, header.version);
  if (header.code != ReplyCode::kOk) {
    request.code = header.code;
  }
}

void RankClient::OnPushReply(std::uint32_t shard, const FrameHeader& header) {
  const auto at = pushes_.find(header.sequence);
  if (at == pushes_.end() || at->second.frames[shard].empty()) {
    return;
  }
  at->second.frames[shard] = Bytes();
  if (--at->second.missing == 0) {
    pushes_.erase(at);
  }
}

void RankClient::OnPhaseReply(std::uint32_t shard, const FrameHeader& header, const Bytes& frame,
                              Millis now) {
  const auto at = queries_.find(header.sequence);
  if (at == queries_.end() || at->second.frames[shard].empty()) {
    return;
  }
  PhaseAnswer answer;
  const auto body = BodyOf(frame);
  if (!answer.phase.ParseFromArray(body.data(), static_cast<int>(body.size()))) {
    return;
  }
  answer.next_step = header.step;
  std::uint32_t newest = 0;
  for (const auto& phase : phases_) {
    newest = std::max(newest, phase.has_value() ? phase->phase.number() : 0);
  }
  if (newest != 0 && answer.phase.number() != newest) {
    // Shards hear of a commit at different times: ask again for the newer phase.
    QueryPhase(std::max(newest, answer.phase.number()) - 1, now);
    return;
  }
  phases_[shard] = std::move(answer);
  at->second.frames[shard] = Bytes();
  --at->second.missing;
}

void RankClient::Resend(std::map<std::uint64_t, Request>& requests, Millis now) {
  for (auto& [sequence, request] : requests) {
    if (now - request.sent < resend_ms_) {
      continue;
    }
    request.sent = now;
    for (std::uint32_t shard = 0; shard < shards_; ++shard) {
      if (!request.frames[shard].empty()) {
        SendTo(shard, request.frames[shard]);
      }
    }
  }
}

void RankClient::OnTimer(Millis now) {
  Resend(pulls_, now);
  Resend(pushes_, now);
  Resend(queries_, now);
  if (report_.has_value() && now - report_sent_ >= resend_ms_) {
    Report(proto::EvaluationReport(*report_), now);
  }
}

}  // namespace plexus
