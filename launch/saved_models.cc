#include "launch/saved_models.h"

#include <algorithm>
#include <filesystem>

#include "launch/run_setup.h"
#include "ps/store/model_file.h"

namespace plexus {
namespace {

namespace fs = std::filesystem;

constexpr int kParentsMax = 3;

bool HoldsModelFiles(const fs::path& directory) {
  std::error_code error;
  for (const auto& entry : fs::directory_iterator(directory, error)) {
    const std::string name = entry.path().filename().string();
    if (name == "manifest.textproto" || (name.starts_with("shard-") && name.ends_with(".model"))) {
      return true;
    }
  }
  return false;
}

// Without checkpoints that --resume set aside.
std::vector<std::string> DirectoriesIn(const fs::path& directory) {
  std::vector<std::string> found;
  std::error_code error;
  for (const auto& entry : fs::directory_iterator(directory, error)) {
    std::error_code ignored;
    if (entry.is_directory(ignored) && entry.path().extension() != ".damaged") {
      found.push_back(entry.path().string());
    }
  }
  std::sort(found.begin(), found.end());
  return found;
}

}  // namespace

StatusOr<std::vector<std::string>> FindModels(const std::string& path) {
  std::error_code error;
  if (!fs::is_directory(path, error)) {
    return NotFound(path + " is no directory");
  }
  if (HoldsModelFiles(path)) {
    return std::vector<std::string>{path};
  }
  std::vector<std::string> models;
  for (const char* place : {"model", "checkpoints"}) {
    for (std::string& directory : DirectoriesIn(fs::path(path) / place)) {
      models.push_back(std::move(directory));
    }
  }
  if (models.empty()) {
    return NotFound("no saved model in " + path + ": neither files of one, nor directories in " +
                    path + "/model or " + path + "/checkpoints");
  }
  return models;
}

StatusOr<std::shared_ptr<const JobPlan>> PlanOfModel(const std::string& directory) {
  std::error_code error;
  fs::path at = fs::absolute(directory, error).lexically_normal();
  if (at.filename().empty()) {
    at = at.parent_path();  // A slash at the end.
  }
  const fs::path model = at;
  for (int up = 0; up <= kParentsMax; ++up, at = at.parent_path()) {
    if (fs::exists(at / "job.textproto", error)) {
      return LoadResolvedPlan((at / "job.textproto").string());
    }
  }
  return NotFound("no job.textproto beside " + model.string() + ", or up to " +
                  std::to_string(kParentsMax) + " directories above it");
}

StatusOr<std::string> ModelAt(const std::string& path, const std::string& which) {
  if (HoldsModelFiles(path)) {
    return path;
  }
  const std::string directory = path + "/model/" + which;
  if (ReadManifest(directory).ok()) {
    return directory;
  }
  if (which == "best" && ReadManifest(path + "/model/final").ok()) {
    return path + "/model/final";  // A job without validation data.
  }
  return NotFound("no saved model: " + path + " holds none, nor does " + directory);
}

}  // namespace plexus
