#include "launch/cold_tier.h"

#include <algorithm>
#include <optional>
#include <string>
#include <utility>
#include <vector>

namespace plexus {
namespace {

// Of the memory limit: blocks and write buffers.  The rest is better spent on rows.
constexpr std::uint64_t kCacheShare = 32;
constexpr std::uint64_t kCacheBytesMin = std::uint64_t{4} << 20;
constexpr std::uint64_t kCacheBytesMax = std::uint64_t{256} << 20;

std::string DirectoryOf(const JobPlan& plan, const NodeOptions& options) {
  const std::string& configured = plan.job.cluster().spill_dir();
  return (configured.empty() ? options.run_dir + "/cold" : configured) + "/server-" +
         std::to_string(options.index);
}

}  // namespace

StatusOr<std::unique_ptr<ColdTier>> ColdTier::Open(const JobPlan& plan, const Shard& shard,
                                                   const NodeOptions& options,
                                                   std::function<void()> wake) {
  if (!shard.state().spills()) {
    return std::unique_ptr<ColdTier>();
  }
  std::vector<ColdTable> tables;
  for (std::uint32_t t = 0; t < shard.state().table_count(); ++t) {
    const Table& table = shard.state().table(t);
    tables.push_back({table.spec().name, table.cold_record_bytes()});
  }
  ColdStoreOptions store;
  store.cache_bytes =
      std::clamp(plan.memory_limit_bytes / kCacheShare, kCacheBytesMin, kCacheBytesMax);
  store.wake = std::move(wake);
  std::unique_ptr<ColdTier> tier(new ColdTier());
  ASSIGN_OR_RETURN(tier->store_,
                   ColdStore::Open(DirectoryOf(plan, options), tables, std::move(store)));
  return tier;
}

void ColdTier::Exchange(Shard& shard, Millis now) {
  HandOver(shard);
  // What the shard wants after an event reaches the store before the next one is taken.
  while (const std::optional<ColdEvent> event = store_->TakeEvent()) {
    switch (event->kind) {
      case ColdEvent::Kind::kRead:
        shard.OnColdRows(event->batch, now);
        break;
      case ColdEvent::Kind::kReadFailed:
        shard.OnColdReadFailed(event->keys, event->status);
        break;
      case ColdEvent::Kind::kWritten:
        shard.OnSpilled(event->bytes);
        break;
      case ColdEvent::Kind::kWriteFailed:
        shard.OnSpillFailed(event->batch, event->bytes, event->status);
        break;
      case ColdEvent::Kind::kCopied:
        shard.snapshot().OnCopied(event->batch);
        break;
      case ColdEvent::Kind::kCopyFailed:
        shard.OnColdCopyFailed(event->keys, event->status);
        break;
    }
    HandOver(shard);
  }
}

void ColdTier::HandOver(Shard& shard) {
  for (ColdRequest& request : shard.TakeColdRequests()) {
    switch (request.kind) {
      case ColdRequest::Kind::kSpill:
        store_->Write(std::move(request.rows));
        break;
      case ColdRequest::Kind::kRead:
        store_->Read(std::move(request.keys));
        break;
      case ColdRequest::Kind::kForget:
        store_->Forget(std::move(request.keys));
        break;
      case ColdRequest::Kind::kCopy:
        store_->Copy(std::move(request.keys));
        break;
    }
  }
}

ColdScan ColdTier::scan() {
  return [this](std::uint32_t table, const std::function<void(Key, const std::byte*)>& visit) {
    return store_->Scan(table, visit);
  };
}

}  // namespace plexus
