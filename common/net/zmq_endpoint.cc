#include "common/net/zmq_endpoint.h"

#include <atomic>
#include <cerrno>
#include <map>
#include <optional>
#include <utility>
#include <vector>

#include <glog/logging.h>
#include <malloc.h>
#include <sys/eventfd.h>
#include <unistd.h>
#include <zmq.hpp>

#include "common/clock.h"
#include "common/net/handover.h"
#include "common/net/zmq_watch.h"
#include "common/net/zmq_zap.h"

namespace plexus {
namespace {

// Frames handed over by one Poll, so that timers run even under a flood.
constexpr int kFramesPerPoll = 64;
// Unsent frames are given this long when a node goes.
constexpr int kLingerMillis = 2000;
// What encryption adds to a frame, and some.
constexpr std::int64_t kCurveBytesMax = 64;

// Frames of megabytes come and go at every step.  By default the C library maps each one anew and
// gives it back, and the kernel clears its pages every time; it is told once to keep them.
void KeepFrameMemory() {
  constexpr int kMappedFrom = 32 << 20;  // The most that it takes.
  constexpr int kKept = 256 << 20;
  static const bool told =
      ::mallopt(M_MMAP_THRESHOLD, kMappedFrom) != 0 && ::mallopt(M_TRIM_THRESHOLD, kKept) != 0;
  VLOG_IF(1, !told) << "malloc keeps its own thresholds";
}

bool IsInproc(const std::string& address) { return address.starts_with("inproc://"); }

zmq::message_t MessageOf(const Bytes& frame) {
  auto* keep = new Bytes(frame);  // Freed by ZeroMQ when the bytes are out.
  zmq::message_t message(
      const_cast<std::uint8_t*>(frame.data()), frame.size(),
      [](void* data, void* hint) {
        TakeOver(data);
        delete static_cast<Bytes*>(hint);
      },
      keep);
  HandOver(frame.data());
  return message;
}

Bytes BytesOf(zmq::message_t message) {
  const auto* data = static_cast<const std::uint8_t*>(message.data());
  TakeOver(data);
  const std::size_t size = message.size();
  if (reinterpret_cast<std::uintptr_t>(data) % 8 != 0) {
    return Bytes::Copy({data, size});  // Small messages lie inside ZeroMQ's own structures.
  }
  auto keep = std::make_shared<zmq::message_t>(std::move(message));
  data = static_cast<const std::uint8_t*>(keep->data());
  if (reinterpret_cast<std::uintptr_t>(data) % 8 != 0) {
    return Bytes::Copy({data, size});
  }
  return Bytes(std::move(keep), data, size);
}

}  // namespace

struct NetContext::Impl {
  explicit Impl(int io_threads) : context(io_threads) {}
  zmq::context_t context;
  std::optional<CurveKeys> keys;
  std::atomic<std::uint64_t> watches{0};  // Makes names.
  std::unique_ptr<ZapHandler> zap;        // Null without keys.  Last: it uses the context.
};

NetContext::NetContext(int io_threads) : impl_(std::make_unique<Impl>(io_threads)) {
  impl_->context.set(zmq::ctxopt::max_sockets, 65000);
  KeepFrameMemory();
}
NetContext::NetContext(int io_threads, const CurveKeys& keys) : NetContext(io_threads) {
  impl_->keys = keys;
  impl_->zap = std::make_unique<ZapHandler>(impl_->context, keys.known);
}
NetContext::~NetContext() = default;

bool NetContext::has_keys() const { return impl_->keys.has_value(); }

struct ZmqEndpoint::Impl {
  struct Named {
    zmq::socket_t socket;
    bool inproc = false;
    std::string address;
    std::unique_ptr<HandshakeWatch> watch;  // Null without keys.  Goes before the socket.
  };

  NetContext::Impl* net = nullptr;
  FrameGuard guard;
  std::unique_ptr<zmq::socket_t> router;
  std::unique_ptr<HandshakeWatch> router_watch;  // Null without keys.
  bool router_inproc = false;
  std::string bound;
  std::map<std::string, Named> named;
  const int wake = ::eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC);
  std::uint64_t sent = 0;
  std::uint64_t received = 0;

  Impl() { PCHECK(wake >= 0) << "eventfd"; }
  ~Impl() { ::close(wake); }

  void Configure(zmq::socket_t& socket) const {
    socket.set(zmq::sockopt::linger, kLingerMillis);
    // Bounded by the protocol's credits, not by dropping.
    socket.set(zmq::sockopt::sndhwm, 0);
    socket.set(zmq::sockopt::rcvhwm, 0);
    if (guard.frame_bytes_max > 0) {
      socket.set(zmq::sockopt::maxmsgsize, guard.frame_bytes_max + kCurveBytesMax);
    }
  }

