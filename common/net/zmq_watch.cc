#include "common/net/zmq_watch.h"

#include <cstring>

namespace plexus {
namespace {

constexpr int kEvents = ZMQ_EVENT_HANDSHAKE_SUCCEEDED | ZMQ_EVENT_HANDSHAKE_FAILED_NO_DETAIL |
                        ZMQ_EVENT_HANDSHAKE_FAILED_PROTOCOL | ZMQ_EVENT_HANDSHAKE_FAILED_AUTH;
// Events handed over by one Drain.
constexpr int kEventsPerDrain = 1000;

}  // namespace

HandshakeWatch::HandshakeWatch(zmq::context_t& context, zmq::socket_t& socket,
                               const std::string& name)
    : watched_(socket.handle()), events_(context, zmq::socket_type::pair) {
  const std::string address = "inproc://handshakes-" + name;
  if (::zmq_socket_monitor(socket.handle(), address.c_str(), kEvents) != 0) {
    throw zmq::error_t();
  }
  // Unbounded: ZeroMQ's own thread would wait for room.
  events_.set(zmq::sockopt::rcvhwm, 0);
  events_.set(zmq::sockopt::linger, 0);
  events_.connect(address);
}

HandshakeWatch::~HandshakeWatch() {
  // First, as ZeroMQ's own thread would wait for a reader that is gone.
  ::zmq_socket_monitor(watched_, nullptr, 0);
}

void HandshakeWatch::Drain(Millis now) {
  for (int i = 0; i < kEventsPerDrain; ++i) {
    zmq::message_t event;  // u16 event, u32 value; then the address.
    zmq::message_t address;
    if (!events_.recv(event, zmq::recv_flags::dontwait)) {
      return;
    }
    if (event.more() && !events_.recv(address, zmq::recv_flags::none)) {
      return;
    }
    std::uint16_t number = 0;
    std::uint32_t value = 0;
    if (event.size() == sizeof(number) + sizeof(value)) {
      std::memcpy(&number, event.data(), sizeof(number));
      std::memcpy(&value, event.data<char>() + sizeof(number), sizeof(value));
      OnEvent(number, value, now);
    }
  }
}

void HandshakeWatch::OnEvent(std::uint16_t event, std::uint32_t value, Millis now) {
  if (event == ZMQ_EVENT_HANDSHAKE_SUCCEEDED) {
    weight_ = 0;
    trouble_.clear();
    return;
  }
  ++refused_;
  failing_since_ = weight_ == 0 ? now : failing_since_;
  if (event == ZMQ_EVENT_HANDSHAKE_FAILED_NO_DETAIL) {
    ++weight_;
    trouble_ = "it breaks off the handshake: it may have other keys than this member knows";
    return;
  }
  weight_ = kWeightMin;
  if (event == ZMQ_EVENT_HANDSHAKE_FAILED_AUTH) {
    trouble_ = "it does not know this member's public key";
  } else if (value == ZMQ_PROTOCOL_ERROR_ZMTP_MECHANISM_MISMATCH) {
    trouble_ = "one side has keys and the other has none";
  } else {
    trouble_ = "its key is not the one that this member expects";
  }
}

}  // namespace plexus
