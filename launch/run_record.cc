#include "launch/run_record.h"

#include <bit>
#include <cmath>
#include <map>
#include <utility>

#include <nlohmann/json.hpp>
#include <unistd.h>

#include "common/clock.h"
#include "common/files.h"
#include "launch/checkpoints.h"
#include "proto/job_identity.h"
#include "ps/shard_state.h"
#include "ps/store/model_file.h"

namespace plexus {
namespace {

using Json = nlohmann::ordered_json;

constexpr double kLineSeconds = 1.0;
// Before, an ETA would be a guess.
constexpr double kEtaSecondsMin = 2.0;
constexpr double kEtaShareMin = 0.002;

const char* DataSetName(proto::Phase::DataSet data_set) {
  return data_set == proto::Phase::VALIDATION ? "valid" : "test";
}

Json OrNull(double value) { return std::isfinite(value) ? Json(value) : Json(nullptr); }

Json AucOf(const std::optional<EvaluationFigures>& figures) {
  return figures.has_value() ? OrNull(figures->auc) : Json(nullptr);
}

Json LoglossOf(const std::optional<EvaluationFigures>& figures) {
  return figures.has_value() ? OrNull(figures->logloss) : Json(nullptr);
}

Json FiguresOf(const std::optional<EvaluationFigures>& figures) {
  if (!figures.has_value()) {
    return nullptr;
  }
  Json json;
  json["samples"] = figures->samples;
  json["auc"] = OrNull(figures->auc);
  json["logloss"] = OrNull(figures->logloss);
  json["normalised_entropy"] = OrNull(figures->normalised_entropy);
  json["calibration"] = OrNull(figures->calibration);
  json["gauc"] = OrNull(figures->gauc);
  json["label_rate"] = OrNull(figures->label_rate);
  return json;
}

// Rows and bytes of each table, over all shards.
std::map<std::string, std::pair<std::uint64_t, std::uint64_t>> UsageOf(
    const std::vector<proto::Saved>& parts) {
  std::map<std::string, std::pair<std::uint64_t, std::uint64_t>> tables;
  for (const proto::Saved& part : parts) {
    for (const proto::TableUsage& usage : part.tables()) {
      tables[usage.name()].first += usage.rows();
      tables[usage.name()].second += usage.bytes();
    }
  }
  return tables;
}

Json TablesJson(const std::vector<proto::Saved>& parts) {
  Json json = Json::object();
  for (const auto& [name, usage] : UsageOf(parts)) {
    const auto rows = static_cast<double>(usage.first);
    json[name] = {
        {"rows", usage.first},
        {"bytes", usage.second},
        {"bytes_per_row", rows > 0 ? Json(static_cast<double>(usage.second) / rows) : Json()}};
  }
  return json;
}

Json PhasesJson(const RankSeconds& seconds) {
  if (seconds.lived <= 0) {
    return nullptr;
  }
  return {{"read", seconds.read / seconds.lived},
          {"exchange", seconds.exchange / seconds.lived},
          {"compute", seconds.compute / seconds.lived},
          {"wait", seconds.wait / seconds.lived}};
}

void AddVoidPushes(const TrainingTotals& totals, Json* json) {
  std::uint64_t sum = 0;
  Json by_rank = Json::object();
  for (const auto& [rank, pushes] : totals.void_pushes) {
    sum += pushes;
    by_rank[std::to_string(rank)] = pushes;
  }
  (*json)["void_pushes"] = sum;
  if (sum > 0) {
    (*json)["void_pushes_by_rank"] = by_rank;
  }
}

}  // namespace

StatusOr<std::unique_ptr<RunRecord>> RunRecord::Open(std::shared_ptr<const JobPlan> plan,
                                                     const NodeOptions& options,
                                                     const Scheduler& scheduler) {
  std::unique_ptr<RunRecord> record(new RunRecord(std::move(plan), options, scheduler));
  const std::string path = options.run_dir + "/metrics.jsonl";
  const std::uint64_t resumed = scheduler.resumed_version();
  record->metrics_ = std::fopen(path.c_str(), resumed > 0 ? "ae" : "we");
  if (record->metrics_ == nullptr) {
    return ErrnoStatus("open", path);
  }
  return record;
}

RunRecord::RunRecord(std::shared_ptr<const JobPlan> plan, const NodeOptions& options,
                     const Scheduler& scheduler)
    : plan_(std::move(plan)),
      options_(options),
      scheduler_(scheduler),
      began_(SteadySeconds()),
      void_pushes_(scheduler.totals().void_pushes),
      bar_(ProgressBar::StyleOfStderr(options.progress)) {}

RunRecord::~RunRecord() {
  if (metrics_ != nullptr) {
    std::fclose(metrics_);
  }
}

void RunRecord::WriteLine(const std::string& json) {
  std::fputs((json + "\n").c_str(), metrics_);
  std::fflush(metrics_);
}

double RunRecord::TrainingSeconds() const {
  return training_seconds_ + (phase_began_ > 0 ? SteadySeconds() - phase_began_ : 0);
}

std::uint64_t RunRecord::OwnSamples() const {
  return scheduler_.totals().samples - scheduler_.resumed_samples();
}

Status RunRecord::OnEvent(const SchedulerEvent& event) {
  switch (event.kind) {
    case SchedulerEvent::Kind::kMembers:
      return WriteMembers();
    case SchedulerEvent::Kind::kPhase:
      OnPhase(event.phase);
      return OkStatus();
    case SchedulerEvent::Kind::kStep:
      OnStep(event);
      return OkStatus();
    case SchedulerEvent::Kind::kEvaluated: {
      Json json = FiguresOf(event.figures);
      json["event"] = "evaluation";
      json["data"] = DataSetName(event.phase.data_set());
      json["version"] = event.step;
      WriteLine(json.dump());
      if (event.phase.data_set() == proto::Phase::VALIDATION) {
        valid_auc_ = event.figures.auc;
      }
      LOG(INFO) << "evaluated " << DataSetName(event.phase.data_set()) << " version=" << event.step
                << " samples=" << event.figures.samples << " auc=" << event.figures.auc
                << " logloss=" << event.figures.logloss;
      return OkStatus();
    }
    case SchedulerEvent::Kind::kVoidPushes:
      OnVoidPushes(event);
      return OkStatus();
    case SchedulerEvent::Kind::kSaved:
      return WriteSavedModel(event);
    case SchedulerEvent::Kind::kResumed:
      LOG(INFO) << "goes on from version " << event.step;
      WriteLine(Json({{"event", "resumed"}, {"version", event.step}}).dump());
      return OkStatus();
    case SchedulerEvent::Kind::kCommitted:
      return OkStatus();
    case SchedulerEvent::Kind::kServerLost:
      LOG(WARNING) << event.text;
      WriteLine(Json({{"event", "server_lost"}, {"what", event.text}}).dump());
      return OkStatus();
    case SchedulerEvent::Kind::kWorkerLost:
      LOG(WARNING) << event.text << ": its ranks go to another carrier";
      WriteLine(Json({{"event", "worker_lost"}, {"what", event.text}}).dump());
      return OkStatus();
    case SchedulerEvent::Kind::kStopped:
      if (event.exit_code != 0) {
        LOG(ERROR) << "the job stops: " << event.text;
      }
      WriteLine(
          Json({{"event", "stopped"}, {"exit_code", event.exit_code}, {"why", event.text}}).dump());
      return OkStatus();
  }
  return OkStatus();
}

void RunRecord::OnVoidPushes(const SchedulerEvent& event) {
  std::uint64_t& pushes = void_pushes_[event.rank];
  const auto seen = std::bit_width(pushes);
  pushes += event.pushes;
  if (std::bit_width(pushes) == seen) {
    return;  // Said at 1, 2, 4, 8, ...: a model that has diverged pushes nothing else.
  }
  LOG(WARNING) << "rank " << event.rank << " has gradients that are not finite at version "
               << event.step << ": its push counts as empty; of this rank so far: " << pushes;
  WriteLine(Json({{"event", "void_push"},
                  {"rank", event.rank},
                  {"version", event.step},
                  {"pushes", pushes}})
                .dump());
}

void RunRecord::OnPhase(const proto::Phase& phase) {
  const double now = SteadySeconds();
  if (phase_began_ > 0) {
    training_seconds_ += now - phase_began_;
    phase_began_ = 0;
  }
  first_phase_began_ = first_phase_began_ > 0 ? first_phase_began_ : now;
  if (phase.kind() == proto::Phase::TRAIN) {
    phase_began_ = now;
    SetShare(static_cast<double>(phase.epoch()) / plan_->job.train().epochs(), now);
  }
  VLOG(1) << "phase " << phase.ShortDebugString();
}

void RunRecord::OnStep(const SchedulerEvent& event) {
  line_samples_ += event.samples;
  line_loss_sum_ += event.loss_sum;
  const double trained = TrainingSeconds();
  if (trained - line_at_ < kLineSeconds) {
    return;
  }
  line_rate_ = static_cast<double>(line_samples_) / (trained - line_at_);
  Json json;
  json["event"] = "progress";
  json["version"] = event.step;
  json["epoch"] = event.phase.epoch() + 1;
  json["samples"] = scheduler_.totals().samples;
  json["seconds"] = SteadySeconds() - began_;
  json["progress"] = share_;
  json["samples_per_second"] = line_rate_;
  json["loss"] = line_samples_ > 0 ? OrNull(line_loss_sum_ / static_cast<double>(line_samples_))
                                   : Json(nullptr);
  WriteLine(json.dump());
  line_at_ = trained;
  line_samples_ = 0;
  line_loss_sum_ = 0;
}

void RunRecord::UpdateProgress(double now) {
  double passes = 0;
  int carried = 0;
  for (const MemberState& worker : scheduler_.membership().workers()) {
    passes += worker.last.progress() * worker.last.carried_size();
    carried += worker.last.carried_size();
  }
  if (carried == 0) {
    return;
  }
  SetShare(passes / carried / plan_->job.train().epochs(), now);
}

void RunRecord::SetShare(double share, double now) {
  // A rank's new carrier has not read yet what the old one had.
  if (share > share_) {
    share_ = std::min(1.0, share);
    share_at_ = now;
  }
}

ProgressFigures RunRecord::Figures(double now) const {
  const TrainingTotals& totals = scheduler_.totals();
  ProgressFigures figures;
  figures.share = share_;
  figures.samples = totals.samples;
  figures.samples_per_second = line_rate_;
  if (totals.epoch_samples > 0) {
    figures.loss = totals.epoch_loss_sum / static_cast<double>(totals.epoch_samples);
  }
  figures.auc = valid_auc_;
  if (scheduler_.phase().kind() == proto::Phase::EVALUATE) {
    figures.note = std::string("evaluating ") + DataSetName(scheduler_.phase().data_set());
  }
  // What was read when it was last heard of, and the time since then.
  const double took = share_at_ - first_phase_began_;
  if (first_phase_began_ > 0 && took >= kEtaSecondsMin && share_ >= kEtaShareMin) {
    figures.eta_seconds = std::max(0.0, took * (1 - share_) / share_ - (now - share_at_));
  }
  return figures;
}

void RunRecord::OnTimer() {
  const double now = SteadySeconds();
  rank_seconds_.Update(scheduler_.membership());
  UpdateProgress(now);
  if ((share_ > 0 || scheduler_.totals().samples > 0) && bar_.IsDue(now)) {
    bar_.Show(Figures(now));
  }
}

Status RunRecord::WriteMembers() const {
  Json members = Json::array();
  const auto add = [&members](const char* role, std::uint32_t index, const proto::Register& info) {
    members.push_back({{"role", role},
                       {"index", index},
                       {"pid", info.pid()},
                       {"supervisor_pid", info.supervisor_pid()},
                       {"data", info.data_address()},
                       {"http", info.http_address()}});
  };
  proto::Register self;
  self.set_pid(::getpid());
  self.set_supervisor_pid(options_.supervisor_pid);
  self.set_data_address(options_.scheduler_address);
  self.set_http_address(options_.http_address);
  add("scheduler", 0, self);
  const auto& servers = scheduler_.membership().servers();
  for (std::uint32_t i = 0; i < servers.size(); ++i) {
    if (servers[i].alive) {
      add("server", i, servers[i].info);
    }
  }
  const auto& workers = scheduler_.membership().workers();
  for (std::uint32_t i = 0; i < workers.size(); ++i) {
    if (workers[i].alive) {
      add("worker", i, workers[i].info);
    }
  }
  return WriteFileAtomically(options_.run_dir + "/members.json", members.dump(1) + "\n");
}

Status RunRecord::WriteSavedModel(const SchedulerEvent& event) {
  proto::Manifest manifest;
  manifest.set_model(plan_->job.model().name());
  manifest.set_version(event.step);
  manifest.set_shards(plan_->shards());
  Digest128 digest;
  for (const proto::Saved& part : event.saved) {
    digest += Digest128{part.digest_low(), part.digest_high()};
    proto::SavedFile& file = *manifest.add_files();
    file.set_name(part.file());
    file.set_bytes(part.file_bytes());
    file.set_hash(part.file_hash());
  }
  manifest.set_model_digest(DigestHex(digest));
  for (const auto& [name, usage] : UsageOf(event.saved)) {
    proto::TableRows& table = *manifest.add_tables();
    table.set_name(name);
    table.set_rows(usage.first);
  }
  Json line = {{"event", "saved"}, {"model", event.text}, {"version", event.step}};
  if (event.base == 0) {
    line["model_digest"] = manifest.model_digest();
  } else {
    line["base"] = event.base;
  }
  WriteLine(line.dump());
  if (event.text == kCheckpoint) {
    if (event.base > 0) {
      manifest.set_base(event.base);
      RETURN_IF_ERROR(ReadManifest(SavedDirectory(options_.run_dir, kCheckpoint, event.base),
                                   manifest.mutable_base_seal())
                          .status()
                          .Annotate("the checkpoint of version " + std::to_string(event.step) +
                                    " builds on one that is gone"));
    }
    manifest.set_job_hash(TrainingHash(plan_->job));
    *manifest.mutable_scheduler() = event.state;
    return FinishCheckpoint(options_.run_dir, manifest, plan_->job.checkpoint().keep());
  }
  digest_ = manifest.model_digest();
  saved_ = event.saved;
  return WriteManifest(manifest, SavedDirectory(options_.run_dir, event.text, event.step));
}

void RunRecord::ShowEnd() {
  ProgressFigures figures = Figures(SteadySeconds());
  const double seconds = TrainingSeconds();
  figures.samples_per_second =
      seconds > 0 ? static_cast<double>(OwnSamples()) / seconds : 0;  // Of all.
  figures.note = "failed";
  if (scheduler_.stop()->exit_code() == 0) {
    const bool whole = !scheduler_.totals().interrupted;
    figures.share = whole ? 1 : share_;
    figures.note = whole ? "done" : "interrupted";
  }
  figures.note += " after " + DurationText(SteadySeconds() - began_);
  bar_.Finish(figures);
}

Status RunRecord::Finish() {
  rank_seconds_.Update(scheduler_.membership());
  const TrainingTotals& totals = scheduler_.totals();
  const PhasePlanner& planner = scheduler_.planner();
  const double seconds = TrainingSeconds();
  const proto::Train& train = plan_->job.train();
  ShowEnd();
  Json json;
  json["model"] = plan_->job.model().name();
  json["samples"] = totals.samples;
  json["seconds"] = SteadySeconds() - began_;
  json["train_seconds"] = seconds;
  const auto own_samples = static_cast<double>(OwnSamples());
  json["samples_per_second"] = seconds > 0 ? own_samples / seconds : 0;
  json["train_logloss"] =
      totals.epoch_samples > 0
          ? OrNull(totals.epoch_loss_sum / static_cast<double>(totals.epoch_samples))
          : Json(nullptr);
  json["valid_auc"] = AucOf(planner.validation());
  json["valid_logloss"] = LoglossOf(planner.validation());
  json["test_auc"] = AucOf(planner.test());
  json["test_logloss"] = LoglossOf(planner.test());
  json["valid"] = FiguresOf(planner.validation());
  json["test"] = FiguresOf(planner.test());
  json["best_epoch"] = planner.best_epoch() > 0 ? Json(planner.best_epoch()) : Json(nullptr);
  json["tables"] = TablesJson(saved_);
  json["dense_parameters"] = plan_->dense.parameter_count();
  json["model_digest"] = digest_.empty() ? Json(nullptr) : Json(digest_);
  json["version"] = scheduler_.version();
  json["ranks"] = plan_->ranks();
  json["servers"] = plan_->shards();
  json["workers"] = plan_->job.cluster().workers();
  std::uint64_t rss = options_.local ? PeakRssBytes() : 0;
  std::uint64_t wire_bytes = 0;
  std::uint64_t bad_lines = 0;
  for (const MemberState& server : scheduler_.membership().servers()) {
    rss += options_.local ? 0 : server.last.peak_rss_bytes();
    wire_bytes += server.last.wire_bytes();
  }
  for (const MemberState& worker : scheduler_.membership().workers()) {
    rss += options_.local ? 0 : worker.last.peak_rss_bytes();
    bad_lines += worker.last.bad_lines();
  }
  json["peak_rss_bytes"] = rss;
  json["wire_bytes_per_sample"] =
      own_samples > 0 ? Json(static_cast<double>(wire_bytes) / own_samples) : Json(nullptr);
  json["phases"] = PhasesJson(rank_seconds_.total());
  json["rank_seconds"] = rank_seconds_.total().lived;
  json["bad_lines"] = bad_lines;
  json["worker_deaths"] = totals.worker_deaths;
  json["server_deaths"] = totals.server_deaths;
  const bool by_rule =
      train.staleness() == 0 || (train.staleness() > 0 && train.deterministic() && !totals.inexact);
  json["deterministic"] = by_rule && totals.nondeterministic.empty();
  if (!totals.nondeterministic.empty()) {
    json["nondeterministic_because"] = totals.nondeterministic;
  }
  AddVoidPushes(totals, &json);
  json["interrupted"] = totals.interrupted;
  const std::uint64_t resumed = scheduler_.resumed_version();
  json["resumed_from"] = resumed > 0 ? Json(resumed) : Json(nullptr);
  json["exit_code"] = scheduler_.stop()->exit_code();
  json["error"] =
      scheduler_.stop()->reason().empty() ? Json(nullptr) : Json(scheduler_.stop()->reason());
  return WriteFileAtomically(options_.run_dir + "/result.json", json.dump(1) + "\n");
}

}  // namespace plexus
