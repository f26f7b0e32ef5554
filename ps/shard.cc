#include "ps/shard.h"

#include <algorithm>
#include <utility>

#include <glog/logging.h>

namespace plexus {
namespace {

// A rank has a handful of requests under way; more than this many parked ones of a rank are a
// broken peer's.
constexpr std::size_t kParkedPerRankMax = 64;

}  // namespace

Shard::Shard(std::shared_ptr<const JobPlan> plan, ShardOptions options)
    : plan_(std::move(plan)),
      options_(std::move(options)),
      state_(plan_, options_.shard, plan_->shards()),
      epochs_(plan_->ranks(), 0),
      served_(plan_->ranks()),
      applied_(plan_->ranks()),
      parked_(plan_->ranks()),
      hints_(plan_->ranks()),
      snapshot_(&state_, SnapshotBytesMax(plan_->memory_limit_bytes),
                (plan_->job.checkpoint().every_steps() > 0 || plan_->durable()) &&
                    plan_->job.checkpoint().full_every() > 1),
      governor_(plan_->memory_limit_bytes) {}

void Shard::OnMessage(const std::string& peer, const Bytes& frame, Millis now) {
  now_ = now;
  const FrameHeader header = HeaderOf(frame);
  switch (header.type) {
    case FrameType::kPull:
      OnPull(peer, frame);
      break;
    case FrameType::kPush:
      OnPush(peer, frame);
      break;
    case FrameType::kPhaseQuery:
      OnPhaseQuery(peer, frame);
      break;
    case FrameType::kControl:
      if (peer == kSchedulerPeer) {
        OnControl(frame, now);
        break;
      }
      [[fallthrough]];  // Nobody else has a say.
    default:
      ++counters_.frames_refused;
      Reply(peer, header, FrameType::kError, ReplyCode::kBadRequest,
            "a shard does not take frames of this type");
  }
}

bool Shard::Admit(const std::string& peer, const FrameHeader& header) {
  if (header.rank >= plan_->ranks()) {
    ++counters_.frames_refused;
    Reply(peer, header, FrameType::kError, ReplyCode::kBadRequest, "the job has no such rank");
    return false;
  }
  std::uint32_t& epoch = epochs_[header.rank];
  if (header.epoch < epoch) {
    ++counters_.frames_refused;
    Reply(peer, header, FrameType::kError, ReplyCode::kFenced,
          "a newer carrier computes this rank");
    return false;
  }
  if (header.epoch > epoch) {
    // The scheduler's word reached the carrier before it reached this shard.
    epoch = header.epoch;
    parked_[header.rank].clear();
  }
  return true;
}

void Shard::OnPull(const std::string& peer, const Bytes& frame) {
  const FrameHeader header = HeaderOf(frame);
  if (!Admit(peer, header)) {
    return;
  }
  if (header.phase < phase_.number()) {
    Reply(peer, header, FrameType::kPullReply, ReplyCode::kPhaseEnded);
    return;
  }
  if (header.phase > phase_.number()) {
    Park(peer, frame, header);
    return;
  }
  const bool read_only = (header.flags & kFlagReadOnly) != 0;
  if (read_only || plan_->asp()) {
    AnswerPull(peer, frame, header);
    return;
  }
  if (header.step <= version_) {
    Reply(peer, header, FrameType::kPullReply, ReplyCode::kStale);
    return;
  }
  if (version_ < EarliestVersion(phase_, header.step, plan_->job.train().staleness())) {
    Park(peer, frame, header);
    return;
  }
  AnswerPull(peer, frame, header);
}

void Shard::Park(const std::string& peer, const Bytes& frame, const FrameHeader& header) {
  auto& parked = parked_[header.rank];
  ++counters_.pulls_parked;
  NeedRowsOf(frame);  // They come while the pull waits for its version.
  parked[header.sequence] = {peer, frame};
  if (parked.size() > kParkedPerRankMax) {
    parked.erase(parked.begin());
  }
}

void Shard::AnswerPull(const std::string& peer, const Bytes& frame, const FrameHeader& header) {
  StatusOr<PullBody> pull = DecodePull(*plan_, frame);
  if (!pull.ok()) {
    ++counters_.frames_refused;
    Reply(peer, header, FrameType::kError, ReplyCode::kBadRequest, pull.status().message());
    return;
  }
  if (Need(pull->groups, nullptr)) {
    waiting_pulls_.push_back({peer, frame});
    return;
  }
  const bool dense = (header.flags & kFlagDense) != 0;
  FrameHeader reply = header;
  reply.type = FrameType::kPullReply;
  reply.code = ReplyCode::kOk;
  reply.version = version_;
  if ((header.flags & kFlagReadOnly) == 0 && !plan_->asp()) {
    const std::uint64_t earliest =
        EarliestVersion(phase_, header.step, plan_->job.train().staleness());
    staleness_max_ = std::max(staleness_max_, header.step - 1 - version_);
    if (plan_->job.train().deterministic()) {
      served_[header.rank].insert(header.step);
      if (version_ != earliest) {
        reply.flags |= kFlagInexact;
        inexact_ = true;
      }
    }
  }
  const std::size_t bytes = PullReplyBytes(*plan_, *pull, dense ? state_.dense_extent().values : 0);
  ByteWriter writer = StartFrame(reply, bytes);
  const bool pushes = (header.flags & kFlagReadOnly) == 0;
  state_.WritePullReply(*pull, dense, writer.Reserve(bytes),
                        pushes ? hints_.Make(header.rank, header.step) : nullptr);
  outbox_.Send(peer, writer.Finish());
  ++counters_.pulls;
  for (const KeyBlock& block : pull->groups) {
    counters_.pull_keys += block.keys.size();
  }
  MaybeComplete();
}

void Shard::AnswerParked() {
  for (auto& parked : parked_) {
    // Requests that still have to wait park again.
    for (auto& [sequence, request] : std::exchange(parked, {})) {
      OnPull(request.peer, request.frame);
    }
  }
  for (auto& [peer, request] : std::exchange(phase_queries_, {})) {
    OnPhaseQuery(peer, request.frame);
  }
}

void Shard::OnPush(const std::string& peer, const Bytes& frame) {
  const FrameHeader header = HeaderOf(frame);
  ++counters_.pushes;
  if (!Admit(peer, header)) {
    ++counters_.push_refused;
    return;
  }
  if (phase_.number() == 0 || header.phase != phase_.number() ||
      phase_.kind() != proto::Phase::TRAIN) {
    ++counters_.push_dropped;
    if (header.phase <= phase_.number()) {
      Reply(peer, header, FrameType::kPushReply, ReplyCode::kPhaseEnded);
    }
    return;  // Of a later phase than this shard knows: the sender says it again.
  }
  const bool known = PartIsKnown(header.rank, header.step);
  if (known && !options_.apply_duplicates) {
    ++counters_.push_duplicate;
    Acknowledge(peer, header);
    return;
  }
  const std::int32_t staleness = plan_->job.train().staleness();
  if (staleness >= 0 && header.step > version_ + 1 + static_cast<std::uint64_t>(staleness)) {
    if (plan_->durable()) {
      ++counters_.push_dropped;
      return;  // This shard came back, and does not know the last commit yet: it is said again.
    }
    ++counters_.push_refused;
    Reply(peer, header, FrameType::kError, ReplyCode::kBadRequest,
          "a push further ahead than the staleness bound");
    return;
  }
  StatusOr<PushBody> body = DecodePush(*plan_, state_.dense_extent(), frame);
  if (!body.ok()) {
    ++counters_.push_refused;
    ++counters_.frames_refused;
    Reply(peer, header, FrameType::kError, ReplyCode::kBadRequest, body.status().message());
    return;
  }
  const bool is_void = EmptyIfVoid(header, &*body);
  const bool waits = Need(body->groups, nullptr);  // BSP, SSP: its commit may wait for the rows.
  if (waits && plan_->asp()) {
    waiting_pushes_.push_back({peer, frame});
    return;
  }
  for (const KeyBlock& block : body->groups) {
    counters_.push_keys += block.keys.size();
  }
  if (known) {  // Canary only.
    repeated_.push_back({frame, *std::move(body), header.flags, is_void});
  } else if (plan_->asp()) {
    ApplyAtOnce(header, *body, is_void);
  } else {
    StorePart(header, {frame, *std::move(body), header.flags, is_void});
  }
  Acknowledge(peer, header);
  MaybeComplete();
}

bool Shard::PartIsKnown(std::uint32_t rank, std::uint64_t step) const {
  if (plan_->asp()) {
    return step <= applied_[rank].high || applied_[rank].beyond.contains(step);
  }
  if (step <= version_) {
    return true;
  }
  const auto at = pending_.find(step);
  return at != pending_.end() && at->second[rank].has_value();
}

void Shard::StorePart(const FrameHeader& header, Part part) {
  auto& parts = pending_[header.step];
  parts.resize(plan_->ranks());
  pending_bytes_ += part.frame.size();
  parts[header.rank] = std::move(part);
}

void Shard::ApplyAtOnce(const FrameHeader& header, const PushBody& body, bool is_void) {
  Applied& applied = applied_[header.rank];
  applied.beyond.insert(header.step);
  while (applied.beyond.contains(applied.high + 1)) {
    applied.beyond.erase(++applied.high);
  }
  ++asp_applied_;
  asp_loss_sum_ += body.loss_sum;
  asp_samples_ += body.samples;
  version_ = phase_.first_step() - 1 + asp_applied_ / plan_->ranks();
  const PushBody* part = &body;
  const PullHints* hints = hints_.Find(header.rank, header.step);
  state_.ApplyStep(version_, {&part, 1}, RateFactor(plan_->job.train().schedule(), version_ + 1),
                   1.0f, {&hints, 1});
  hints_.Drop(header.rank, header.step);
  ForgetEvicted();
  if (is_void) {
    CountVoid(header.rank);
    ++asp_void_[header.rank];
  } else {
    ++counters_.push_applied;
  }
  applied.last = applied.last || (header.flags & kFlagLast) != 0;
  applied.exhausted = applied.exhausted || (header.flags & kFlagExhausted) != 0;
  MakeRoom(0);
}

void Shard::OnPhaseQuery(const std::string& peer, const Bytes& frame) {
  const FrameHeader header = HeaderOf(frame);
  if (!Admit(peer, header)) {
    return;
  }
  if (header.phase < phase_.number()) {
    ReplyPhase(peer, header);
  } else {
    phase_queries_[peer] = {peer, frame};
  }
}

void Shard::ReplyPhase(const std::string& peer, const FrameHeader& request) {
  FrameHeader reply = request;
  reply.type = FrameType::kPhaseReply;
  reply.version = version_;
  reply.step = plan_->asp() ? applied_[request.rank].high + 1 : version_ + 1;
  outbox_.Send(peer, MakeFrame(reply, phase_.SerializeAsString()));
}

void Shard::OnControl(const Bytes& frame, Millis now) {
  StatusOr<proto::Control> control = DecodeControl(frame);
  if (!control.ok()) {
    ++counters_.frames_refused;
    return;
  }
  if (control->has_view()) {
    OnView(control->view(), now);
  } else if (control->has_commit()) {
    OnCommit(control->commit(), now);
  } else if (control->has_void_parts()) {
    OnVoidParts(control->void_parts());
  }
}

void Shard::OnView(const proto::View& view, Millis now) {
  if (view.incarnation() != options_.registration.incarnation()) {
    return;  // Meant for an earlier life.
  }
  registered_ = !view.register_again();
  if (view.register_again()) {
    next_heartbeat_ = now;
    return;
  }
  if (view.has_stop()) {
    stop_ = view.stop();
    return;
  }
  if (view.fence() > fence_ && view.carrier_epochs_size() == static_cast<int>(plan_->ranks())) {
    fence_ = view.fence();
    for (std::uint32_t rank = 0; rank < plan_->ranks(); ++rank) {
      const std::uint32_t epoch = view.carrier_epochs(static_cast<int>(rank));
      if (epoch > epochs_[rank]) {
        epochs_[rank] = epoch;
        parked_[rank].clear();  // Of the older carrier.
      }
    }
    next_heartbeat_ = now;  // The scheduler waits for this fence.
  }
  if (view.has_recover() && phase_.number() == 0 && version_ == 0 && failure_.empty()) {
    recover_request_ = view.recover();
  }
  log_kept_from_ = std::max(log_kept_from_, view.kept_from());
  // At the beginning, or behind the checkpoint that was restored.
  if (phase_.number() == 0 && view.has_phase() && view.version() == version_ &&
      !recover_request_.has_value()) {
    StartPhase(view.phase());
    LogBegin();
    AnswerParked();
    MaybeComplete();
  }
  if (view.has_last_commit()) {
    OnCommit(view.last_commit(), now);
  }
  if (!view.save().empty() && view.version() == version_ && phase_.number() != 0 &&
      !saved_.has_value() && !save_request_.has_value()) {
    save_request_ = view.save();  // This life of the shard has not written it.
  }
}

void Shard::OnCommit(const proto::Commit& commit, Millis) {
  if (commit.phase() != phase_.number() || (!plan_->asp() && commit.step() != version_ + 1)) {
    return;  // Repeated.
  }
  if (!plan_->asp() && phase_.kind() == proto::Phase::TRAIN && !WaitingFor().empty()) {
    ReportFailure("server " + std::to_string(options_.shard) + ": commit of step " +
                  std::to_string(commit.step()) + " came before its parts");
    return;
  }
  if (!plan_->asp() && phase_.kind() == proto::Phase::TRAIN) {
    MakeVoid(commit.step(), commit.void_ranks());
    if (CommitMustWait(commit)) {
      waiting_commit_ = commit;
      return;
    }
  }
  LogCommit(commit);
  ApplyCommitted(commit);
  complete_.reset();
  saved_.reset();
  ++counters_.commits;
  if (!commit.save().empty()) {
    save_request_ = commit.save();
  }
  if (commit.has_checkpoint()) {
    BeginSnapshot(commit);
  }
  if (commit.has_next()) {
    StartPhase(commit.next());
  }
  if (commit.has_checkpoint()) {
    LogBegin();
  }
  AnswerParked();
  MaybeComplete();
}

void Shard::ApplyCommitted(const proto::Commit& commit) {
  if (phase_.kind() == proto::Phase::TRAIN && !plan_->asp()) {
    const auto at = pending_.find(commit.step());
    std::vector<const PushBody*> parts;
    std::vector<const PullHints*> hints;
    for (std::uint32_t rank = 0; rank < plan_->ranks(); ++rank) {
      const Part& part = *at->second[rank];
      parts.push_back(&part.body);
      hints.push_back(hints_.Find(rank, commit.step()));
      pending_bytes_ -= part.frame.size();
      if (part.is_void) {
        CountVoid(rank);
      } else {
        ++counters_.push_applied;
      }
    }
    for (const Part& part : repeated_) {
      parts.push_back(&part.body);
    }
    state_.ApplyStep(commit.step(), parts, commit.rate_factor(), commit.dense_scale(), hints);
    ForgetEvicted();
    repeated_.clear();
    pending_.erase(at);
    dense_sum_ = Bytes();
    for (auto& served : served_) {
      served.erase(served.begin(), served.upper_bound(commit.step()));
    }
    hints_.DropThrough(commit.step());
    MakeRoom(0);
  }
  version_ = commit.step();  // In ASP what is applied may be further.
}

void Shard::StartPhase(const proto::Phase& phase) {
  phase_ = phase;
  for (const auto& [step, parts] : pending_) {
    for (const auto& part : parts) {
      counters_.push_dropped += part.has_value() ? 1 : 0;
    }
  }
  pending_.clear();
  pending_bytes_ = 0;
  asp_applied_ = 0;
  asp_loss_sum_ = 0;
  asp_samples_ = 0;
  hints_.Clear();
  asp_void_.clear();
  for (std::uint32_t rank = 0; rank < plan_->ranks(); ++rank) {
    served_[rank].clear();
    applied_[rank] = Applied{.high = phase.first_step() - 1, .beyond = {}};
  }
  if (phase.kind() == proto::Phase::STOP && save_request_ == std::nullopt) {
    if (state_.cold_count() > 0) {
      save_request_ = "";
    } else {
      OnSaved({});
    }
  }
}

std::optional<std::string> Shard::TakeSaveRequest() {
  return std::exchange(save_request_, std::nullopt);
}

void Shard::OnSaved(proto::Saved saved, std::optional<Digest128> known_digest) {
  const Digest128 digest = known_digest.has_value() ? *known_digest : state_.Digest();
  saved.set_shard(options_.shard);
  saved.set_version(version_);
  saved.set_nondeterministic(nondeterministic_);
  saved.set_digest_low(digest.low);
  saved.set_digest_high(digest.high);
  for (proto::TableUsage& usage : state_.Usage()) {
    *saved.add_tables() = std::move(usage);
  }
  saved_ = std::move(saved);
  proto::Control control;
  *control.mutable_saved() = *saved_;
  SendControl(control);
}

void Shard::OnTimer(Millis now) {
  now_ = now;
  if (now >= next_heartbeat_) {
    next_heartbeat_ = now + options_.heartbeat_ms;
    proto::Control control;
    if (!registered_) {
      *control.mutable_register_member() = Registration();
    } else {
      proto::Heartbeat& heartbeat = *control.mutable_heartbeat();
      heartbeat.set_role(proto::SERVER);
      heartbeat.set_index(options_.shard);
      heartbeat.set_incarnation(options_.registration.incarnation());
      heartbeat.set_version(version_);
      heartbeat.set_complete_step(complete_.has_value() && !LogPauses() ? complete_->step() : 0);
      heartbeat.set_log_bytes(log_bytes_);
      heartbeat.set_log_failing(log_failing_);
      heartbeat.set_fence(fence_);
      heartbeat.set_wire_bytes(wire_bytes_);
      heartbeat.set_peak_rss_bytes(peak_rss_bytes_);
      heartbeat.set_failure(failure_);
      heartbeat.set_nondeterministic(nondeterministic_);
      heartbeat.set_interrupted(interrupted_);
      heartbeat.set_phase_samples(asp_samples_);
      heartbeat.set_phase_loss_sum(asp_loss_sum_);
      SayVoid(&heartbeat);
      for (const std::uint32_t rank : WaitingFor()) {
        heartbeat.add_waiting_for(rank);
      }
    }
    SendControl(control);
  }
  if (now >= next_resend_ && !replaying_) {
    next_resend_ = now + options_.resend_ms;
    if (complete_.has_value() && !LogPauses()) {
      SendComplete();
    }
    if (saved_.has_value()) {
      proto::Control control;
      *control.mutable_saved() = *saved_;
      SendControl(control);
    }
    SaySnapshotSaved();
  }
}

std::size_t Shard::parked() const {
  std::size_t count = 0;
  for (const auto& parked : parked_) {
    count += parked.size();
  }
  return count;
}

std::size_t Shard::pending_parts() const {
  std::size_t count = 0;
  for (const auto& [step, parts] : pending_) {
    for (const auto& part : parts) {
      count += part.has_value() ? 1 : 0;
    }
  }
  return count;
}

void Shard::ReportFailure(std::string failure) {
  if (failure_.empty()) {
    failure_ = std::move(failure);
    LOG(ERROR) << failure_;
    next_heartbeat_ = 0;
  }
}

void Shard::Reply(const std::string& peer, const FrameHeader& request, FrameType type,
                  ReplyCode code, std::string_view body) {
  FrameHeader reply = request;
  reply.type = type;
  reply.code = code;
  reply.version = version_;
  outbox_.Send(peer, MakeFrame(reply, body));
}

void Shard::SendControl(const proto::Control& control) {
  outbox_.Send(kSchedulerPeer, ControlFrame(control));
}

}  // namespace plexus
