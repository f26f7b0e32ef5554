// Shard: the push log: what is written before it counts, and how it is replayed.
#include <algorithm>
#include <span>
#include <utility>

#include <glog/logging.h>

#include "proto/checkpoint.pb.h"
#include "proto/job_identity.h"
#include "ps/shard.h"

namespace plexus {
namespace {

Bytes BytesOf(const std::string& text) {
  return Bytes::Copy({reinterpret_cast<const std::uint8_t*>(text.data()), text.size()});
}

}  // namespace

void Shard::LogBegin() {
  if (!logs()) {
    return;
  }
  proto::LogBegin begin;
  begin.set_version(version_);
  *begin.mutable_phase() = phase_;
  begin.set_shard(options_.shard);
  begin.set_shards(plan_->shards());
  begin.set_job_hash(TrainingHash(plan_->job));
  log_request_.records.push_back({.kind = PushRecordKind::kBegin,
                                  .version = version_,
                                  .pieces = {BytesOf(begin.SerializeAsString())}});
}

void Shard::LogComplete() {
  if (!logs()) {
    return;
  }
  log_request_.sync = plan_->job.checkpoint().durability() == proto::Checkpoint::SYNC;
  if (phase_.kind() != proto::Phase::TRAIN) {
    return;  // What was committed before must not be lost any more: it is complete by that.
  }
  LoggedStep step{.step = version_ + 1, .phase = phase_.number(), .parts = {}};
  std::vector<const PushBody*> bodies;
  for (const std::optional<Part>& part : pending_.at(step.step)) {
    bodies.push_back(&part->body);
    LoggedPart logged{.flags = part->flags, .epoch = 0, .frame = {}};
    if (part->is_void) {
      logged.flags |= kFlagVoid;
    } else {
      logged.epoch = HeaderOf(part->frame).epoch;
      logged.frame = part->frame;
    }
    step.parts.push_back(std::move(logged));
  }
  dense_sum_ = state_.SumOfDense(bodies);
  log_request_.records.push_back(MakeStepRecord(step, state_.dense_extent(), dense_sum_));
  UseDenseSum();
}

// What was summed for the log need not be summed again: the first part has it, others have none.
void Shard::UseDenseSum() {
  std::span<const float> sum(reinterpret_cast<const float*>(dense_sum_.data()),
                             dense_sum_.size() / sizeof(float));
  for (std::optional<Part>& part : pending_.at(version_ + 1)) {
    if (!part->is_void) {
      part->body.dense = std::exchange(sum, {});
    }
  }
}

void Shard::SplitDenseSum() {
  if (dense_sum_.empty()) {
    return;
  }
  dense_sum_ = Bytes();
  for (std::optional<Part>& part : pending_.at(version_ + 1)) {
    if (!part->is_void) {
      part->body.dense = DecodePush(*plan_, state_.dense_extent(), part->frame)->dense;
    }
  }
}

void Shard::LogCommit(const proto::Commit& commit) {
  if (logs()) {
    log_request_.records.push_back({.kind = PushRecordKind::kCommit,
                                    .version = commit.step(),
                                    .pieces = {BytesOf(commit.SerializeAsString())}});
  }
}

void Shard::Acknowledge(const std::string& peer, const FrameHeader& header) {
  const bool is_logged = header.step <= version_ || complete_.has_value();
  if (logs() && !is_logged) {
    held_acknowledgements_.emplace_back(peer, header);
  } else {
    Reply(peer, header, FrameType::kPushReply, ReplyCode::kOk);
  }
}

void Shard::ReleaseAcknowledgements() {
  for (const auto& [peer, header] : std::exchange(held_acknowledgements_, {})) {
    Reply(peer, header, FrameType::kPushReply, ReplyCode::kOk);
  }
}

Status Shard::Replay(PushRecordKind kind, const Bytes& payload) {
  replaying_ = true;
  (void)outbox_.Take();
  const auto size = static_cast<int>(payload.size());
  switch (kind) {
    case PushRecordKind::kBegin: {
      proto::LogBegin begin;
      if (!begin.ParseFromArray(payload.data(), size) || begin.version() != version_) {
        return DataLoss("the push log has a segment of version " + std::to_string(begin.version()) +
                        " at version " + std::to_string(version_));
      }
      if (phase_.number() == 0) {
        StartPhase(begin.phase());
        MaybeComplete();
      }
      begin_due_ = false;
      return OkStatus();
    }
    case PushRecordKind::kStep:
      return ReplayStep(payload);
    case PushRecordKind::kCommit: {
      proto::Commit commit;
      if (!commit.ParseFromArray(payload.data(), size) || commit.step() != version_ + 1 ||
          commit.phase() != phase_.number()) {
        return DataLoss("the push log has a commit of step " + std::to_string(commit.step()) +
                        " at version " + std::to_string(version_));
      }
      OnCommit(commit, now_);
      begin_due_ = commit.has_checkpoint();
      return OkStatus();
    }
  }
  return DataLoss("the push log has a record of kind " +
                  std::to_string(static_cast<std::uint32_t>(kind)));
}

Status Shard::ReplayStep(const Bytes& payload) {
  ASSIGN_OR_RETURN(LoggedStep step, ReadStepRecord(payload));
  if (step.step != version_ + 1 || step.phase != phase_.number() ||
      step.parts.size() != plan_->ranks()) {
    return DataLoss("the push log has step " + std::to_string(step.step) + " at version " +
                    std::to_string(version_));
  }
  counters_.pushes -= pending_parts();  // The step is there again, with more void parts.
  counters_.pushes += plan_->ranks();
  pending_.clear();
  pending_bytes_ = 0;
  for (std::uint32_t rank = 0; rank < plan_->ranks(); ++rank) {
    LoggedPart& logged = step.parts[rank];
    epochs_[rank] = std::max(epochs_[rank], logged.epoch);
    Part part{.frame = logged.frame, .body = {}, .flags = logged.flags, .is_void = false};
    if ((logged.flags & kFlagVoid) != 0) {
      part.is_void = true;
    } else {
      ASSIGN_OR_RETURN(part.body, DecodePush(*plan_, state_.dense_extent(), part.frame));
    }
    FrameHeader header;
    header.step = step.step;
    header.rank = rank;
    StorePart(header, std::move(part));
  }
  complete_.reset();
  MaybeComplete();
  return OkStatus();
}

void Shard::OnRecovered(const Status& status) {
  replaying_ = false;
  (void)outbox_.Take();
  save_request_.reset();  // The scheduler says what is still to be written.
  if (!status.ok()) {
    ReportFailure("server " + std::to_string(options_.shard) +
                  " could not recover: " + status.message());
    return;
  }
  if (begin_due_) {
    LogBegin();  // This server died between the two records.
  }
  next_heartbeat_ = 0;  // The scheduler waits for it.
  next_resend_ = 0;
}

void Shard::SetLogUsage(std::uint64_t bytes, bool failing) {
  log_bytes_ = bytes;
  if (failing != log_failing_) {
    next_heartbeat_ = 0;
  }
  log_failing_ = failing;
}

proto::Register Shard::Registration() const {
  proto::Register registration = options_.registration;
  registration.set_log_begin(log_begin_);
  registration.set_log_version(log_version_);
  if (phase_.number() != 0) {
    registration.set_state_version(version_);
  }
  return registration;
}

}  // namespace plexus
