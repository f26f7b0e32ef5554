#include "launch/scheduler_metrics.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <utility>

#include <nlohmann/json.hpp>

#include "launch/phase_json.h"

namespace plexus {
namespace {

using Json = nlohmann::ordered_json;

// In milliseconds to minutes: a step, an epoch under ASP, a save.
const std::vector<double>& CommitBounds() {
  static const std::vector<double> bounds = {1e-4, 2.5e-4, 5e-4, 1e-3, 2.5e-3, 5e-3, 0.01, 0.025,
                                             0.05, 0.1,    0.25, 0.5,  1,      2.5,  5,    10,
                                             25,   50,     100,  250,  500,    1000};
  return bounds;
}

constexpr std::array<const char*, 4> kStates = {"absent", "alive", "lost", "left"};

const char* StateOf(const MemberState& member) {
  if (member.peer.empty()) {
    return "absent";
  }
  if (member.left) {
    return "left";
  }
  return member.alive ? "alive" : "lost";
}

double EpochLogloss(const TrainingTotals& totals) {
  return totals.epoch_samples > 0
             ? totals.epoch_loss_sum / static_cast<double>(totals.epoch_samples)
             : 0;
}

std::string IllnessOf(const Scheduler& scheduler, bool stopping) {
  if (scheduler.stop().has_value()) {
    return scheduler.stop()->exit_code() == 0 ? "stopping: the job is done"
                                              : "failed: " + scheduler.stop()->reason();
  }
  if (stopping) {
    return "stopping: asked to end; the step under way is finished and the model saved";
  }
  return scheduler.phase().kind() == proto::Phase::STOP ? "stopping: the job is over" : "";
}

Json MemberJson(const char* role, std::uint32_t index, const MemberState& member, Millis now) {
  Json json = {{"role", role}, {"index", index}, {"state", StateOf(member)}};
  if (member.peer.empty()) {
    return json;
  }
  json["pid"] = member.info.pid();
  json["last_heard_ms"] = now - member.heard;
  json["http"] = member.info.http_address();
  json["peak_rss_bytes"] = member.last.peak_rss_bytes();
  if (member.info.role() == proto::SERVER) {
    json["version"] = member.last.version();
    json["waiting_for_ranks"] = std::vector<std::uint32_t>(member.last.waiting_for().begin(),
                                                           member.last.waiting_for().end());
    return json;
  }
  json["progress"] = member.last.progress();
  json["ranks"] = Json::array();
  for (const proto::Carrier& carrier : member.last.carried()) {
    json["ranks"].push_back(carrier.rank());
  }
  return json;
}

Json CarriersJson(const Membership& membership) {
  Json carriers = Json::array();
  for (std::uint32_t worker = 0; worker < membership.workers().size(); ++worker) {
    for (const proto::Carrier& carrier : membership.CarriedBy(worker)) {
      carriers.push_back(
          {{"rank", carrier.rank()}, {"worker", worker}, {"epoch", carrier.epoch()}});
    }
  }
  return carriers;
}

}  // namespace

SchedulerMetrics::SchedulerMetrics()
    : commits_(metrics_.AddCounter("plexus_scheduler_commits_total", "Steps committed.")),
      commit_seconds_(metrics_.AddHistogram("plexus_scheduler_commit_seconds",
                                            "Time between commits, evaluations and saves included.",
                                            {}, CommitBounds())) {}

void SchedulerMetrics::SetTotal(const std::string& name, const std::string& help, double total,
                                const MetricLabels& labels) {
  Counter& counter = metrics_.AddCounter(name, help, labels);
  counter.Add(std::max(0.0, total - counter.value()));
}

void SchedulerMetrics::SetGauge(const std::string& name, const std::string& help, double value,
                                const MetricLabels& labels) {
  metrics_.AddGauge(name, help, labels).Set(value);
}

void SchedulerMetrics::SetRefusedConnections(std::uint64_t total) {
  SetTotal("plexus_scheduler_connections_refused_total", "Connections refused for their keys.",
           static_cast<double>(total));
}

void SchedulerMetrics::OnEvent(const SchedulerEvent& event, double seconds) {
  if (event.kind == SchedulerEvent::Kind::kPhase && last_commit_ == 0) {
    last_commit_ = seconds;
  }
  if (event.kind == SchedulerEvent::Kind::kEvaluated) {
    const char* data = event.phase.data_set() == proto::Phase::VALIDATION ? "valid" : "test";
    SetGauge("plexus_scheduler_auc", "AUC of the last evaluation.", event.figures.auc,
             {{"data", data}});
    SetGauge("plexus_scheduler_logloss", "Log loss of the last evaluation.", event.figures.logloss,
             {{"data", data}});
  }
  if (event.kind == SchedulerEvent::Kind::kStep || event.kind == SchedulerEvent::Kind::kEvaluated) {
    commits_.Add(1);
    commit_seconds_.Observe(seconds - last_commit_);
    last_commit_ = seconds;
  }
}

void SchedulerMetrics::FillMembers(const Membership& membership) {
  for (const auto* members : {&membership.servers(), &membership.workers()}) {
    for (const char* state : kStates) {
      const auto count = std::count_if(
          members->begin(), members->end(),
          [state](const MemberState& member) { return StateOf(member) == std::string(state); });
      SetGauge(
          "plexus_scheduler_members", "Members by role and state.", static_cast<double>(count),
          {{"role", members == &membership.servers() ? "server" : "worker"}, {"state", state}});
    }
  }
}

void SchedulerMetrics::FillTraining(const Scheduler& scheduler) {
  const TrainingTotals& totals = scheduler.totals();
  SetGauge("plexus_scheduler_version", "The last committed version.",
           static_cast<double>(scheduler.version()));
  SetGauge("plexus_scheduler_train_logloss", "Mean training log loss of the epoch so far.",
           EpochLogloss(totals));
  SetTotal("plexus_scheduler_samples_total", "Training samples in committed steps.",
           static_cast<double>(totals.samples));
  SetTotal("plexus_scheduler_steps_total", "Training steps committed.",
           static_cast<double>(totals.steps));
  SetTotal("plexus_scheduler_worker_deaths_total", "Workers that were lost or restarted.",
           static_cast<double>(totals.worker_deaths));
  SetTotal("plexus_scheduler_server_deaths_total", "Servers that were restarted and recovered.",
           static_cast<double>(totals.server_deaths));
  SetTotal("plexus_scheduler_late_checkpoints_total",
           "Checkpoints that began later than due, since one was still being written.",
           static_cast<double>(totals.late_checkpoints));
  SetTotal("plexus_scheduler_messages_refused_total", "Messages refused, members refused.",
           static_cast<double>(scheduler.messages_refused()));
  std::uint64_t bad_lines = 0;
  for (const MemberState& worker : scheduler.membership().workers()) {
    bad_lines += worker.last.bad_lines();
  }
  SetGauge("plexus_worker_bad_lines", "Malformed lines that the present workers have read.",
           static_cast<double>(bad_lines));
}

void SchedulerMetrics::FillRanks(const RankSeconds& ranks) {
  const std::string name = "plexus_worker_seconds_total";
  const std::string help = "What the ranks' seconds went to, over all workers.";
  SetTotal(name, help, ranks.read, {{"phase", "read"}});
  SetTotal(name, help, ranks.exchange, {{"phase", "exchange"}});
  SetTotal(name, help, ranks.compute, {{"phase", "compute"}});
  SetTotal(name, help, ranks.wait, {{"phase", "wait"}});
  SetTotal("plexus_worker_rank_seconds_total", "Seconds that the ranks have lived, by the clock.",
           ranks.lived);
}

StatusPages SchedulerMetrics::Pages(const Scheduler& scheduler, const RankSeconds& ranks,
                                    bool stopping, Millis now) {
  const Membership& membership = scheduler.membership();
  FillMembers(membership);
  FillTraining(scheduler);
  FillRanks(ranks);

  const std::string illness = IllnessOf(scheduler, stopping);
  const TrainingTotals& totals = scheduler.totals();
  Json json;
  json["role"] = "scheduler";
  json["index"] = 0;
  json["state"] = !illness.empty()                  ? illness.substr(0, illness.find(':'))
                  : scheduler.phase().number() == 0 ? "starting"
                                                    : "running";
  json["version"] = scheduler.version();
  json["phase"] = PhaseJson(scheduler.phase());
  json["samples"] = totals.samples;
  json["train_logloss"] = totals.epoch_samples > 0 ? Json(EpochLogloss(totals)) : Json(nullptr);
  json["waits"] = scheduler.WaitReport();
  json["worker_deaths"] = totals.worker_deaths;
  json["server_deaths"] = totals.server_deaths;
  json["members"] = Json::array();
  for (std::uint32_t i = 0; i < membership.servers().size(); ++i) {
    json["members"].push_back(MemberJson("server", i, membership.servers()[i], now));
  }
  for (std::uint32_t i = 0; i < membership.workers().size(); ++i) {
    json["members"].push_back(MemberJson("worker", i, membership.workers()[i], now));
  }
  json["carriers"] = CarriersJson(membership);
  if (scheduler.stop().has_value()) {
    json["stop"] = {{"exit_code", scheduler.stop()->exit_code()},
                    {"reason", scheduler.stop()->reason()}};
  }
  return {.metrics = metrics_.Text(),
          .status = json.dump(1, ' ', false, Json::error_handler_t::replace) + "\n",
          .illness = illness};
}

}  // namespace plexus
