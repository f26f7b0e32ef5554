#include "tests/sim/checker.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <utility>

namespace plexus::sim {
namespace {

std::string RequestName(const std::string& peer, std::uint64_t sequence) {
  return peer + "/" + std::to_string(sequence);
}

std::string StepName(std::uint64_t step, std::uint32_t rank) {
  return "step " + std::to_string(step) + " of rank " + std::to_string(rank);
}

}  // namespace

Checker::Checker(std::shared_ptr<const JobPlan> plan, const SimData& data)
    : plan_(std::move(plan)),
      data_(data),
      shards_(plan_->shards(), nullptr),
      twins_(plan_->shards()) {}

void Checker::Fail(const std::string& what) {
  if (failure_.empty()) {
    failure_ = what;
  }
}

void Checker::BeforeShard(const Shard& shard, std::uint32_t index, const Delivery& delivery) {
  Twin& twin = twins_[index];
  twin.before = shard.counters();
  twin.version_before = shard.version();
  if (twin.phase_before.number() != shard.phase().number()) {
    twin.phase_before = shard.phase();
  }
  const FrameHeader header = HeaderOf(delivery.frame);
  HearEpochs(header, delivery.frame, &twin);
  if (header.type == FrameType::kPull) {
    twin.pulls[RequestName(delivery.peer, header.sequence)] = delivery.frame;
  }
}

void Checker::HearEpochs(const FrameHeader& header, const Bytes& frame, Twin* twin) {
  const auto hear = [twin](std::uint32_t rank, std::uint32_t epoch) {
    for (auto* epochs : {&twin->epochs, &twin->epochs_ever}) {
      std::uint32_t& newest = (*epochs)[rank];
      newest = std::max(newest, epoch);
    }
  };
  if (header.type != FrameType::kControl) {
    hear(header.rank, header.epoch);
    return;
  }
  const StatusOr<proto::Control> control = DecodeControl(frame);
  for (int rank = 0; rank < control->view().carrier_epochs_size(); ++rank) {
    hear(static_cast<std::uint32_t>(rank), control->view().carrier_epochs(rank));
  }
}

void Checker::CheckEpoch(const FrameHeader& header, std::uint32_t index) {
  if (header.epoch < twins_[index].epochs[header.rank]) {
    Fail("shard " + std::to_string(index) + " served epoch " + std::to_string(header.epoch) +
         " of rank " + std::to_string(header.rank) + ", though it had heard of epoch " +
         std::to_string(twins_[index].epochs[header.rank]));
  }
}

void Checker::OnCarrier(const proto::Carrier& carrier, std::uint64_t incarnation) {
  const auto [at, first] = carriers_.try_emplace({carrier.rank(), carrier.epoch()}, incarnation);
  if (!first && at->second == incarnation) {
    Fail("rank " + std::to_string(carrier.rank()) + " began twice with epoch " +
         std::to_string(carrier.epoch()));
  }
  if (!first && at->second != incarnation) {
    Fail("two programs carry rank " + std::to_string(carrier.rank()) + " with epoch " +
         std::to_string(carrier.epoch()));
  }
  for (std::uint32_t index = 0; index < twins_.size(); ++index) {
    if (twins_[index].epochs_ever[carrier.rank()] < carrier.epoch()) {
      Fail("epoch " + std::to_string(carrier.epoch()) + " of rank " +
           std::to_string(carrier.rank()) + " begins before shard " + std::to_string(index) +
           " knows of it");
    }
  }
}

void Checker::AfterShard(const Shard& shard, std::uint32_t index, const Delivery& delivery,
                         std::span<const Envelope> sent) {
  Twin& twin = twins_[index];
  const ShardCounters& before = twin.before;
  const ShardCounters& after = shard.counters();
  const bool taken =
      after.pushes == before.pushes + 1 && after.push_duplicate == before.push_duplicate &&
      after.push_refused == before.push_refused && after.push_dropped == before.push_dropped;
  if (taken) {
    CheckEpoch(HeaderOf(delivery.frame), index);
    TakePart(shard, index, delivery.frame);
  }
  ApplyCommitted(shard, index);
  CheckCounters(shard, index);
  for (const Envelope& envelope : sent) {
    const FrameHeader header = HeaderOf(envelope.frame);
    if (header.type == FrameType::kPullReply && header.code == ReplyCode::kOk) {
      CheckReply(shard, index, envelope);
    }
  }
}

bool Checker::DecodePart(const PushBody& body, std::uint32_t rank, Part* part) {
  part->samples = body.samples;
  for (const KeyBlock& block : body.groups) {
    const std::uint32_t table = plan_->groups[block.group].tables[0];
    for (std::size_t i = 0; i < block.keys.size(); ++i) {
      const auto* gradient =
          reinterpret_cast<const float*>(block.gradients[0].data()) + i * plan_->ranks();
      for (std::uint32_t r = 0; r < plan_->ranks(); ++r) {
        const auto count = static_cast<float>(block.counts[i]);
        const float reads = gradient[r] / count;
        const bool right = r == rank ? reads == 1 || reads == 2 || reads == 3 : gradient[r] == 0;
        if (!right) {
          return false;
        }
      }
      part->rows.push_back({table, block.keys[i], block.counts[i], std::llround(gradient[rank])});
    }
  }
  return true;
}

void Checker::TakePart(const Shard& shard, std::uint32_t index, const Bytes& frame) {
  Twin& twin = twins_[index];
  const FrameHeader header = HeaderOf(frame);
  StatusOr<PushBody> body = DecodePush(*plan_, shard.state().dense_extent(), frame);
  Part part;
  if (!body.ok() || !DecodePart(*body, header.rank, &part)) {
    Fail("shard " + std::to_string(index) + " took a malformed push of " +
         StepName(header.step, header.rank));
    return;
  }
  if (!twin.taken.emplace(header.step, header.rank).second) {
    Fail("shard " + std::to_string(index) + " took " + StepName(header.step, header.rank) +
         " twice");
    return;
  }
  if (plan_->asp()) {
    ApplyPart(&twin, part, header.rank, shard.version());
  } else {
    // What one shard sees to be not finite, no shard applies.
    const bool is_void = data_.PoisonedShards(header.rank, header.step) != 0;
    const Part& kept = twin.waiting[{header.step, header.rank}] =
        is_void ? Part() : std::move(part);
    if (plan_->durable()) {
      twin.parts[{header.step, header.rank}] = kept;
    }
  }
}

void Checker::ApplyPart(Twin* twin, const Part& part, std::uint32_t rank, std::uint64_t version) {
  twin->samples += part.samples;
  for (const PartRow& row : part.rows) {
    Subtract(&twin->rows, plan_->ranks(), {row.table, row.key}, rank, row.gradient, row.count,
             version);
  }
}

void Checker::ApplyCommitted(const Shard& shard, std::uint32_t index) {
  Twin& twin = twins_[index];
  const std::uint64_t step = shard.version();
  if (step != twin.version_before && !plan_->asp() &&
      twin.phase_before.kind() == proto::Phase::TRAIN) {
    if (step != twin.version_before + 1) {
      Fail("shard " + std::to_string(index) + " went from version " +
           std::to_string(twin.version_before) + " to " + std::to_string(step));
    }
    for (std::uint32_t rank = 0; rank < plan_->ranks(); ++rank) {
      const auto part = twin.waiting.find({step, rank});
      if (part == twin.waiting.end()) {
        Fail("shard " + std::to_string(index) + " became version " + std::to_string(step) +
             " without the part of rank " + std::to_string(rank));
        return;
      }
      ApplyPart(&twin, part->second, rank, step);
      twin.waiting.erase(part);
    }
  }
  if (plan_->durable() && step != twin.version_before) {
    RememberVersion(step, &twin);
  }
  if (shard.phase().number() != twin.phase_before.number()) {
    twin.waiting.clear();  // Steps beyond the phase's end are computed again in the next.
    std::erase_if(twin.taken, [step](const StepRank& part) { return part.first > step; });
  }
}

void Checker::CheckCounters(const Shard& shard, std::uint32_t index) {
  const ShardCounters& c = shard.counters();
  const std::size_t pending = shard.pending_parts();
  if (c.pushes !=
      c.push_applied + c.push_void + c.push_duplicate + c.push_refused + c.push_dropped + pending) {
    Fail("the push counters of shard " + std::to_string(index) + " do not add up: " +
         std::to_string(c.pushes) + " pushes, " + std::to_string(c.push_applied) + " applied, " +
         std::to_string(c.push_void) + " void, " + std::to_string(c.push_duplicate) +
         " duplicate, " + std::to_string(c.push_refused) + " refused, " +
         std::to_string(c.push_dropped) + " dropped, " + std::to_string(pending) + " pending");
  }
  const std::int32_t staleness = plan_->job.train().staleness();
  const std::size_t ahead = staleness < 0 ? 0 : 1 + static_cast<std::size_t>(staleness);
  // A void part of the log has no bytes.
  const bool fits = plan_->durable() ? pending > 0 || shard.pending_bytes() == 0
                                     : (pending == 0) == (shard.pending_bytes() == 0);
  if (pending > plan_->ranks() * ahead || !fits) {
    Fail("shard " + std::to_string(index) + " keeps " + std::to_string(pending) + " parts, " +
         std::to_string(shard.pending_bytes()) + " bytes");
  }
  // A rank has at most staleness + 2 pulls under way; an older carrier's are forgotten.
  // One that has come back parks late ones too, until it knows what is committed.
  const std::size_t parked_max = plan_->durable() ? 64 : ahead + 1;
  if (shard.parked() > plan_->ranks() * parked_max) {
    Fail("shard " + std::to_string(index) + " keeps " + std::to_string(shard.parked()) +
         " requests");
  }
}

void Checker::CheckStaleness(const Shard& shard, std::uint32_t index, const FrameHeader& header) {
  if ((header.flags & kFlagReadOnly) != 0 || plan_->asp()) {
    return;
  }
  const proto::Train& train = plan_->job.train();
  const auto bound = static_cast<std::uint64_t>(train.staleness());
  const std::uint64_t earliest = EarliestVersion(shard.phase(), header.step, train.staleness());
  if (header.version >= header.step || header.version + 1 + bound < header.step ||
      (train.deterministic() && header.version != earliest && (header.flags & kFlagInexact) == 0)) {
    Fail("shard " + std::to_string(index) + " answered the pull of " +
         StepName(header.step, header.rank) + " at version " + std::to_string(header.version));
  }
}

void Checker::CheckReply(const Shard& shard, std::uint32_t index, const Envelope& reply) {
  Twin& twin = twins_[index];
  const FrameHeader header = HeaderOf(reply.frame);
  CheckStaleness(shard, index, header);
  CheckEpoch(header, index);
  const auto request = twin.pulls.find(RequestName(reply.peer, header.sequence));
  if (request == twin.pulls.end() || header.version != shard.version()) {
    Fail("shard " + std::to_string(index) + " answered what nobody asked");
    return;
  }
  StatusOr<PullBody> pull = DecodePull(*plan_, request->second);
  const auto body = BodyOf(reply.frame);
  std::size_t at = 0;
  for (const KeyBlock& block : pull->groups) {
    for (const Key key : block.keys) {
      const auto row = twin.rows.find({plan_->groups[block.group].tables[0], key});
      for (std::uint32_t rank = 0; rank < plan_->ranks(); ++rank, at += sizeof(float)) {
        const std::int64_t expected =
            row == twin.rows.end() ? kInitialValue : row->second.values[rank];
        float value = 0;
        std::memcpy(&value, body.data() + at, sizeof(value));
        if (value != static_cast<float>(expected)) {
          Fail("shard " + std::to_string(index) + " answered the pull of " +
               StepName(header.step, header.rank) + " with " + std::to_string(value) + " for key " +
               std::to_string(key) + ", which is " + std::to_string(expected) + " at version " +
               std::to_string(header.version));
          return;
        }
      }
    }
  }
}

void Checker::CheckShardHas(std::uint64_t step, std::uint32_t index) {
  const Shard* shard = shards_[index];
  if (plan_->durable() && (shard == nullptr || shard->phase().number() == 0)) {
    if (log_reach(index) < step && !loss_allowed_) {
      Fail("step " + std::to_string(step) + " was committed while shard " + std::to_string(index) +
           " is gone, and its log reaches version " + std::to_string(log_reach(index)));
    }
    return;
  }
  const std::vector<std::uint32_t> missing = shard->WaitingFor();
  if (shard->version() != step - 1 || !missing.empty()) {
    Fail("step " + std::to_string(step) + " was committed while shard " + std::to_string(index) +
         " is at version " + std::to_string(shard->version()) + " and lacks " +
         std::to_string(missing.size()) + " parts");
  }
}

void Checker::CheckCommit(const Scheduler& scheduler) {
  const std::uint64_t step = scheduler.version();
  if (phase_.kind() == proto::Phase::TRAIN && !plan_->asp()) {
    if (step != committed_ + 1) {
      Fail("step " + std::to_string(step) + " was committed after " + std::to_string(committed_));
    }
    for (std::uint32_t index = 0; index < shards_.size(); ++index) {
      CheckShardHas(step, index);
    }
  }
  if (scheduler.phase().number() != phase_.number() && scheduler.phase().first_step() != step + 1) {
    Fail("after the commit of step " + std::to_string(step) + " a phase begins with step " +
         std::to_string(scheduler.phase().first_step()));
  }
  committed_ = step;
}

void Checker::AfterScheduler(const Scheduler& scheduler, std::span<const SchedulerEvent> events) {
  if (resuming_) {
    const bool begins = std::any_of(events.begin(), events.end(), [](const auto& event) {
      return event.kind == SchedulerEvent::Kind::kPhase;
    });
    if (begins) {
      OnResumed(scheduler);
    }
  } else if (scheduler.version() != committed_) {
    CheckCommit(scheduler);
  }
  if (scheduler.phase().number() != phase_.number()) {
    phase_ = scheduler.phase();
  }
  for (const SchedulerEvent& event : events) {
    if (event.kind == SchedulerEvent::Kind::kEvaluated) {
      evaluations_.push_back({event.step, {event.phase.data_set(), event.figures.samples}});
    } else if (event.kind == SchedulerEvent::Kind::kStopped && event.exit_code == 3 &&
               loss_allowed_) {
      continue;  // All is started again.
    } else if (event.kind == SchedulerEvent::Kind::kStopped && event.exit_code != 0) {
      Fail("the scheduler ended the job with exit code " + std::to_string(event.exit_code) + ": " +
           event.text);
    } else if (event.kind == SchedulerEvent::Kind::kSaved && event.text == kFinalModel) {
      saved_ = Digest128();
      for (const proto::Saved& part : event.saved) {
        saved_ += Digest128{part.digest_low(), part.digest_high()};
      }
    }
  }
}

void Checker::CheckEvaluations(const ExpectedRun& expected) {
  if (evaluations_.size() != expected.evaluations.size()) {
    Fail(std::to_string(evaluations_.size()) + " evaluations, not " +
         std::to_string(expected.evaluations.size()));
    return;
  }
  for (std::size_t i = 0; i < evaluations_.size(); ++i) {
    if (evaluations_[i].counted != expected.evaluations[i]) {
      Fail("evaluation " + std::to_string(i) + " counted " +
           std::to_string(evaluations_[i].counted.second) + " samples, not " +
           std::to_string(expected.evaluations[i].second));
    }
  }
}

void Checker::CheckEnd(const Scheduler& scheduler) {
  const bool bsp = plan_->job.train().staleness() == 0;
  // An interrupted job ends where it was; in ASP shards then have taken different parts.
  const bool interrupted = scheduler.totals().interrupted;
  const bool cut_short = interrupted && plan_->asp();
  const ExpectedRun expected =
      ExpectRun(*plan_, data_, bsp, interrupted ? scheduler.version() : ~0ULL);
  if (!cut_short) {
    CheckEvaluations(expected);
  }
  if (!cut_short && scheduler.totals().samples != expected.samples) {
    Fail("the scheduler counted " + std::to_string(scheduler.totals().samples) +
         " samples, the data has " + std::to_string(expected.samples));
  }
  for (std::uint32_t index = 0; index < twins_.size(); ++index) {
    Twin& twin = twins_[index];
    const std::uint64_t samples =
        plan_->durable() ? twin.versions[expected.versions].samples : twin.samples;
    if (!cut_short && samples != expected.samples) {
      Fail("shard " + std::to_string(index) + " took " + std::to_string(samples) +
           " samples, the data has " + std::to_string(expected.samples));
    }
  }
  CheckRows(expected);
}

}  // namespace plexus::sim
