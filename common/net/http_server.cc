#include "common/net/http_server.h"

#include <array>
#include <charconv>
#include <chrono>
#include <cstdint>
#include <exception>
#include <limits>
#include <optional>
#include <string>
#include <string_view>
#include <thread>
#include <utility>

#include <boost/asio/buffer.hpp>
#include <boost/asio/io_context.hpp>
#include <boost/asio/ip/tcp.hpp>
#include <boost/asio/read_until.hpp>
#include <boost/asio/steady_timer.hpp>
#include <boost/beast/core.hpp>
#include <boost/beast/http.hpp>
#include <fcntl.h>
#include <glog/logging.h>
#include <pthread.h>

namespace plexus {
namespace {

namespace asio = boost::asio;
namespace beast = boost::beast;
namespace http = boost::beast::http;
using asio::ip::tcp;
using ErrorCode = boost::system::error_code;

// Without a file descriptor, accepting is tried again after this.
constexpr std::chrono::milliseconds kAcceptRetry{100};
// After a refusal, so much of what the client still sends is read and dropped: closing a socket
// with unread bytes would reset it, and the client might lose the reply.
constexpr std::size_t kDrainBytesMax = 64 << 10;
constexpr std::chrono::seconds kDrainDeadline{1};

// A supervisor's or server's children are not to hold our sockets.
void SetCloseOnExec(int fd) {
  if (fcntl(fd, F_SETFD, FD_CLOEXEC) != 0) {
    PLOG(WARNING) << "FD_CLOEXEC of an HTTP socket";
  }
}

std::string EndpointText(const tcp::endpoint& endpoint) {
  const std::string host = endpoint.address().to_string();
  return (endpoint.address().is_v6() ? "[" + host + "]" : host) + ":" +
         std::to_string(endpoint.port());
}

StatusOr<tcp::endpoint> ParseAddress(const std::string& text) {
  const Status error = InvalidArgument("HTTP address '" + text +
                                       "' is not of the form 127.0.0.1:9090 or [::1]:9090");
  const std::size_t colon = text.rfind(':');
  if (colon == std::string::npos) {
    return error;
  }
  std::string host = text.substr(0, colon);
  const bool bracketed = host.size() > 2 && host.front() == '[' && host.back() == ']';
  if (bracketed) {
    host = host.substr(1, host.size() - 2);
  }
  ErrorCode ec;
  const asio::ip::address ip = asio::ip::make_address(host, ec);
  if (ec || ip.is_v6() != bracketed) {
    return error;
  }
  const std::string_view digits = std::string_view(text).substr(colon + 1);
  std::uint16_t port = 0;
  const auto [end, errc] = std::from_chars(digits.data(), digits.data() + digits.size(), port);
  if (digits.empty() || errc != std::errc() || end != digits.data() + digits.size()) {
    return error;
  }
  return tcp::endpoint(ip, port);
}

Status ListenError(const std::string& address, const ErrorCode& ec) {
  std::string message = "listen for HTTP on " + address + ": " + ec.message();
  if (ec == asio::error::address_in_use || ec == asio::error::access_denied) {
    return FailedPrecondition(std::move(message));
  }
  if (ec == asio::error::no_descriptors || ec == asio::error::no_memory ||
      ec == asio::error::no_buffer_space) {
    return ResourceExhausted(std::move(message));
  }
  // Not an address of this machine, no IPv6 here, ...
  return InvalidArgument(std::move(message));
}

HttpReply PlainReply(http::status status, std::string body) {
  HttpReply reply;
  reply.status = static_cast<int>(status);
  reply.body = std::move(body);
  return reply;
}

// What the connections share.  All of it belongs to the server's thread once that runs.
struct Shared {
  const Routes routes;
  const HttpLimits limits;
  int connections = 0;
  bool stopping = false;
  std::function<void()> on_room = nullptr;  // A connection has ended.
};

// One client: reads a request's header, answers, and so on.  The pending operation owns it: an
// operation that ends without starting another closes the connection.
class Connection : public std::enable_shared_from_this<Connection> {
 public:
  Connection(Shared& shared, tcp::socket socket) : shared_(shared), stream_(std::move(socket)) {
    SetCloseOnExec(stream_.socket().native_handle());
    ++shared_.connections;
  }
  ~Connection() {
    --shared_.connections;
    if (!shared_.stopping) {
      shared_.on_room();
    }
  }
  Connection(const Connection&) = delete;
  Connection& operator=(const Connection&) = delete;

  void ReadRequest();

