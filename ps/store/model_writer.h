// ModelFileWriter: writes one shard's file of a saved model or checkpoint, block by block; see
// model_file.h for the format.
//
// The file has another name until Finish, and is removed if Finish is not called or fails.
//
// Thread safety: none.
#pragma once

#include <cstdint>
#include <memory>
#include <string>

#include "common/hash.h"
#include "common/status.h"
#include "proto/checkpoint.pb.h"
#include "proto/plan.h"
#include "ps/snapshot_block.h"

namespace plexus {

// Whose file of which version it is.
struct ModelFileHead {
  std::uint32_t shard = 0;
  std::uint64_t version = 0;
  std::uint64_t base = 0;  // The version that an incremental file builds on; 0: it is whole.
};

class ModelFileWriter {
 public:
  // The file lies in `directory`, which is made if absent.  Errors come with Write or Finish.
  ModelFileWriter(const JobPlan& plan, const ModelFileHead& head, const std::string& directory);
  ~ModelFileWriter();
  ModelFileWriter(const ModelFileWriter&) = delete;
  ModelFileWriter& operator=(const ModelFileWriter&) = delete;

  // After an error nothing more is written, and Finish returns it: what was tried, on which file.
  Status Write(const SnapshotBlock& block);
  // Of the rows, filters and dense blocks so far: their part of model_digest.
  const Digest128& digest() const { return digest_; }
  std::uint64_t bytes() const;

  // Ends, syncs and renames the file, and syncs the directory; its name, size and hash.
  StatusOr<proto::SavedFile> Finish();

 private:
  class Blocks;

  void WriteRows(const SnapshotBlock& block);
  void WriteFilter(const SnapshotBlock& block);
  void WriteDense(const SnapshotBlock& block);

  const JobPlan& plan_;
  const std::string directory_;
  const std::string name_;
  std::unique_ptr<Blocks> blocks_;
  std::string payload_;
  Digest128 digest_;
};

}  // namespace plexus
