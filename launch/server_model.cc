#include "launch/server_model.h"

#include <filesystem>
#include <optional>
#include <sstream>
#include <system_error>
#include <utility>

#include <poll.h>

#include "common/clock.h"
#include "launch/checkpoints.h"
#include "proto/job_identity.h"
#include "ps/store/model_file.h"
#include "scheduler/phase_planner.h"

namespace plexus {
namespace {

// Rows that are put in before the memory limit is looked at again: with 4 KiB a row, 4 MiB.
constexpr std::uint64_t kRowsAStep = 1024;
constexpr int kDiskPollMillis = 1;

// Until rows that are on their way to disk have made room.
void MakeRoom(ColdTier* cold, Shard* shard) {
  while (!shard->RestoreStep(SteadyMillis()) && cold != nullptr) {
    cold->Exchange(*shard, SteadyMillis());
    ::poll(nullptr, 0, kDiskPollMillis);
  }
  if (cold != nullptr) {
    cold->Exchange(*shard, SteadyMillis());
  }
}

Status ReadCheckpoint(const JobPlan& plan, std::uint64_t version, const NodeOptions& options,
                      ColdTier* cold, Shard* shard) {
  const std::string directory = SavedDirectory(options.run_dir, kCheckpoint, version);
  ShardState& state = shard->restored_state();
  std::uint64_t rows = 0;
  ModelVisitor visitor;
  visitor.row = [&](std::uint32_t table, const RowView& row) {
    state.RestoreRow(table, row);
    if (++rows % kRowsAStep == 0) {
      MakeRoom(cold, shard);
    }
  };
  visitor.filter = [&](std::uint32_t table, std::uint32_t bucket, const std::string& bytes) {
    return state.RestoreFilter(table, bucket, bytes);
  };
  visitor.dense = [&](std::uint32_t block, std::span<const float> floats) {
    return state.RestoreDenseBlock(block, floats);
  };
  ASSIGN_OR_RETURN(const proto::Manifest manifest, VisitModel(plan, directory, visitor));
  if (manifest.version() != version || manifest.job_hash() != TrainingHash(plan.job)) {
    return FailedPrecondition(directory + " is not the checkpoint that the scheduler goes on from");
  }
  MakeRoom(cold, shard);
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


void RestoreModel(const JobPlan& plan, std::uint64_t version, const NodeOptions& options,
                  ColdTier* cold, Shard* shard) {
  const Status status = ReadCheckpoint(plan, version, options, cold, shard);
  LOG_IF(INFO, status.ok()) << "server " << options.index << " loaded the checkpoint of version "
                            << version;
  shard->OnRestored(version, status);
}

}  // namespace plexus
