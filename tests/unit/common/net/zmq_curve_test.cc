// Endpoints with keys, over TCP on the loopback: who may talk and who may not.
#include "common/net/zmq_curve.h"

#include <filesystem>
#include <fstream>
#include <functional>
#include <memory>
#include <string>

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/stat.h>

#include "common/clock.h"
#include "common/net/zmq_endpoint.h"

namespace plexus {
namespace {

using testing::HasSubstr;
using testing::Not;

// Of what should come, and of what should not.
constexpr Millis kPatience = 10000;
constexpr Millis kQuiet = 500;

Bytes Text(std::string_view text) {
  return Bytes::Copy({reinterpret_cast<const std::uint8_t*>(text.data()), text.size()});
}

std::string TextOf(const Bytes& frame) {
  return {reinterpret_cast<const char*>(frame.data()), frame.size()};
}

mode_t ModeOf(const std::string& path) {
  struct stat info {};
  return ::stat(path.c_str(), &info) == 0 ? info.st_mode & 0777 : 0;
}

// A process of its own, as far as ZeroMQ can tell: a context, and an endpoint.
struct Node {
  Node() : context(std::make_unique<NetContext>(1)) { Open(); }
  explicit Node(const CurveKeys& keys) : context(std::make_unique<NetContext>(1, keys)) { Open(); }

  void Open() { endpoint = std::make_unique<ZmqEndpoint>(*context, FrameGuard{}); }

  void Poll(Millis millis = 10) {
    ASSERT_TRUE(endpoint
                    ->Poll(
                        millis,
                        [this](const std::string& peer, const Bytes& frame) {
                          from = peer;
                          received += TextOf(frame);
                        },
                        [](const std::string&, const Status&) {})
                    .ok());
  }

  std::unique_ptr<NetContext> context;
  std::unique_ptr<ZmqEndpoint> endpoint;
  std::string from;
  std::string received;
};

class ZmqCurveTest : public testing::Test {
 protected:
  ZmqCurveTest() : folder_(testing::TempDir() + "zmq_curve_test." + std::to_string(::getpid())) {
    std::filesystem::remove_all(folder_);
  }
  ~ZmqCurveTest() override { std::filesystem::remove_all(folder_); }

  // A directory with keys, made for this test.
  std::string Directory(const std::string& name) {
    const std::string directory = folder_ + "/" + name;
    const Status status = WriteCurveKeys(directory, {"scheduler", "worker"});
    CHECK(status.ok()) << status.ToString();
    return directory;
  }

  static CurveKeys Load(const std::string& directory, const std::string& name) {
    StatusOr<CurveKeys> keys = LoadCurveKeys(directory, name);
    CHECK(keys.ok()) << keys.status().ToString();
    return *std::move(keys);
  }

  // Binds `server`, connects `client`, and sends "hello".
  static void Greet(Node& server, Node& client) {
    ASSERT_TRUE(server.endpoint->Bind("tcp://127.0.0.1:0").ok());
    const Status connected =
        client.endpoint->Connect("scheduler", server.endpoint->bound_address(), "scheduler");
    ASSERT_TRUE(connected.ok()) << connected.ToString();
    ASSERT_TRUE(client.endpoint->Send({"scheduler", Text("hello")}).ok());
  }

  // Runs both until `done`, or the patience ends.
  static bool RunUntil(Node& server, Node& client, const std::function<bool()>& done,
                       Millis patience = kPatience) {
    const Millis until = SteadyMillis() + patience;
    while (!done() && SteadyMillis() < until) {
      server.Poll();
      client.Poll();
    }
    return done();
  }

  // The server hears nothing; it counts a refusal, and the client learns why.
  static void ExpectRefused(Node& server, Node& client, const std::string& why) {
    Greet(server, client);
    const auto refused = [&] {
      return server.endpoint->refused() > 0 && !client.endpoint->CheckPeers(0).ok();
    };
    EXPECT_TRUE(RunUntil(server, client, refused))
        << server.endpoint->refused() << " refused; " << client.endpoint->CheckPeers(0).ToString();
    EXPECT_FALSE(RunUntil(
        server, client, [&] { return !server.received.empty(); }, kQuiet));
    EXPECT_THAT(client.endpoint->CheckPeers(0).message(), HasSubstr(why));
  }

