#include "launch/flags.h"

#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <string_view>

#include <gflags/gflags.h>

DEFINE_string(job, "", "job file (protobuf text, schema proto/job.proto)");
DEFINE_string(run_dir, "run", "directory that the run is written to");
DEFINE_bool(overwrite, false, "replace a run that lies in --run_dir");
DEFINE_bool(resume, false, "go on with the run in --run_dir from its newest checkpoint");
DEFINE_uint32(restarts, 3,
              "start a job with checkpoint.durability again, as with --resume, so many times in a "
              "row if it ends with 3");
DEFINE_uint64(resume_version, 0, "scheduler, set by its supervisor: go on from this checkpoint");
DEFINE_bool(local, false, "run everything in this process");
DEFINE_bool(quiet, false, "no progress bar, no summary");
DEFINE_string(servers, "", "short for --set cluster.servers=N");
DEFINE_string(workers, "", "short for --set cluster.workers=N");
DEFINE_uint32(index, 0, "index of this server or worker");
DEFINE_string(scheduler, "", "address of the scheduler, tcp://host:port");
DEFINE_string(listen, "", "address to bind, tcp://host:port");
DEFINE_int32(listen_fd, -1, "a listening socket that is open already");
DEFINE_string(advertise, "", "address at which others reach this server, if not --listen");
DEFINE_string(http_address, "", "serve /metrics, /healthz and /status here, as 127.0.0.1:0");
DEFINE_int32(supervisor_pid, 0, "process that restarts this one");
DEFINE_string(curve_dir, "", "directory of keys: encrypt, and admit only who has one of them");
DEFINE_string(names, "", "names to make keys for; commas separate several");
DEFINE_string(data, "", "data file to evaluate or predict; commas separate several");
DEFINE_string(in, "", "file to split");
DEFINE_string(out, "", "directory or file to write");
DEFINE_string(at, "", "rows at which to split, as N,M");
DEFINE_bool(header, false, "the file's first line is a header");
DEFINE_uint64(rows, 1000000, "training rows to make");
DEFINE_uint64(valid_rows, 100000, "validation rows to make");
DEFINE_uint64(test_rows, 100000, "test rows to make");
DEFINE_uint64(seed, 1, "seed");
DEFINE_uint32(fields, 26, "categorical fields");
DEFINE_uint64(cardinality_total, 300000, "distinct values over all fields");
DEFINE_double(zipf, 1.05, "exponent of the values' distribution");
DEFINE_uint32(rank, 4, "rank of the planted factorisation machine");
DEFINE_double(target_auc, 0.80, "best possible AUC to aim at");
DEFINE_string(which, "best", "saved model to use: best, or final");
DEFINE_uint32(top, 20, "hottest keys of each table to name");
DEFINE_bool(json, false, "print one JSON object");
DEFINE_string(table, "", "table to dump");
DEFINE_string(key, "", "only the row of this key");
DEFINE_bool(sorted, false, "rows in the order of their keys");
DEFINE_bool(of_fields, false, "inspect: also read the data, and say whose the rows are");

