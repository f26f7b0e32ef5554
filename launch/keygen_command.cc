#include <cstdio>
#include <sstream>
#include <string>
#include <vector>

#include "common/net/zmq_curve.h"
#include "launch/commands.h"

namespace plexus {

int KeygenCommand(const Flags& flags) {
  std::vector<std::string> names;
  std::stringstream list(flags.names);
  for (std::string name; std::getline(list, name, ',');) {
    names.push_back(name);
  }
  if (flags.out.empty() || names.empty()) {
    std::fprintf(stderr,
                 "keygen needs --out=DIR and --names=scheduler,server,worker; see --help\n");
    return 2;
  }
  const Status status = WriteCurveKeys(flags.out, names);
  if (!status.ok()) {
    std::fprintf(stderr, "%s\n", status.message().c_str());
    const bool usage = status.code() == StatusCode::kInvalidArgument ||
                       status.code() == StatusCode::kFailedPrecondition;
    return usage ? 2 : 1;
  }
  for (const std::string& name : names) {
    std::printf("%s/%s.public\n%s/%s.secret\n", flags.out.c_str(), name.c_str(), flags.out.c_str(),
                name.c_str());
  }
  return 0;
}

}  // namespace plexus
