#include <cstdio>
#include <sstream>

#include "launch/commands.h"
#include "launch/inspect_text.h"
#include "launch/inspection.h"

namespace plexus {

int InspectCommand(const Flags& flags) {
  if (flags.arguments.size() > 2) {
    std::fprintf(stderr, "plexus inspect needs one run: plexus inspect RUN, or --run_dir=RUN\n");
    return 2;
  }
  InspectOptions options;
  options.run_dir = flags.arguments.size() == 2 ? flags.arguments[1] : flags.run_dir;
  options.which = flags.which;
  options.top = flags.top;
  options.fields = flags.of_fields;
  options.progress = !flags.quiet;
  std::stringstream list(flags.data);
  for (std::string file; std::getline(list, file, ',');) {
    options.data.push_back(file);
  }
  const StatusOr<nlohmann::ordered_json> report = Inspect(options);
  if (!report.ok()) {
    std::fprintf(stderr, "%s\n", report.status().message().c_str());
    return report.status().code() == StatusCode::kInvalidArgument ? 2 : 1;
  }
  const std::string text =
      flags.json
          ? report->dump(-1, ' ', false, nlohmann::ordered_json::error_handler_t::replace) + "\n"
          : InspectText(*report);
  return std::fwrite(text.data(), 1, text.size(), stdout) == text.size() ? 0 : 1;
}

}  // namespace plexus
