#include "common/net/http_server.h"

#include <atomic>
#include <chrono>
#include <cstring>
#include <memory>
#include <random>
#include <string>
#include <thread>
#include <vector>

#include <fcntl.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/resource.h>

#include "common/clock.h"
#include "tests/unit/common/net/tcp_client.h"

namespace plexus {
namespace {

using testing::AnyOf;
using testing::HasSubstr;

std::unique_ptr<HttpServer> StartServer(const HttpLimits& limits = {},
                                        const std::string& address = "127.0.0.1:0") {
  Routes routes;
  routes["/healthz"] = [] { return HttpReply{.body = "ok\n"}; };
  routes["/status"] = [] {
    return HttpReply{.status = 503, .content_type = "application/json", .body = "{}"};
  };
  routes["/large"] = [] { return HttpReply{.body = std::string(8 << 20, 'x')}; };
  auto server = HttpServer::Start(address, std::move(routes), limits);
  CHECK(server.ok()) << server.status().ToString();
  return *std::move(server);
}

TEST(HttpServerTest, ServesItsRoutesOverOneConnection) {
  const auto server = StartServer();
  EXPECT_THAT(server->bound_address(), testing::MatchesRegex("127\\.0\\.0\\.1:[1-9][0-9]*"));
  TcpClient client(server->bound_address());
  for (int round = 0; round < 3; ++round) {
    const RawReply health = client.Get("/healthz");
    EXPECT_EQ(health.status, 200);
    EXPECT_EQ(health.body, "ok\n");
    EXPECT_EQ(health.Field("Content-Type"), "text/plain; charset=utf-8");
    const RawReply status = client.Get("/status?verbose=1");
    EXPECT_EQ(status.status, 503);
    EXPECT_EQ(status.body, "{}");
    EXPECT_EQ(status.Field("Content-Type"), "application/json");
  }
  EXPECT_EQ(client.Get("/large").body.size(), 8u << 20);
}

TEST(HttpServerTest, ListsItsRoutesWhenThePathIsUnknown) {
  const auto server = StartServer();
  TcpClient client(server->bound_address());
  const RawReply reply = client.Get("/metrics");
  EXPECT_EQ(reply.status, 404);
  EXPECT_THAT(reply.body, HasSubstr("/healthz\n/large\n/status\n"));
  EXPECT_EQ(client.Get("/healthz").status, 200);
}

TEST(HttpServerTest, AnswersHeadWithoutABody) {
  const auto server = StartServer();
  TcpClient client(server->bound_address());
  client.Send("HEAD /healthz HTTP/1.1\r\n\r\n");
  const RawReply reply = client.Receive(false);
  EXPECT_EQ(reply.status, 200);
  EXPECT_EQ(reply.Field("Content-Length"), "3");
  EXPECT_EQ(client.Get("/healthz").body, "ok\n");
}

TEST(HttpServerTest, AnswersPipelinedRequestsInOrder) {
  const auto server = StartServer();
  TcpClient client(server->bound_address());
  client.Send("GET /healthz HTTP/1.1\r\n\r\nGET /status HTTP/1.1\r\n\r\nGET /x HTTP/1.1\r\n\r\n");
  EXPECT_EQ(client.Receive().status, 200);
  EXPECT_EQ(client.Receive().status, 503);
  EXPECT_EQ(client.Receive().status, 404);
}

TEST(HttpServerTest, ClosesWhenTheClientDoesNotKeepAlive) {
  const auto server = StartServer();
  TcpClient old_client(server->bound_address());
  old_client.Send("GET /healthz HTTP/1.0\r\n\r\n");
  EXPECT_EQ(old_client.Receive().body, "ok\n");
  EXPECT_TRUE(old_client.AtEnd());
  TcpClient client(server->bound_address());
  client.Send("GET /healthz HTTP/1.1\r\nConnection: close\r\n\r\n");
  const RawReply reply = client.Receive();
  EXPECT_EQ(reply.body, "ok\n");
  EXPECT_EQ(reply.Field("Connection"), "close");
  EXPECT_TRUE(client.AtEnd());
}

TEST(HttpServerTest, RefusesWhatItDoesNotServe) {
  const auto server = StartServer();
  const struct {
    std::string request;
    int status;
  } cases[] = {
      {"POST /healthz HTTP/1.1\r\nContent-Length: 4\r\n\r\nbody", 405},
      {"DELETE /healthz HTTP/1.1\r\n\r\n", 405},
      {"BREW /healthz HTTP/1.1\r\n\r\n", 405},
      {"GET /healthz HTTP/1.1\r\nContent-Length: 4\r\n\r\nbody", 413},
      {"GET /healthz HTTP/1.1\r\nContent-Length: 1000000000000\r\n\r\n", 413},
      {"GET /healthz HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n4\r\nbody\r\n0\r\n\r\n", 413},
      {"GET /healthz HTTP/1.1\r\nContent-Length: -1\r\n\r\n", 400},
      {"GET /healthz HTTP/9.9\r\n\r\n", 400},
      {"GET / healthz HTTP/1.1\r\n\r\n", 400},
      {"hello\r\n\r\n", 400},
      {"\r\n\r\n", 400},
      {"GET /" + std::string(9000, 'a') + " HTTP/1.1\r\n\r\n", 431},
      {"GET / HTTP/1.1\r\nX: " + std::string(1 << 20, 'a') + "\r\n\r\n", 431},
  };
  for (const auto& [request, status] : cases) {
    TcpClient client(server->bound_address());
    client.Send(request);
    const RawReply reply = client.Receive();
    if (request.size() > 100'000) {  // More than the server reads after it has refused.
      EXPECT_THAT(reply.status, AnyOf(status, 0));
      continue;
    }
    EXPECT_EQ(reply.status, status) << request.substr(0, 80) << reply.body;
    EXPECT_EQ(reply.Field("Connection"), "close");
    EXPECT_EQ(reply.Field("Allow"), status == 405 ? "GET, HEAD" : "");
    client.FinishSending();
    EXPECT_TRUE(client.AtEnd()) << request.substr(0, 80);
  }
}

TEST(HttpServerTest, ServesAHeaderOfTheLargestSize) {
  const auto server = StartServer();
  for (const std::size_t more : {0, 1}) {
    std::string header = "GET /healthz HTTP/1.1\r\n";
    while (header.size() < 8000) {
      header += "X: " + std::string(75, 'a') + "\r\n";
    }
    const std::size_t fill = (8 << 10) + more - header.size() - std::strlen("Y: \r\n\r\n");
    TcpClient client(server->bound_address());
    client.Send(header + "Y: " + std::string(fill, 'a') + "\r\n\r\n");
    EXPECT_EQ(client.Receive().status, more == 0 ? 200 : 431);
  }
}

// Beast's own limit does not see a header that comes a line at a time.
TEST(HttpServerTest, BoundsAHeaderThatComesLineByLine) {
  const auto server = StartServer();
  TcpClient client(server->bound_address());
  client.Send("GET /healthz HTTP/1.1\r\n");
  int lines = 0;
  while (lines < 200 && client.Send("X: " + std::string(95, 'a') + "\r\n")) {
    ++lines;
    std::this_thread::sleep_for(std::chrono::microseconds(200));
  }
  EXPECT_EQ(client.Receive().status, 431);
}

TEST(HttpServerTest, SurvivesBrokenRequests) {
  const auto server = StartServer({.idle_ms_max = 200});
  std::mt19937_64 random(20240607);
  const std::string valid = "GET /healthz HTTP/1.1\r\nHost: test\r\nContent-Length: 0\r\n\r\n";
  for (int round = 0; round < 300; ++round) {
    std::string request = valid + valid;
    for (int change = 0; change < 1 + round % 8; ++change) {
      request[random() % request.size()] = static_cast<char>(random() % 256);
    }
    request.resize(random() % (request.size() + 1));
    TcpClient client(server->bound_address());
    client.Send(request);
    client.FinishSending();
    if (round % 2 == 0) {
      client.Receive();
    }
  }
  EXPECT_EQ(TcpClient(server->bound_address()).Get("/healthz").status, 200);
}

TEST(HttpServerTest, ClosesAConnectionThatIsSilentOrSlow) {
  const auto server = StartServer({.idle_ms_max = 100});
  TcpClient silent(server->bound_address());
  EXPECT_TRUE(silent.AtEnd());
  TcpClient half(server->bound_address());
  half.Send("GET /healthz HT");
  EXPECT_TRUE(half.AtEnd());
  TcpClient idle(server->bound_address());
  EXPECT_EQ(idle.Get("/healthz").status, 200);
  EXPECT_TRUE(idle.AtEnd());
}

TEST(HttpServerTest, DropsAReaderThatDoesNotRead) {
  const auto server = StartServer({.connections_max = 1, .idle_ms_max = 100});
  TcpClient stuck(server->bound_address());
  stuck.Send("GET /large HTTP/1.1\r\n\r\n");
  // Served only once `stuck` has lost its place.
  EXPECT_EQ(TcpClient(server->bound_address()).Get("/healthz").status, 200);
}

TEST(HttpServerTest, BoundsItsConnections) {
  const auto server = StartServer({.connections_max = 2});
  TcpClient first(server->bound_address());
  EXPECT_EQ(first.Get("/healthz").Field("Connection"), "");
  TcpClient second(server->bound_address());
  TcpClient third(server->bound_address());
  third.Send("GET /healthz HTTP/1.1\r\n\r\n");
  // Full: whoever is answered gives up its place, and the third comes in.
  EXPECT_EQ(second.Get("/healthz").Field("Connection"), "close");
  second.Close();
  EXPECT_EQ(third.Receive().status, 200);
}

// While it lives, the process can open no descriptor.
class NoDescriptors {
 public:
  NoDescriptors() {
    CHECK_EQ(getrlimit(RLIMIT_NOFILE, &before_), 0);
    const int lowest_free = open("/dev/null", O_RDONLY);
    CHECK_GE(lowest_free, 0);
    close(lowest_free);
    const rlimit none_left{static_cast<rlim_t>(lowest_free), before_.rlim_max};
    CHECK_EQ(setrlimit(RLIMIT_NOFILE, &none_left), 0);
  }
  ~NoDescriptors() { CHECK_EQ(setrlimit(RLIMIT_NOFILE, &before_), 0); }

