// Scheduler: models that are written; what a checkpoint, and the log of commits, hold of it.
#include <algorithm>
#include <bit>
#include <utility>

#include <glog/logging.h>

#include "scheduler/scheduler.h"

namespace plexus {

proto::SchedulerState Scheduler::StateOf(std::uint64_t version, const proto::Phase& phase) const {
  proto::SchedulerState state;
  state.set_version(version);
  *state.mutable_phase() = phase;
  *state.mutable_planner() = planner_.State();
  state.set_samples(totals_.samples);
  state.set_epoch_samples(totals_.epoch_samples);
  state.set_epoch_loss_sum(totals_.epoch_loss_sum);
  state.set_steps(totals_.steps);
  state.set_worker_deaths(totals_.worker_deaths);
  state.set_server_deaths(totals_.server_deaths);
  state.set_nondeterministic(totals_.nondeterministic);
  state.set_interrupted(totals_.interrupted);
  for (const auto& [rank, pushes] : totals_.void_pushes) {
    proto::VoidPushes& entry = *state.add_void_pushes();
    entry.set_rank(rank);
    entry.set_pushes(pushes);
  }
  return state;
}

void Scheduler::AddCheckpoint(std::uint64_t step, const proto::Phase& phase,
                              proto::Commit* commit) {
  for (const auto& [shard, complete] : completes_) {
    chain_.needs_full = chain_.needs_full || complete.needs_full_checkpoint();
  }
  const std::uint64_t every = plan_->job.checkpoint().every_steps();
  const bool wanted = every > 0 || plan_->durable();
  const bool due = (every > 0 && step % every == 0) || LogIsLong() ||
                   (wanted && (checkpoint_is_late_ || stop_requested_));
  if (!due || phase.kind() == proto::Phase::STOP) {
    return;  // After the end there is nothing to go on with.
  }
  if (CheckpointIsUnderWay()) {
    if (!std::exchange(checkpoint_is_late_, true)) {
      LOG_IF(WARNING, std::has_single_bit(++totals_.late_checkpoints))
          << "the checkpoint of version " << step << " is due, and that of version "
          << checkpoint_.version() << " is still being written: it begins when that is done; late "
          << "so far: " << totals_.late_checkpoints;
    }
    return;
  }
  checkpoint_is_late_ = false;
  checkpoint_saved_.clear();
  checkpoint_base_ = CheckpointBase();
  chain_.needs_full = chain_.needs_full && checkpoint_base_ != 0;
  checkpoint_ = StateOf(step, phase);
  checkpoint_.set_interrupted(false);  // Who goes on from it is not.
  checkpoint_step_ = step;
  commit->mutable_checkpoint()->set_base(checkpoint_base_);
}

std::uint64_t Scheduler::CheckpointBase() const {
  const bool builds = !chain_.needs_full && chain_.length < plan_->job.checkpoint().full_every() &&
                      2 * chain_.incremental_bytes <= chain_.whole_bytes;
  return builds ? chain_.version : 0;
}

void Scheduler::OnCheckpointSaved(const std::string& peer, const proto::Saved& saved, Millis now) {
  if (!IsServer(peer, saved.shard()) || !CheckpointIsUnderWay() ||
      saved.version() != checkpoint_.version()) {
    return;  // Said again.
  }
  if (!saved.error().empty()) {
    Fail(1,
         "server " + std::to_string(saved.shard()) + " could not write the checkpoint of version " +
             std::to_string(saved.version()) + ": " + saved.error(),
         now);
    return;
  }
  checkpoint_saved_[saved.shard()] = saved;
  if (checkpoint_saved_.size() < plan_->shards()) {
    return;
  }
  SchedulerEvent& event = AddEvent(SchedulerEvent::Kind::kSaved);
  event.text = kCheckpoint;
  event.step = checkpoint_.version();
  event.base = checkpoint_base_;
  std::uint64_t bytes = 0;
  for (const auto& [shard, part] : checkpoint_saved_) {
    event.saved.push_back(part);
    bytes += part.file_bytes();
  }
  chain_.version = checkpoint_.version();
  if (checkpoint_base_ == 0) {
    chain_.length = 1;
    chain_.whole_bytes = bytes;
    chain_.incremental_bytes = 0;
  } else {
    ++chain_.length;
    chain_.incremental_bytes += bytes;
  }
  checkpoint_version_ = checkpoint_.version();
  complete_checkpoints_.push_back(checkpoint_version_);
  if (complete_checkpoints_.size() > plan_->job.checkpoint().keep()) {
    complete_checkpoints_.pop_front();
  }
  event.state = std::exchange(checkpoint_, {});
  MaybeEnd(now);
  TryCommit(now);
}

void Scheduler::DropCheckpoint(Millis now) {
  chain_.needs_full = true;  // A server that came back knows of no checkpoint before.
  if (CheckpointIsUnderWay()) {
    LOG(WARNING) << "the checkpoint of version " << checkpoint_.version()
                 << " was being written, and is given up: a server came back";
    checkpoint_ = {};
    checkpoint_saved_.clear();
    checkpoint_is_late_ = true;
    MaybeEnd(now);  // Of an interrupted job, nothing makes another one.
  }
}

void Scheduler::OnSaved(const std::string& peer, const proto::Saved& saved, Millis now) {
  NoteNondeterministic(saved.nondeterministic());
  if (saved.name() == kCheckpoint) {
    OnCheckpointSaved(peer, saved, now);
    return;
  }
  if (!IsServer(peer, saved.shard()) || saving_.empty() || saved.version() != version_) {
    return;
  }
  if (!saved.error().empty()) {
    Fail(1,
         "server " + std::to_string(saved.shard()) + " could not write the model: " + saved.error(),
         now);
    return;
  }
  saved_[saved.shard()] = saved;
  if (saved_.size() == plan_->shards()) {
    FinishSave(now);
  }
}

void Scheduler::FinishSave(Millis now) {
  for (const std::string& name : std::exchange(saving_, {})) {
    SchedulerEvent& event = AddEvent(SchedulerEvent::Kind::kSaved);
    event.text = name;
    event.step = version_;
    for (const auto& [shard, part] : saved_) {
      event.saved.push_back(part);
    }
  }
  saved_.clear();
  if (phase_.kind() == proto::Phase::STOP) {
    MaybeEnd(now);
    return;
  }
  TryCommit(now);
  if (stop_requested_) {
    EndAspPhase(now);
  }
}

void Scheduler::MaybeEnd(Millis now) {
  if (phase_.kind() != proto::Phase::STOP || !saving_.empty() || CheckpointIsUnderWay() ||
      stop_.has_value()) {
    return;
  }
  proto::Stop stop;
  stop.set_exit_code(0);
  stop_ = stop;
  stopped_at_ = now;
  AddEvent(SchedulerEvent::Kind::kStopped);
  SendViews();
}

}  // namespace plexus