  const std::string folder_;
};

TEST_F(ZmqCurveTest, RightKeysTalk) {
  const std::string directory = Directory("keys");
  Node server(Load(directory, "scheduler"));
  Node client(Load(directory, "worker"));
  Greet(server, client);
  ASSERT_TRUE(RunUntil(server, client, [&] { return server.received == "hello"; }));
  ASSERT_TRUE(server.endpoint->Send({server.from, Text("welcome")}).ok());
  EXPECT_TRUE(RunUntil(server, client, [&] { return client.received == "welcome"; }));
  EXPECT_EQ(server.endpoint->refused(), 0U);
  EXPECT_TRUE(client.endpoint->CheckPeers(0).ok());
}

TEST_F(ZmqCurveTest, LongFramesArriveWhole) {
  const std::string directory = Directory("keys");
  Node server(Load(directory, "scheduler"));
  Node client(Load(directory, "worker"));
  Greet(server, client);
  std::string body(5000001, 'x');
  for (std::size_t i = 0; i < body.size(); i += 997) {
    body[i] = static_cast<char>('a' + i % 23);
  }
  ASSERT_TRUE(client.endpoint->Send({"scheduler", Text(body)}).ok());
  const auto whole = [&] { return server.received.size() == 5 + body.size(); };
  ASSERT_TRUE(RunUntil(server, client, whole));
  EXPECT_EQ(server.received.substr(5), body);
}

TEST_F(ZmqCurveTest, AnUnknownKeyIsRefused) {
  const std::string directory = Directory("keys");
  Node server(Load(directory, "scheduler"));
  // It knows the scheduler's public key, but nobody knows its own.
  CurveKeys foreign = Load(Directory("foreign"), "worker");
  foreign.known = Load(directory, "worker").known;
  Node client(foreign);
  ExpectRefused(server, client, "does not know this member's public key");
}

TEST_F(ZmqCurveTest, AWrongServerKeyIsRefused) {
  const std::string directory = Directory("keys");
  Node server(Load(directory, "scheduler"));
  // Its own key would be admitted, but it expects another scheduler.
  CurveKeys misled = Load(directory, "worker");
  misled.known["scheduler"] = Load(Directory("foreign"), "worker").known["scheduler"];
  Node client(misled);
  Greet(server, client);
  EXPECT_TRUE(RunUntil(server, client, [&] { return server.endpoint->refused() > 0; }));
  EXPECT_TRUE(RunUntil(server, client, [&] { return !client.endpoint->CheckPeers(0).ok(); }))
      << "it should see that its handshakes fail";
  EXPECT_EQ(server.received, "");
}

TEST_F(ZmqCurveTest, AClientWithoutKeysIsRefused) {
  Node server(Load(Directory("keys"), "scheduler"));
  Node client;
  Greet(server, client);
  EXPECT_TRUE(RunUntil(server, client, [&] { return server.endpoint->refused() > 0; }));
  EXPECT_FALSE(RunUntil(
      server, client, [&] { return !server.received.empty(); }, kQuiet));
}

TEST_F(ZmqCurveTest, AServerWithoutKeysGetsNothing) {
  Node server;
  Node client(Load(Directory("keys"), "worker"));
  Greet(server, client);
  EXPECT_TRUE(RunUntil(server, client, [&] { return !client.endpoint->CheckPeers(0).ok(); }));
  EXPECT_THAT(client.endpoint->CheckPeers(0).message(), HasSubstr("keys"));
  EXPECT_EQ(server.received, "");
}

TEST_F(ZmqCurveTest, OneRefusalDoesNotDisturbOthers) {
  const std::string directory = Directory("keys");
  Node server(Load(directory, "scheduler"));
  Node plain;
  Greet(server, plain);
  ASSERT_TRUE(RunUntil(server, plain, [&] { return server.endpoint->refused() > 0; }));
  Node client(Load(directory, "worker"));
  ASSERT_TRUE(
      client.endpoint->Connect("scheduler", server.endpoint->bound_address(), "scheduler").ok());
  ASSERT_TRUE(client.endpoint->Send({"scheduler", Text("hello")}).ok());
  EXPECT_TRUE(RunUntil(server, client, [&] { return server.received == "hello"; }));
}

TEST_F(ZmqCurveTest, NobodyConnectsWithoutAKnownKey) {
  Node client(Load(Directory("keys"), "worker"));
  const Status status = client.endpoint->Connect("x", "tcp://127.0.0.1:1", "baker");
  EXPECT_EQ(status.code(), StatusCode::kFailedPrecondition);
  EXPECT_THAT(status.message(), HasSubstr("baker"));
}

TEST_F(ZmqCurveTest, InprocNeedsNoKeys) {
  Node node(Load(Directory("keys"), "scheduler"));
  ASSERT_TRUE(node.endpoint->Bind("inproc://here").ok());
  ZmqEndpoint other(*node.context, FrameGuard{});
  ASSERT_TRUE(other.Connect("scheduler", "inproc://here").ok());
  ASSERT_TRUE(other.Send({"scheduler", Text("hello")}).ok());
  node.Poll(kPatience);
  EXPECT_EQ(node.received, "hello");
}

TEST_F(ZmqCurveTest, StopsPromptly) {
  const std::string directory = Directory("keys");
  const Millis began = SteadyMillis();
  { const Node server(Load(directory, "scheduler")); }
  EXPECT_LT(SteadyMillis() - began, 1000);
}

TEST_F(ZmqCurveTest, KeysArePrivateAndNotOverwritten) {
  const std::string directory = Directory("keys");
  EXPECT_EQ(ModeOf(directory), 0700U);
  EXPECT_EQ(ModeOf(directory + "/worker.secret"), 0600U);
  const CurveKeys before = Load(directory, "worker");
  const Status again = WriteCurveKeys(directory, {"other", "worker"});
  EXPECT_EQ(again.code(), StatusCode::kFailedPrecondition);
  EXPECT_THAT(again.message(), HasSubstr("worker.public"));
  EXPECT_EQ(Load(directory, "worker").own.secret_key, before.own.secret_key);
  EXPECT_FALSE(std::filesystem::exists(directory + "/other.public"));
  EXPECT_EQ(WriteCurveKeys(directory, {"../up"}).code(), StatusCode::kInvalidArgument);
}

TEST_F(ZmqCurveTest, WrongKeyFilesAreNamed) {
  const std::string directory = Directory("keys");
  const std::string secret = Load(directory, "worker").own.secret_key;
  EXPECT_THAT(LoadCurveKeys(directory, "server").status().message(), HasSubstr("server.public"));
  EXPECT_THAT(LoadCurveKeys(folder_ + "/no", "worker").status().message(), HasSubstr("/no"));
  // Half a key; then the key of somebody else.
  std::ofstream(directory + "/worker.secret") << secret.substr(0, 20);
  const Status half = LoadCurveKeys(directory, "worker").status();
  EXPECT_THAT(half.message(), HasSubstr("worker.secret"));
  EXPECT_THAT(half.message(), Not(HasSubstr(secret.substr(0, 20))));
  std::filesystem::copy_file(directory + "/scheduler.secret", directory + "/worker.secret",
                             std::filesystem::copy_options::overwrite_existing);
  EXPECT_THAT(LoadCurveKeys(directory, "worker").status().message(), HasSubstr("of one pair"));
  // Not only its own files: one bad public key is an error for all.
  std::ofstream(directory + "/worker.public") << std::string(40, '~');
  EXPECT_THAT(LoadCurveKeys(directory, "scheduler").status().message(), HasSubstr("worker.public"));
}

}  // namespace
}  // namespace plexus
