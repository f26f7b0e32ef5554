#include "worker/prefetch_source.h"

#include <algorithm>
#include <atomic>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include <pthread.h>

#include "common/bounded_queue.h"
#include "worker/data/batch_reader.h"

namespace plexus {
namespace {

// Batches read ahead: one is computed, one is pulled, one is being read.
constexpr std::size_t kAhead = 2;

class PrefetchSource final : public BatchSource {
 public:
  PrefetchSource(std::shared_ptr<const JobPlan> plan, std::unique_ptr<BatchReader> reader,
                 std::uint32_t rank, std::uint64_t skip)
      : plan_(std::move(plan)),
        reader_(std::move(reader)),
        builder_(*plan_, InitialBucketMap(plan_->buckets(), plan_->shards()), plan_->shards()),
        ready_(kAhead),
        free_(kAhead + 8),
        thread_([this, rank, skip] {
          pthread_setname_np(pthread_self(), ("read-" + std::to_string(rank)).c_str());
          Read(skip);
        }) {}

  ~PrefetchSource() override {
    closing_.store(true, std::memory_order_relaxed);  // Read by SkipBatches.
    ready_.Close();
    free_.Close();
  }

  StatusOr<std::unique_ptr<PreparedBatch>> Next() override {
    std::optional<StatusOr<std::unique_ptr<PreparedBatch>>> next = ready_.Pop();
    if (!next.has_value()) {
      return std::unique_ptr<PreparedBatch>();
    }
    return *std::move(next);
  }

  void Recycle(std::unique_ptr<PreparedBatch> batch) override {
    (void)free_.Push(std::move(batch));  // False: closing.
  }

  std::uint64_t bad_lines() const override { return bad_lines_.load(std::memory_order_relaxed); }

 private:
  std::unique_ptr<PreparedBatch> Fresh() {
    std::optional<std::unique_ptr<PreparedBatch>> used = free_.TryPop();
    return used.has_value() ? *std::move(used) : std::make_unique<PreparedBatch>();
  }

  // In pieces, so that a source that is not wanted any more does not read a whole epoch first.
  Status SkipBatches(std::uint64_t count) {
    constexpr std::uint64_t kPiece = 64;
    while (count > 0 && !closing_.load(std::memory_order_relaxed)) {
      const std::uint64_t piece = std::min(count, kPiece);
      RETURN_IF_ERROR(reader_->Skip(piece));
      count -= piece;
    }
    return OkStatus();
  }

  // One batch is held back, so that it is known whether it is the last.
  void Read(std::uint64_t skip) {
    std::unique_ptr<PreparedBatch> held;
    if (Status status = SkipBatches(skip); !status.ok()) {
      (void)ready_.Push(std::move(status));
      return;
    }
    while (true) {
      std::unique_ptr<PreparedBatch> next = Fresh();
      StatusOr<bool> more = reader_->Next(&next->batch);
      bad_lines_.store(reader_->bad_lines().count, std::memory_order_relaxed);
      if (!more.ok()) {
        (void)ready_.Push(more.status());
        return;
      }
      if (!*more) {
        break;
      }
      next->last = false;
      next->progress = reader_->progress();
      builder_.Build(next->batch, &next->keys);
      if (held != nullptr && !ready_.Push(std::move(held))) {
        return;
      }
      held = std::move(next);
    }
    if (held != nullptr) {
      held->last = true;
      held->progress = 1;
      (void)ready_.Push(std::move(held));
    }
    ready_.Close();
  }

  const std::shared_ptr<const JobPlan> plan_;
  const std::unique_ptr<BatchReader> reader_;
  StepKeysBuilder builder_;
  BoundedQueue<StatusOr<std::unique_ptr<PreparedBatch>>> ready_;
  BoundedQueue<std::unique_ptr<PreparedBatch>> free_;
  std::atomic<std::uint64_t> bad_lines_{0};
  std::atomic<bool> closing_{false};
  std::jthread thread_;  // Last: it uses the others.
};

}  // namespace

StatusOr<std::unique_ptr<BatchSource>> OpenPrefetchSource(std::shared_ptr<const JobPlan> plan,
                                                          std::uint32_t rank,
                                                          const proto::Phase& phase,
                                                          std::uint64_t skip) {
  const proto::Data& data = plan->job.data();
  const bool train = phase.kind() == proto::Phase::TRAIN;
  const auto& files = train                                          ? data.train()
                      : phase.data_set() == proto::Phase::VALIDATION ? data.valid()
                                                                     : data.test();
  BatchReaderOptions options;
  options.rank = rank;
  options.ranks = plan->ranks();
  options.batch_samples = plan->job.train().batch_size() / plan->ranks();
  options.seed = plan->seed();
  options.epoch = phase.epoch();
  options.shuffle = train;
  const std::vector<std::string> paths(files.begin(), files.end());
  ASSIGN_OR_RETURN(std::unique_ptr<BatchReader> reader, BatchReader::Open(data, paths, options));
  return std::unique_ptr<BatchSource>(
      std::make_unique<PrefetchSource>(std::move(plan), std::move(reader), rank, skip));
}

}  // namespace plexus
