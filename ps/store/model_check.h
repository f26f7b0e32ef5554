// Checks a saved model on disk against its manifest and itself, without the job.
//
// Every file that the manifest names: size, blocks' checksums and structure, whole-file hash, the
// shard and version that it says it is of; the manifest's own checksum, and its model_digest
// against the sum over all rows, dense blocks and filters of these files.  After damage it goes on
// with the next block as long as block lengths can be followed, then with the next file.
//
// Thread safety: pure functions on files.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

namespace plexus {

struct ModelFinding {
  std::string file;                     // With its directory.
  std::optional<std::uint64_t> offset;  // In the file; none: of the file as a whole.
  std::string what;
  bool damage = true;  // False: worth a word, and nothing is lost.
};

struct ModelCheck {
  std::vector<ModelFinding> findings;
  std::string model;  // As the manifest names it.
  std::string base;   // Of an incremental checkpoint: the directory of the one that it builds on.
  std::uint64_t version = 0;
  std::uint64_t files = 0;
  std::uint64_t blocks = 0;  // Whose checksums fit.
  std::uint64_t rows = 0;
  std::uint64_t bytes = 0;

  bool damaged() const;
};

// One block (about 1 MiB) in memory at a time.  Of a base, that it is there; its files are checked
// by a call of its own.
ModelCheck CheckModel(const std::string& directory);

}  // namespace plexus