namespace plexus {
namespace {

// Takes `--set path=value` and `--set=path=value` out of argv.
std::vector<std::string> TakeOverrides(int* argc, char** argv) {
  std::vector<std::string> overrides;
  int kept = 1;
  for (int i = 1; i < *argc; ++i) {
    const std::string_view argument = argv[i];
    const std::string_view name = argument.substr(0, argument.find('='));
    if (name != "--set" && name != "-set") {
      argv[kept++] = argv[i];
    } else if (name.size() < argument.size()) {
      overrides.emplace_back(argument.substr(name.size() + 1));
    } else if (i + 1 < *argc) {
      overrides.emplace_back(argv[++i]);
    } else {
      std::fprintf(stderr, "--set needs path=value\n");
      std::exit(2);
    }
  }
  *argc = kept;
  argv[kept] = nullptr;
  return overrides;
}

[[noreturn]] void ExitUsage(const std::string& sentence) {
  std::fprintf(stderr, "%s; see --help\n", sentence.c_str());
  std::exit(2);
}

// To `data synth` --fields is a number, to `inspect` a switch.
std::string NameOfFlag(const std::string& argument, const std::vector<std::string>& arguments) {
  const bool inspects = !arguments.empty() && arguments[0] == "inspect";
  return inspects && argument == "--fields" ? "--of_fields" : argument;
}

// Sets one flag; `next` is the argument after it, or null.  True if that was its value.  gflags'
// own parser exits with 1 where every program of ours promises 2.
bool SetFlag(const std::string& argument, const char* next) {
  std::string name = argument.substr(argument.starts_with("--") ? 2 : 1);
  const std::size_t equals = name.find('=');
  const bool has_value = equals != std::string::npos;
  std::string value = has_value ? name.substr(equals + 1) : "";
  name = name.substr(0, equals);
  gflags::CommandLineFlagInfo info;
  bool known = gflags::GetCommandLineFlagInfo(name.c_str(), &info);
  bool took_next = false;
  if (!known && !has_value && name.starts_with("no")) {
    name = name.substr(2);
    known = gflags::GetCommandLineFlagInfo(name.c_str(), &info) && info.type == "bool";
    value = "false";
  } else if (known && !has_value && info.type == "bool") {
    value = "true";
  } else if (known && !has_value) {
    if (next == nullptr) {
      ExitUsage("--" + name + " needs a value");
    }
    value = next;
    took_next = true;
  }
  if (!known) {
    ExitUsage("there is no flag " + argument);
  }
  if (gflags::SetCommandLineOption(name.c_str(), value.c_str()).empty()) {
    ExitUsage("--" + name + "=" + value + ": not a " + info.type);
  }
  return took_next;
}

}  // namespace

Flags ParseCommandLine(int argc, char** argv, const std::string& help) {
  for (int i = 1; i < argc; ++i) {
    if (std::strcmp(argv[i], "--help") == 0 || std::strcmp(argv[i], "-h") == 0) {
      std::fputs(help.c_str(), stdout);
      std::exit(0);
    }
  }
  Flags flags;
  flags.overrides = TakeOverrides(&argc, argv);
  for (int i = 1; i < argc; ++i) {
    const std::string argument = argv[i];
    if (argument.size() < 2 || argument[0] != '-') {
      flags.arguments.push_back(argument);
    } else if (SetFlag(NameOfFlag(argument, flags.arguments),
                       i + 1 < argc ? argv[i + 1] : nullptr)) {
      ++i;
    }
  }
  if (!FLAGS_servers.empty()) {
    flags.overrides.push_back("cluster.servers=" + FLAGS_servers);
  }
  if (!FLAGS_workers.empty()) {
    flags.overrides.push_back("cluster.workers=" + FLAGS_workers);
  }
  flags.job = FLAGS_job;
  flags.run_dir = FLAGS_run_dir;
  flags.overwrite = FLAGS_overwrite;
  flags.restarts = FLAGS_restarts;
  flags.resume = FLAGS_resume;
  flags.resume_version = FLAGS_resume_version;
  flags.local = FLAGS_local;
  flags.quiet = FLAGS_quiet;
  flags.index = FLAGS_index;
  flags.scheduler = FLAGS_scheduler;
  flags.listen = FLAGS_listen;
  flags.listen_fd = FLAGS_listen_fd;
  flags.advertise = FLAGS_advertise;
  flags.http_address = FLAGS_http_address;
  flags.supervisor_pid = FLAGS_supervisor_pid;
  flags.curve_dir = FLAGS_curve_dir;
  flags.names = FLAGS_names;
  flags.data = FLAGS_data;
  flags.in = FLAGS_in;
  flags.out = FLAGS_out;
  flags.at = FLAGS_at;
  flags.header = FLAGS_header;
  flags.rows = FLAGS_rows;
  flags.valid_rows = FLAGS_valid_rows;
  flags.test_rows = FLAGS_test_rows;
  flags.seed = FLAGS_seed;
  flags.fields = FLAGS_fields;
  flags.cardinality_total = FLAGS_cardinality_total;
  flags.zipf = FLAGS_zipf;
  flags.rank = FLAGS_rank;
  flags.target_auc = FLAGS_target_auc;
  flags.which = FLAGS_which;
  flags.top = FLAGS_top;
  flags.json = FLAGS_json;
  flags.table = FLAGS_table;
  flags.key = FLAGS_key;
  flags.sorted = FLAGS_sorted;
  flags.of_fields = FLAGS_of_fields;
  return flags;
}

}  // namespace plexus
