// SchedulerDriver: speaks to a scheduler as all members of a small job do.
//
// Thread safety: none.
#pragma once

#include <map>
#include <memory>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include <gtest/gtest.h>

#include "scheduler/scheduler.h"
#include "tests/unit/proto/test_plan.h"

namespace plexus {

class SchedulerDriver {
 public:
  static constexpr std::uint64_t kJobHash = 5;
  static constexpr Millis kLease = 1000;

  // Two servers, two workers, two ranks.
  explicit SchedulerDriver(std::vector<std::string> overrides = {},
                           std::optional<proto::SchedulerState> resume = std::nullopt,
                           std::vector<proto::CommittedStep> committed = {},
                           std::uint32_t former_starts = 0)
      : scheduler_(Plan(std::move(overrides)),
                   Options(std::move(resume), std::move(committed), former_starts)) {}

  Scheduler& scheduler() { return scheduler_; }
  Millis now = 0;

  static std::string PeerOf(proto::Role role, std::uint32_t index) {
    return (role == proto::SERVER ? "server-" : "worker-") + std::to_string(index);
  }
  static std::uint64_t IncarnationOf(proto::Role role, std::uint32_t index) {
    return (role == proto::SERVER ? 100u : 200u) + index;
  }

  void Send(const std::string& peer, const proto::Control& control) {
    scheduler_.OnMessage(peer, ControlFrame(control), now);
  }
  void Register(proto::Role role, std::uint32_t index, std::uint64_t incarnation = 0,
                std::uint64_t job_hash = kJobHash) {
    proto::Control control;
    proto::Register& info = *control.mutable_register_member();
    info.set_role(role);
    info.set_index(index);
    info.set_incarnation(incarnation == 0 ? IncarnationOf(role, index) : incarnation);
    info.set_job_hash(job_hash);
    info.set_data_address("address-" + std::to_string(index));
    Send(PeerOf(role, index), control);
  }
  void RegisterAll() {
    for (const proto::Role role : {proto::SERVER, proto::WORKER}) {
      Register(role, 0);
      Register(role, 1);
    }
  }
  void Beat(proto::Heartbeat heartbeat, std::uint64_t incarnation = 0) {
    heartbeat.set_incarnation(incarnation == 0 ? IncarnationOf(heartbeat.role(), heartbeat.index())
                                               : incarnation);
    proto::Control control;
    *control.mutable_heartbeat() = heartbeat;
    Send(PeerOf(heartbeat.role(), heartbeat.index()), control);
  }
  void Beat(proto::Role role, std::uint32_t index, std::uint64_t fence = 0,
            std::uint64_t incarnation = 0) {
    proto::Heartbeat heartbeat;
    heartbeat.set_role(role);
    heartbeat.set_index(index);
    heartbeat.set_fence(fence);
    Beat(heartbeat, incarnation);
  }
  void BeatServers() {
    Beat(proto::SERVER, 0, scheduler_.membership().fence());
    Beat(proto::SERVER, 1, scheduler_.membership().fence());
  }
  void Start() {
    RegisterAll();
    BeatServers();
    Take();
  }

  proto::Complete Complete(std::uint64_t step, bool last = false, bool exhausted = false) const {
    proto::Complete complete;
    complete.set_step(step);
    complete.set_phase(scheduler_.phase().number());
    complete.set_samples(8);
    complete.set_loss_sum(4);
    complete.set_all_last(last);
    complete.set_all_exhausted(exhausted);
    return complete;
  }
  void Say(std::uint32_t shard, proto::Complete complete) {
    complete.set_shard(shard);
    proto::Control control;
    *control.mutable_complete() = complete;
    Send(PeerOf(proto::SERVER, shard), control);
  }
  void SayBoth(const proto::Complete& complete) {
    Say(0, complete);
    Say(1, complete);
  }
  // A rank's evaluation of one sample a given logit and label.
  void Report(std::uint32_t rank, float logit, float label) {
    EvaluationPart part;
    part.Add({&logit, 1}, {&label, 1}, {});
    proto::Control control;
    control.mutable_evaluation()->set_rank(rank);
    control.mutable_evaluation()->set_step(scheduler_.phase().first_step());
    control.mutable_evaluation()->set_part(part.Serialize());
    Send("rank", control);
  }
  void Saved(std::uint32_t shard, const std::string& error = "") {
    proto::Control control;
    control.mutable_saved()->set_shard(shard);
    control.mutable_saved()->set_version(scheduler_.version());
    control.mutable_saved()->set_error(error);
    Send(PeerOf(proto::SERVER, shard), control);
  }
  void SaveBoth() {
    Saved(0);
    Saved(1);
  }
  // Both shards' files of the checkpoint of `version`, of so many bytes each.
  void SaveCheckpoint(std::uint64_t version, std::uint64_t bytes = 100,
                      const std::string& error = "") {
    for (std::uint32_t shard = 0; shard < 2; ++shard) {
      proto::Control control;
      control.mutable_saved()->set_shard(shard);
      control.mutable_saved()->set_version(version);
      control.mutable_saved()->set_name(kCheckpoint);
      control.mutable_saved()->set_file_bytes(bytes);
      control.mutable_saved()->set_error(error);
      Send(PeerOf(proto::SERVER, shard), control);
    }
  }

  // Messages since the last call, by peer.
  std::map<std::string, std::vector<proto::Control>> Take() {
    std::map<std::string, std::vector<proto::Control>> taken;
    for (const Envelope& envelope : scheduler_.outbox().Take()) {
      taken[envelope.peer].push_back(DecodeControl(envelope.frame).value());
    }
    return taken;
  }
  // The commits that server 0 was sent since.
  std::vector<proto::Commit> TakeCommits() {
    std::vector<proto::Commit> commits;
    const auto taken = Take();
    const auto at = taken.find("server-0");
    for (const proto::Control& control :
         at == taken.end() ? std::vector<proto::Control>() : at->second) {
      if (control.has_commit()) {
        commits.push_back(control.commit());
      }
    }
    return commits;
  }
  // The last View that the member was sent since.
  static proto::View ViewOf(const std::vector<proto::Control>& controls) {
    proto::View view;
    for (const proto::Control& control : controls) {
      view = control.has_view() ? control.view() : view;
    }
    return view;
  }

 private:
  static std::shared_ptr<const JobPlan> Plan(std::vector<std::string> overrides) {
    overrides.insert(overrides.begin(), {"cluster.servers=2", "cluster.workers=2"});
    return PlanOf(kSmallJob, overrides);
  }
  static SchedulerOptions Options(std::optional<proto::SchedulerState> resume,
                                  std::vector<proto::CommittedStep> committed,
                                  std::uint32_t former_starts) {
    SchedulerOptions options;
    options.resume = std::move(resume);
    options.committed = std::move(committed);
    options.former_starts = former_starts;
    options.job_hash = kJobHash;
    options.lease_ms = kLease;
    options.start_timeout_ms = 60000;
    options.stall_ms = 100000;
    return options;
  }

  Scheduler scheduler_;
};

}  // namespace plexus
