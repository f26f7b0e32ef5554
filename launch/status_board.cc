#include "launch/status_board.h"

#include <atomic>
#include <mutex>
#include <utility>

#include <glog/logging.h>

#include "common/clock.h"
#include "common/metrics/metrics.h"
#include "common/net/http_server.h"

namespace plexus {
namespace {

constexpr Millis kPublishMillis = 250;

std::string NodeName(const NodeOptions& options, proto::Role role) {
  switch (role) {
    case proto::SERVER:
      return "server " + std::to_string(options.index);
    case proto::WORKER:
      return "worker " + std::to_string(options.index);
    default:
      return "the scheduler";
  }
}

}  // namespace

struct StatusBoard::Impl {
  std::shared_ptr<const StatusPages> Pages() const {
    const std::lock_guard lock(mutex);
    return pages;
  }

  HttpReply Health() const {
    const std::shared_ptr<const StatusPages> shown = Pages();
    if (!shown->illness.empty()) {
      return {.status = 503, .body = shown->illness + "\n"};
    }
    const Millis silent = SteadyMillis() - came_round.load(std::memory_order_relaxed);
    if (silent > lease_ms) {
      return {
          .status = 503,
          .body = "the node's thread has not come round for " + std::to_string(silent) + " ms\n"};
    }
    return {.body = "ok\n"};
  }

  Millis lease_ms = 0;
  Millis next_publish = 0;
  std::string address;
  std::atomic<Millis> came_round{0};  // Statistics only: relaxed.
  mutable std::mutex mutex;
  std::shared_ptr<const StatusPages> pages;  // Guarded by mutex.
  std::unique_ptr<HttpServer> server;        // Null: no HTTP.  Last: its thread uses the others.
};

StatusBoard::StatusBoard(std::unique_ptr<Impl> impl) : impl_(std::move(impl)) {}

StatusBoard::~StatusBoard() = default;

StatusOr<std::unique_ptr<StatusBoard>> StatusBoard::Start(const NodeOptions& options,
                                                          proto::Role role, Millis lease_ms) {
  auto owned = std::make_unique<Impl>();
  Impl* impl = owned.get();
  std::unique_ptr<StatusBoard> board(new StatusBoard(std::move(owned)));
  impl->lease_ms = lease_ms;
  impl->came_round.store(SteadyMillis(), std::memory_order_relaxed);
  impl->pages = std::make_shared<const StatusPages>(
      StatusPages{.metrics = "", .status = "{}\n", .illness = "starting"});
  std::string wanted = options.http_address;
  if (wanted.empty()) {
    return board;
  }
  if (options.local && role != proto::SCHEDULER) {
    wanted = wanted.substr(0, wanted.rfind(':')) + ":0";
  }
  Routes routes;
  routes["/metrics"] = [impl] {
    return HttpReply{.content_type = Metrics::kContentType, .body = impl->Pages()->metrics};
  };
  routes["/status"] = [impl] {
    return HttpReply{.content_type = "application/json", .body = impl->Pages()->status};
  };
  routes["/healthz"] = [impl] { return impl->Health(); };
  StatusOr<std::unique_ptr<HttpServer>> server = HttpServer::Start(wanted, std::move(routes));
  const std::string name = NodeName(options, role);
  if (!server.ok()) {
    return server.status().Annotate(name + " cannot serve HTTP (--http_address=" + wanted + ")");
  }
  impl->server = *std::move(server);
  impl->address = impl->server->bound_address();
  LOG(INFO) << name << " serves http://" << impl->address << "/status";
  return board;
}

bool StatusBoard::on() const { return impl_->server != nullptr; }

const std::string& StatusBoard::address() const { return impl_->address; }

bool StatusBoard::IsDue(Millis now) {
  if (!on()) {
    return false;
  }
  impl_->came_round.store(now, std::memory_order_relaxed);
  if (now < impl_->next_publish) {
    return false;
  }
  impl_->next_publish = now + kPublishMillis;
  return true;
}

void StatusBoard::Publish(StatusPages pages) {
  auto shared = std::make_shared<const StatusPages>(std::move(pages));
  const std::lock_guard lock(impl_->mutex);
  impl_->pages.swap(shared);
}

}  // namespace plexus