 private:
  rlimit before_{};
};

TEST(HttpServerTest, AcceptsAgainWhenDescriptorsAreBack) {
  const auto server = StartServer();
  TcpClient client;
  client.Open(AF_INET);
  {
    const NoDescriptors none;
    ASSERT_TRUE(client.Connect(server->bound_address()));
    client.Send("GET /healthz HTTP/1.1\r\n\r\n");
    std::this_thread::sleep_for(std::chrono::milliseconds(50));
  }
  EXPECT_EQ(client.Receive().status, 200);
}

TEST(HttpServerTest, RefusesToStartWithoutDescriptors) {
#ifdef __SANITIZE_ADDRESS__
  GTEST_SKIP() << "UBSan opens a pipe to look at what is thrown, and takes its failure for ours";
#endif
  const auto none = std::make_unique<NoDescriptors>();
  const auto server = HttpServer::Start("127.0.0.1:0", {});
  ASSERT_FALSE(server.ok());
  EXPECT_EQ(server.status().code(), StatusCode::kResourceExhausted) << server.status().ToString();
}

TEST(HttpServerTest, StopsPromptlyWithOpenConnections) {
  auto server = StartServer();
  const std::string address = server->bound_address();
  TcpClient idle(address);
  EXPECT_EQ(idle.Get("/healthz").status, 200);
  TcpClient half(address);
  half.Send("GET /hea");
  TcpClient reading(address);
  reading.Send("GET /large HTTP/1.1\r\n\r\n");
  const double begin = SteadySeconds();
  server.reset();
  EXPECT_LT(SteadySeconds() - begin, 2.0);
  EXPECT_TRUE(idle.AtEnd());
  EXPECT_FALSE(TcpClient().Connect(address));
  // The port is free again at once.
  const auto again = StartServer({}, address);
  EXPECT_EQ(again->bound_address(), address);
}

TEST(HttpServerTest, StopsWhileClientsAsk) {
  for (int round = 0; round < 20; ++round) {
    auto server = StartServer();
    const std::string address = server->bound_address();
    std::atomic<int> answered{0};
    std::vector<std::jthread> clients;
    clients.reserve(3);
    for (int index = 0; index < 3; ++index) {
      clients.emplace_back([&] {
        TcpClient client;
        client.Connect(address);
        while (client.Get("/healthz").status == 200) {
          ++answered;
          answered.notify_all();
        }
      });
    }
    answered.wait(0);
    server.reset();
  }
}

TEST(HttpServerTest, ListensOnIpv6) {
  auto server = HttpServer::Start("[::1]:0", {{"/", [] { return HttpReply{.body = "six"}; }}});
  if (!server.ok()) {
    GTEST_SKIP() << "no IPv6 here: " << server.status().ToString();
  }
  const std::string address = (*server)->bound_address();
  EXPECT_THAT(address, testing::MatchesRegex("\\[::1\\]:[1-9][0-9]*"));
  EXPECT_EQ(TcpClient(address).Get("/").body, "six");
}

TEST(HttpServerTest, RefusesWrongAddresses) {
  for (const std::string address :
       {"", "127.0.0.1", "127.0.0.1:", ":9090", "localhost:9090", "127.0.0.1:65536", "127.0.0.1:-1",
        "127.0.0.1:+1", "127.0.0.1:80x", "127.0.0.1: 80", "::1:9090", "[::1]", "[127.0.0.1]:0",
        "[]:0", "tcp://127.0.0.1:0", "256.0.0.1:0", "192.0.2.1:0"}) {
    const auto server = HttpServer::Start(address, {});
    ASSERT_FALSE(server.ok()) << address;
    EXPECT_EQ(server.status().code(), StatusCode::kInvalidArgument) << server.status().ToString();
    EXPECT_THAT(server.status().message(), HasSubstr(address));
  }
}

TEST(HttpServerTest, RefusesAnAddressInUse) {
  const auto server = StartServer();
  const auto second = HttpServer::Start(server->bound_address(), {});
  ASSERT_FALSE(second.ok());
  EXPECT_EQ(second.status().code(), StatusCode::kFailedPrecondition);
  EXPECT_THAT(second.status().message(), HasSubstr(server->bound_address()));
}

}  // namespace
}  // namespace plexus
