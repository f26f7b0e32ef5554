// Shard: rows on disk, the memory limit, and beginning with a checkpoint.
#include <algorithm>
#include <bit>
#include <string>
#include <utility>

#include <glog/logging.h>

#include "ps/shard.h"

namespace plexus {
namespace {

// Rows leave in batches of this many bytes at most, so that no message waits long for one to be
// gathered; of a small limit, in parts of this share of it.  As many may be on their way at once.
constexpr std::uint64_t kSpillBatchBytes = std::uint64_t{4} << 20;
constexpr std::uint64_t kSpillBatchShare = 64;
constexpr std::uint64_t kSpillsUnderWayMax = 4;

// Emergencies may come with every step: the 1st, 2nd, 4th, 8th, ... are logged.
bool IsSaid(std::uint64_t emergencies) { return std::has_single_bit(emergencies); }

}  // namespace

bool Shard::Need(std::span<const KeyBlock> groups, std::uint64_t* absent) {
  if (!state_.spills()) {
    return false;
  }
  std::vector<ColdKeys> cold;
  const std::uint64_t without_row = state_.FindCold(groups, &cold);
  if (absent != nullptr) {
    *absent += without_row;
  }
  const bool any = !cold.empty();
  for (ColdKeys& keys : cold) {
    auto& asked = asked_[keys.table];
    std::erase_if(keys.keys, [&asked](Key key) { return !asked.insert(key).second; });
    if (!keys.keys.empty()) {
      counters_.cold_rows_asked += keys.keys.size();
      cold_requests_.push_back({ColdRequest::Kind::kRead, {}, std::move(keys)});
    }
  }
  return any;
}

void Shard::NeedRowsOf(const Bytes& pull_frame) {
  if (!state_.spills()) {
    return;
  }
  // A malformed pull is refused when it is answered.
  if (StatusOr<PullBody> pull = DecodePull(*plan_, pull_frame); pull.ok()) {
    (void)Need(pull->groups, nullptr);
  }
}

bool Shard::NeedRowsOfParts(std::uint64_t step, std::uint64_t* absent) {
  const auto at = pending_.find(step);
  if (at == pending_.end()) {
    return false;
  }
  bool any = false;
  for (const auto& part : at->second) {
    any = (part.has_value() && Need(part->body.groups, absent)) || any;
  }
  return any;
}

bool Shard::CommitMustWait(const proto::Commit& commit) {
  std::uint64_t absent = 0;
  if (NeedRowsOfParts(commit.step(), &absent)) {
    return true;
  }
  const std::uint64_t coming = absent == 0 ? 0 : state_.bytes_of_new_rows(absent);
  if (no_more_room_for_ != commit.step()) {
    MakeRoom(coming);
    if (spills_under_way_ > 0 && !governor_.Fits(memory_use(), coming)) {
      return true;  // Until rows that are on their way are on disk.
    }
    if (NeedRowsOfParts(commit.step(), &absent)) {
      // The step's own rows were among those that left.  They come back, once.
      no_more_room_for_ = commit.step();
      return true;
    }
  }
  if (governor_.IsHopeless(memory_use(), coming)) {
    MemoryUse use = memory_use();
    use.pending += coming;
    SetEmergency(true, use);  // Before the step's new rows, or an index that grows for them.
  }
  return false;
}

void Shard::ForgetEvicted() {
  AskForCopies();
  for (ColdKeys& keys : state_.TakeForgotten()) {
    auto& asked = asked_[keys.table];
    for (const Key key : keys.keys) {
      asked.erase(key);
    }
    cold_requests_.push_back({ColdRequest::Kind::kForget, {}, std::move(keys)});
  }
}

void Shard::OnColdRows(const ColdBatch& batch, Millis now) {
  auto& asked = asked_[batch.table];
  for (const Key key : batch.keys) {
    asked.erase(key);
  }
  if (const std::uint64_t outdated = state_.Thaw(batch); outdated > 0) {
    ReportFailure("server " + std::to_string(options_.shard) + ": " + std::to_string(outdated) +
                  " rows of table " + plan_->tables[batch.table].name +
                  " came back from disk as they were before their last update: their files were "
                  "damaged");
    return;
  }
  RetryWaiting(now);
  MakeRoom(0);
}

void Shard::RetryWaiting(Millis now) {
  for (Request& request : std::exchange(waiting_pulls_, {})) {
    OnPull(request.peer, request.frame);  // May wait again.
  }
  for (Request& request : std::exchange(waiting_pushes_, {})) {
    --counters_.pushes;  // Counted when it came.
    OnPush(request.peer, request.frame);
  }
  if (waiting_commit_.has_value()) {
    const proto::Commit commit = *std::exchange(waiting_commit_, std::nullopt);
    OnCommit(commit, now);
  }
}

void Shard::OnColdReadFailed(const ColdKeys& keys, const Status& status) {
  ReportFailure("server " + std::to_string(options_.shard) + ": " +
                std::to_string(keys.keys.size()) + " rows of table " +
                plan_->tables[keys.table].name +
                " could not be read back from disk: " + status.message());
}

void Shard::OnSpilled(std::uint64_t bytes) {
  spilling_bytes_ -= std::min(spilling_bytes_, bytes);
  spills_under_way_ -= spills_under_way_ > 0 ? 1 : 0;
  if (!spill_failure_.empty()) {
    LOG(WARNING) << "server " << options_.shard << ": rows go to disk again";
    spill_failure_.clear();
  }
  RetryWaiting(now_);
  MakeRoom(0);
}

void Shard::OnSpillFailed(const ColdBatch& batch, std::uint64_t bytes, const Status& status) {
  spilling_bytes_ -= std::min(spilling_bytes_, bytes);
  spills_under_way_ -= spills_under_way_ > 0 ? 1 : 0;
  ++counters_.spill_failures;
  auto& asked = asked_[batch.table];
  for (const Key key : batch.keys) {
    asked.erase(key);
  }
  (void)state_.Thaw(batch);
  if (spill_failure_.empty()) {
    LOG(ERROR) << "server " << options_.shard << ": " << batch.keys.size()
               << " rows could not be written to disk and stay in memory: " << status.message();
  }
  spill_failure_ = status.message();
  retry_spill_at_ = now_ + kSpillRetryMillis;
  MakeRoom(0);
}

void Shard::SetUsage(std::uint64_t wire_bytes, std::uint64_t peak_rss_bytes,
                     std::uint64_t rss_bytes) {
  wire_bytes_ = wire_bytes;
  if (rss_bytes > 0) {
    if (last_rss_bytes_ > 0 && peak_rss_bytes > peak_rss_bytes_) {
      const std::uint64_t risen = peak_rss_bytes - std::min(peak_rss_bytes, last_rss_bytes_);
      swing_bytes_ =
          swing_bytes_ == MemoryUse::kUnknownSwing ? risen : std::max(swing_bytes_, risen);
    }
    last_rss_bytes_ = rss_bytes;
  }
  peak_rss_bytes_ = peak_rss_bytes;
  MemoryUse use = memory_use();
  use.other = 0;
  other_bytes_ = rss_bytes - std::min(rss_bytes, use.resident());
}

MemoryUse Shard::memory_use() const {
  return {.committed = state_.memory_bytes(),
          .free = state_.free_bytes(),
          .pending = pending_bytes_ + hints_.bytes() + snapshot_.bytes(),
          .spilling = spilling_bytes_,
          .other = other_bytes_,
          .swing = swing_bytes_};
}

bool Shard::CanSpill() const {
  return state_.spills() && (spill_failure_.empty() || now_ >= retry_spill_at_);
}

void Shard::MakeRoom(std::uint64_t coming) {
  if (governor_.limit() == 0) {
    return;
  }
  MemoryUse use = memory_use();
  bool spillable = CanSpill();
  // Rows that something waits for must not leave again before it has had them.
  const bool wait = waiting_for_rows() > 0;
  std::uint64_t bytes = wait ? 0 : governor_.BytesToSpill(use, coming);
  if (options_.spill_always && !wait) {
    bytes = std::max(bytes, kSpillBatchBytes);
  }
  while (bytes > 0 && spillable && spills_under_way_ < kSpillsUnderWayMax) {
    std::vector<ColdBatch> batches =
        state_.Spill(std::min({bytes, kSpillBatchBytes,
                               std::max<std::uint64_t>(1, governor_.limit() / kSpillBatchShare)}));
    spillable = !batches.empty();
    for (ColdBatch& batch : batches) {
      ++spills_under_way_;
      spilling_bytes_ += batch.bytes();
      bytes -= std::min(bytes, batch.bytes());
      cold_requests_.push_back({ColdRequest::Kind::kSpill, std::move(batch), {}});
    }
  }
  use = memory_use();
  while (governor_.ShouldRelease(use, coming) && state_.Compact(true)) {
    use = memory_use();
  }
  SetEmergency(governor_.IsEmergency(use, emergency_, spillable || spills_under_way_ > 0), use);
}

bool Shard::RestoreStep(Millis now) {
  now_ = now;
  MakeRoom(0);
  return spills_under_way_ == 0 || governor_.Fits(memory_use(), 0);
}

void Shard::SetEmergency(bool emergency, const MemoryUse& use) {
  const proto::Cluster::OnMemoryLimit policy = plan_->job.cluster().on_memory_limit();
  if (emergency && !emergency_) {
    const std::string why =
        "server " + std::to_string(options_.shard) + " holds " + std::to_string(use.used()) +
        " bytes of cluster.memory_limit (" + std::to_string(governor_.limit()) + "), and " +
        (!state_.spills()          ? "its rows do not go to disk"
         : !spill_failure_.empty() ? "its rows cannot go to disk (" + spill_failure_ + ")"
                                   : "no row is left that could go to disk");
    if (policy == proto::Cluster::FAIL) {
      ReportFailure(why + ": raise it, or add servers");
      return;
    }
    ++counters_.emergencies;
    LOG_IF(WARNING, IsSaid(counters_.emergencies))
        << why << ": "
        << (policy == proto::Cluster::REFUSE ? "new keys get no row for now"
                                             : "the rows longest without an update go")
        << "; the trained model depends on it";
    if (nondeterministic_.empty()) {
      nondeterministic_ = why;
      next_heartbeat_ = 0;
    }
  }
  // What was saved stays as it was until there is more to do.
  if (emergency && policy == proto::Cluster::EVICT && !saved_.has_value()) {
    state_.EvictOldest(governor_.BytesToEvict(use));
    ForgetEvicted();
  }
  if (emergency != emergency_ && policy == proto::Cluster::REFUSE) {
    state_.set_refuse_new_rows(emergency);
  }
  if (!emergency && emergency_) {
    LOG_IF(WARNING, IsSaid(counters_.emergencies))
        << "server " << options_.shard << " is within its memory limit again";
  }
  emergency_ = emergency;
}

}  // namespace plexus
