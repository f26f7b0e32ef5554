// ZapHandler: says whose public keys a context's bound sockets admit (ZeroMQ's ZAP, RFC 27).
// Private to common/net.
//
// Thread safety: refused() from any thread.  The answers come from its own thread ("zap").
#pragma once

#include <atomic>
#include <cstdint>
#include <map>
#include <string>
#include <thread>

#include <zmq.hpp>

namespace plexus {

class ZapHandler {
 public:
  static constexpr const char* kDomain = "plexus";

  // Admits `known`, name -> public key in Z85.  One a context, there before the first socket binds
  // and after the last one closed: where there is no handler, ZeroMQ admits everybody.  (Where one
  // does not answer, nobody.)
  ZapHandler(zmq::context_t& context, const std::map<std::string, std::string>& known);
  // Shuts the context down, as nothing could be admitted any more.
  ~ZapHandler();
  ZapHandler(const ZapHandler&) = delete;
  ZapHandler& operator=(const ZapHandler&) = delete;

  // Connections that were not admitted.
  std::uint64_t refused() const { return refused_.load(std::memory_order_relaxed); }

 private:
  void Run();
  // Receives a request and answers it.
  void Serve();

  zmq::context_t& context_;
  std::map<std::string, std::string> names_;  // Public key as 32 bytes -> name.
  std::atomic<std::uint64_t> refused_{0};     // Statistics only: relaxed.
  zmq::socket_t socket_;                      // Used by the thread only, while it runs.
  std::jthread thread_;                       // Last: it uses the others.
};

}  // namespace plexus
