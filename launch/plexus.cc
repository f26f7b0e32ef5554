// plexus: the program that people type.
#include <cstdio>

#include <glog/logging.h>

#include "launch/commands.h"
#include "launch/flags.h"

namespace {

constexpr const char* kHelp =
    R"(plexus trains recommender models whose embedding tables do not fit on one machine.

  plexus train --job=FILE [--local] [--set path=value]... [--run_dir=DIR] [--overwrite|--resume]
               [--servers=N] [--workers=N] [--http_address=127.0.0.1:0] [--quiet]
               [--curve_dir=DIR]
      Trains the job.  --local: everything in this process.  --set overrides an entry of the job,
      any number of times, such as --set data.train=a.tsv,b.tsv --set train.ranks=4.
      --curve_dir: the processes encrypt what they say, with keys in DIR.

  plexus evaluate --run_dir=DIR --data=FILE[,FILE] [--which=best|final]
      Prints figures of a saved model on data, as JSON.

  plexus predict --run_dir=DIR --data=FILE --out=FILE [--which=best|final]
      Writes one probability a line.

  plexus inspect RUN [--which=best|final] [--top=20] [--fields [--data=FILE[,FILE]]] [--json]
      Says of each table of a saved model: rows, bytes, index, who came and went, the hottest keys,
      how the rows' norms are spread.  --fields: reads the training data, or --data, and says which
      field's values the rows are.  --json: one object.

  plexus data synth --out=DIR [--rows=N] [--valid_rows=N] [--test_rows=N] [--seed=N] [--fields=26]
                    [--cardinality_total=N] [--zipf=1.05] [--rank=4] [--target_auc=0.80]
      Makes Criteo-shaped data with a known best AUC; prints synth.json last.

  plexus data split --in=FILE --out=DIR --at=N,M [--header]
      Cuts a file by order into train.tsv, valid.tsv, test.tsv.

  plexus keygen --out=DIR --names=scheduler,server,worker
      Makes a pair of keys for each name, DIR/NAME.public and DIR/NAME.secret, for --curve_dir; see
      docs/security.md.

Exit codes: 0 done, 1 failed, 2 bad job or usage, 3 restartable.
Schema of a job file: proto/job.proto; examples: examples/*.textproto; more: docs/.
)";

}  // namespace

int main(int argc, char** argv) {
  FLAGS_logtostderr = true;
  google::InitGoogleLogging(argv[0]);
  google::InstallFailureSignalHandler();
  const plexus::Flags flags = plexus::ParseCommandLine(argc, argv, kHelp);
  const std::string command = flags.arguments.empty() ? "" : flags.arguments[0];
  if (command == "train") {
    return plexus::TrainCommand(flags);
  }
  if (command == "data") {
    return plexus::DataCommand(flags);
  }
  if (command == "evaluate") {
    return plexus::EvaluateCommand(flags);
  }
  if (command == "predict") {
    return plexus::PredictCommand(flags);
  }
  if (command == "inspect") {
    return plexus::InspectCommand(flags);
  }
  if (command == "keygen") {
    return plexus::KeygenCommand(flags);
  }
  std::fputs(kHelp, stderr);
  return 2;
}