  std::unique_ptr<HandshakeWatch> Watch(zmq::socket_t& socket) const {
    const std::uint64_t number = net->watches.fetch_add(1, std::memory_order_relaxed);
    return std::make_unique<HandshakeWatch>(net->context, socket, std::to_string(number));
  }

  // The socket will admit the known keys only.
  std::unique_ptr<HandshakeWatch> Admit(zmq::socket_t& socket) const {
    socket.set(zmq::sockopt::curve_server, true);
    socket.set(zmq::sockopt::curve_secretkey, net->keys->own.secret_key);
    socket.set(zmq::sockopt::zap_domain, ZapHandler::kDomain);
    return Watch(socket);
  }

  // The socket will prove its own key, and want `server_key` of the other side.
  std::unique_ptr<HandshakeWatch> Prove(zmq::socket_t& socket,
                                        const std::string& server_key) const {
    socket.set(zmq::sockopt::curve_serverkey, server_key);
    socket.set(zmq::sockopt::curve_publickey, net->keys->own.public_key);
    socket.set(zmq::sockopt::curve_secretkey, net->keys->own.secret_key);
    return Watch(socket);
  }

  void DrainWatches() {
    const Millis now = SteadyMillis();
    if (router_watch != nullptr) {
      const std::uint64_t before = router_watch->refused();
      router_watch->Drain(now);
      LOG_IF_EVERY_N(WARNING, router_watch->refused() > before, 100)
          << "refused a connection to " << bound << ": " << router_watch->refused() << " so far";
    }
    for (auto& [name, peer] : named) {
      if (peer.watch != nullptr) {
        peer.watch->Drain(now);
      }
    }
  }

  // Receives what is there; returns how many frames.
  int Drain(zmq::socket_t& socket, const std::string* name, bool inproc, const OnFrame& on_frame,
            const OnBad& on_bad) {
    int count = 0;
    for (; count < kFramesPerPoll; ++count) {
      std::string peer;
      zmq::message_t message;
      if (name == nullptr) {
        zmq::message_t id;
        if (!socket.recv(id, zmq::recv_flags::dontwait)) {
          break;
        }
        peer = id.to_string();
        if (!id.more() || !socket.recv(message, zmq::recv_flags::none)) {
          continue;
        }
      } else if (socket.recv(message, zmq::recv_flags::dontwait)) {
        peer = *name;
      } else {
        break;
      }
      bool single = true;
      while (message.more()) {  // Not one of our frames; take it off the queue whole.
        single = false;
        if (!socket.recv(message, zmq::recv_flags::none)) {
          break;
        }
      }
      received += message.size();
      const Bytes frame = BytesOf(std::move(message));
      Status status = single ? OkStatus() : DataLoss("a message of several parts is not a frame");
      if (status.ok() && !inproc && guard.verify != nullptr) {
        status = guard.verify(frame);
      }
      if (status.ok()) {
        on_frame(peer, frame);
      } else {
        on_bad(peer, status);
      }
    }
    return count;
  }
};

ZmqEndpoint::ZmqEndpoint(NetContext& context, FrameGuard guard) : impl_(std::make_unique<Impl>()) {
  impl_->net = context.impl_.get();
  impl_->guard = guard;
}
ZmqEndpoint::~ZmqEndpoint() = default;

Status ZmqEndpoint::Bind(const std::string& address, int listen_fd) {
  try {
    impl_->router_watch.reset();
    impl_->router = std::make_unique<zmq::socket_t>(impl_->net->context, zmq::socket_type::router);
    impl_->Configure(*impl_->router);
    impl_->router->set(zmq::sockopt::router_mandatory, true);
    if (listen_fd >= 0) {
      impl_->router->set(zmq::sockopt::use_fd, listen_fd);
    }
    impl_->router_inproc = IsInproc(address);
    if (impl_->net->keys.has_value() && !impl_->router_inproc) {
      impl_->router_watch = impl_->Admit(*impl_->router);
    }
    impl_->router->bind(address);
    impl_->bound = impl_->router_inproc || listen_fd >= 0
                       ? address
                       : impl_->router->get(zmq::sockopt::last_endpoint);
    return OkStatus();
  } catch (const zmq::error_t& error) {
    return Unavailable("bind " + address + ": " + error.what());
  }
}

const std::string& ZmqEndpoint::bound_address() const { return impl_->bound; }