 private:
  void OnHeader(const ErrorCode& ec, std::size_t bytes);
  void OnRequest();
  HttpReply Answer(std::string_view target) const;
  void Refuse(http::status status, std::string body);
  void Write(HttpReply reply, bool keep_alive, bool with_body);
  void OnWritten(const ErrorCode& ec, bool keep_alive);
  void Drain(std::size_t bytes_left);

  Shared& shared_;
  beast::tcp_stream stream_;
  std::string received_;  // At most header_bytes_max.
  std::optional<http::request_parser<http::empty_body>> parser_;
  http::response<http::string_body> response_;
  std::optional<http::response_serializer<http::string_body>> serializer_;
  std::array<char, 4096> dropped_;
};

// Beast's parser takes a header line by line, and its header_limit does not bound their sum: so the
// whole header is read first, into a buffer of that size.
void Connection::ReadRequest() {
  parser_.emplace();
  // Bodies are refused once the header is there.
  parser_->body_limit(std::numeric_limits<std::uint64_t>::max());
  parser_->header_limit(static_cast<std::uint32_t>(shared_.limits.header_bytes_max));
  stream_.expires_after(std::chrono::milliseconds(shared_.limits.idle_ms_max));
  const auto limit = static_cast<std::size_t>(shared_.limits.header_bytes_max);
  asio::async_read_until(stream_, asio::dynamic_buffer(received_, limit), "\r\n\r\n",
                         [self = shared_from_this()](const ErrorCode& ec, std::size_t bytes) {
                           self->OnHeader(ec, bytes);
                         });
}

void Connection::OnHeader(const ErrorCode& ec, std::size_t bytes) {
  if (ec == asio::error::not_found) {
    return Refuse(http::status::request_header_fields_too_large, "the header is too long\n");
  }
  if (ec) {
    return;  // Done, too slow, or gone.
  }
  ErrorCode parse_error;
  parser_->put(asio::buffer(received_.data(), bytes), parse_error);
  received_.erase(0, bytes);
  if (parse_error == http::error::header_limit) {
    return Refuse(http::status::request_header_fields_too_large, "a header field is too long\n");
  }
  if (parse_error || !parser_->is_header_done()) {
    return Refuse(http::status::bad_request, "not HTTP: " + parse_error.message() + "\n");
  }
  OnRequest();
}

void Connection::OnRequest() {
  const auto& request = parser_->get();
  const bool head = request.method() == http::verb::head;
  if (!head && request.method() != http::verb::get) {
    return Refuse(http::status::method_not_allowed, "only GET and HEAD are served\n");
  }
  if (parser_->chunked() || parser_->content_length().value_or(0) > 0) {
    return Refuse(http::status::payload_too_large, "requests have no body here\n");
  }
  const bool room = shared_.connections < shared_.limits.connections_max;
  const std::string_view target(request.target().data(), request.target().size());
  Write(Answer(target), request.keep_alive() && room, !head);
}

HttpReply Connection::Answer(std::string_view target) const {
  const std::string path(target.substr(0, target.find('?')));
  const auto route = shared_.routes.find(path);
  if (route == shared_.routes.end()) {
    std::string body = "not here; the pages are:\n";
    for (const auto& [known, handler] : shared_.routes) {
      body += known + "\n";
    }
    return PlainReply(http::status::not_found, std::move(body));
  }
  HttpReply reply = route->second();
  CHECK(reply.status >= 200 && reply.status < 600) << path << ": status " << reply.status;
  CHECK((reply.status != 204 && reply.status != 304) || reply.body.empty())
      << path << ": a body with status " << reply.status;
  return reply;
}

// Answers without keeping the connection: where the next request begins is not known.
void Connection::Refuse(http::status status, std::string body) {
  const bool head = parser_->is_header_done() && parser_->get().method() == http::verb::head;
  Write(PlainReply(status, std::move(body)), false, !head);
}

void Connection::Write(HttpReply reply, bool keep_alive, bool with_body) {
  response_ = {};
  if (parser_->is_header_done()) {
    response_.version(parser_->get().version());
  }
  response_.result(static_cast<unsigned>(reply.status));
  response_.set(http::field::content_type, reply.content_type);
  if (response_.result() == http::status::method_not_allowed) {
    response_.set(http::field::allow, "GET, HEAD");
  }
  if (reply.status != 204) {
    response_.content_length(reply.body.size());
  }
  response_.keep_alive(keep_alive);
  response_.body() = std::move(reply.body);
  serializer_.emplace(response_);
  stream_.expires_after(std::chrono::milliseconds(shared_.limits.idle_ms_max));
  auto on_written = [self = shared_from_this(), keep_alive](ErrorCode ec, std::size_t) {
    self->OnWritten(ec, keep_alive);
  };
  if (with_body) {
    http::async_write(stream_, *serializer_, std::move(on_written));
  } else {
    http::async_write_header(stream_, *serializer_, std::move(on_written));
  }
}

void Connection::OnWritten(const ErrorCode& ec, bool keep_alive) {
  if (ec) {
    return;
  }
  if (keep_alive) {
    return ReadRequest();
  }
  ErrorCode gone;
  stream_.socket().shutdown(tcp::socket::shutdown_send, gone);
  if (!gone) {
    stream_.expires_after(kDrainDeadline);
    Drain(kDrainBytesMax);
  }
}

void Connection::Drain(std::size_t bytes_left) {
  stream_.async_read_some(asio::buffer(dropped_), [self = shared_from_this(), bytes_left](
                                                      const ErrorCode& ec, std::size_t bytes) {
    if (!ec && bytes < bytes_left) {
      self->Drain(bytes_left - bytes);
    }
  });
}

}  // namespace

struct HttpServer::Impl {
  Impl(Routes routes, const HttpLimits& limits)
      : shared{std::move(routes), limits}, acceptor(context), retry(context) {
    shared.on_room = [this] { Accept(); };
  }
  ~Impl() {
    context.stop();
    if (thread.joinable()) {
      thread.join();
    }
    shared.stopping = true;  // ~io_context destroys the connections.
  }

