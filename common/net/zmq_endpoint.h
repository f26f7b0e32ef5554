// ZmqEndpoint: frames in and out of one node over ZeroMQ: tcp, ipc, or inproc between threads of
// one process.
//
// A node binds at most one ROUTER (others come to it) and connects any number of named DEALERs (it
// goes to others).  A peer is either such a name, or the routing id that a frame came with; ids
// begin with a zero byte, so the two never meet.  ZeroMQ may drop silently (a reconnect); resending
// is the protocol's.  Frames that cross a process's border are sealed when sent and verified when
// received.  With keys, what is not inproc is encrypted, and each side proves who it is.
//
// Thread safety: an endpoint belongs to one thread, but for Wake.  A NetContext is thread-safe and
// outlives its endpoints.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <string>

#include "common/bytes.h"
#include "common/net/zmq_curve.h"
#include "common/outbox.h"
#include "common/status.h"

namespace plexus {

class NetContext {
 public:
  // `io_threads` of ZeroMQ; inproc needs none.
  explicit NetContext(int io_threads);
  // Its endpoints use `keys`: those that bind admit the known keys only.
  NetContext(int io_threads, const CurveKeys& keys);
  ~NetContext();
  NetContext(const NetContext&) = delete;
  NetContext& operator=(const NetContext&) = delete;

  bool has_keys() const;

 private:
  friend class ZmqEndpoint;
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

// How frames are protected outside the process.
struct FrameGuard {
  void (*seal)(const Bytes& frame) = nullptr;
  Status (*verify)(const Bytes& frame) = nullptr;
  std::int64_t frame_bytes_max = 0;
};

class ZmqEndpoint {
 public:
  ZmqEndpoint(NetContext& context, FrameGuard guard);
  ~ZmqEndpoint();
  ZmqEndpoint(const ZmqEndpoint&) = delete;
  ZmqEndpoint& operator=(const ZmqEndpoint&) = delete;

  // `address` as "tcp://127.0.0.1:0" or "inproc://name".  A `listen_fd` that is not negative is an
  // already listening socket of that address.
  Status Bind(const std::string& address, int listen_fd = -1);
  // Where it is bound; a port 0 is resolved.
  const std::string& bound_address() const;

  // Frames to `peer` go to `address` from now on.  With keys, who is there must have those of
  // `key_name`.  kFailedPrecondition: that name's public key is not known.
  Status Connect(const std::string& peer, const std::string& address,
                 const std::string& key_name = "");

  // Queues and returns.  kUnavailable: no such peer, or it is gone.
  Status Send(const Envelope& envelope);

  // Waits up to `timeout_ms` for frames and hands over those that are there.  `on_bad` hears of
  // frames that did not verify.
  using OnFrame = std::function<void(const std::string& peer, const Bytes& frame)>;
  using OnBad = std::function<void(const std::string& peer, const Status& status)>;
  Status Poll(Millis timeout_ms, const OnFrame& on_frame, const OnBad& on_bad);

  // Makes a Poll that waits, or the next one, return soon.  May be called from any thread.
  void Wake();

  std::uint64_t bytes_sent() const;
  std::uint64_t bytes_received() const;

  // With keys: connections to the bound address that were refused or broke off before they had
  // shown a key, and a sentence about a peer that Connect named and that, for longer than
  // `patience_ms`, has refused or been refused (as of the last Poll).
  std::uint64_t refused() const;
  Status CheckPeers(Millis patience_ms) const;

 private:
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

}  // namespace plexus
