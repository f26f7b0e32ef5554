#include "launch/checkpoints.h"

#include <algorithm>
#include <charconv>
#include <filesystem>
#include <functional>
#include <map>
#include <set>
#include <system_error>
#include <utility>

#include <glog/logging.h>

#include "common/failpoint.h"
#include "common/files.h"
#include "proto/job_identity.h"
#include "ps/store/model_file.h"
#include "scheduler/phase_planner.h"

namespace plexus {
namespace {

namespace fs = std::filesystem;

constexpr const char* kManifestName = "manifest.textproto";
// Whole checkpoints that stay, if more than one checkpoint does.
constexpr std::uint32_t kWholeMin = 2;

std::string FolderOf(const std::string& run_dir) { return run_dir + "/checkpoints"; }

// Directories of versions, the newest first; whether each has a manifest.
StatusOr<std::map<std::uint64_t, bool, std::greater<>>> ListVersions(const std::string& run_dir) {
  std::map<std::uint64_t, bool, std::greater<>> versions;
  const std::string folder = FolderOf(run_dir);
  std::error_code error;
  if (!fs::exists(folder, error) && !error) {
    return versions;
  }
  fs::directory_iterator entries(folder, error);
  if (error) {
    return FailedPrecondition("list " + folder + ": " + error.message());
  }
  for (const fs::directory_entry& entry : entries) {
    const std::string name = entry.path().filename().string();
    std::uint64_t version = 0;
    const auto [end, bad] = std::from_chars(name.data(), name.data() + name.size(), version);
    if (bad == std::errc() && end == name.data() + name.size() && version > 0) {
      versions[version] = fs::exists(entry.path() / kManifestName, error);
    }
  }
  return versions;
}

// The manifest goes first: what is half deleted is no checkpoint.
Status DeleteCheckpoint(const std::string& directory) {
  std::error_code error;
  if (fs::remove(directory + "/" + kManifestName, error)) {
    RETURN_IF_ERROR(SyncPath(directory));
  }
  Failpoint("checkpoint.deleting");
  fs::remove_all(directory, error);
  return error ? FailedPrecondition("delete " + directory + ": " + error.message()) : OkStatus();
}

// Files that an earlier life of another size left in the directory.
void DeleteStrangers(const std::string& directory, const proto::Manifest& manifest) {
  std::set<std::string> names = {kManifestName};
  for (const proto::SavedFile& file : manifest.files()) {
    names.insert(file.name());
  }
  std::error_code ignored;
  for (const fs::directory_entry& entry : fs::directory_iterator(directory, ignored)) {
    if (!names.contains(entry.path().filename().string())) {
      fs::remove(entry.path(), ignored);
    }
  }
}

// The manifest, once every byte of its files was read and is right.
StatusOr<proto::Manifest> Verify(const JobPlan& plan, const std::string& directory,
                                 std::uint64_t version) {
  ASSIGN_OR_RETURN(const proto::Manifest manifest, ReadManifest(directory));
  if (manifest.version() != version || manifest.scheduler().version() != version) {
    return DataLoss(directory + "/" + kManifestName + ": is of version " +
                    std::to_string(manifest.version()));
  }
  if (manifest.job_hash() != TrainingHash(plan.job)) {
    return FailedPrecondition(directory +
                              " is a checkpoint of another job: what it trains, or on what, "
                              "differs from this job file");
  }
  return VisitModel(plan, directory, {});
}

Status SetAside(const std::string& directory) {
  std::error_code error;
  fs::remove_all(directory + ".damaged", error);
  fs::rename(directory, directory + ".damaged", error);
  return error ? FailedPrecondition("rename " + directory + ": " + error.message()) : OkStatus();
}

}  // namespace

std::string SavedDirectory(const std::string& run_dir, const std::string& name,
                           std::uint64_t version) {
  return name == kCheckpoint ? FolderOf(run_dir) + "/" + std::to_string(version)
                             : run_dir + "/model/" + name;
}

Status FinishCheckpoint(const std::string& run_dir, const proto::Manifest& manifest,
                        std::uint32_t keep) {
  const std::string name = std::to_string(manifest.version());
  const std::string directory = SavedDirectory(run_dir, kCheckpoint, manifest.version());
  DeleteStrangers(directory, manifest);
  Failpoint("checkpoint.files");
  RETURN_IF_ERROR(WriteManifest(manifest, directory));
  RETURN_IF_ERROR(SyncPath(FolderOf(run_dir)));
  RETURN_IF_ERROR(SyncPath(run_dir));
  Failpoint("checkpoint.manifest");
  RETURN_IF_ERROR(WriteFileAtomically(FolderOf(run_dir) + "/LATEST", name + "\n"));
  Failpoint("checkpoint.latest");
  ASSIGN_OR_RETURN(const auto versions, ListVersions(run_dir));
  std::uint32_t kept = 0;
  std::uint32_t whole = 0;           // Of these.
  std::set<std::uint64_t> built_on;  // By those that are kept.
  for (const auto& [version, complete] : versions) {
    if (version > manifest.version()) {
      continue;  // The shards may be writing it.
    }
    const std::string of_version = SavedDirectory(run_dir, kCheckpoint, version);
    // Those that build on one file share its damage: of two kept, one is of another chain.
    const bool is_kept =
        kept < keep || built_on.contains(version) || (keep > 1 && whole < kWholeMin);
    if (!complete || !is_kept) {
      RETURN_IF_ERROR(DeleteCheckpoint(of_version));
      continue;
    }
    ++kept;
    const StatusOr<proto::Manifest> found = ReadManifest(of_version);
    if (found.ok() && found->base() > 0) {
      built_on.insert(found->base());
    } else {
      ++whole;
    }
  }
  return OkStatus();
}

StatusOr<std::uint64_t> NewestCheckpoint(const std::string& run_dir) {
  ASSIGN_OR_RETURN(const auto versions, ListVersions(run_dir));
  const auto newest = std::find_if(versions.begin(), versions.end(),
                                   [](const auto& entry) { return entry.second; });
  return newest == versions.end() ? 0 : newest->first;
}

StatusOr<std::optional<proto::Manifest>> FindCheckpoint(const JobPlan& plan,
                                                        const std::string& run_dir,
                                                        Unfinished unfinished) {
  ASSIGN_OR_RETURN(const auto versions, ListVersions(run_dir));
  std::optional<proto::Manifest> found;
  std::vector<std::uint64_t> damaged;
  for (const auto& [version, complete] : versions) {
    const std::string directory = SavedDirectory(run_dir, kCheckpoint, version);
    if (!complete || found.has_value()) {
      continue;
    }
    StatusOr<proto::Manifest> manifest = Verify(plan, directory, version);
    if (manifest.ok()) {
      found = *std::move(manifest);
    } else if (manifest.status().code() == StatusCode::kFailedPrecondition) {
      return manifest.status();
    } else {
      LOG(WARNING) << "the checkpoint of version " << version
                   << " is damaged, an older one is tried: " << manifest.status().message();
      damaged.push_back(version);
    }
  }
  if (!found.has_value() && !damaged.empty()) {
    return DataLoss("no checkpoint in " + FolderOf(run_dir) +
                    " is whole: put its files back from a copy, or start from the beginning with "
                    "--overwrite");
  }
  for (const std::uint64_t version : damaged) {
    RETURN_IF_ERROR(SetAside(SavedDirectory(run_dir, kCheckpoint, version)));
  }
  for (const auto& [version, complete] : versions) {
    if (!complete && unfinished == Unfinished::kDelete) {
      RETURN_IF_ERROR(DeleteCheckpoint(SavedDirectory(run_dir, kCheckpoint, version)));
    }
  }
  return found;
}

}  // namespace plexus
