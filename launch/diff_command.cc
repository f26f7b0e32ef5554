#include <cstdio>

#include "launch/commands.h"
#include "launch/model_diff.h"
#include "launch/saved_models.h"
#include "ps/store/model_file.h"

namespace plexus {
namespace {

void Print(const std::string& name, const TableDifference& table) {
  const auto n = [](std::uint64_t value) { return static_cast<unsigned long long>(value); };
  if (!table.note.empty()) {
    std::printf("table %s: not compared: %s\n", name.c_str(), table.note.c_str());
    return;
  }
  std::printf("table %s: %llu rows equal, %llu differ, %llu only in A, %llu only in B",
              name.c_str(), n(table.equal), n(table.changed), n(table.only_a), n(table.only_b));
  if (table.changed > 0) {
    std::printf("; largest difference %.9g of values, %.9g of state", table.values_max,
                table.state_max);
  }
  if (table.filters > 0) {
    std::printf("; filters of %llu buckets differ", n(table.filters));
  }
  std::printf("\n");
  for (const auto& [key, row] : table.first) {
    std::printf("  key %llu: %s\n", n(key), row.text.c_str());
  }
}

void Print(const std::string& name, const DenseDifference& dense) {
  std::printf("dense %s: %llu floats, %llu differ, largest difference %.9g%s%s\n", name.c_str(),
              static_cast<unsigned long long>(dense.elements),
              static_cast<unsigned long long>(dense.changed), dense.largest,
              dense.note.empty() ? "" : "; ", dense.note.c_str());
}

int Fail(const Status& status) {
  std::fprintf(stderr, "diff: %s\n", status.message().c_str());
  return 2;
}

}  // namespace

int DiffCommand(const Flags& flags) {
  if (flags.arguments.size() != 3) {
    std::fprintf(stderr, "plexus diff needs two models: plexus diff A B, each RUN or MODEL\n");
    return 2;
  }
  std::string directories[2];
  for (int i = 0; i < 2; ++i) {
    StatusOr<std::string> directory = ModelAt(flags.arguments[i + 1], flags.which);
    if (!directory.ok()) {
      return Fail(directory.status());
    }
    const StatusOr<proto::Manifest> manifest = ReadManifest(*directory);
    if (!manifest.ok()) {
      return Fail(manifest.status());
    }
    std::printf("%c: %s, version %llu, model_digest %s, %u servers\n", 'A' + i, directory->c_str(),
                static_cast<unsigned long long>(manifest->version()),
                manifest->model_digest().c_str(), manifest->shards());
    directories[i] = *std::move(directory);
  }
  const StatusOr<ModelDifference> difference =
      DiffModels(directories[0], directories[1], {.top = flags.top});
  if (!difference.ok()) {
    return Fail(difference.status());
  }
  for (const auto& [name, table] : difference->tables) {
    Print(name, table);
  }
  for (const auto& [name, dense] : difference->dense) {
    if (dense.any()) {
      Print(name, dense);
    }
  }
  std::printf("%s\n", difference->any() ? "different" : "equal");
  return difference->any() ? 1 : 0;
}

}  // namespace plexus
