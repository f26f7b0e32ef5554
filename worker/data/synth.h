// SynthesizeCriteo: files in Criteo's format with a known truth, as `plexus data synth` makes them.
//
// Thread safety: a function without state; two calls must not write to the same folder.
#pragma once

#include <cstdint>
#include <string>

#include "common/status.h"
#include "worker/data/synth_model.h"

namespace plexus {

struct SynthOptions {
  std::string out;  // Folder; made if it is not there.
  std::uint64_t rows = 1000000;
  std::uint64_t valid_rows = 100000;
  std::uint64_t test_rows = 100000;
  // train_rows is set to `rows`.
  SynthModelOptions model;
};

// Writes train.tsv, valid.tsv, test.tsv and synth.json into `out`; the same options give the same
// bytes.  Returns what synth.json holds, one line: the options; distinct_values, the (field, value)
// pairs in train.tsv; label_rate of train.tsv; best_auc and best_logloss, what the true
// probabilities reach on test.tsv (null without both labels), and expected_auc. Logs progress.
// About 200,000 rows/s.
StatusOr<std::string> SynthesizeCriteo(const SynthOptions& options);

}  // namespace plexus
