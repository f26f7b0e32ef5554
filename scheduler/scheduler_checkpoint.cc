// Scheduler: what a checkpoint holds of it, and how a job goes on from one.
#include <algorithm>
#include <bit>
#include <utility>

#include <glog/logging.h>

#include "scheduler/scheduler.h"

namespace plexus {

void Scheduler::Resume(const proto::SchedulerState& state) {
  version_ = state.version();
  phase_ = state.phase();
  planner_.Restore(state.planner());
  totals_.samples = state.samples();
  totals_.epoch_samples = state.epoch_samples();
  totals_.epoch_loss_sum = state.epoch_loss_sum();
  totals_.steps = state.steps();
  totals_.worker_deaths = state.worker_deaths();
  totals_.nondeterministic = state.nondeterministic();
  for (const proto::VoidPushes& entry : state.void_pushes()) {
    totals_.void_pushes[entry.rank()] = entry.pushes();
  }
  resumed_version_ = state.version();
  resumed_samples_ = state.samples();
}

bool Scheduler::HasRestored(const MemberState& server) const {
  return server.alive && server.last.version() == version_;
}

bool Scheduler::AllHaveRestored() const {
  const auto& servers = membership_.servers();
  return resumed_version_ == 0 ||
         std::all_of(servers.begin(), servers.end(),
                     [this](const MemberState& server) { return HasRestored(server); });
}

void Scheduler::AddCheckpoint(std::uint64_t step, const proto::Phase& phase,
                              proto::Commit* commit) {
  for (const auto& [shard, complete] : completes_) {
    chain_.needs_full = chain_.needs_full || complete.needs_full_checkpoint();
  }
  const std::uint64_t every = plan_->job.checkpoint().every_steps();
  const bool due = every > 0 && (step % every == 0 || checkpoint_is_late_ || stop_requested_);
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
  checkpoint_.set_version(step);
  *checkpoint_.mutable_phase() = phase;
  *checkpoint_.mutable_planner() = planner_.State();
  checkpoint_.set_samples(totals_.samples);
  checkpoint_.set_epoch_samples(totals_.epoch_samples);
  checkpoint_.set_epoch_loss_sum(totals_.epoch_loss_sum);
  checkpoint_.set_steps(totals_.steps);
  checkpoint_.set_worker_deaths(totals_.worker_deaths);
  checkpoint_.set_nondeterministic(totals_.nondeterministic);
  for (const auto& [rank, pushes] : totals_.void_pushes) {
    proto::VoidPushes& entry = *checkpoint_.add_void_pushes();
    entry.set_rank(rank);
    entry.set_pushes(pushes);
  }
  commit->mutable_checkpoint()->set_base(checkpoint_base_);
}

std::uint64_t Scheduler::CheckpointBase() const {
  const bool builds = !chain_.needs_full && chain_.length < plan_->job.checkpoint().full_every() &&
                      2 * chain_.incremental_bytes <= chain_.whole_bytes;
  return builds ? chain_.version : 0;
}

void Scheduler::OnCheckpointSaved(const proto::Saved& saved, Millis now) {
  if (saved.shard() >= plan_->shards() || !CheckpointIsUnderWay() ||
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
  event.state = std::exchange(checkpoint_, {});
  MaybeEnd(now);
  TryCommit(now);
}

}  // namespace plexus
