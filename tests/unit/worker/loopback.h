// Loopback: a whole job in one thread: scheduler, shards and ranks, joined by a network that loses
// nothing.
//
// Thread safety: none.
#pragma once

#include <deque>
#include <map>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "ps/shard.h"
#include "scheduler/scheduler.h"
#include "tests/unit/proto/test_plan.h"
#include "tests/unit/worker/memory_data.h"
#include "worker/rank_trainer.h"

namespace plexus {

class Loopback {
 public:
  explicit Loopback(std::shared_ptr<const JobPlan> plan, DenseExchange* exchange = nullptr)
      : plan_(std::move(plan)),
        data_(plan_),
        exchange_(exchange),
        scheduler_(plan_, SchedulerOptions{}) {
    for (std::uint32_t s = 0; s < plan_->shards(); ++s) {
      ShardOptions options;
      options.shard = s;
      options.registration.set_role(proto::SERVER);
      options.registration.set_index(s);
      options.registration.set_incarnation(100 + s);
      options.registration.set_job_hash(0);
      shards_.push_back(std::make_unique<Shard>(plan_, options));
    }
  }

  // Runs to the end; false if it never came.  With `stop_at`, a stop is requested once that version
  // is committed.
  bool Run(std::uint64_t stop_at = ~0ULL) {
    stop_at_ = stop_at;
    for (Millis now = 0; now < 100000; now += 100) {
      if (scheduler_.stop().has_value()) {
        return true;
      }
      Tick(now);
      for (bool busy = true; busy;) {
        busy = DeliverAll(now);
        for (auto& [rank, trainer] : ranks_) {
          busy = trainer->Progress(now) || busy;
        }
      }
    }
    return false;
  }

  Digest128 digest() const {
    Digest128 digest;
    for (const auto& shard : shards_) {
      digest += shard->state().Digest();
    }
    return digest;
  }
  Scheduler& scheduler() { return scheduler_; }
  const Shard& shard(std::uint32_t index) const { return *shards_[index]; }
  const std::map<std::uint32_t, std::unique_ptr<RankTrainer>>& ranks() const { return ranks_; }
  const MemoryData& data() const { return data_; }
  MemoryData* mutable_data() { return &data_; }
  const std::vector<SchedulerEvent>& events() const { return events_; }

 private:
  struct Message {
    std::string from;
    std::string to;
    Bytes frame;
  };

  void Collect(const std::string& from, Outbox& outbox) {
    for (Envelope& envelope : outbox.Take()) {
      network_.push_back({from, envelope.peer, std::move(envelope.frame)});
    }
  }
  void CollectAll() {
    Collect(kSchedulerPeer, scheduler_.outbox());
    for (std::uint32_t s = 0; s < shards_.size(); ++s) {
      if (std::optional<std::string> save = shards_[s]->TakeSaveRequest()) {
        proto::Saved saved;
        saved.set_name(*save);
        shards_[s]->OnSaved(saved);
      }
      Collect(ShardPeer(s), shards_[s]->outbox());
    }
    for (auto& [rank, trainer] : ranks_) {
      Collect("rank/" + std::to_string(rank), trainer->outbox());
    }
  }

  void Tick(Millis now) {
    scheduler_.OnTimer(now);
    for (const auto& shard : shards_) {
      shard->OnTimer(now);
    }
    for (auto& [rank, trainer] : ranks_) {
      trainer->OnTimer(now);
    }
    for (std::uint32_t w = 0; w < plan_->job.cluster().workers(); ++w) {
      proto::Control control;
      if (now == 0) {
        proto::Register& info = *control.mutable_register_member();
        info.set_role(proto::WORKER);
        info.set_index(w);
        info.set_incarnation(200 + w);
      } else {
        proto::Heartbeat& heartbeat = *control.mutable_heartbeat();
        heartbeat.set_role(proto::WORKER);
        heartbeat.set_index(w);
        heartbeat.set_incarnation(200 + w);
      }
      network_.push_back({"worker/" + std::to_string(w), kSchedulerPeer, ControlFrame(control)});
    }
  }

  bool DeliverAll(Millis now) {
    bool any = false;
    for (CollectAll(); !network_.empty(); CollectAll()) {
      any = true;
      const Message message = std::move(network_.front());
      network_.pop_front();
      Deliver(message, now);
      if (scheduler_.version() >= stop_at_) {
        scheduler_.RequestStop(now);
      }
    }
    for (SchedulerEvent& event : scheduler_.TakeEvents()) {
      events_.push_back(std::move(event));
    }
    return any;
  }

  void Deliver(const Message& message, Millis now) {
    const std::size_t slash = message.to.find('/');
    const std::string kind = message.to.substr(0, slash);
    const std::uint32_t index =
        slash == std::string::npos
            ? 0
            : static_cast<std::uint32_t>(std::stoul(message.to.substr(slash + 1)));
    if (kind == kSchedulerPeer) {
      scheduler_.OnMessage(message.from, message.frame, now);
    } else if (kind == "shard") {
      shards_[index]->OnMessage(message.from, message.frame, now);
    } else if (kind == "rank") {
      ranks_.at(index)->OnMessage(message.from, message.frame, now);
    } else {
      OnView(DecodeControl(message.frame)->view());
    }
  }

  // A worker begins what it is to carry; nothing is carried twice here.
  void OnView(const proto::View& view) {
    for (const proto::Carrier& carrier : view.carry()) {
      if (ranks_.contains(carrier.rank())) {
        continue;
      }
      RankDeps deps;
      deps.open_source = data_.Opener();
      deps.model = MakeModel(*plan_).value();
      deps.exchange = exchange_;
      ranks_[carrier.rank()] = std::make_unique<RankTrainer>(plan_, carrier.rank(), carrier.epoch(),
                                                             std::move(deps), 1000);
    }
  }

  const std::shared_ptr<const JobPlan> plan_;
  MemoryData data_;
  DenseExchange* const exchange_;
  Scheduler scheduler_;
  std::vector<std::unique_ptr<Shard>> shards_;
  std::map<std::uint32_t, std::unique_ptr<RankTrainer>> ranks_;
  std::deque<Message> network_;
  std::vector<SchedulerEvent> events_;
  std::uint64_t stop_at_ = ~0ULL;
};

}  // namespace plexus
