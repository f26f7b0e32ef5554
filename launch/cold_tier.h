// ColdTier: a server's rows on disk: carries what the shard asks for to the ColdStore, and what
// came of it back.
//
// Thread safety: none; belongs to the shard's thread.  `wake` is called from the store's threads.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>

#include "common/outbox.h"
#include "common/status.h"
#include "launch/node.h"
#include "proto/plan.h"
#include "ps/shard.h"
#include "ps/store/cold_store.h"
#include "ps/store/model_file.h"

namespace plexus {

class ColdTier {
 public:
  // In a directory of this server's own below cluster.spill_dir (RUN/cold).  Null: no row of this
  // job may go to disk.
  static StatusOr<std::unique_ptr<ColdTier>> Open(const JobPlan& plan, const Shard& shard,
                                                  const NodeOptions& options,
                                                  std::function<void()> wake);

  // Hands over what the shard wants moved, and what the store has done.
  void Exchange(Shard& shard, Millis now);
  ColdScan scan();
  ColdStoreStats stats() const { return store_->stats(); }

 private:
  ColdTier() = default;
  void HandOver(Shard& shard);

  std::unique_ptr<ColdStore> store_;
};

}  // namespace plexus