Status ZmqEndpoint::Connect(const std::string& peer, const std::string& address,
                            const std::string& key_name) {
  try {
    zmq::socket_t socket(impl_->net->context, zmq::socket_type::dealer);
    impl_->Configure(socket);
    socket.set(zmq::sockopt::reconnect_ivl, 50);
    socket.set(zmq::sockopt::reconnect_ivl_max, 1000);
    std::unique_ptr<HandshakeWatch> watch;
    if (impl_->net->keys.has_value() && !IsInproc(address)) {
      const auto& known = impl_->net->keys->known;
      const auto key = known.find(key_name);
      if (key == known.end()) {
        return FailedPrecondition("connect to " + address + ": the public key of '" + key_name +
                                  "' is not in the key directory");
      }
      watch = impl_->Prove(socket, key->second);
    }
    socket.connect(address);
    impl_->named.erase(peer);  // A watch goes before its socket.
    impl_->named.emplace(
        peer, Impl::Named{std::move(socket), IsInproc(address), address, std::move(watch)});
    return OkStatus();
  } catch (const zmq::error_t& error) {
    return Unavailable("connect to " + address + ": " + error.what());
  }
}

Status ZmqEndpoint::Send(const Envelope& envelope) {
  try {
    const auto at = impl_->named.find(envelope.peer);
    const bool to_named = at != impl_->named.end();
    if (!to_named && impl_->router == nullptr) {
      return Unavailable("no connection to " + envelope.peer);
    }
    const bool inproc = to_named ? at->second.inproc : impl_->router_inproc;
    if (!inproc && impl_->guard.seal != nullptr) {
      impl_->guard.seal(envelope.frame);
    }
    impl_->sent += envelope.frame.size();
    zmq::message_t message = MessageOf(envelope.frame);
    if (to_named) {
      at->second.socket.send(message, zmq::send_flags::dontwait);
    } else {
      impl_->router->send(zmq::buffer(envelope.peer), zmq::send_flags::sndmore);
      impl_->router->send(message, zmq::send_flags::dontwait);
    }
    return OkStatus();
  } catch (const zmq::error_t& error) {
    return Unavailable(std::string("send: ") + error.what());
  }
}

Status ZmqEndpoint::Poll(Millis timeout_ms, const OnFrame& on_frame, const OnBad& on_bad) {
  try {
    std::vector<zmq::pollitem_t> items;
    std::vector<std::pair<const std::string*, Impl::Named*>> owners;
    if (impl_->router != nullptr) {
      items.push_back({impl_->router->handle(), 0, ZMQ_POLLIN, 0});
      owners.emplace_back(nullptr, nullptr);
    }
    for (auto& [name, named] : impl_->named) {
      items.push_back({named.socket.handle(), 0, ZMQ_POLLIN, 0});
      owners.emplace_back(&name, &named);
    }
    items.push_back({nullptr, impl_->wake, ZMQ_POLLIN, 0});
    zmq::poll(items, std::chrono::milliseconds(timeout_ms));
    if ((items.back().revents & ZMQ_POLLIN) != 0) {
      std::uint64_t wakes = 0;
      PCHECK(::read(impl_->wake, &wakes, sizeof(wakes)) == sizeof(wakes) || errno == EAGAIN);
    }
    items.pop_back();
    if (impl_->net->keys.has_value()) {
      impl_->DrainWatches();
    }
    for (std::size_t i = 0; i < items.size(); ++i) {
      if ((items[i].revents & ZMQ_POLLIN) == 0) {
        continue;
      }
      if (owners[i].first == nullptr) {
        impl_->Drain(*impl_->router, nullptr, impl_->router_inproc, on_frame, on_bad);
      } else {
        impl_->Drain(owners[i].second->socket, owners[i].first, owners[i].second->inproc, on_frame,
                     on_bad);
      }
    }
    return OkStatus();
  } catch (const zmq::error_t& error) {
    if (error.num() == EINTR) {
      return OkStatus();
    }
    return Unavailable(std::string("poll: ") + error.what());
  }
}

void ZmqEndpoint::Wake() {
  const std::uint64_t one = 1;
  // Full (2^64 - 1 wakes) is as good as written.
  PCHECK(::write(impl_->wake, &one, sizeof(one)) == sizeof(one) || errno == EAGAIN);
}

std::uint64_t ZmqEndpoint::bytes_sent() const { return impl_->sent; }
std::uint64_t ZmqEndpoint::bytes_received() const { return impl_->received; }

std::uint64_t ZmqEndpoint::refused() const {
  return impl_->router_watch != nullptr ? impl_->router_watch->refused() : 0;
}

Status ZmqEndpoint::CheckPeers(Millis patience_ms) const {
  for (const auto& [name, peer] : impl_->named) {
    if (peer.watch != nullptr && peer.watch->failing(SteadyMillis(), patience_ms)) {
      return FailedPrecondition("no connection to " + name + " at " + peer.address + ": " +
                                peer.watch->trouble());
    }
  }
  return OkStatus();
}

}  // namespace plexus
