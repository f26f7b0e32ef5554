// Scheduler: how a job goes on after the death of a server, of the scheduler, or of everything.
#include <algorithm>
#include <sstream>

#include <glog/logging.h>

#include "scheduler/scheduler.h"

namespace plexus {

void Scheduler::Resume(const proto::SchedulerState& state) {
  version_ = state.version();
  phase_ = state.phase();
  planner_ = PhasePlanner(plan_->job);
  planner_.Restore(state.planner());
  totals_ = TrainingTotals();
  totals_.samples = state.samples();
  totals_.epoch_samples = state.epoch_samples();
  totals_.epoch_loss_sum = state.epoch_loss_sum();
  totals_.steps = state.steps();
  totals_.worker_deaths = state.worker_deaths();
  totals_.nondeterministic = state.nondeterministic();
  totals_.interrupted = state.interrupted();
  for (const proto::VoidPushes& entry : state.void_pushes()) {
    totals_.void_pushes[entry.rank()] = entry.pushes();
  }
  resumed_version_ = state.version();
  resumed_samples_ = state.samples();
}

void Scheduler::ResumeAt(std::uint64_t version) {
  last_commit_.reset();
  saving_.clear();
  if (version == 0) {
    Resume(proto::SchedulerState());
    return;
  }
  if (version == checkpoint_version_) {
    Resume(*options_.resume);
    return;
  }
  const auto& log = options_.committed;
  const auto at = std::find_if(log.begin(), log.end(), [version](const proto::CommittedStep& step) {
    return step.state().version() == version;
  });
  CHECK(at != log.end()) << "version " << version << " is in no log";
  Resume(at->state());
  last_commit_ = at->commit();
  checkpoint_ = at->checkpoint();
  // They may have been written, and are written again: the same bits.
  std::stringstream names(at->commit().save());
  for (std::string name; std::getline(names, name, ',');) {
    saving_.push_back(name);
  }
}

bool Scheduler::IsServer(const std::string& peer, std::uint32_t index) const {
  return index < plan_->shards() && membership_.servers()[index].peer == peer;
}

proto::Commit Scheduler::LastCommit() const {
  proto::Commit commit = *last_commit_;
  if (saving_.empty()) {
    commit.clear_save();  // It is written; its files are not to be touched again.
  }
  return commit;
}

std::uint64_t Scheduler::ReachOf(const MemberState& server) const {
  const std::uint64_t state = server.info.state_version();
  if (!server.info.has_state_version()) {
    // A log that begins later changes a state that is not there.
    const bool fits = server.info.log_begin() <= checkpoint_version_;
    return std::max(fits ? server.info.log_version() : 0, checkpoint_version_);
  }
  // A step is committed once it is complete everywhere: a living server lacks one commit at most.
  return state + 1;
}

void Scheduler::ChooseVersion(Millis now) {
  if (chosen_) {
    return;
  }
  chosen_ = true;
  std::uint64_t version = version_;
  for (const MemberState& server : membership_.servers()) {
    version = std::min(version, ReachOf(server));
  }
  for (const MemberState& server : membership_.servers()) {
    if (server.info.state_version() > version) {
      Fail(3,
           "server " + std::to_string(server.info.index()) + " is at version " +
               std::to_string(server.info.state_version()) + ", but version " +
               std::to_string(version) +
               " is the newest that all servers and the scheduler's log can make: start all again "
               "with --resume",
           now);
      return;
    }
  }
  if (version < version_) {
    LOG(WARNING) << "goes back from version " << version_ << " to " << version
                 << ", the newest that all servers can make";
    ResumeAt(version);
  }
  for (const MemberState& server : membership_.servers()) {
    NoteRecovery(server);
  }
  if (version_ > 0 || !options_.committed.empty()) {
    AddEvent(SchedulerEvent::Kind::kResumed).step = version_;
  }
  SendViews();
}

bool Scheduler::NeedsRecovery(const MemberState& server) const {
  return recovering_.contains(server.info.index());
}

void Scheduler::NoteRecovery(const MemberState& server) {
  if (version_ > 0 && !server.info.has_state_version()) {
    recovering_.insert(server.info.index());
  }
}

bool Scheduler::HasRecovered(const MemberState& server) const {
  const proto::Heartbeat& last = server.last;
  return server.alive && (last.version() == version_ ||
                          (last.version() + 1 == version_ && last.complete_step() == version_));
}

bool Scheduler::AllHaveRecovered() const {
  const auto& servers = membership_.servers();
  return version_ == 0 ||
         std::all_of(servers.begin(), servers.end(),
                     [this](const MemberState& server) { return HasRecovered(server); });
}

bool Scheduler::Reaches(const MemberState& server, Millis now) {
  if (ReachOf(server) >= version_) {
    return true;
  }
  Fail(3,
       "server " + std::to_string(server.info.index()) +
           " was restarted, and its push log and the last checkpoint reach version " +
           std::to_string(ReachOf(server)) + " of " + std::to_string(version_) +
           ": start the job again with --resume",
       now);
  return false;
}

void Scheduler::OnServerReturnedEarly(const MemberState& server, Millis now) {
  if (!plan_->durable() || Reaches(server, now)) {
    NoteRecovery(server);
  }
}

void Scheduler::OnServerReturned(const MemberState& server, const std::string& old_address,
                                 Millis now) {
  const std::string who = "server " + std::to_string(server.info.index());
  if (!plan_->durable()) {
    Fail(3, who + " was restarted: its rows at version " + std::to_string(version_) + " are lost",
         now);
    return;
  }
  if (!Reaches(server, now)) {
    return;
  }
  ++totals_.server_deaths;
  ++generation_;
  NoteRecovery(server);
  completes_.erase(server.info.index());  // It says so again, if it still is.
  saved_.erase(server.info.index());
  SchedulerEvent& event = AddEvent(SchedulerEvent::Kind::kServerLost);
  event.text = who + " was restarted" +
               (old_address == server.info.data_address() ? "" : " in another place") +
               ", and recovers version " + std::to_string(version_);
  SendViews();
}

void Scheduler::OnServerLost(const std::string& silence, Millis now) {
  if (!plan_->durable()) {
    Fail(3, silence + ": its rows at version " + std::to_string(version_) + " are lost", now);
    return;
  }
  if (!server_lost_at_.has_value()) {
    server_lost_at_ = now;
  }
  SchedulerEvent& event = AddEvent(SchedulerEvent::Kind::kServerLost);
  event.text =
      silence + ": the job waits for it for " + std::to_string(options_.return_ms / 1000) + " s";
  AddEvent(SchedulerEvent::Kind::kMembers);
}

void Scheduler::SendRegisterAgain(const std::string& peer, std::uint64_t incarnation) {
  proto::Control control;
  proto::View& view = *control.mutable_view();
  view.set_incarnation(incarnation);
  view.set_fence(membership_.fence());
  view.set_register_again(true);
  outbox_.Send(peer, ControlFrame(control));
}

void Scheduler::AddCommitted(const proto::Commit& commit) {
  if (!plan_->durable()) {
    return;
  }
  SchedulerEvent& event = AddEvent(SchedulerEvent::Kind::kCommitted);
  *event.committed.mutable_commit() = commit;
  *event.committed.mutable_state() = StateOf(version_, phase_);
  if (commit.checkpoint()) {
    *event.committed.mutable_checkpoint() = checkpoint_;
  }
}

std::uint64_t Scheduler::log_kept_from() const {
  const std::uint32_t keep = plan_->job.checkpoint().keep();
  return complete_checkpoints_.size() < keep ? 0 : complete_checkpoints_.front();
}

bool Scheduler::LogIsLong() const {
  const auto& servers = membership_.servers();
  return plan_->durable() &&
         std::any_of(servers.begin(), servers.end(), [this](const MemberState& server) {
           return server.last.version() >= checkpoint_.version() &&
                  server.last.log_bytes() > plan_->log_limit_bytes;
         });
}

}  // namespace plexus
