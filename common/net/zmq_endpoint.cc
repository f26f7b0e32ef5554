#include "common/net/zmq_endpoint.h"

#include <map>
#include <utility>
#include <vector>

#include <zmq.hpp>

namespace plexus {
namespace {

// Frames handed over by one Poll, so that timers run even under a flood.
constexpr int kFramesPerPoll = 64;
// Unsent frames are given this long when a node goes.
constexpr int kLingerMillis = 2000;

bool IsInproc(const std::string& address) { return address.starts_with("inproc://"); }

zmq::message_t MessageOf(const Bytes& frame) {
  auto* keep = new Bytes(frame);  // Freed by ZeroMQ when the bytes are out.
  return zmq::message_t(
      const_cast<std::uint8_t*>(frame.data()), frame.size(),
      [](void*, void* hint) { delete static_cast<Bytes*>(hint); }, keep);
}

Bytes BytesOf(zmq::message_t message) {
  const auto* data = static_cast<const std::uint8_t*>(message.data());
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
};

NetContext::NetContext(int io_threads) : impl_(std::make_unique<Impl>(io_threads)) {
  impl_->context.set(zmq::ctxopt::max_sockets, 65000);
}
NetContext::~NetContext() = default;

struct ZmqEndpoint::Impl {
  struct Named {
    zmq::socket_t socket;
    bool inproc = false;
  };

  zmq::context_t* context = nullptr;
  FrameGuard guard;
  std::unique_ptr<zmq::socket_t> router;
  bool router_inproc = false;
  std::string bound;
  std::map<std::string, Named> named;
  std::uint64_t sent = 0;
  std::uint64_t received = 0;

  void Configure(zmq::socket_t& socket) const {
    socket.set(zmq::sockopt::linger, kLingerMillis);
    // Bounded by the protocol's credits, not by dropping.
    socket.set(zmq::sockopt::sndhwm, 0);
    socket.set(zmq::sockopt::rcvhwm, 0);
    if (guard.frame_bytes_max > 0) {
      socket.set(zmq::sockopt::maxmsgsize, guard.frame_bytes_max);
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
  impl_->context = &context.impl_->context;
  impl_->guard = guard;
}
ZmqEndpoint::~ZmqEndpoint() = default;

Status ZmqEndpoint::Bind(const std::string& address, int listen_fd) {
  try {
    impl_->router = std::make_unique<zmq::socket_t>(*impl_->context, zmq::socket_type::router);
    impl_->Configure(*impl_->router);
    impl_->router->set(zmq::sockopt::router_mandatory, true);
    if (listen_fd >= 0) {
      impl_->router->set(zmq::sockopt::use_fd, listen_fd);
    }
    impl_->router->bind(address);
    impl_->router_inproc = IsInproc(address);
    impl_->bound = impl_->router_inproc || listen_fd >= 0
                       ? address
                       : impl_->router->get(zmq::sockopt::last_endpoint);
    return OkStatus();
  } catch (const zmq::error_t& error) {
    return Unavailable("bind " + address + ": " + error.what());
  }
}

const std::string& ZmqEndpoint::bound_address() const { return impl_->bound; }

Status ZmqEndpoint::Connect(const std::string& peer, const std::string& address) {
  try {
    zmq::socket_t socket(*impl_->context, zmq::socket_type::dealer);
    impl_->Configure(socket);
    socket.set(zmq::sockopt::reconnect_ivl, 50);
    socket.set(zmq::sockopt::reconnect_ivl_max, 1000);
    socket.connect(address);
    impl_->named.insert_or_assign(peer, Impl::Named{std::move(socket), IsInproc(address)});
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
    zmq::poll(items, std::chrono::milliseconds(timeout_ms));
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

std::uint64_t ZmqEndpoint::bytes_sent() const { return impl_->sent; }
std::uint64_t ZmqEndpoint::bytes_received() const { return impl_->received; }

}  // namespace plexus
