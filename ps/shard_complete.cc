// Shard: when a step is complete, and which of its parts count as empty.
#include <algorithm>
#include <bit>
#include <utility>

#include <glog/logging.h>

#include "ps/shard.h"

namespace plexus {
namespace {

// What a void push is applied as: dense parameters are not gradients, and stay.
PushBody EmptyOf(const PushBody& push) {
  PushBody empty;
  empty.dense_state = push.dense_state;
  return empty;
}

void AddVoidPushes(const std::map<std::uint32_t, std::uint64_t>& pushes,
                   google::protobuf::RepeatedPtrField<proto::VoidPushes>* list) {
  for (const auto& [rank, count] : pushes) {
    proto::VoidPushes& entry = *list->Add();
    entry.set_rank(rank);
    entry.set_pushes(count);
  }
}

}  // namespace

bool Shard::EmptyIfVoid(const FrameHeader& header, PushBody* body) {
  const bool said = (header.flags & kFlagVoid) != 0;
  if (!said && PushIsFinite(*plan_, *body)) {
    return false;
  }
  *body = EmptyOf(*body);
  const std::uint64_t pushes = ++void_arrived_[header.rank];
  if ((!said || plan_->asp()) && std::has_single_bit(pushes)) {  // Seldom, if they come often.
    LOG(WARNING) << "server " << options_.shard << ": the push of rank " << header.rank
                 << " at step " << header.step << " has gradients that are not finite"
                 << (said ? "" : ", which the rank did not see")
                 << ": it counts as empty; of this rank so far: " << pushes;
  }
  return true;
}

void Shard::CountVoid(std::uint32_t rank) {
  ++counters_.push_void;
  ++void_pushes_[rank];
}

void Shard::MakeVoid(std::uint64_t step,
                     const google::protobuf::RepeatedField<std::uint32_t>& ranks) {
  const auto at = pending_.find(step);
  for (const std::uint32_t rank : ranks) {
    if (at == pending_.end() || rank >= plan_->ranks() || !at->second[rank].has_value() ||
        at->second[rank]->is_void) {
      continue;  // Known; or of a part that this shard never had, or has applied.
    }
    SplitDenseSum();
    Part& part = *at->second[rank];
    part.body = EmptyOf(part.body);
    part.is_void = true;
  }
}

void Shard::OnVoidParts(const proto::VoidParts& parts) {
  if (plan_->asp() || parts.phase() != phase_.number() || parts.step() != version_ + 1) {
    return;  // Overtaken.
  }
  MakeVoid(parts.step(), parts.ranks());
  complete_.reset();
  MaybeComplete();
}

bool Shard::PullsServed(std::uint64_t step) const {
  if (!plan_->job.train().deterministic()) {
    return true;
  }
  std::uint64_t end = step + static_cast<std::uint64_t>(plan_->job.train().staleness());
  if (phase_.last_step() != 0) {
    end = std::min<std::uint64_t>(end, phase_.last_step());
  }
  for (std::uint64_t u = step + 1; u <= end; ++u) {
    for (const auto& served : served_) {
      if (!served.contains(u)) {
        return false;
      }
    }
  }
  return true;
}

void Shard::MaybeComplete() {
  if (complete_.has_value() || phase_.number() == 0 || phase_.kind() == proto::Phase::STOP) {
    return;
  }
  proto::Complete complete;
  complete.set_shard(options_.shard);
  complete.set_phase(phase_.number());
  complete.set_step(version_ + 1);
  if (phase_.kind() == proto::Phase::TRAIN &&
      !(plan_->asp() ? CompleteAspPhase(&complete) : CompleteStep(&complete))) {
    return;
  }
  complete.set_needs_full_checkpoint(snapshot_.NeedsFull());
  complete_ = std::move(complete);
  LogComplete();
  ReleaseAcknowledgements();
  SendComplete();
}

bool Shard::CompleteAspPhase(proto::Complete* complete) const {
  std::uint64_t step = 0;
  bool exhausted = true;
  for (const Applied& applied : applied_) {
    // The last part may overtake others.
    if (!applied.last || !applied.beyond.empty()) {
      return false;
    }
    step = std::max(step, applied.high);
    exhausted = exhausted && applied.exhausted;
  }
  complete->set_step(step);
  complete->set_samples(asp_samples_);
  complete->set_loss_sum(asp_loss_sum_);
  complete->set_all_last(true);
  complete->set_all_exhausted(exhausted);
  AddVoidPushes(asp_void_, complete->mutable_void_pushes());
  return true;
}

bool Shard::CompleteStep(proto::Complete* complete) const {
  const auto at = pending_.find(version_ + 1);
  if (at == pending_.end() || !PullsServed(version_ + 1)) {
    return false;
  }
  std::uint64_t samples = 0;
  double loss_sum = 0;
  bool last = true;
  bool exhausted = true;
  std::vector<const PushBody*> parts;
  for (std::uint32_t rank = 0; rank < plan_->ranks(); ++rank) {
    const std::optional<Part>& part = at->second[rank];
    if (!part.has_value()) {
      return false;
    }
    parts.push_back(&part->body);
    samples += part->body.samples;
    loss_sum += part->body.loss_sum;
    last = last && (part->flags & kFlagLast) != 0;
    exhausted = exhausted && (part->flags & kFlagExhausted) != 0;
    if (part->is_void) {
      complete->add_void_ranks(rank);
    }
  }
  complete->set_samples(samples);
  complete->set_loss_sum(loss_sum);
  complete->set_all_last(last);
  complete->set_all_exhausted(exhausted);
  complete->set_inexact(inexact_);
  if (plan_->job.train().clip_dense_norm() > 0) {
    for (proto::BlockNorm& norm : state_.DenseNorms(parts)) {
      *complete->add_norms() = std::move(norm);
    }
  }
  return true;
}

void Shard::SendComplete() {
  proto::Control control;
  *control.mutable_complete() = *complete_;
  SendControl(control);
}

std::vector<std::uint32_t> Shard::WaitingFor() const {
  std::vector<std::uint32_t> ranks;
  if (phase_.kind() != proto::Phase::TRAIN || plan_->asp()) {
    return ranks;
  }
  const auto at = pending_.find(version_ + 1);
  for (std::uint32_t rank = 0; rank < plan_->ranks(); ++rank) {
    if (at == pending_.end() || !at->second[rank].has_value()) {
      ranks.push_back(rank);
    }
  }
  return ranks;
}

void Shard::SayVoid(proto::Heartbeat* heartbeat) const {
  if (plan_->asp()) {
    AddVoidPushes(asp_void_, heartbeat->mutable_phase_void());
  }
}

}  // namespace plexus
