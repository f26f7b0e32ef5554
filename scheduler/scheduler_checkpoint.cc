// Scheduler: models that are written; what a checkpoint, and the log of commits, hold of it.
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
  const std::uint64_t every = plan_->job.checkpoint().every_steps();
  const bool wanted = every > 0 || plan_->durable();
  const bool due = (every > 0 && step % every == 0) || (wanted && stop_requested_) || LogIsLong();
  if (!due || phase.kind() == proto::Phase::STOP) {
    return;  // After the end there is nothing to go on with.
  }
  checkpoint_ = StateOf(step, phase);
  checkpoint_.set_interrupted(false);  // Who goes on from it is not.
  commit->set_save(commit->save().empty() ? kCheckpoint : commit->save() + "," + kCheckpoint);
  commit->set_checkpoint(true);
}

void Scheduler::OnSaved(const std::string& peer, const proto::Saved& saved, Millis now) {
  NoteNondeterministic(saved.nondeterministic());
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
    if (name == kCheckpoint) {
      event.state = checkpoint_;
      checkpoint_version_ = version_;
      complete_checkpoints_.push_back(version_);
      if (complete_checkpoints_.size() > plan_->job.checkpoint().keep()) {
        complete_checkpoints_.pop_front();
      }
    }
  }
  saved_.clear();
  if (phase_.kind() == proto::Phase::STOP && !stop_.has_value()) {
    proto::Stop stop;
    stop.set_exit_code(0);
    stop_ = stop;
    stopped_at_ = now;
    AddEvent(SchedulerEvent::Kind::kStopped);
    SendViews();
    return;
  }
  TryCommit(now);
  if (stop_requested_) {
    EndAspPhase(now);
  }
}

}  // namespace plexus
