// Scheduler: what a checkpoint holds of it, and how a job goes on from one.
#include <algorithm>

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
  const std::uint64_t every = plan_->job.checkpoint().every_steps();
  const bool due = every > 0 && (step % every == 0 || stop_requested_);
  if (!due || phase.kind() == proto::Phase::STOP) {
    return;  // After the end there is nothing to go on with.
  }
  checkpoint_.Clear();
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
  commit->set_save(commit->save().empty() ? kCheckpoint : commit->save() + "," + kCheckpoint);
}

}  // namespace plexus
