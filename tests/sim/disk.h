// The disks of a simulated cluster: what its processes find again when they come back.
//
// SimLog is common/record_log.h in memory; the functions below do with it what launch/push_log.cc
// and launch/commit_log.cc do, and have to follow them.  A process that is killed loses nothing
// that was appended; a place whose power is cut loses, of each segment, any end of what was not
// synced.
//
// Thread safety: none.
#pragma once

#include <cstdint>
#include <map>
#include <optional>
#include <string>
#include <tuple>
#include <utility>
#include <vector>

#include "common/bytes.h"
#include "common/status.h"
#include "proto/checkpoint.pb.h"
#include "ps/shard.h"
#include "tests/sim/sim_random.h"

namespace plexus::sim {

struct LogRecord {
  std::uint32_t kind = 0;
  Bytes payload;
};

class SimLog {
 public:
  struct Segment {
    std::uint64_t name = 0;
    std::vector<LogRecord> records;
    std::size_t synced = 0;  // Records that survive a power cut.
    bool is_named = false;   // Its name survives one.
  };
  // Behind so many records of segment `segment`, by position.
  struct Position {
    std::size_t segment = 0;
    std::size_t records = 0;
  };

  const std::vector<Segment>& segments() const { return segments_; }
  bool HasSegment(std::uint64_t name) const;
  // A new process: nothing can be appended before Truncate or BeginSegment.
  void Reopen() { is_open_ = false; }
  bool is_open() const { return is_open_; }

  void BeginSegment(std::uint64_t name, bool sync);
  // REQUIRES: is_open().
  void Append(std::uint32_t kind, Bytes payload);
  void Sync();
  void Truncate(const Position& end);
  void DropBefore(std::uint64_t name);
  void Clear();
  void LosePower(SimRandom* random);
  std::uint64_t bytes() const;

 private:
  std::vector<Segment> segments_;
  bool is_open_ = false;
};

// --- a server's push log -------------------------------------------------------------------------

struct LogVersions {
  std::uint64_t begin = 0;
  std::uint64_t newest = 0;  // That it can make, given the scheduler's commits; 0: none.
};
LogVersions VersionsOf(const SimLog& log);
Status ReplayPushLog(const proto::Recover& recover, SimLog* log, Shard* shard);
void AppendPushRecord(const PushRecord& record, bool sync, SimLog* log);

// --- the scheduler's log of commits --------------------------------------------------------------

class SimCommitLog {
 public:
  SimCommitLog(SimLog* log, std::uint64_t checkpoint, bool sync);
  std::uint32_t former_starts() const { return former_starts_; }
  std::vector<proto::CommittedStep> TakeSteps() { return std::exchange(steps_, {}); }
  void ResumeAt(std::uint64_t version);
  void Append(const proto::CommittedStep& step);
  void KeepFrom(std::uint64_t version) { log_->DropBefore(version); }

 private:
  void AppendStart();

  SimLog* const log_;
  const std::uint64_t checkpoint_;
  const bool sync_;
  std::uint32_t former_starts_ = 0;
  std::vector<proto::CommittedStep> steps_;
  std::vector<SimLog::Position> begins_;  // Of steps_.
};

// --- saved models and checkpoints ----------------------------------------------------------------

// What one shard writes of a model.
struct SavedPart {
  struct Row {
    std::uint32_t table = 0;
    Key key = 0;
    std::uint64_t last_step = 0;
    std::uint64_t count = 0;
    std::vector<std::byte> record;
  };
  std::uint64_t version = 0;
  std::vector<Row> rows;
  std::vector<std::tuple<std::uint32_t, std::uint32_t, std::string>> filters;
  std::vector<std::pair<std::uint32_t, std::vector<float>>> dense;
};

// The run directory's model/ and checkpoints/, which all places see.  Files are synced when they
// are written.
class SavedModels {
 public:
  // A manifest of an older version does not lie beside files of this one.
  void WritePart(const std::string& name, std::uint64_t version, std::uint32_t shard,
                 const ShardState& state);
  // Of checkpoints, all but the newest `keep` go.
  void WriteManifest(const std::string& name, std::uint64_t version, std::uint32_t keep,
                     const proto::SchedulerState& state);
  // 0: there is no checkpoint.
  std::uint64_t NewestCheckpoint() const;
  const proto::SchedulerState& StateOf(std::uint64_t checkpoint) const;
  // kDataLoss: a part is missing.
  Status Restore(std::uint64_t checkpoint, std::uint32_t shards, Shard* shard) const;
  // Whether the model was finished, and its files have not been touched since.
  bool IsComplete(const std::string& name) const;

 private:
  struct Model {
    std::map<std::uint32_t, SavedPart> parts;
    std::optional<proto::SchedulerState> manifest;
  };
  Model& At(const std::string& name, std::uint64_t version);

  std::map<std::string, Model> models_;
  std::map<std::uint64_t, Model> checkpoints_;
};

}  // namespace plexus::sim
