#include <cstdio>

#include "launch/commands.h"
#include "launch/saved_models.h"
#include "ps/store/model_check.h"

namespace plexus {

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
  bool damaged = false;
  for (const std::string& directory : *models) {
    const ModelCheck check = CheckModel(directory);
    for (const ModelFinding& finding : check.findings) {
      const std::string offset =
          finding.offset.has_value() ? " at offset " + std::to_string(*finding.offset) : "";
      std::printf("%s%s: %s\n", finding.file.c_str(), offset.c_str(), finding.what.c_str());
    }
    std::printf(
        "%s: %s; model %s, version %llu, %llu files, %llu blocks, %llu rows, %llu bytes\n",
        directory.c_str(), check.damaged() ? "DAMAGED" : "clean", check.model.c_str(),
        static_cast<unsigned long long>(check.version),
        static_cast<unsigned long long>(check.files), static_cast<unsigned long long>(check.blocks),
        static_cast<unsigned long long>(check.rows), static_cast<unsigned long long>(check.bytes));
    damaged = damaged || check.damaged();
  }
  return damaged ? 1 : 0;
}

}  // namespace plexus
