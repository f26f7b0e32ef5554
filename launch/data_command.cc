#include <cstdio>
#include <cstdlib>

#include "launch/commands.h"
#include "worker/data/split.h"
#include "worker/data/synth.h"

namespace plexus {
namespace {

int Report(const Status& status) {
  std::fprintf(stderr, "%s\n", status.message().c_str());
  return status.code() == StatusCode::kInvalidArgument ? 2 : 1;
}

int Synth(const Flags& flags) {
  SynthOptions options;
  options.out = flags.out;
  options.rows = flags.rows;
  options.valid_rows = flags.valid_rows;
  options.test_rows = flags.test_rows;
  options.model.seed = flags.seed;
  options.model.fields = flags.fields;
  options.model.cardinality_total = flags.cardinality_total;
  options.model.zipf = flags.zipf;
  options.model.rank = flags.rank;
  options.model.target_auc = flags.target_auc;
  StatusOr<std::string> json = SynthesizeCriteo(options);
  if (!json.ok()) {
    return Report(json.status());
  }
  std::printf("%s\n", json->c_str());
  return 0;
}

int Split(const Flags& flags) {
  SplitOptions options;
  options.in = flags.in;
  options.out = flags.out;
  options.header = flags.header;
  unsigned long long valid_at = 0;
  unsigned long long test_at = 0;
  char rest = 0;
  if (flags.in.empty() ||
      std::sscanf(flags.at.c_str(), "%llu,%llu%c", &valid_at, &test_at, &rest) != 2 ||
      valid_at > test_at) {
    std::fprintf(stderr, "data split needs --in=FILE --out=DIR --at=N,M with N <= M\n");
    return 2;
  }
  options.valid_at = valid_at;
  options.test_at = test_at;
  StatusOr<SplitCounts> counts = SplitFile(options);
  if (!counts.ok()) {
    return Report(counts.status());
  }
  std::printf("{\"train\":%llu,\"valid\":%llu,\"test\":%llu}\n",
              static_cast<unsigned long long>(counts->train),
              static_cast<unsigned long long>(counts->valid),
              static_cast<unsigned long long>(counts->test));
  return 0;
}

}  // namespace

int DataCommand(const Flags& flags) {
  const std::string what = flags.arguments.size() > 1 ? flags.arguments[1] : "";
  if (flags.out.empty() || (what != "synth" && what != "split")) {
    std::fprintf(stderr, "usage: plexus data synth|split --out=DIR ...; see plexus --help\n");
    return 2;
  }
  return what == "synth" ? Synth(flags) : Split(flags);
}

}  // namespace plexus
