#include "tests/sim/processes.h"

#include <algorithm>
#include <cstring>
#include <limits>
#include <sstream>
#include <utility>

namespace plexus::sim {
namespace {

constexpr std::uint64_t kServerStream = 0x736572766572;
constexpr std::uint64_t kRankStream = 0x72616e6b;
constexpr std::uint64_t kJobHash = 1;

SchedulerOptions OptionsOf(const ProcessOptions& options, SimCommitLog* log) {
  SchedulerOptions scheduler;
  scheduler.job_hash = kJobHash;
  scheduler.lease_ms = options.plan->job.cluster().lease_ms();
  scheduler.commit_early = options.commit_early;
  if (log != nullptr) {
    scheduler.committed = log->TakeSteps();
    scheduler.former_starts = log->former_starts();
    if (const std::uint64_t checkpoint = options.models->NewestCheckpoint(); checkpoint > 0) {
      scheduler.resume = options.models->StateOf(checkpoint);
    }
  }
  return scheduler;
}

bool IsSynced(const ProcessOptions& options) {
  return options.plan->job.checkpoint().durability() == proto::Checkpoint::SYNC;
}

std::optional<SimCommitLog> OpenCommitLog(const ProcessOptions& options, SimLog* log) {
  if (log == nullptr) {
    return std::nullopt;
  }
  return SimCommitLog(log, options.models->NewestCheckpoint(), IsSynced(options));
}

proto::Register Registration(proto::Role role, std::uint32_t index, std::uint64_t incarnation) {
  proto::Register info;
  info.set_role(role);
  info.set_index(index);
  info.set_incarnation(incarnation);
  info.set_job_hash(kJobHash);
  if (role == proto::SERVER) {
    info.set_data_address("tcp://10.0.0." + std::to_string(index) + ":5555");
  }
  return info;
}

ShardOptions OptionsOf(const ProcessOptions& options, std::uint32_t index,
                       const proto::Register& registration, const Life& life) {
  ShardOptions shard;
  shard.shard = index;
  shard.registration = registration;
  shard.heartbeat_ms = options.heartbeat_ms;
  shard.resend_ms = options.resend_ms;
  shard.apply_duplicates = options.apply_duplicates || life.apply_duplicates;
  return shard;
}

RankDeps DepsOf(const ProcessOptions& options) {
  RankDeps deps;
  deps.open_source = options.open_source;
  deps.model = options.make_model();
  return deps;
}

}  // namespace

// --- scheduler ---------------------------------------------------------------------------------

SchedulerProcess::SchedulerProcess(World& world, const ProcessOptions& options, const Life& life)
    : world_(world),
      options_(options),
      log_(OpenCommitLog(options, life.log)),
      scheduler_(options.plan, OptionsOf(options, log_.has_value() ? &*log_ : nullptr)),
      process_(world.StartProcess(kSchedulerPlace, life.clock_offset)),
      endpoint_(world.Open(process_,
                           kSchedulerPeer + std::string("#") + std::to_string(life.incarnation),
                           kSchedulerPeer, this)) {}

bool SchedulerProcess::Keep(const SchedulerEvent& event) {
  switch (event.kind) {
    case SchedulerEvent::Kind::kCommitted:
      if (!world_.Act(process_, true)) {
        return false;
      }
      log_->Append(event.committed);
      if (options_.manifest_before_data && event.committed.commit().has_checkpoint()) {
        options_.models->WriteManifest(kCheckpoint, event.committed.state().version(),
                                       options_.plan->job.checkpoint().keep(),
                                       event.committed.state());
      }
      return true;
    case SchedulerEvent::Kind::kResumed:
      log_->ResumeAt(event.step);
      return true;
    case SchedulerEvent::Kind::kSaved:
      if (!world_.Act(process_, true)) {
        return false;
      }
      options_.models->WriteManifest(event.text, event.step, options_.plan->job.checkpoint().keep(),
                                     event.state);
      if (event.text == kCheckpoint) {
        log_->KeepFrom(scheduler_.log_kept_from());
      }
      return true;
    default:
      return true;
  }
}

void SchedulerProcess::Flush() {
  const std::vector<Envelope> envelopes = scheduler_.outbox().Take();
  const std::vector<SchedulerEvent> events = scheduler_.TakeEvents();
  for (const SchedulerEvent& event : events) {
    if (log_.has_value() && !Keep(event)) {
      return;
    }
  }
  if (options_.observer != nullptr) {
    options_.observer->AfterScheduler(scheduler_, events);
  }
  for (const Envelope& envelope : envelopes) {
    if (!world_.Send(endpoint_, envelope)) {
      return;
    }
  }
}

Rest SchedulerProcess::Run(std::vector<Delivery> inbox, Millis now) {
  for (const Delivery& delivery : inbox) {
    scheduler_.OnMessage(delivery.peer, delivery.frame, now);
    Flush();
    if (!world_.IsAlive(process_)) {
      return {};
    }
  }
  scheduler_.OnTimer(now);
  Flush();
  if (world_.IsAlive(process_) && scheduler_.Done(now)) {
    done_ = true;
    world_.Close(endpoint_);
  }
  return {.pause_us = options_.timer_ms * 1000};
}

// --- server ------------------------------------------------------------------------------------

ServerProcess::ServerProcess(World& world, const ProcessOptions& options, std::uint32_t index,
                             const Life& life)
    : world_(world),
      options_(options),
      index_(index),
      random_(options.seed, kServerStream + index + ((life.incarnation - 1) << 8)),
      process_(world.StartProcess(ServerPlace(index), life.clock_offset)),
      registration_(Registration(proto::SERVER, index, 1000 * life.incarnation + index)),
      log_(life.log),
      shard_(options.plan, OptionsOf(options, index, registration_, life)),
      endpoint_(world.Open(process_, ShardPeer(index) + "#" + std::to_string(life.incarnation),
                           ShardPeer(index), this)) {
  if (log_ != nullptr) {
    log_->Reopen();
    const LogVersions versions = VersionsOf(*log_);
    shard_.SetLogVersions(versions.begin, versions.newest);
  }
}

// A slice of a checkpoint, if one is under way; it is on disk some messages after its end.
void ServerProcess::WriteSnapshot() {
  if (const auto order = shard_.TakeSnapshotOrder(); order.has_value()) {
    if (!world_.Act(process_, true)) {
      return;
    }
    snapshot_ended_ = false;
    if (options_.models != nullptr) {
      options_.models->WritePart(kCheckpoint, order->version, index_, shard_.state());
    }
  }
  if (snapshot_ended_ && random_.Below(4) == 0) {
    snapshot_ended_ = false;
    proto::Saved saved;
    saved.set_name(kCheckpoint);
    shard_.OnSnapshotSaved(shard_.snapshot().version(), std::move(saved), {});
  }
  if (shard_.snapshot().under_way()) {
    shard_.GatherSnapshot(random_.Between(1, 300));
  }
  for (const SnapshotBlock& block : shard_.snapshot().TakeBlocks()) {
    shard_.snapshot().OnWritten(block.bytes.size());
    snapshot_ended_ = snapshot_ended_ || block.kind == SnapshotBlock::Kind::kEnd;
  }
}

// False while a model is being written or read: what would be sent waits.
bool ServerProcess::Flush() {
  WriteSnapshot();
  if (!world_.IsAlive(process_)) {
    return true;
  }
  if (std::optional<std::string> save = shard_.TakeSaveRequest()) {
    being_saved_.emplace().set_name(*save);
    return false;
  }
  if (std::optional<proto::Recover> recover = shard_.TakeRecoverRequest()) {
    being_recovered_ = std::move(recover);
    return false;
  }
  const std::vector<Envelope> envelopes = shard_.outbox().Take();
  if (options_.ack_before_log) {
    Send(envelopes);
    WriteLog();
  } else {
    WriteLog();
    Send(envelopes);
  }
  return true;
}

void ServerProcess::Send(const std::vector<Envelope>& envelopes) {
  for (const Envelope& envelope : envelopes) {
    if (!world_.Send(endpoint_, envelope)) {
      return;
    }
  }
}

void ServerProcess::WriteLog() {
  if (log_ == nullptr) {
    return;
  }
  const Shard::LogRequest request = shard_.TakeLogRequest();
  for (const PushRecord& record : request.records) {
    if (!world_.Act(process_, true)) {
      return;
    }
    AppendPushRecord(record, IsSynced(options_), log_);
  }
  if (request.sync && world_.Act(process_, true)) {
    log_->Sync();
  }
  if (!request.records.empty() && world_.IsAlive(process_)) {
    log_->DropBefore(shard_.log_kept_from());
    shard_.SetLogUsage(log_->bytes(), false);
  }
}

void ServerProcess::Save() {
  std::stringstream names(being_saved_->name());
  for (std::string name; std::getline(names, name, ',') && options_.models != nullptr;) {
    if (!world_.Act(process_, true)) {
      return;
    }
    options_.models->WritePart(name, shard_.version(), index_, shard_.state());
  }
  shard_.OnSaved(*std::exchange(being_saved_, std::nullopt));
}

void ServerProcess::Recover() {
  const proto::Recover recover = *std::exchange(being_recovered_, std::nullopt);
  Status status = OkStatus();
  if (recover.checkpoint() > 0) {
    status = options_.models->Restore(recover.checkpoint(), options_.plan->shards(), &shard_);
  }
  if (status.ok()) {
    shard_.OnRestored(recover.checkpoint());
    status = ReplayPushLog(recover, log_, &shard_);
  }
  shard_.OnRecovered(status);
  if (options_.observer != nullptr && status.ok()) {
    options_.observer->OnRecovered(shard_, index_);
  }
}

Rest ServerProcess::Run(std::vector<Delivery> inbox, Millis now) {
  std::vector<Delivery> work = std::exchange(backlog_, {});
  std::move(inbox.begin(), inbox.end(), std::back_inserter(work));
  std::size_t done = 0;
  const auto rest = [&]() -> Rest {  // The disk is busy.
    backlog_.assign(work.begin() + static_cast<std::ptrdiff_t>(done), work.end());
    return {.pause_us = random_.Between(1, options_.save_us_max), .busy = true};
  };
  if (being_saved_.has_value()) {
    Save();
  }
  if (being_recovered_.has_value()) {
    Recover();
  }
  if (world_.IsAlive(process_) && !Flush()) {
    return rest();
  }
  while (done < work.size() && world_.IsAlive(process_)) {
    const Delivery& delivery = work[done++];
    if (options_.observer != nullptr) {
      options_.observer->BeforeShard(shard_, index_, delivery);
    }
    shard_.OnMessage(delivery.peer, delivery.frame, now);
    if (options_.observer != nullptr) {
      // The outbox is looked at, not changed.
      const std::vector<Envelope> sent = shard_.outbox().Take();
      options_.observer->AfterShard(shard_, index_, delivery, sent);
      for (const Envelope& envelope : sent) {
        shard_.outbox().Send(envelope.peer, envelope.frame);
      }
    }
    if (!Flush()) {
      return rest();
    }
  }
  if (!world_.IsAlive(process_)) {
    return {};
  }
  shard_.OnTimer(now);
  (void)Flush();
  if (shard_.stop().has_value() && world_.IsAlive(process_)) {
    Leave();
  }
  return {.pause_us = options_.timer_ms * 1000};
}

void ServerProcess::Leave() {
  proto::Control leaving;
  proto::Heartbeat& heartbeat = *leaving.mutable_heartbeat();
  heartbeat.set_role(proto::SERVER);
  heartbeat.set_index(index_);
  heartbeat.set_incarnation(registration_.incarnation());
  heartbeat.set_fence(~0ULL);
  heartbeat.set_leaving(true);
  (void)world_.Send(endpoint_, {kSchedulerPeer, ControlFrame(leaving)});
  world_.EndProcess(process_);
}

// --- a rank's thread ---------------------------------------------------------------------------

RankProcess::RankProcess(World& world, const ProcessOptions& options, ProcessId process,
                         const std::string& identity, const proto::Carrier& carrier)
    : world_(world),
      options_(options),
      rank_(carrier.rank()),
      epoch_(carrier.epoch()),
      random_(options.seed, kRankStream + Mix64(HashBytes(identity, 0))),
      trainer_(options.plan, carrier.rank(), carrier.epoch(), DepsOf(options), options.resend_ms),
      endpoint_(world.Open(process, identity, "", this)) {}

RankProcess::~RankProcess() { world_.Close(endpoint_); }

std::string RankProcess::failure() const {
  return trainer_.failure().ok()
             ? ""
             : "rank " + std::to_string(rank_) + ": " + trainer_.failure().message();
}

// As a broken program would: the rank itself has seen nothing, and not every shard does.
Bytes RankProcess::Poisoned(const Envelope& envelope) const {
  const FrameHeader header = HeaderOf(envelope.frame);
  if (header.type != FrameType::kPush || options_.poisoned_shards == nullptr) {
    return envelope.frame;
  }
  const std::uint64_t shards = options_.poisoned_shards(rank_, header.step);
  const auto slash = envelope.peer.find('/');
  if (((shards >> std::stoul(envelope.peer.substr(slash + 1))) & 1) == 0) {
    return envelope.frame;
  }
  std::vector<std::uint8_t> bytes(envelope.frame.data(),
                                  envelope.frame.data() + envelope.frame.size());
  const double loss_sum = std::numeric_limits<double>::quiet_NaN();
  std::memcpy(bytes.data() + sizeof(FrameHeader) + 8, &loss_sum, sizeof(loss_sum));
  return Bytes::Copy(bytes);
}

bool RankProcess::Flush() {
  for (Envelope& envelope : trainer_.outbox().Take()) {
    envelope.frame = Poisoned(envelope);
    if (!world_.Send(endpoint_, envelope)) {
      return false;
    }
  }
  return true;
}

Rest RankProcess::Run(std::vector<Delivery> inbox, Millis now) {
  for (const Delivery& delivery : inbox) {
    trainer_.OnMessage(delivery.peer, delivery.frame, now);
  }
  const bool progressed = trainer_.Progress(now);
  if (!Flush()) {
    return {};
  }
  const RankTrainer::State state = trainer_.state();
  if (state == RankTrainer::State::kFailed || state == RankTrainer::State::kDone ||
      state == RankTrainer::State::kFenced) {
    world_.Close(endpoint_);
    return {};
  }
  if (std::exchange(returned_, false)) {
    trainer_.OnServerReturned(now);
  }
  trainer_.OnTimer(now);
  if (!Flush()) {
    return {};
  }
  if (progressed) {
    return {.pause_us = random_.Between(0, options_.compute_us_max), .busy = true};
  }
  return {.pause_us = options_.timer_ms * 1000};
}

// --- worker ------------------------------------------------------------------------------------

WorkerProcess::WorkerProcess(World& world, const ProcessOptions& options, std::uint32_t index,
                             std::uint64_t incarnation, Millis clock_offset)
    : world_(world),
      options_(options),
      index_(index),
      incarnation_(incarnation),
      process_(world.StartProcess(WorkerPlace(options.plan->shards(), index), clock_offset)),
      endpoint_(world.Open(process_, "w" + std::to_string(incarnation), "", this)) {}

Millis WorkerProcess::SilenceMax() const {
  const Millis lease = options_.plan->job.cluster().lease_ms();
  const bool returns = options_.plan->durable();  // The scheduler may be restarted.
  return registered_ && !returns ? 2 * lease : std::max<Millis>(2 * lease, 60000);
}

Rest WorkerProcess::Run(std::vector<Delivery> inbox, Millis now) {
  if (!heard_.has_value()) {
    heard_ = next_hello_ = now;
  }
  for (const Delivery& delivery : inbox) {
    if (!stop_.has_value()) {
      heard_ = now;
      OnFrame(delivery.frame);
    }
  }
  if (stop_.has_value()) {
    ranks_.clear();
    leaving_ = true;
    SayHello();
    Exit(stop_->exit_code());
    return {};
  }
  if (now - *heard_ > SilenceMax()) {
    Exit(3);
    return {};
  }
  if (now >= next_hello_) {
    next_hello_ = now + options_.heartbeat_ms;
    SayHello();
  }
  return {.pause_us = (next_hello_ - now) * 1000};
}

void WorkerProcess::Exit(int code) {
  if (!world_.IsAlive(process_)) {
    return;
  }
  exit_code_ = code;
  world_.EndProcess(process_);
  if (on_exit) {
    on_exit(code);
  }
}

void WorkerProcess::SayHello() {
  proto::Control control;
  if (!registered_) {
    *control.mutable_register_member() = Registration(proto::WORKER, index_, incarnation_);
  } else {
    proto::Heartbeat& heartbeat = *control.mutable_heartbeat();
    heartbeat.set_role(proto::WORKER);
    heartbeat.set_index(index_);
    heartbeat.set_incarnation(incarnation_);
    heartbeat.set_leaving(leaving_);
    for (const auto& [rank, thread] : ranks_) {
      proto::Carrier& carrier = *heartbeat.add_carried();
      carrier.set_rank(rank);
      carrier.set_epoch(thread->epoch());
      if (heartbeat.failure().empty()) {
        heartbeat.set_failure(thread->failure());
      }
    }
  }
  (void)world_.Send(endpoint_, {kSchedulerPeer, ControlFrame(control)});
}

void WorkerProcess::OnFrame(const Bytes& frame) {
  StatusOr<proto::Control> control = DecodeControl(frame);
  if (!control.ok() || !control->has_view() || control->view().incarnation() != incarnation_) {
    return;
  }
  const proto::View& view = control->view();
  registered_ = !view.register_again();
  if (view.register_again()) {
    next_hello_ = 0;
    return;
  }
  if (view.has_stop()) {
    stop_ = view.stop();
    return;
  }
  if (view.fence() < fence_) {
    return;
  }
  const bool newer = view.fence() > fence_;
  fence_ = view.fence();
  std::map<std::uint32_t, proto::Carrier> wanted;
  for (const proto::Carrier& carrier : view.carry()) {
    wanted[carrier.rank()] = carrier;
  }
  std::erase_if(ranks_, [&](auto& entry) {
    const auto at = wanted.find(entry.first);
    return newer && (at == wanted.end() || at->second.epoch() != entry.second->epoch());
  });
  for (const auto& [rank, carrier] : wanted) {
    if (!ranks_.contains(rank) && carrier.epoch() > begun_[rank]) {
      begun_[rank] = carrier.epoch();
      if (options_.observer != nullptr) {
        options_.observer->OnCarrier(carrier, incarnation_);
      }
      const std::string identity =
          "w" + std::to_string(incarnation_) + "." + std::to_string(++threads_);
      ranks_[rank] = std::make_unique<RankProcess>(world_, options_, process_, identity, carrier);
    }
  }
  if (std::exchange(generation_, view.generation()) != view.generation()) {
    for (auto& [rank, thread] : ranks_) {
      thread->OnServerReturned();
    }
  }
}

}  // namespace plexus::sim
