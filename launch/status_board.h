// StatusBoard: what a node shows over HTTP: /metrics, /healthz, /status.
//
// The node's thread publishes pages, whole, a few times a second; the HTTP thread serves the last
// ones and touches nothing of the node.  /healthz is 503 also when the node's thread has not come
// round for longer than its lease.
//
// Thread safety: belongs to the node's thread.
#pragma once

#include <cstdint>
#include <memory>
#include <string>

#include "common/outbox.h"
#include "common/status.h"
#include "launch/node.h"

namespace plexus {

struct StatusPages {
  std::string metrics;  // Prometheus's text format.
  std::string status;   // JSON.
  std::string illness;  // Empty while the node runs; else a sentence: stopping, or failed, and why.
};

class StatusBoard {
 public:
  // Listens where the options say; with an empty address everything here costs nothing.  Nodes of
  // one process cannot share a port: in local mode the scheduler has the one that was asked for,
  // the others any free one.  Errors as HttpServer::Start, naming the node.
  static StatusOr<std::unique_ptr<StatusBoard>> Start(const NodeOptions& options, proto::Role role,
                                                      Millis lease_ms);
  ~StatusBoard();
  StatusBoard(const StatusBoard&) = delete;
  StatusBoard& operator=(const StatusBoard&) = delete;

  bool on() const;
  // Where it listens; empty: nowhere.
  const std::string& address() const;

  // Call whenever the node's thread comes round: whether it is time for new pages.
  bool IsDue(Millis now);
  void Publish(StatusPages pages);

 private:
  struct Impl;
  explicit StatusBoard(std::unique_ptr<Impl> impl);

  std::unique_ptr<Impl> impl_;
};

}  // namespace plexus
