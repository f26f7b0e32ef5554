// RankClient: one rank's conversation with the shards.  Sans-IO.
//
// Requests go to every shard (an empty one is a few bytes); each is said again until it is
// answered, and may be answered twice.  Replies are matched by sequence number.
//
// Thread safety: none; belongs to the rank's thread.
#pragma once

#include <cstdint>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "common/outbox.h"
#include "proto/control.h"
#include "proto/frame.h"
#include "proto/plan.h"
#include "worker/step_keys.h"

namespace plexus {

class RankClient {
 public:
  RankClient(std::shared_ptr<const JobPlan> plan, std::uint32_t rank, std::uint32_t epoch,
             Millis resend_ms);

  // Asks for rows (and dense parameters, with kFlagDense).  `keys` may be null: no keys.  Returns
  // the request's number.
  std::uint64_t Pull(const proto::Phase& phase, std::uint64_t step, std::uint32_t flags,
                     const StepKeys* keys, Millis now);

  // A pull that every shard has answered, or that failed at one.
  struct Pulled {
    ReplyCode code = ReplyCode::kOk;
    std::uint64_t version = 0;   // The oldest among the shards'.
    std::vector<Bytes> replies;  // By shard; kOk only.
  };
  std::optional<Pulled> TakePulled(std::uint64_t request);

  // Gradient sums of one (rank, step).
  struct Gradients {
    const StepKeys* keys = nullptr;  // Null: an empty part.
    std::vector<std::vector<const float*>>
        groups;                    // [group][table of the group] -> [unique keys x KeyGroup::dims].
    const float* dense = nullptr;  // Flat vector of the layout; null: none.
    const std::vector<std::vector<float>>* dense_state =
        nullptr;  // Per shard, values and state (dense_sync MPI).
    std::uint32_t samples = 0;
    double loss_sum = 0;
    bool finite = true;  // False: the push is sent as a void one, without gradients.
  };
  void Push(const proto::Phase& phase, std::uint64_t step, std::uint32_t flags,
            const Gradients& gradients, Millis now);
  // Pushes that a shard has not acknowledged.
  std::size_t unacknowledged() const { return pushes_.size(); }

  // Asks every shard for the phase that comes after `after`, and where this rank goes on.  Pulls
  // under way are forgotten.
  void QueryPhase(std::uint32_t after, Millis now);
  struct PhaseAnswer {
    proto::Phase phase;
    std::uint64_t next_step = 0;  // The first that is not applied at some shard.
  };
  std::optional<PhaseAnswer> TakePhase();

  void Report(const proto::EvaluationReport& report, Millis now);

  // A server came back, and may have lost what it had not logged: what is not answered is said
  // again, and the last push, acknowledged or not.
  void OnServerReturned(Millis now);

  void OnMessage(const std::string& peer, const Bytes& frame, Millis now);
  void OnTimer(Millis now);
  Outbox& outbox() { return outbox_; }

  bool fenced() const { return fenced_; }
  // Not empty: a shard refused a request as malformed; a bug, or another build.
  const std::string& failure() const { return failure_; }

  // The owned blocks of each shard, in order, and their floats.
  const std::vector<std::vector<std::uint32_t>>& shard_blocks() const { return shard_blocks_; }
  std::uint64_t bytes_sent() const { return bytes_sent_; }
  std::uint64_t bytes_received() const { return bytes_received_; }

 private:
  struct Request {
    FrameType type;
    std::uint64_t step = 0;
    std::vector<Bytes> frames;             // By shard; emptied when answered.
    std::vector<std::size_t> reply_bytes;  // Pulls: what a shard has to answer.
    std::vector<Bytes> replies;            // By shard.
    std::size_t missing = 0;
    ReplyCode code = ReplyCode::kOk;
    std::uint64_t version = ~0ULL;
    Millis sent = 0;
  };
  FrameHeader Header(FrameType type, std::uint32_t phase, std::uint64_t step, std::uint32_t flags);
  void Start(std::map<std::uint64_t, Request>& requests, Request request, Millis now);
  void Resend(std::map<std::uint64_t, Request>& requests, Millis now);
  void OnPullReply(std::uint32_t shard, const FrameHeader& header, const Bytes& frame);
  void OnPushReply(std::uint32_t shard, const FrameHeader& header);
  void OnPhaseReply(std::uint32_t shard, const FrameHeader& header, const Bytes& frame, Millis now);
  std::vector<KeyBlock> BlocksOf(const StepKeys& keys, std::uint32_t shard) const;
  void SendTo(std::uint32_t shard, const Bytes& frame);

  const std::shared_ptr<const JobPlan> plan_;
  const std::uint32_t rank_;
  const std::uint32_t epoch_;
  const Millis resend_ms_;
  const std::uint32_t shards_;
  std::vector<std::vector<std::uint32_t>> shard_blocks_;
  std::vector<std::uint64_t> shard_dense_floats_;
  Outbox outbox_;
  std::uint64_t sequence_ = 0;
  std::map<std::uint64_t, Request> pulls_;  // By sequence.
  std::map<std::uint64_t, Request> pushes_;
  std::vector<Bytes> last_push_;  // By shard; durable jobs only.
  std::uint64_t last_push_sequence_ = 0;
  std::map<std::uint64_t, Request> queries_;        // At most one.
  std::vector<std::optional<PhaseAnswer>> phases_;  // By shard.
  std::optional<proto::EvaluationReport> report_;
  Millis report_sent_ = 0;
  bool fenced_ = false;
  std::string failure_;
  std::uint64_t bytes_sent_ = 0;
  std::uint64_t bytes_received_ = 0;
};

}  // namespace plexus
