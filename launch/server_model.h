// A server's part of saved models and checkpoints: state to files, and back.
//
// Thread safety: none; belongs to the shard's thread.
#pragma once

#include <cstdint>
#include <functional>
#include <string>

#include "launch/cold_tier.h"
#include "launch/node.h"
#include "launch/push_log.h"
#include "proto/plan.h"
#include "ps/shard.h"

namespace plexus {

// Writes the shard's part of the model under each of the comma-separated names, and tells the
// shard.  `cold` may be null, here and below.
void SaveModel(const JobPlan& plan, const std::string& names, const NodeOptions& options,
               ColdTier* cold, Shard* shard);

// Brings the shard to recover.version(): puts its rows of the checkpoint back, whatever number of
// shards wrote it, replays its push log (null: there is none), and tells the shard.  Rows that do
// not fit into memory go to disk on the way.  `beat` is called often: the scheduler is to hear that
// this server lives.
void RecoverModel(const JobPlan& plan, const proto::Recover& recover, const NodeOptions& options,
                  ColdTier* cold, PushLog* log, const std::function<void()>& beat, Shard* shard);

}  // namespace plexus
