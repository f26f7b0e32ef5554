// plexus: the program that people type.
#include <cstdio>
#include <string>
#include <string_view>

#include <glog/logging.h>

#include "launch/commands.h"
#include "launch/flags.h"

namespace {

constexpr const char* kHelp =
    R"(plexus trains recommender models whose embedding tables do not fit on one machine.

  plexus train --job=FILE [--local] [--set path=value]... [--run_dir=DIR] [--overwrite|--resume]
               [--servers=N] [--workers=N] [--http_address=127.0.0.1:0] [--quiet]
               [--curve_dir=DIR] [--restarts=3]
      Trains the job.  --local: everything in this process.  --set overrides an entry of the job,
      any number of times, such as --set data.train=a.tsv,b.tsv --set train.ranks=4.
      --curve_dir: the processes encrypt what they say, with keys in DIR.
      --resume goes on with the run in --run_dir.  A job with checkpoint.durability survives the
      death of any of its processes; should it end with 3 all the same, it is started again, at
      most --restarts times in a row.

  plexus evaluate --run_dir=DIR --data=FILE[,FILE] [--which=best|final]
      Prints figures of a saved model on data, as JSON.

  plexus predict --run_dir=DIR --data=FILE --out=FILE [--which=best|final]
      Writes one probability a line.

  plexus inspect RUN [--which=best|final] [--top=20] [--fields [--data=FILE[,FILE]]] [--json]
      Says of each table of a saved model: rows, bytes, index, who came and went, the hottest keys,
      how the rows' norms are spread.  --fields: reads the training data, or --data, and says which
      field's values the rows are.  --json: one object.

  plexus fsck RUN|MODEL
      Verifies saved models, without their job's data: names file and offset of any damage.

  plexus diff A B [--which=best|final] [--top=20]
      Says in which rows and dense parameters two saved models differ.

  plexus dump RUN|MODEL --table=NAME [--key=KEY] [--sorted] [--header] [--which=best|final]
      Prints rows of a table as text.  fsck, diff and dump explain themselves: plexus fsck --help.

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

constexpr const char* kFsckHelp =
    R"(plexus fsck RUN|MODEL verifies saved models on disk.

MODEL is a directory with a manifest.textproto, such as RUN/model/final; of a RUN, all in its model/
and checkpoints/.  Neither the job nor its data are needed.

Checked: the manifest's checksum; of every file that it names the size, the checksum and structure
of each block, the hash of the whole, the shard and version that it is of; and that all rows, dense
blocks and filters add up to the manifest's model_digest.  Each damage is a line with file and
offset.  A damaged block does not end the check: the next one is looked at, then the next file.
Files that the manifest does not name are called extra, which is no damage.

Exit codes: 0 clean, 1 damaged, or nothing there, 2 usage.
)";

constexpr const char* kDiffHelp =
    R"(plexus diff A B [--which=best|final] [--top=20] says in what two saved models differ.

A and B are models (such as RUN/model/final) or runs, of which --which names the model.  Each needs
the job.textproto of its run beside it or above it.  The number of servers that wrote them does not
matter.

A line a table: rows that are equal (record, last step and count, bit for bit), that differ, that
only one has; the largest absolute difference of a value and of the optimizer's state; then the
--top smallest keys that differ.  A line for each dense parameter that differs, with its optimizer's
state.  The last line is "equal" or "different".

Exit codes: 0 equal, 1 different, 2 they could not be compared, or usage.
)";

constexpr const char* kDumpHelp =
    R"(plexus dump RUN|MODEL --table=NAME [--key=KEY] [--sorted] [--header] [--which=best|final]
prints rows of a table of a saved model as text, with a tab between any two columns:

  key  last_step  count  value 0 ... value dim-1  state 0 ...

Numbers are the shortest that read back as the same float; rows in fewer bytes are decoded.  `last
step` is the version that updated the row last, `count` its occurrences (decayed, if a limit by
count evicts).  MODEL needs the job.textproto of its run beside it or above it.

  --key=KEY   only that row, 123 or 0x7b; exit code 1 if there is none.
  --sorted    by key, in about 256 MiB of memory: the model is read once more for each 256 MiB.
  --header    a first line that names the columns.

Exit codes: 0 done, 1 failed, 2 usage.
)";

const char* HelpOf(int argc, char** argv) {
  const std::string_view command = argc > 1 ? argv[1] : "";
  return command == "fsck"   ? kFsckHelp
         : command == "diff" ? kDiffHelp
         : command == "dump" ? kDumpHelp
                             : kHelp;
}

}  // namespace

int main(int argc, char** argv) {
  FLAGS_logtostderr = true;
  google::InitGoogleLogging(argv[0]);
  google::InstallFailureSignalHandler();
  const plexus::Flags flags = plexus::ParseCommandLine(argc, argv, HelpOf(argc, argv));
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
  if (command == "fsck") {
    return plexus::FsckCommand(flags);
  }
  if (command == "diff") {
    return plexus::DiffCommand(flags);
  }
  if (command == "dump") {
    return plexus::DumpCommand(flags);
  }
  if (command == "keygen") {
    return plexus::KeygenCommand(flags);
  }
  std::fputs(kHelp, stderr);
  return 2;
}
