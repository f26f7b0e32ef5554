#include <charconv>
#include <cstdio>

#include "launch/commands.h"
#include "launch/model_dump.h"
#include "launch/saved_models.h"

namespace plexus {
namespace {

// 123 or 0x7b.
std::optional<Key> ParseKey(std::string_view text) {
  const int base = text.starts_with("0x") ? 16 : 10;
  text.remove_prefix(base == 16 ? 2 : 0);
  Key key = 0;
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), key, base);
  return error == std::errc() && end == text.data() + text.size() && !text.empty()
             ? std::optional<Key>(key)
             : std::nullopt;
}

int Fail(const Status& status) {
  std::fprintf(stderr, "dump: %s\n", status.message().c_str());
  return 1;
}

}  // namespace

int DumpCommand(const Flags& flags) {
  if (flags.arguments.size() != 2) {
    std::fprintf(stderr, "plexus dump needs one model: plexus dump RUN|MODEL --table=NAME\n");
    return 2;
  }
  DumpOptions options;
  options.table = flags.table;
  options.sorted = flags.sorted;
  options.header = flags.header;
  if (!flags.key.empty()) {
    options.key = ParseKey(flags.key);
    if (!options.key.has_value()) {
      std::fprintf(stderr, "--key=%s: not a number of 64 bits, such as 123 or 0x7b\n",
                   flags.key.c_str());
      return 2;
    }
  }
  const StatusOr<std::string> directory = ModelAt(flags.arguments[1], flags.which);
  if (!directory.ok()) {
    return Fail(directory.status());
  }
  const Status status = DumpTable(*directory, options, [](const std::string& line) {
    return std::fwrite(line.data(), 1, line.size(), stdout) == line.size();
  });
  if (!status.ok()) {
    return Fail(status);
  }
  return std::fflush(stdout) == 0 ? 0 : Fail(ErrnoStatus("write", "stdout"));
}

}  // namespace plexus
