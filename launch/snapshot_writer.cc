#include "launch/snapshot_writer.h"

#include <algorithm>
#include <bit>
#include <filesystem>
#include <memory>
#include <system_error>
#include <utility>
#include <vector>

#include <glog/logging.h>
#include <poll.h>
#include <pthread.h>

#include "common/clock.h"
#include "launch/checkpoints.h"
#include "ps/store/model_writer.h"
#include "scheduler/phase_planner.h"

namespace plexus {
namespace {

// A slice takes some milliseconds; of a small memory limit, less.
constexpr std::uint64_t kSliceBytes = std::uint64_t{1} << 20;
// On its way to the disk, beyond which nothing is gathered ahead of need.
constexpr std::uint64_t kQueuedBytes = std::uint64_t{16} << 20;
// While messages wait, a slice's time is followed by so many times as much for them.
constexpr double kMessagesShare = 3;
// Items; what they hold is bounded by the shard's bytes.
constexpr std::size_t kItemsMax = std::size_t{1} << 24;
constexpr int kRoomPollMillis = 1;

std::uint64_t SliceBytes(const Shard& shard) {
  return std::min(kSliceBytes, shard.snapshot().bytes_max() / 8);
}

}  // namespace

SnapshotWriter::SnapshotWriter(const JobPlan& plan, const NodeOptions& options,
                               std::function<void()> wake)
    : plan_(plan), options_(options), wake_(std::move(wake)), queue_(kItemsMax) {
  if (plan.job.checkpoint().every_steps() > 0) {
    thread_ = std::jthread([this] { WriteLoop(); });
  }
}

SnapshotWriter::~SnapshotWriter() { queue_.Close(); }

bool SnapshotWriter::HasRoom(const Shard& shard) const {
  return queued_bytes_ - written_bytes_.load(std::memory_order_acquire) <
         std::min(kQueuedBytes, shard.snapshot().bytes_max() / 2);
}

bool SnapshotWriter::HasWork(const Shard& shard) const {
  return shard.snapshot().has_more() && HasRoom(shard);
}

void SnapshotWriter::Exchange(Shard& shard, ColdTier* cold, bool idle) {
  if (const std::optional<Shard::SnapshotOrder> order = shard.TakeSnapshotOrder()) {
    (void)queue_.Push(*order);
  }
  TakeResults(shard);
  if (HasWork(shard) &&
      (idle || SteadySeconds() - slice_ended_ > kMessagesShare * slice_seconds_)) {
    Gather(shard);
  }
  HandOver(shard);
  if (shard.snapshot().under_way() && shard.snapshot().is_far_behind()) {
    WriteRest(shard, cold);
  }
}

void SnapshotWriter::Gather(Shard& shard) {
  const double began = SteadySeconds();
  shard.GatherSnapshot(SliceBytes(shard));
  slice_ended_ = SteadySeconds();
  slice_seconds_ = slice_ended_ - began;
  stats_.slice_seconds_max = std::max(stats_.slice_seconds_max, slice_seconds_);
}

void SnapshotWriter::HandOver(Shard& shard) {
  for (SnapshotBlock& block : shard.snapshot().TakeBlocks()) {
    queued_bytes_ += block.bytes.size();
    (void)queue_.Push(std::move(block));
  }
}

void SnapshotWriter::TakeResults(Shard& shard) {
  const std::uint64_t written = written_bytes_.load(std::memory_order_acquire);
  shard.snapshot().OnWritten(written - std::exchange(told_bytes_, written));
  std::optional<Result> result;
  {
    const std::lock_guard lock(mutex_);
    result = std::exchange(result_, std::nullopt);
  }
  if (!result.has_value()) {
    return;
  }
  proto::Saved saved;
  saved.set_name(kCheckpoint);
  if (result->file.ok()) {
    saved.set_file(result->file->name());
    saved.set_file_bytes(result->file->bytes());
    saved.set_file_hash(result->file->hash());
    ++stats_.snapshots;
    stats_.bytes += result->file->bytes();
  } else {
    saved.set_error(result->file.status().message());
  }
  shard.OnSnapshotSaved(result->version, std::move(saved), result->digest);
}

void SnapshotWriter::WriteRest(Shard& shard, ColdTier* cold) {
  const double began = SteadySeconds();
  const std::uint64_t behind = shard.snapshot().bytes();
  while (shard.snapshot().under_way()) {
    if (HasRoom(shard)) {
      shard.GatherSnapshot(SliceBytes(shard));
      HandOver(shard);
    } else {
      ::poll(nullptr, 0, kRoomPollMillis);
    }
    if (cold != nullptr) {
      cold->Exchange(shard, SteadyMillis());
      HandOver(shard);
    }
    TakeResults(shard);
  }
  const double seconds = SteadySeconds() - began;
  stats_.at_once_seconds_max = std::max(stats_.at_once_seconds_max, seconds);
  LOG_IF(WARNING, std::has_single_bit(++stats_.written_at_once))
      << "server " << options_.index << ": steps changed rows of the checkpoint of version "
      << shard.snapshot().version() << " faster than they were written (" << behind
      << " bytes waited, " << shard.snapshot().bytes_max()
      << " may): its rest was written at once, which took " << seconds
      << " s; so far: " << stats_.written_at_once << " times";
}

// One snapshot after the other: its order, its blocks, the end block.
void SnapshotWriter::WriteLoop() {
  pthread_setname_np(pthread_self(), ("snapshot-" + std::to_string(options_.index)).c_str());
  std::unique_ptr<ModelFileWriter> file;
  std::uint64_t version = 0;
  while (std::optional<Item> item = queue_.Pop()) {
    if (const auto* order = std::get_if<Shard::SnapshotOrder>(&*item)) {
      const std::string directory = SavedDirectory(options_.run_dir, kCheckpoint, order->version);
      // A manifest of an older version must not lie beside files of this one.
      std::error_code ignored;
      std::filesystem::remove(directory + "/manifest.textproto", ignored);
      version = order->version;
      file = std::make_unique<ModelFileWriter>(
          plan_, ModelFileHead{options_.index, order->version, order->base}, directory);
      continue;
    }
    const auto& block = std::get<SnapshotBlock>(*item);
    if (block.kind == SnapshotBlock::Kind::kEnd) {
      Result result{version, file->Finish(), file->digest()};
      file.reset();
      const std::lock_guard lock(mutex_);
      result_ = std::move(result);
    } else {
      (void)file->Write(block);  // Finish tells.
      written_bytes_.fetch_add(block.bytes.size(), std::memory_order_release);
    }
    wake_();
  }
}

}  // namespace plexus
