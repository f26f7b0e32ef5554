#include "launch/server_model.h"

#include <algorithm>
#include <filesystem>
#include <optional>
#include <sstream>
#include <system_error>
#include <utility>

#include <poll.h>

#include "common/clock.h"
#include "common/failpoint.h"
#include "launch/checkpoints.h"
#include "launch/heap_trimmer.h"
#include "proto/job_identity.h"
#include "ps/store/model_file.h"
#include "scheduler/phase_planner.h"

namespace plexus {
namespace {

constexpr int kDiskPollMillis = 1;

// Puts what a checkpoint's files hold into a shard, within its memory limit.
class Restorer {
 public:
  Restorer(const JobPlan& plan, const NodeOptions& options, ColdTier* cold,
           const std::function<void()>& beat, Shard* shard)
      : options_(options),
        limited_(plan.memory_limit_bytes > 0),
        step_bytes_(std::max<std::uint64_t>(1, plan.memory_limit_bytes / kStepShare)),
        heap_(plan.memory_limit_bytes),
        cold_(cold),
        beat_(beat),
        shard_(shard) {}

  ModelVisitor Visitor() {
    ShardState& state = shard_->restored_state();
    ModelVisitor visitor;
    visitor.row = [this, &state](std::uint32_t table, const RowView& row) {
      state.RestoreRow(table, row);
      since_bytes_ += row.record.size();
      if (++rows_ % kBeatRows == 0) {
        beat_();
      }
      if (limited_ && since_bytes_ >= step_bytes_) {
        MakeRoom();
      }
    };
    visitor.filter = [&state](std::uint32_t table, std::uint32_t bucket, const std::string& bytes) {
      return state.RestoreFilter(table, bucket, bytes);
    };
    visitor.dense = [&state](std::uint32_t block, std::span<const float> floats) {
      return state.RestoreDenseBlock(block, floats);
    };
    return visitor;
  }

  // Returns once rows that are on their way to disk have made room.
  void MakeRoom() {
    since_bytes_ = 0;
    if (!options_.local) {
      heap_.Trim(shard_->memory_use(), SteadyMillis());
    }
    shard_->SetUsage(0, PeakRssBytes(), options_.local ? 0 : RssBytes());
    while (!shard_->RestoreStep(SteadyMillis()) && cold_ != nullptr) {
      cold_->Exchange(*shard_, SteadyMillis());
      ::poll(nullptr, 0, kDiskPollMillis);
    }
    if (cold_ != nullptr) {
      cold_->Exchange(*shard_, SteadyMillis());
    }
  }

 private:
  // Of the limit: records that are looked at before it is thought of again.
  static constexpr std::uint64_t kStepShare = 64;
  static constexpr std::uint64_t kBeatRows = 4096;

  const NodeOptions& options_;
  const bool limited_;
  const std::uint64_t step_bytes_;
  HeapTrimmer heap_;
  ColdTier* const cold_;
  const std::function<void()>& beat_;
  Shard* const shard_;
  std::uint64_t since_bytes_ = 0;
  std::uint64_t rows_ = 0;
};

Status ReadCheckpoint(const JobPlan& plan, std::uint64_t version, const NodeOptions& options,
                      Restorer* restorer, Shard* shard) {
  const std::string directory = SavedDirectory(options.run_dir, kCheckpoint, version);
  ASSIGN_OR_RETURN(const proto::Manifest manifest, ReadManifest(directory));
  if (manifest.version() != version || manifest.job_hash() != TrainingHash(plan.job)) {
    return FailedPrecondition(directory + " is not the checkpoint that the scheduler goes on from");
  }
  ReserveRows(manifest, &shard->restored_state());
  RETURN_IF_ERROR(VisitModel(plan, directory, restorer->Visitor()).status());
  restorer->MakeRoom();
  return OkStatus();
}

}  // namespace

void SaveModel(const JobPlan& plan, const std::string& names, const NodeOptions& options,
               ColdTier* cold, Shard* shard) {
  proto::Saved saved;
  saved.set_name(names);
  const ColdScan scan = cold != nullptr ? cold->scan() : ColdScan();
  std::optional<Digest128> digest;
  std::stringstream list(names);
  for (std::string name; std::getline(list, name, ',') && saved.error().empty();) {
    const std::string directory = SavedDirectory(options.run_dir, name, shard->version());
    // A manifest of an older version must not lie beside files of this one.
    std::error_code ignored;
    std::filesystem::remove(directory + "/manifest.textproto", ignored);
    StatusOr<proto::SavedFile> file = WriteModelFile(
        plan, shard->state(), options.index, shard->version(), directory, scan, &digest.emplace());
    if (!file.ok()) {
      saved.set_error(file.status().message());
      break;
    }
    saved.set_file(file->name());
    saved.set_file_bytes(file->bytes());
    saved.set_file_hash(file->hash());
  }
  if (names.empty()) {
    StatusOr<Digest128> of_all = DigestOf(shard->state(), scan);
    if (of_all.ok()) {
      digest = *of_all;
    } else {
      saved.set_error(of_all.status().message());
    }
  }
  shard->OnSaved(std::move(saved), digest);
}

void RecoverModel(const JobPlan& plan, const proto::Recover& recover, const NodeOptions& options,
                  ColdTier* cold, PushLog* log, const std::function<void()>& beat, Shard* shard) {
  const double began = SteadySeconds();
  Restorer restorer(plan, options, cold, beat, shard);
  Status status = OkStatus();
  if (recover.checkpoint() > 0) {
    status = ReadCheckpoint(plan, recover.checkpoint(), options, &restorer, shard);
  }
  if (status.ok()) {
    shard->OnRestored(recover.checkpoint());
    Failpoint("server.restored");
  }
  if (status.ok() && log != nullptr) {
    status = log->Replay(recover, shard, [&] {
      while (shard->waiting_for_rows() > 0 && cold != nullptr && !shard->failed()) {
        cold->Exchange(*shard, SteadyMillis());
        ::poll(nullptr, 0, kDiskPollMillis);
      }
      restorer.MakeRoom();
      beat();
    });
  }
  LOG_IF(INFO, status.ok()) << "server " << options.index << " is at version " << shard->version()
                            << ": the checkpoint of version " << recover.checkpoint()
                            << " and its push log, in " << SteadySeconds() - began << " s";
  Failpoint("server.recovered");
  shard->OnRecovered(status);
}

}  // namespace plexus
