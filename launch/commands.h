// The subcommands of `plexus`.  Each prints results on stdout, logs on stderr, and returns an exit
// code: 0 done, 1 failed, 2 bad job or usage, 3 restartable.
//
// Thread safety: one at a time, from main.
#pragma once

#include "launch/flags.h"

namespace plexus {

int TrainCommand(const Flags& flags);
int DataCommand(const Flags& flags);
int EvaluateCommand(const Flags& flags);
int PredictCommand(const Flags& flags);
int InspectCommand(const Flags& flags);
int FsckCommand(const Flags& flags);
// 0: equal, 1: different, 2: they could not be compared.
int DiffCommand(const Flags& flags);
int DumpCommand(const Flags& flags);
int KeygenCommand(const Flags& flags);

}  // namespace plexus
