#include <cstdio>
#include <filesystem>
#include <map>
#include <string>

#include "launch/commands.h"
#include "launch/saved_models.h"
#include "ps/store/model_check.h"

namespace plexus {
namespace {

// Prints what is found in `directory` and what it builds on, each once; true: it is damaged.
bool Check(const std::string& directory, std::map<std::string, bool>* damaged) {
  const std::string name = std::filesystem::path(directory).lexically_normal().string();
  if (const auto known = damaged->find(name); known != damaged->end()) {
    return known->second;
  }
  const ModelCheck check = CheckModel(directory);
  (*damaged)[name] = check.damaged();
  const bool base_is_damaged = !check.base.empty() && Check(check.base, damaged);
  for (const ModelFinding& finding : check.findings) {
    const std::string offset =
        finding.offset.has_value() ? " at offset " + std::to_string(*finding.offset) : "";
    std::printf("%s%s: %s\n", finding.file.c_str(), offset.c_str(), finding.what.c_str());
  }
  if (base_is_damaged) {
    std::printf("%s: builds on %s, which is damaged\n", directory.c_str(), check.base.c_str());
  }
  const bool bad = check.damaged() || base_is_damaged;
  std::printf(
      "%s: %s; model %s, version %llu, %llu files, %llu blocks, %llu rows, %llu bytes%s\n",
      directory.c_str(), bad ? "DAMAGED" : "clean", check.model.c_str(),
      static_cast<unsigned long long>(check.version), static_cast<unsigned long long>(check.files),
      static_cast<unsigned long long>(check.blocks), static_cast<unsigned long long>(check.rows),
      static_cast<unsigned long long>(check.bytes),
      check.base.empty() ? "" : (", on top of " + check.base).c_str());
  (*damaged)[name] = bad;
  return bad;
}

}  // namespace

int FsckCommand(const Flags& flags) {
  if (flags.arguments.size() != 2) {
    std::fprintf(stderr, "plexus fsck needs one directory: plexus fsck RUN|MODEL\n");
    return 2;
  }
  const StatusOr<std::vector<std::string>> models = FindModels(flags.arguments[1]);
  if (!models.ok()) {
    std::fprintf(stderr, "fsck: %s\n", models.status().message().c_str());
    return 1;
  }
  std::map<std::string, bool> damaged;
  bool any = false;
  for (const std::string& directory : *models) {
    any = Check(directory, &damaged) || any;
  }
  return any ? 1 : 0;
}

}  // namespace plexus
