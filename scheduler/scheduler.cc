#include "scheduler/scheduler.h"

#include <algorithm>
#include <sstream>
#include <utility>

#include <glog/logging.h>

#include "proto/dense_store.h"

namespace plexus {
namespace {

// Members hear of the stop at once; this is for those that do not answer any more.
constexpr Millis kLeaveMillis = 5000;

}  // namespace

Scheduler::Scheduler(std::shared_ptr<const JobPlan> plan, SchedulerOptions options)
    : plan_(std::move(plan)),
      options_(options),
      membership_(plan_->shards(), plan_->job.cluster().workers(), plan_->ranks(), options.lease_ms,
                  options.former_starts, plan_->durable()),
      planner_(plan_->job),
      chosen_(!plan_->durable() && !options_.resume.has_value()) {
  if (options_.resume.has_value()) {
    checkpoint_version_ = options_.resume->version();
    complete_checkpoints_.push_back(checkpoint_version_);
  }
  if (!chosen_) {
    ResumeAt(options_.committed.empty() ? checkpoint_version_
                                        : options_.committed.back().state().version());
  }
}

SchedulerEvent& Scheduler::AddEvent(SchedulerEvent::Kind kind) {
  SchedulerEvent& event = events_.emplace_back();
  event.kind = kind;
  return event;
}

void Scheduler::OnMessage(const std::string& peer, const Bytes& frame, Millis now) {
  if (HeaderOf(frame).type != FrameType::kControl) {
    ++refused_;
    return;
  }
  StatusOr<proto::Control> control = DecodeControl(frame);
  if (!control.ok()) {
    ++refused_;
    return;
  }
  switch (control->kind_case()) {
    case proto::Control::kRegisterMember:
      OnRegister(peer, control->register_member(), now);
      break;
    case proto::Control::kHeartbeat:
      OnHeartbeat(peer, control->heartbeat(), now);
      break;
    case proto::Control::kComplete:
      OnComplete(peer, control->complete(), now);
      break;
    case proto::Control::kEvaluation:
      OnEvaluation(control->evaluation(), now);
      break;
    case proto::Control::kSaved:
      OnSaved(peer, control->saved(), now);
      break;
    default:
      ++refused_;
  }
}

void Scheduler::OnRegister(const std::string& peer, const proto::Register& info, Millis now) {
  if (info.job_hash() != options_.job_hash) {
    Refuse(peer, info.incarnation(), 2,
           "this member was started with another job file than the scheduler's");
    return;
  }
  const bool is_server = info.role() == proto::SERVER && info.index() < plan_->shards();
  const std::string old_address =
      is_server ? membership_.servers()[info.index()].info.data_address() : "";
  const Membership::Change change = membership_.OnRegister(peer, info, now);
  const auto index = std::to_string(info.index());
  if (change == Membership::Change::kUnknownMember) {
    Refuse(peer, info.incarnation(), 2,
           "the job has no " + proto::Role_Name(info.role()) + " of index " + index);
    return;
  }
  if (change == Membership::Change::kFormer) {
    Refuse(peer, info.incarnation(), 3, "another program has taken this member's place");
    return;
  }
  const bool replaced = started_ && change == Membership::Change::kReplaced;
  if (is_server && change != Membership::Change::kNone && !started_ && chosen_) {
    OnServerReturnedEarly(membership_.servers()[info.index()], now);
  }
  if (replaced && is_server) {
    OnServerReturned(membership_.servers()[info.index()], old_address, now);
  }
  if (change != Membership::Change::kNone) {
    totals_.worker_deaths += replaced && info.role() == proto::WORKER ? 1 : 0;
    AddEvent(SchedulerEvent::Kind::kMembers);
  }
  MaybeStart(now);
  UpdateCarriers(now);
  const auto& members =
      info.role() == proto::SERVER ? membership_.servers() : membership_.workers();
  SendView(members[info.index()]);
}

void Scheduler::OnHeartbeat(const std::string& peer, const proto::Heartbeat& heartbeat,
                            Millis now) {
  const bool fence_was_known = membership_.fence_known();
  if (plan_->durable() && membership_.IsUnknown(heartbeat.role(), heartbeat.index())) {
    SendRegisterAgain(peer, heartbeat.incarnation());
    return;
  }
  if (!membership_.OnHeartbeat(peer, heartbeat, now)) {
    Refuse(peer, heartbeat.incarnation(), 3, "another program has taken this member's place");
    return;
  }
  if (!heartbeat.failure().empty() && !stop_.has_value()) {
    Fail(heartbeat.restartable() ? 3 : 1, heartbeat.failure(), now);
  }
  NoteNondeterministic(heartbeat.nondeterministic());
  if (heartbeat.interrupted()) {
    RequestStop(now);
  }
  if (heartbeat.role() == proto::SERVER && HasRecovered(membership_.servers()[heartbeat.index()])) {
    recovering_.erase(heartbeat.index());
  }
  if (!started_) {
    MaybeStart(now);
  }
  UpdateCarriers(now);
  if (started_ && !fence_was_known && membership_.fence_known()) {
    SendViews();  // New carriers may begin.
    return;
  }
  const auto& members =
      heartbeat.role() == proto::SERVER ? membership_.servers() : membership_.workers();
  SendView(members[heartbeat.index()]);
}

// The first reason stays.
void Scheduler::NoteNondeterministic(const std::string& why) {
  if (totals_.nondeterministic.empty()) {
    totals_.nondeterministic = why;
  }
}

void Scheduler::MaybeStart(Millis now) {
  if (started_ || stop_.has_value() || !membership_.all_servers()) {
    return;
  }
  ChooseVersion(now);
  if (stop_.has_value() || !membership_.all_workers_came() || !AllHaveRecovered()) {
    return;
  }
  started_ = true;
  last_commit_at_ = now;
  if (resumed_version_ == 0) {
    phase_ = planner_.First();
  }
  AddEvent(SchedulerEvent::Kind::kPhase).phase = phase_;
  UpdateCarriers(now);
  SendViews();
}

void Scheduler::UpdateCarriers(Millis now) {
  if (!started_ || stop_.has_value()) {
    return;
  }
  if (membership_.AssignRanks(now)) {
    SendViews();
  }
}

void Scheduler::OnComplete(const std::string& peer, const proto::Complete& complete, Millis now) {
  if (!started_ || !IsServer(peer, complete.shard())) {
    ++refused_;
    return;
  }
  const bool stale =
      complete.phase() != phase_.number() || (!plan_->asp() && complete.step() != version_ + 1);
  if (stale) {
    // The shard has not heard of the last commit.
    if (last_commit_.has_value() && complete.step() <= version_) {
      proto::Control control;
      *control.mutable_commit() = LastCommit();
      outbox_.Send(membership_.servers()[complete.shard()].peer, ControlFrame(control));
    }
    return;
  }
  completes_[complete.shard()] = complete;
  AgreeOnVoidParts();
  TryCommit(now);
}

void Scheduler::OnEvaluation(const proto::EvaluationReport& report, Millis now) {
  // A report that comes before the start is of a version that the job may go back from.
  if (!started_ || phase_.kind() != proto::Phase::EVALUATE ||
      report.step() != phase_.first_step() || report.rank() >= plan_->ranks()) {
    return;
  }
  StatusOr<EvaluationPart> part = EvaluationPart::Parse(report.part());
  if (!part.ok()) {
    ++refused_;
    return;
  }
  evaluation_.insert_or_assign(report.rank(), *std::move(part));
  TryCommit(now);
}

bool Scheduler::StepIsComplete() const {
  if (options_.commit_early && !completes_.empty()) {
    return true;
  }
  return completes_.size() == plan_->shards() &&
         (phase_.kind() != proto::Phase::EVALUATE || evaluation_.size() == plan_->ranks());
}

void Scheduler::TryCommit(Millis now) {
  if (!started_ || stop_.has_value() || phase_.kind() == proto::Phase::STOP || !saving_.empty() ||
      !StepIsComplete()) {
    return;
  }
  if (stop_requested_ && CheckpointIsUnderWay()) {
    return;  // The last commit begins another one.
  }
  const proto::Commit commit = MakeCommit();
  version_ = commit.step();
  last_commit_ = commit;
  last_commit_at_ = now;
  completes_.clear();
  evaluation_.clear();
  if (!commit.save().empty()) {
    std::stringstream names(commit.save());
    for (std::string name; std::getline(names, name, ',');) {
      saving_.push_back(name);
    }
  }
  if (commit.has_next()) {
    phase_ = commit.next();
    AddEvent(SchedulerEvent::Kind::kPhase).phase = phase_;
  }
  AddCommitted(commit);
  proto::Control control;
  *control.mutable_commit() = commit;
  const Bytes frame = ControlFrame(control);
  for (const MemberState& server : membership_.servers()) {
    outbox_.Send(server.peer, frame);
  }
}

proto::Commit Scheduler::MakeCommit() {
  const proto::Complete complete =
      completes_.empty() ? proto::Complete() : completes_.begin()->second;
  proto::Commit commit;
  const bool asp_training = plan_->asp() && phase_.kind() == proto::Phase::TRAIN;
  std::uint64_t step = version_ + 1;
  if (asp_training) {
    for (const auto& [shard, other] : completes_) {
      step = std::max(step, other.step());
    }
    for (const MemberState& server : membership_.servers()) {
      step = std::max(step, server.last.version());
    }
  }
  commit.set_step(step);
  commit.set_phase(phase_.number());
  commit.set_rate_factor(RateFactor(plan_->job.train().schedule(), step));
  commit.set_dense_scale(DenseScale());
  const std::vector<std::uint32_t> void_ranks = VoidRanks();
  commit.mutable_void_ranks()->Add(void_ranks.begin(), void_ranks.end());
  NextPhase next;
  if (phase_.kind() == proto::Phase::TRAIN) {
    CountVoid(commit);
    totals_.steps += step - version_;
    CountStep(complete);
    next = PhaseAfter(complete, step);
  } else {
    SchedulerEvent& event = AddEvent(SchedulerEvent::Kind::kEvaluated);
    event.step = step;
    event.phase = phase_;
    event.figures = MergeEvaluation();
    next = planner_.AfterEvaluation(phase_, step, event.figures);
  }
  const bool training = phase_.kind() == proto::Phase::TRAIN;
  const proto::Phase undisturbed = next.phase.number() != 0 ? next.phase : phase_;
  if (stop_requested_ && training && !plan_->dense_on_servers() && !complete.all_last()) {
    // Only a phase's last push brings the workers' dense parameters to the shards.
    next.phase = planner_.OneMoreStep(phase_, step);
  } else if (stop_requested_) {
    const bool best = next.save.starts_with(kBestModel);
    next = planner_.Stop(phase_, step);
    next.save = best ? std::string(kBestModel) + "," + next.save : next.save;
    totals_.interrupted = true;
  }
  if (next.phase.number() != 0) {
    *commit.mutable_next() = next.phase;
    commit.set_save(next.save);
  }
  AddCheckpoint(step, undisturbed, &commit);
  return commit;
}

NextPhase Scheduler::PhaseAfter(const proto::Complete& complete, std::uint64_t step) {
  if (!complete.all_last()) {
    return {};
  }
  return planner_.AfterTraining(phase_, step, complete.all_exhausted());
}

void Scheduler::CountStep(const proto::Complete& complete) {
  if (phase_.epoch_steps() == 0 && version_ + 1 == phase_.first_step()) {
    totals_.epoch_samples = 0;
    totals_.epoch_loss_sum = 0;
  }
  totals_.samples += complete.samples();
  totals_.epoch_samples += complete.samples();
  totals_.epoch_loss_sum += complete.loss_sum();
  for (const auto& [shard, other] : completes_) {
    totals_.inexact = totals_.inexact || other.inexact();
  }
  SchedulerEvent& event = AddEvent(SchedulerEvent::Kind::kStep);
  event.step = complete.step();
  event.samples = complete.samples();
  event.loss_sum = complete.loss_sum();
  event.phase = phase_;
}

EvaluationFigures Scheduler::MergeEvaluation() {
  EvaluationPart all;
  for (const auto& [rank, part] : evaluation_) {  // In rank order.
    all.Merge(part);
  }
  return all.Figures();
}

float Scheduler::DenseScale() const {
  const double clip = plan_->job.train().clip_dense_norm();
  if (clip <= 0) {
    return 1.0f;
  }
  std::map<std::uint32_t, double> squares;  // In block order: the same at any number of shards.
  for (const auto& [shard, complete] : completes_) {
    for (const proto::BlockNorm& norm : complete.norms()) {
      squares[norm.block()] = norm.sum_of_squares();
    }
  }
  double total = 0;
  for (const auto& [block, square] : squares) {
    total += square;
  }
  return ClipScale(total, clip);
}

void Scheduler::RequestStop(Millis now) {
  if (stop_requested_) {
    return;
  }
  stop_requested_ = true;
  if (!started_) {
    totals_.interrupted = true;
    Fail(1, "interrupted before all members had come", now);
    return;
  }
  EndAspPhase(now);
}

void Scheduler::EndAspPhase(Millis now) {
  if (!plan_->asp() || phase_.kind() != proto::Phase::TRAIN || !saving_.empty() ||
      stop_.has_value()) {
    return;  // The next commit ends it.
  }
  for (std::uint32_t shard = 0; shard < plan_->shards(); ++shard) {
    const proto::Heartbeat& last = membership_.servers()[shard].last;
    proto::Complete so_far;
    so_far.set_samples(last.phase_samples());
    so_far.set_loss_sum(last.phase_loss_sum());
    *so_far.mutable_void_pushes() = last.phase_void();
    completes_.try_emplace(shard, so_far);
  }
  TryCommit(now);
}

void Scheduler::Fail(int exit_code, const std::string& reason, Millis now) {
  if (stop_.has_value()) {
    return;
  }
  proto::Stop stop;
  stop.set_exit_code(exit_code);
  stop.set_reason(reason);
  stop_ = stop;
  stopped_at_ = now;
  SchedulerEvent& event = AddEvent(SchedulerEvent::Kind::kStopped);
  event.exit_code = exit_code;
  event.text = reason;
  SendViews();
}

void Scheduler::OnTimer(Millis now) {
  if (!began_.has_value()) {
    began_ = now;
  }
  if (stop_.has_value()) {
    return;
  }
  for (const Membership::Lost& lost : membership_.Expire(now, !saving_.empty())) {
    const std::string who =
        (lost.role == proto::SERVER ? "server " : "worker ") + std::to_string(lost.index);
    const std::string silence =
        who + " was not heard for " + std::to_string(lost.silent_ms) + " ms";
    if (lost.role == proto::SERVER) {
      OnServerLost(silence, now);
      continue;
    }
    ++totals_.worker_deaths;
    SchedulerEvent& event = AddEvent(SchedulerEvent::Kind::kWorkerLost);
    event.text = silence;
    AddEvent(SchedulerEvent::Kind::kMembers);
  }
  if (stop_.has_value()) {
    return;
  }
  UpdateCarriers(now);
  if (!started_) {
    const bool all_came = membership_.all_servers() && membership_.all_workers_came();
    const Millis patience = all_came ? options_.stall_ms : options_.start_timeout_ms;
    if (now - *began_ > patience) {
      Fail(3,
           std::string(all_came ? "not all servers recovered within "
                                : "not all members came within ") +
               std::to_string(patience / 1000) + " s: " + WaitReport() + options_.absence_hint,
           now);
    }
    return;
  }
  if (membership_.all_servers()) {
    server_lost_at_.reset();
  } else if (server_lost_at_.has_value() && now - *server_lost_at_ > options_.return_ms) {
    Fail(3,
         "a server did not come back within " + std::to_string(options_.return_ms / 1000) +
             " s: " + WaitReport(),
         now);
    return;
  }
  if (membership_.any_worker_alive()) {
    no_worker_since_.reset();
  } else if (!no_worker_since_.has_value()) {
    no_worker_since_ = now;
  } else if (now - *no_worker_since_ > options_.start_timeout_ms) {
    Fail(3, "no worker came back", now);
    return;
  }
  if (now - last_commit_at_ > options_.stall_ms && !plan_->asp()) {
    Fail(3,
         "no step was committed for " + std::to_string(options_.stall_ms / 1000) +
             " s: " + WaitReport(),
         now);
  }
}

bool Scheduler::Done(Millis now) const {
  return stop_.has_value() && (membership_.everyone_left() || now - stopped_at_ > kLeaveMillis);
}

std::string Scheduler::WaitReport() const {
  std::string report;
  const auto add = [&report](const std::string& what) {
    report += (report.empty() ? "" : "; ") + what;
  };
  for (const auto* members : {&membership_.servers(), &membership_.workers()}) {
    for (std::size_t i = 0; i < members->size(); ++i) {
      if (!(*members)[i].alive) {
        add(std::string(members == &membership_.servers() ? "server " : "worker ") +
            std::to_string(i) + " is not there");
      } else if (members == &membership_.servers() && NeedsRecovery((*members)[i])) {
        add("server " + std::to_string(i) + " recovers version " + std::to_string(version_));
      }
    }
  }
  for (std::uint32_t shard = 0; started_ && !saving_.empty() && shard < plan_->shards(); ++shard) {
    if (!saved_.contains(shard)) {
      add("version " + std::to_string(version_) + " waits for server " + std::to_string(shard) +
          " to write it");
    }
  }
  if (!started_ || phase_.kind() == proto::Phase::STOP || !saving_.empty()) {
    return report;
  }
  for (std::uint32_t shard = 0; shard < plan_->shards(); ++shard) {
    if (completes_.contains(shard)) {
      continue;
    }
    std::string ranks;
    for (const std::uint32_t rank : membership_.servers()[shard].last.waiting_for()) {
      ranks += (ranks.empty() ? "" : ", ") + std::to_string(rank);
    }
    add("step " + std::to_string(version_ + 1) + " waits for server " + std::to_string(shard) +
        (ranks.empty() ? "" : ", which waits for rank " + ranks) +
        (membership_.servers()[shard].last.log_failing() ? ", whose push log cannot be written"
                                                         : ""));
  }
  if (phase_.kind() == proto::Phase::EVALUATE && evaluation_.size() < plan_->ranks()) {
    for (std::uint32_t rank = 0; rank < plan_->ranks(); ++rank) {
      if (!evaluation_.contains(rank)) {
        add("the evaluation waits for rank " + std::to_string(rank));
      }
    }
  }
  return report;
}

void Scheduler::SendView(const MemberState& member) {
  if (member.peer.empty()) {
    return;
  }
  proto::Control control;
  proto::View& view = *control.mutable_view();
  view.set_incarnation(member.info.incarnation());
  view.set_fence(membership_.fence());
  view.set_generation(generation_);
  view.set_version(version_);
  if (stop_.has_value()) {
    *view.mutable_stop() = *stop_;
  }
  if (member.info.role() == proto::SERVER) {
    view.set_kept_from(log_kept_from());
    if (last_commit_.has_value() && !saving_.empty() && !saved_.contains(member.info.index())) {
      view.set_save(last_commit_->save());
    }
    if (NeedsRecovery(member)) {
      view.mutable_recover()->set_checkpoint(checkpoint_version_);
      view.mutable_recover()->set_version(version_);
    }
  }
  if (started_) {
    *view.mutable_phase() = phase_;
    if (member.info.role() == proto::SERVER) {
      for (const std::uint32_t epoch : membership_.epochs()) {
        view.add_carrier_epochs(epoch);
      }
      if (last_commit_.has_value()) {
        *view.mutable_last_commit() = LastCommit();
      }
    } else {
      for (const proto::Carrier& carrier : membership_.CarriedBy(member.info.index())) {
        *view.add_carry() = carrier;
      }
      for (const MemberState& server : membership_.servers()) {
        view.add_servers(server.info.data_address());
      }
    }
  }
  outbox_.Send(member.peer, ControlFrame(control));
}

void Scheduler::SendViews() {
  for (const MemberState& server : membership_.servers()) {
    SendView(server);
  }
  for (const MemberState& worker : membership_.workers()) {
    SendView(worker);
  }
}

void Scheduler::Refuse(const std::string& peer, std::uint64_t incarnation, int exit_code,
                       const std::string& reason) {
  ++refused_;
  proto::Control control;
  proto::View& view = *control.mutable_view();
  view.set_incarnation(incarnation);
  view.mutable_stop()->set_exit_code(exit_code);
  view.mutable_stop()->set_reason(reason);
  outbox_.Send(peer, ControlFrame(control));
}

}  // namespace plexus
