// Scheduler: what a checkpoint, and the log of commits, hold of it.
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

}  // namespace plexus
