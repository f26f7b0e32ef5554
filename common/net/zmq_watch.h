// HandshakeWatch: how the handshakes of a socket with keys end.  Private to common/net.
//
// Thread safety: belongs to the thread of the socket.
#pragma once

#include <cstdint>
#include <string>

#include <zmq.hpp>

#include "common/clock.h"

namespace plexus {

class HandshakeWatch {
 public:
  // Watches `socket`, which neither is bound nor has connected yet, and whose handle outlives the
  // watch; `name` is the watch's own within the context.
  HandshakeWatch(zmq::context_t& context, zmq::socket_t& socket, const std::string& name);
  ~HandshakeWatch();
  HandshakeWatch(const HandshakeWatch&) = delete;
  HandshakeWatch& operator=(const HandshakeWatch&) = delete;

  // Takes note of what happened.
  void Drain(Millis now);

  // Handshakes that failed: a key is unknown or wrong, one side has none, or the other one broke
  // off (a client without keys may do so first).
  std::uint64_t refused() const { return refused_; }
  // Why the last one failed, in words of who connects.  Empty: none has, or one went well since.
  const std::string& trouble() const { return trouble_; }
  // True if handshakes have failed for longer than `patience`, and not because a peer was gone.
  bool failing(Millis now, Millis patience) const {
    return weight_ >= kWeightMin && now - failing_since_ > patience;
  }

 private:
  // A handshake that ended without a word weighs 1: a peer that was killed looks the same.
  static constexpr int kWeightMin = 5;

  void OnEvent(std::uint16_t event, std::uint32_t value, Millis now);

  void* const watched_;
  zmq::socket_t events_;
  std::uint64_t refused_ = 0;
  std::string trouble_;
  int weight_ = 0;
  Millis failing_since_ = 0;
};

}  // namespace plexus
