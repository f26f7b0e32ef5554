// The command line of every program: flags, and `--set` which gflags cannot repeat.
//
// Flags are read once, into Flags; nothing else looks at gflags' variables.
//
// Thread safety: ParseCommandLine in main, before any thread; Flags is a value.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

namespace plexus {

struct Flags {
  std::vector<std::string> arguments;  // What is no flag: subcommands, names.
  std::vector<std::string> overrides;  // "path=value", in order.

  std::string job;
  std::string run_dir;
  bool overwrite = false;
  bool resume = false;
  std::uint32_t restarts = 0;
  std::uint64_t resume_version = 0;  // Scheduler: a checkpoint that was verified; 0: none.
  bool local = false;
  bool quiet = false;

  // Members.
  std::uint32_t index = 0;
  std::string scheduler;
  std::string listen;
  std::int32_t listen_fd = -1;
  std::string advertise;
  std::string http_address;
  std::int32_t supervisor_pid = 0;
  std::string curve_dir;
  std::string names;

  // Data, evaluation.
  std::string data;
  std::string in;
  std::string out;
  std::string at;
  bool header = false;
  std::uint64_t rows = 0;
  std::uint64_t valid_rows = 0;
  std::uint64_t test_rows = 0;
  std::uint64_t seed = 0;
  std::uint32_t fields = 0;
  std::uint64_t cardinality_total = 0;
  double zipf = 0;
  std::uint32_t rank = 0;
  double target_auc = 0;
  std::string which;

  // Inspection.
  std::uint32_t top = 0;
  bool json = false;
  std::string table;
  std::string key;
  bool sorted = false;
  bool of_fields = false;  // `--fields` of `plexus inspect`.
};

// Exits 2 with a sentence on an unknown or malformed flag; prints `help` and exits 0 on --help.
Flags ParseCommandLine(int argc, char** argv, const std::string& help);

}  // namespace plexus
