// HttpServer: a few fixed pages (/metrics, /healthz, /status) for whoever watches a process.
//
// HTTP/1.1 over TCP, GET and HEAD without a body, keep-alive; nothing is parsed but the path (a
// query is ignored).  Everything is bounded, see HttpLimits.  No TLS and no authentication: listen
// on a loopback or a private address.
//
//   request                                 reply
//   a route                                 the handler's
//   another path                            404, a list of the routes
//   another method                          405
//   with a body                             413
//   header too long                         431
//   not HTTP                                400
//   too slow, or aborted                    none: the connection closes
//
// Thread safety: an HttpServer belongs to one thread, except bound_address().  Handlers run one at
// a time on the server's own thread ("http"): whatever they read must be safe to read from there,
// one that is slow delays every other request and the destructor, and none may destroy the server.
#pragma once

#include <functional>
#include <map>
#include <memory>
#include <string>

#include "common/status.h"

namespace plexus {

struct HttpReply {
  int status = 200;  // 200..599; the body of 204 and 304 is empty.
  std::string content_type = "text/plain; charset=utf-8";
  std::string body;
};

// Path, beginning with '/', -> handler.  A handler does not throw.
using Routes = std::map<std::string, std::function<HttpReply()>>;

struct HttpLimits {
  // More wait in the kernel's queue; while the server is full, each reply closes its connection.
  int connections_max = 64;
  int header_bytes_max = 8 << 10;
  // For a request's header to arrive, from the connection's or the last reply's end on, and again
  // for a reply to be taken.
  int idle_ms_max = 5000;
};

class HttpServer {
 public:
  // Serves `routes` on `address`: "127.0.0.1:9090", "[::1]:9090", "0.0.0.0:0" (port 0: any free
  // one). Accepts connections when it returns. kInvalidArgument: `address` is none, or is not one
  // of this machine's. kFailedPrecondition: the address is in use, or the port is not allowed to
  // this user. kResourceExhausted: no file descriptor or thread left.
  static StatusOr<std::unique_ptr<HttpServer>> Start(const std::string& address, Routes routes,
                                                     const HttpLimits& limits = {});

  // Closes all connections, also amid a reply, and joins the thread once a handler that runs is
  // done.
  ~HttpServer();
  HttpServer(const HttpServer&) = delete;
  HttpServer& operator=(const HttpServer&) = delete;

  // Where it listens, in the form of Start(); a port 0 is resolved.
  const std::string& bound_address() const;

 private:
  struct Impl;
  explicit HttpServer(std::unique_ptr<Impl> impl);

  std::unique_ptr<Impl> impl_;
};

}  // namespace plexus