  Status Listen(const std::string& address);
  void Accept();
  void OnAccept(const ErrorCode& ec, tcp::socket socket);
  void Run();

  Shared shared;                // Outlives the connections, which `context` holds.
  bool accept_pending = false;  // An accept, or the wait before the next one, is under way.
  std::string bound_address;    // Constant once the thread runs.
  asio::io_context context{1};
  tcp::acceptor acceptor;
  asio::steady_timer retry;
  std::jthread thread;
};

Status HttpServer::Impl::Listen(const std::string& address) {
  ASSIGN_OR_RETURN(const tcp::endpoint endpoint, ParseAddress(address));
  ErrorCode ec;
  acceptor.open(endpoint.protocol(), ec);
  if (!ec) {
    SetCloseOnExec(acceptor.native_handle());
    acceptor.set_option(tcp::acceptor::reuse_address(true), ec);
  }
  if (!ec) {
    acceptor.bind(endpoint, ec);
  }
  if (!ec) {
    acceptor.listen(shared.limits.connections_max, ec);
  }
  tcp::endpoint bound;
  if (!ec) {
    bound = acceptor.local_endpoint(ec);
  }
  if (ec) {
    return ListenError(address, ec);
  }
  bound_address = EndpointText(bound);
  return OkStatus();
}

void HttpServer::Impl::Accept() {
  if (accept_pending || shared.connections >= shared.limits.connections_max) {
    return;
  }
  accept_pending = true;
  acceptor.async_accept(
      [this](const ErrorCode& ec, tcp::socket socket) { OnAccept(ec, std::move(socket)); });
}

void HttpServer::Impl::OnAccept(const ErrorCode& ec, tcp::socket socket) {
  if (!ec) {
    accept_pending = false;
    std::make_shared<Connection>(shared, std::move(socket))->ReadRequest();
    return Accept();
  }
  LOG_EVERY_N(WARNING, 100) << "accept on HTTP " << bound_address << ": " << ec.message();
  retry.expires_after(kAcceptRetry);
  retry.async_wait([this](const ErrorCode&) {
    accept_pending = false;
    Accept();
  });
}

void HttpServer::Impl::Run() {
  pthread_setname_np(pthread_self(), "http");
  context.run();
}

StatusOr<std::unique_ptr<HttpServer>> HttpServer::Start(const std::string& address, Routes routes,
                                                        const HttpLimits& limits) {
  CHECK(limits.connections_max > 0 && limits.header_bytes_max > 0 && limits.idle_ms_max > 0);
  for (const auto& [path, handler] : routes) {
    CHECK(path.starts_with('/') && handler != nullptr) << "route '" << path << "'";
  }
  // Asio and std::jthread throw when the machine gives no descriptor or thread.
  try {
    auto impl = std::make_unique<Impl>(std::move(routes), limits);
    RETURN_IF_ERROR(impl->Listen(address));
    impl->Accept();
    impl->thread = std::jthread([server = impl.get()] { server->Run(); });
    return std::unique_ptr<HttpServer>(new HttpServer(std::move(impl)));
  } catch (const std::exception& error) {
    return ResourceExhausted("start HTTP on " + address + ": " + error.what());
  }
}

HttpServer::HttpServer(std::unique_ptr<Impl> impl) : impl_(std::move(impl)) {}

HttpServer::~HttpServer() = default;

const std::string& HttpServer::bound_address() const { return impl_->bound_address; }

}  // namespace plexus
