// TcpClient: a plain TCP connection to an HttpServer, so that tests see the bytes.
//
// Thread safety: none.
#pragma once

#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <string>
#include <string_view>

#include <arpa/inet.h>
#include <glog/logging.h>
#include <netinet/in.h>
#include <strings.h>
#include <sys/socket.h>
#include <sys/time.h>
#include <unistd.h>

namespace plexus {

struct RawReply {
  int status = 0;      // 0: the connection ended without a reply.
  std::string header;  // With the status line.
  std::string body;

  // The field's value; "" when it is not there.
  std::string Field(std::string_view name) const {
    for (std::size_t begin = 0, end; begin < header.size(); begin = end + 2) {
      end = header.find("\r\n", begin);
      const std::string line = header.substr(begin, end - begin);
      if (line.size() > name.size() + 2 && line[name.size()] == ':' &&
          strncasecmp(line.data(), name.data(), name.size()) == 0) {
        return line.substr(name.size() + 2);
      }
    }
    return "";
  }
};

class TcpClient {
 public:
  TcpClient() = default;
  // `address` as HttpServer::bound_address().
  explicit TcpClient(const std::string& address) { CHECK(Connect(address)) << address; }
  ~TcpClient() { Close(); }
  TcpClient(const TcpClient&) = delete;
  TcpClient& operator=(const TcpClient&) = delete;

  // Makes the socket of Connect() beforehand.
  void Open(int family) {
    fd_ = socket(family, SOCK_STREAM | SOCK_CLOEXEC, 0);
    CHECK_GE(fd_, 0);
    const timeval deadline{10, 0};
    CHECK_EQ(setsockopt(fd_, SOL_SOCKET, SO_RCVTIMEO, &deadline, sizeof(deadline)), 0);
    CHECK_EQ(setsockopt(fd_, SOL_SOCKET, SO_SNDTIMEO, &deadline, sizeof(deadline)), 0);
  }

  bool Connect(const std::string& address) {
    const std::size_t colon = address.rfind(':');
    const auto port = static_cast<std::uint16_t>(std::atoi(address.c_str() + colon + 1));
    const bool v6 = address.front() == '[';
    if (fd_ < 0) {
      Open(v6 ? AF_INET6 : AF_INET);
    }
    if (v6) {
      sockaddr_in6 to{};
      to.sin6_family = AF_INET6;
      to.sin6_port = htons(port);
      CHECK_EQ(inet_pton(AF_INET6, address.substr(1, colon - 2).c_str(), &to.sin6_addr), 1);
      return connect(fd_, reinterpret_cast<const sockaddr*>(&to), sizeof(to)) == 0;
    }
    sockaddr_in to{};
    to.sin_family = AF_INET;
    to.sin_port = htons(port);
    CHECK_EQ(inet_pton(AF_INET, address.substr(0, colon).c_str(), &to.sin_addr), 1);
    return connect(fd_, reinterpret_cast<const sockaddr*>(&to), sizeof(to)) == 0;
  }

  void Close() {
    if (fd_ >= 0) {
      close(fd_);
      fd_ = -1;
    }
  }

  // False: the server closed the connection.
  bool Send(std::string_view text) {
    while (!text.empty()) {
      const ssize_t sent = send(fd_, text.data(), text.size(), MSG_NOSIGNAL);
      if (sent <= 0) {
        return false;
      }
      text.remove_prefix(static_cast<std::size_t>(sent));
    }
    return true;
  }

  void FinishSending() { shutdown(fd_, SHUT_WR); }

  // The next reply; `has_body` is false for one to HEAD.
  RawReply Receive(bool has_body = true) {
    RawReply reply;
    std::size_t end;
    while ((end = received_.find("\r\n\r\n")) == std::string::npos) {
      if (!ReceiveSome()) {
        return reply;
      }
    }
    reply.header = received_.substr(0, end + 2);
    received_.erase(0, end + 4);
    CHECK_EQ(reply.header.substr(0, 7), "HTTP/1.") << reply.header;
    const auto bytes = static_cast<std::size_t>(std::atol(reply.Field("Content-Length").c_str()));
    while (has_body && received_.size() < bytes) {
      if (!ReceiveSome()) {
        return reply;
      }
    }
    reply.status = std::atoi(reply.header.c_str() + std::strlen("HTTP/1.1 "));
    if (has_body) {
      reply.body = received_.substr(0, bytes);
      received_.erase(0, bytes);
    }
    return reply;
  }

  RawReply Get(const std::string& path) {
    Send("GET " + path + " HTTP/1.1\r\nHost: test\r\n\r\n");
    return Receive();
  }

  // Waits until the server ends the connection; false: it sent something first, or did not end it.
  bool AtEnd() {
    char byte;
    return received_.empty() && recv(fd_, &byte, 1, 0) == 0;
  }

 private:
  bool ReceiveSome() {
    char bytes[4096];
    const ssize_t count = recv(fd_, bytes, sizeof(bytes), 0);
    if (count > 0) {
      received_.append(bytes, static_cast<std::size_t>(count));
    }
    return count > 0;
  }

  int fd_ = -1;
  std::string received_;
};

}  // namespace plexus
