#include "tests/sim/disk.h"

#include <algorithm>

#include <glog/logging.h>

#include "scheduler/phase_planner.h"

namespace plexus::sim {
namespace {

enum CommitRecord : std::uint32_t { kStart = 1, kStep = 2 };

Bytes BytesOf(const std::string& text) {
  return Bytes::Copy({reinterpret_cast<const std::uint8_t*>(text.data()), text.size()});
}

Bytes Joined(const std::vector<Bytes>& pieces) {
  std::size_t bytes = 0;
  for (const Bytes& piece : pieces) {
    bytes += piece.size();
  }
  ByteWriter writer(bytes);
  for (const Bytes& piece : pieces) {
    writer.PutArray(std::span<const std::uint8_t>(piece.data(), piece.size()));
  }
  return writer.Finish();
}

template <typename Message>
Message Parsed(const Bytes& payload) {
  Message message;
  CHECK(message.ParseFromArray(payload.data(), static_cast<int>(payload.size())));
  return message;
}

// The step of a commit or of a step's parts; the version of a segment's begin.
std::uint64_t VersionOf(const LogRecord& record) {
  switch (static_cast<PushRecordKind>(record.kind)) {
    case PushRecordKind::kBegin:
      return Parsed<proto::LogBegin>(record.payload).version();
    case PushRecordKind::kCommit:
      return Parsed<proto::Commit>(record.payload).step();
    case PushRecordKind::kStep:
      break;
  }
  std::uint64_t step = 0;
  CHECK(ByteReader(record.payload.data(), record.payload.size()).Get(&step));
  return step;
}

std::uint64_t ReachOf(const LogRecord& record) {
  const auto kind = static_cast<PushRecordKind>(record.kind);
  proto::Phase next;
  if (kind == PushRecordKind::kBegin) {
    next = Parsed<proto::LogBegin>(record.payload).phase();
  } else if (kind == PushRecordKind::kCommit) {
    next = Parsed<proto::Commit>(record.payload).next();
  }
  return VersionOf(record) + (next.kind() == proto::Phase::EVALUATE ? 1 : 0);
}

}  // namespace

bool SimLog::HasSegment(std::uint64_t name) const {
  return std::any_of(segments_.begin(), segments_.end(),
                     [name](const Segment& segment) { return segment.name == name; });
}

void SimLog::BeginSegment(std::uint64_t name, bool sync) {
  if (sync && is_open_) {
    Sync();
  }
  CHECK(segments_.empty() || segments_.back().name < name) << "segment " << name;
  segments_.push_back({.name = name, .records = {}, .synced = 0, .is_named = sync});
  is_open_ = true;
}

void SimLog::Append(std::uint32_t kind, Bytes payload) {
  CHECK(is_open_);
  segments_.back().records.push_back({kind, std::move(payload)});
}

void SimLog::Sync() { segments_.back().synced = segments_.back().records.size(); }

void SimLog::Truncate(const Position& end) {
  segments_.resize(end.segment + 1);
  Segment& last = segments_.back();
  last.records.resize(end.records);
  last.is_named = true;
  is_open_ = true;
  Sync();
}

void SimLog::DropBefore(std::uint64_t name) {
  while (segments_.size() > 1 && segments_.front().name < name) {
    segments_.erase(segments_.begin());
  }
}

void SimLog::Clear() {
  segments_.clear();
  is_open_ = false;
}

void SimLog::LosePower(SimRandom* random) {
  std::erase_if(segments_, [random](const Segment& segment) {
    return !segment.is_named && random->Chance(0.5);
  });
  for (Segment& segment : segments_) {
    segment.records.resize(segment.synced +
                           random->Below(segment.records.size() - segment.synced + 1));
  }
}

std::uint64_t SimLog::bytes() const {
  std::uint64_t bytes = 0;
  for (const Segment& segment : segments_) {
    for (const LogRecord& record : segment.records) {
      bytes += record.payload.size();
    }
  }
  return bytes;
}

// --- a server's push log -------------------------------------------------------------------------

LogVersions VersionsOf(const SimLog& log) {
  LogVersions versions;
  std::uint64_t version = 0;
  bool is_first = true;
  for (const SimLog::Segment& segment : log.segments()) {
    for (const LogRecord& record : segment.records) {
      const auto kind = static_cast<PushRecordKind>(record.kind);
      if (std::exchange(is_first, false)) {
        versions.begin = version = segment.name;
      }
      if (VersionOf(record) != version + (kind == PushRecordKind::kBegin ? 0 : 1)) {
        return versions;  // A gap.
      }
      version = kind == PushRecordKind::kCommit ? VersionOf(record) : version;
      versions.newest = std::max(versions.newest, ReachOf(record));
    }
  }
  return versions;
}

Status ReplayPushLog(const proto::Recover& recover, SimLog* log, Shard* shard) {
  if (!log->HasSegment(recover.checkpoint())) {
    if (recover.version() != recover.checkpoint()) {
      return DataLoss("no segment of its push log begins at version " +
                      std::to_string(recover.checkpoint()));
    }
    log->Clear();
    return OkStatus();
  }
  std::optional<SimLog::Position> end;
  bool enough = false;
  for (std::size_t s = 0; s < log->segments().size() && !enough; ++s) {
    const SimLog::Segment& segment = log->segments()[s];
    for (std::size_t r = 0; r < segment.records.size() && segment.name >= recover.checkpoint();
         ++r) {
      const LogRecord& record = segment.records[r];
      const auto kind = static_cast<PushRecordKind>(record.kind);
      const bool gap =  // As a power cut may leave one.
          kind == PushRecordKind::kBegin && VersionOf(record) > shard->version();
      enough = gap || VersionOf(record) > recover.version();
      if (enough) {
        break;
      }
      RETURN_IF_ERROR(shard->Replay(kind, record.payload));
      end = SimLog::Position{s, r + 1};
    }
  }
  if (shard->complete_version() < recover.version()) {
    return DataLoss("its push log ends at version " + std::to_string(shard->version()) +
                    ", but version " + std::to_string(recover.version()) + " was committed");
  }
  if (end.has_value()) {
    log->Truncate(*end);
  } else {
    log->Clear();
  }
  return OkStatus();
}

void AppendPushRecord(const PushRecord& record, bool sync, SimLog* log) {
  if (record.kind == PushRecordKind::kBegin) {
    if (!log->is_open()) {
      log->Clear();
    }
    log->BeginSegment(record.version, sync);
  }
  log->Append(static_cast<std::uint32_t>(record.kind), Joined(record.pieces));
}

// --- the scheduler's log of commits --------------------------------------------------------------

SimCommitLog::SimCommitLog(SimLog* log, std::uint64_t checkpoint, bool sync)
    : log_(log), checkpoint_(checkpoint), sync_(sync) {
  log_->Reopen();
  std::optional<SimLog::Position> end;
  bool gap = false;
  const auto& segments = log_->segments();
  for (std::size_t s = 0; s < segments.size(); ++s) {
    for (std::size_t r = 0; r < segments[s].records.size(); ++r) {
      const LogRecord& record = segments[s].records[r];
      if (record.kind == kStart) {
        std::uint32_t start = 0;
        CHECK(ByteReader(record.payload.data(), record.payload.size()).Get(&start));
        former_starts_ = std::max(former_starts_, start);
      } else {
        const auto step = Parsed<proto::CommittedStep>(record.payload);
        const std::uint64_t next =
            steps_.empty() ? checkpoint_ + 1 : steps_.back().state().version() + 1;
        gap = gap || step.state().version() > next;
        if (!gap && step.state().version() == next) {
          steps_.push_back(step);
          begins_.push_back({s, r});
        }
      }
      if (!gap) {
        end = SimLog::Position{s, r + 1};
      }
    }
  }
  if (end.has_value()) {
    log_->Truncate(*end);
  } else {
    log_->Clear();
  }
  AppendStart();
}

void SimCommitLog::AppendStart() {
  if (!log_->is_open()) {
    log_->BeginSegment(checkpoint_, true);
  }
  const std::uint32_t start = former_starts_ + 1;
  log_->Append(kStart, Bytes::Copy({reinterpret_cast<const std::uint8_t*>(&start), sizeof(start)}));
  log_->Sync();
}

void SimCommitLog::ResumeAt(std::uint64_t version) {
  const std::uint64_t kept = version - checkpoint_;
  if (kept < begins_.size()) {
    log_->Truncate(begins_[kept]);
    AppendStart();
  }
  begins_.clear();
}

void SimCommitLog::Append(const proto::CommittedStep& step) {
  log_->Append(kStep, BytesOf(step.SerializeAsString()));
  if (sync_) {
    log_->Sync();
  }
  if (step.commit().has_checkpoint() && log_->segments().back().name < step.state().version()) {
    log_->BeginSegment(step.state().version(), true);
    AppendStart();
  }
}

// --- saved models and checkpoints ----------------------------------------------------------------

SavedModels::Model& SavedModels::At(const std::string& name, std::uint64_t version) {
  return name == kCheckpoint ? checkpoints_[version] : models_[name];
}

void SavedModels::WritePart(const std::string& name, std::uint64_t version, std::uint32_t shard,
                            const ShardState& state) {
  Model& model = At(name, version);
  model.manifest.reset();
  SavedPart part{.version = version, .rows = {}, .filters = {}, .dense = {}};
  for (std::uint32_t table = 0; table < state.table_count(); ++table) {
    state.table(table).ForEachRow([&](const RowView& row) {
      part.rows.push_back(
          {table, row.key, row.last_step, row.count, {row.record.begin(), row.record.end()}});
    });
    state.table(table).ForEachFilter([&](std::uint32_t bucket, const std::string& bytes) {
      part.filters.emplace_back(table, bucket, bytes);
    });
  }
  for (std::size_t b = 0; b < state.dense().blocks().size(); ++b) {
    const auto floats = state.dense().at(b);
    part.dense.emplace_back(state.dense().blocks()[b],
                            std::vector<float>(floats.begin(), floats.end()));
  }
  model.parts[shard] = std::move(part);
}

void SavedModels::WriteManifest(const std::string& name, std::uint64_t version, std::uint32_t keep,
                                const proto::SchedulerState& state) {
  At(name, version).manifest = state;
  std::uint32_t kept = 0;
  for (auto at = checkpoints_.end(); name == kCheckpoint && at != checkpoints_.begin();) {
    --at;
    if (at->first > version) {
      continue;  // The shards may be writing it.
    }
    if (!at->second.manifest.has_value() || kept == keep) {
      at = checkpoints_.erase(at);
    } else {
      ++kept;
    }
  }
}

std::uint64_t SavedModels::NewestCheckpoint() const {
  std::uint64_t newest = 0;
  for (const auto& [version, model] : checkpoints_) {
    newest = model.manifest.has_value() ? version : newest;
  }
  return newest;
}

const proto::SchedulerState& SavedModels::StateOf(std::uint64_t checkpoint) const {
  return *checkpoints_.at(checkpoint).manifest;
}

Status SavedModels::Restore(std::uint64_t checkpoint, std::uint32_t shards, Shard* shard) const {
  const auto at = checkpoints_.find(checkpoint);
  if (at == checkpoints_.end() || !at->second.manifest.has_value() ||
      at->second.parts.size() != shards) {
    return DataLoss("the checkpoint of version " + std::to_string(checkpoint) + " is not whole");
  }
  ShardState& state = shard->restored_state();
  for (const auto& [index, part] : at->second.parts) {
    for (const SavedPart::Row& row : part.rows) {
      state.RestoreRow(row.table, RowView{row.key, row.last_step, row.count, row.record});
    }
    for (const auto& [table, bucket, bytes] : part.filters) {
      RETURN_IF_ERROR(state.RestoreFilter(table, bucket, bytes));
    }
    for (const auto& [block, floats] : part.dense) {
      RETURN_IF_ERROR(state.RestoreDenseBlock(block, floats));
    }
  }
  return OkStatus();
}

bool SavedModels::IsComplete(const std::string& name) const {
  const auto at = models_.find(name);
  return at != models_.end() && at->second.manifest.has_value();
}

}  // namespace plexus::sim
