#include "worker/collective_mpi.h"

#include <algorithm>
#include <atomic>
#include <string>
#include <thread>
#include <vector>

#include <mpi.h>

#include "common/clock.h"

namespace plexus {
namespace {

constexpr std::size_t kChunkAlignFloats = 16;
constexpr int kNoteTag = 1;
constexpr int kChunkTag = 2;
constexpr int kSumTag = 3;

class MpiReducer final : public DenseReducer {
 public:
  MpiReducer(MPI_Comm communicator, std::uint32_t ranks, double deadline_seconds)
      : communicator_(communicator), ranks_(ranks), deadline_seconds_(deadline_seconds) {
    MPI_Comm_size(communicator_, &processes_);
    MPI_Comm_rank(communicator_, &self_);
    MPI_Comm_set_errhandler(communicator_, MPI_ERRORS_RETURN);
  }

  void Cancel() override { cancelled_.store(true, std::memory_order_relaxed); }  // Read by Finish.

  Status Reduce(std::span<const DenseStep> local, std::vector<RankNote>* notes,
                std::span<float> sum) override {
    RETURN_IF_ERROR(ExchangeNotes(local, notes));
    RETURN_IF_ERROR(ExchangeChunks(local, *notes, sum.size()));
    SumChunk(*notes, sum);
    return GatherSums(sum);
  }

 private:
  int ProcessOf(std::uint32_t rank) const {
    return static_cast<int>(static_cast<std::uint64_t>(rank) *
                            static_cast<std::uint64_t>(processes_) / ranks_);
  }
  // [begin, end) of a process' chunk.
  std::pair<std::size_t, std::size_t> ChunkOf(int process, std::size_t size) const {
    const std::size_t units = (size + kChunkAlignFloats - 1) / kChunkAlignFloats;
    const auto border = [&](int p) {
      return std::min(size, units * static_cast<std::size_t>(p) /
                                static_cast<std::size_t>(processes_) * kChunkAlignFloats);
    };
    return {border(process), process + 1 == processes_ ? size : border(process + 1)};
  }

  // Polls until all requests are done; MPI_Waitall would wait for ever for a dead peer.
  Status Finish(std::vector<MPI_Request>& requests, const char* what) const {
    const double deadline = SteadySeconds() + deadline_seconds_;
    int done = 0;
    while (true) {
      if (MPI_Testall(static_cast<int>(requests.size()), requests.data(), &done,
                      MPI_STATUSES_IGNORE) != MPI_SUCCESS) {
        return Unavailable(std::string("MPI failed while ") + what);
      }
      if (done != 0) {
        return OkStatus();
      }
      if (cancelled_.load(std::memory_order_relaxed)) {
        return Aborted(std::string("cancelled while ") + what);
      }
      if (SteadySeconds() > deadline) {
        return DeadlineExceeded(std::string("no progress for ") +
                                std::to_string(deadline_seconds_) + " s while " + what);
      }
      std::this_thread::yield();
    }
  }

  Status ExchangeNotes(std::span<const DenseStep> local, std::vector<RankNote>* notes) const {
    std::vector<MPI_Request> requests;
    for (const DenseStep& step : local) {
      (*notes)[step.rank] = {step.samples, step.last ? 1u : 0u,
                             step.gradients != nullptr ? 1u : 0u};
    }
    for (std::uint32_t rank = 0; rank < ranks_; ++rank) {
      if (ProcessOf(rank) != self_) {
        MPI_Irecv(&(*notes)[rank], sizeof(RankNote), MPI_BYTE, ProcessOf(rank), kNoteTag,
                  communicator_, &requests.emplace_back());
      }
    }
    for (const DenseStep& step : local) {
      for (int process = 0; process < processes_; ++process) {
        if (process != self_) {
          MPI_Isend(&(*notes)[step.rank], sizeof(RankNote), MPI_BYTE, process, kNoteTag,
                    communicator_, &requests.emplace_back());
        }
      }
    }
    return Finish(requests, "exchanging the ranks' sample counts");
  }

  Status ExchangeChunks(std::span<const DenseStep> local, const std::vector<RankNote>& notes,
                        std::size_t size) {
    const auto [begin, end] = ChunkOf(self_, size);
    chunks_.resize(ranks_);
    std::vector<MPI_Request> requests;
    for (std::uint32_t rank = 0; rank < ranks_; ++rank) {
      if (ProcessOf(rank) != self_ && notes[rank].has_gradients != 0) {
        chunks_[rank].resize(end - begin);
        MPI_Irecv(chunks_[rank].data(), static_cast<int>(end - begin), MPI_FLOAT, ProcessOf(rank),
                  kChunkTag, communicator_, &requests.emplace_back());
      }
    }
    for (const DenseStep& step : local) {
      if (step.gradients == nullptr) {
        continue;
      }
      for (int process = 0; process < processes_; ++process) {
        const auto [first, last] = ChunkOf(process, size);
        if (process == self_) {
          chunks_[step.rank].assign(step.gradients + first, step.gradients + last);
        } else {
          MPI_Isend(step.gradients + first, static_cast<int>(last - first), MPI_FLOAT, process,
                    kChunkTag, communicator_, &requests.emplace_back());
        }
      }
    }
    return Finish(requests, "exchanging dense gradients");
  }

  void SumChunk(const std::vector<RankNote>& notes, std::span<float> sum) const {
    const auto [begin, end] = ChunkOf(self_, sum.size());
    bool any = false;
    for (std::uint32_t rank = 0; rank < ranks_; ++rank) {
      if (notes[rank].has_gradients == 0) {
        continue;
      }
      const std::vector<float>& chunk = chunks_[rank];
      if (!any) {
        std::copy(chunk.begin(), chunk.end(), sum.begin() + static_cast<std::ptrdiff_t>(begin));
        any = true;
        continue;
      }
      for (std::size_t i = 0; i < end - begin; ++i) {
        sum[begin + i] += chunk[i];
      }
    }
  }

  Status GatherSums(std::span<float> sum) const {
    std::vector<MPI_Request> requests;
    const auto [begin, end] = ChunkOf(self_, sum.size());
    for (int process = 0; process < processes_; ++process) {
      if (process == self_) {
        continue;
      }
      const auto [first, last] = ChunkOf(process, sum.size());
      MPI_Irecv(sum.data() + first, static_cast<int>(last - first), MPI_FLOAT, process, kSumTag,
                communicator_, &requests.emplace_back());
      MPI_Isend(sum.data() + begin, static_cast<int>(end - begin), MPI_FLOAT, process, kSumTag,
                communicator_, &requests.emplace_back());
    }
    return Finish(requests, "gathering the sums of dense gradients");
  }

  const MPI_Comm communicator_;
  const std::uint32_t ranks_;
  const double deadline_seconds_;
  std::atomic<bool> cancelled_{false};
  int processes_ = 1;
  int self_ = 0;
  std::vector<std::vector<float>> chunks_;  // By rank: this process' chunk.
};

}  // namespace

std::unique_ptr<DenseReducer> MakeMpiReducer(int communicator, std::uint32_t ranks,
                                             double deadline_seconds) {
  return std::make_unique<MpiReducer>(MPI_Comm_f2c(communicator), ranks, deadline_seconds);
}

}  // namespace plexus
