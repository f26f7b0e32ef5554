#include "common/net/zmq_endpoint.h"

#include <deque>
#include <thread>
#include <vector>

#include <arpa/inet.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <netinet/in.h>
#include <sys/socket.h>
#include <unistd.h>
#include <zmq.hpp>

#include "common/clock.h"
#include "proto/frame.h"

namespace plexus {
namespace {

using testing::HasSubstr;

constexpr FrameGuard kGuard = {
    .seal = &SealFrame, .verify = &VerifyFrame, .frame_bytes_max = kFrameBytesMax};

// An endpoint with what it received.
struct Node {
  explicit Node(NetContext& context, FrameGuard guard = kGuard) : endpoint(context, guard) {}

  void Poll(Millis timeout) {
    const Status status = endpoint.Poll(
        timeout,
        [this](const std::string& peer, const Bytes& frame) {
          frames.push_back({peer, frame});
        },
        [this](const std::string&, const Status& bad_status) { bad.push_back(bad_status); });
    ASSERT_TRUE(status.ok()) << status.ToString();
  }
  // Polls until `count` frames are there, or far too long.
  bool WaitFor(std::size_t count) {
    const Millis deadline = SteadyMillis() + 20000;
    while (frames.size() < count && SteadyMillis() < deadline) {
      Poll(10);
    }
    return frames.size() >= count;
  }

  ZmqEndpoint endpoint;
  std::deque<Envelope> frames;
  std::vector<Status> bad;
};

Bytes Frame(const std::string& body) {
  FrameHeader header;
  header.type = FrameType::kPush;
  return MakeFrame(header, body);
}

std::string BodyText(const Bytes& frame) {
  return std::string(frame.view().substr(sizeof(FrameHeader)));
}

class ZmqEndpointTest : public testing::Test {
 protected:
  // `client` reaches `server` under the name "server".
  void Join(const std::string& address) {
    ASSERT_TRUE(server.endpoint.Bind(address).ok());
    ASSERT_TRUE(client.endpoint.Connect("server", server.endpoint.bound_address()).ok());
  }

  NetContext context{1};
  Node server{context};
  Node client{context};
};

TEST_F(ZmqEndpointTest, RoundTripsOverTcpAndInproc) {
  for (const char* address : {"tcp://127.0.0.1:0", "inproc://round-trip"}) {
    Node from(context);
    Node to(context);
    ASSERT_TRUE(to.endpoint.Bind(address).ok());
    EXPECT_THAT(to.endpoint.bound_address(), testing::Not(HasSubstr(":0")));
    ASSERT_TRUE(from.endpoint.Connect("server", to.endpoint.bound_address()).ok());
    const Bytes request = Frame("request");
    ASSERT_TRUE(from.endpoint.Send({"server", request}).ok());
    ASSERT_TRUE(to.WaitFor(1));
    EXPECT_EQ(BodyText(to.frames[0].frame), "request");
    EXPECT_EQ(to.frames[0].peer[0], '\0') << "never a name";
    ASSERT_TRUE(to.endpoint.Send({to.frames[0].peer, Frame("reply")}).ok());
    ASSERT_TRUE(from.WaitFor(1));
    EXPECT_EQ(from.frames[0].peer, "server");
    EXPECT_EQ(BodyText(from.frames[0].frame), "reply");
    EXPECT_EQ(from.endpoint.bytes_sent(), request.size());
    EXPECT_EQ(to.endpoint.bytes_received(), request.size());
    const bool inproc = to.endpoint.bound_address().starts_with("inproc");
    EXPECT_EQ(HeaderOf(request).checksum == 0, inproc) << "sealed at the process' border only";
  }
}

TEST_F(ZmqEndpointTest, InprocPassesPointers) {
  Join("inproc://pointers");
  const Bytes frame = Frame(std::string(1000, 'x'));
  ASSERT_TRUE(client.endpoint.Send({"server", frame}).ok());
  ASSERT_TRUE(server.WaitFor(1));
  EXPECT_EQ(server.frames[0].frame.data(), frame.data());
}

TEST_F(ZmqEndpointTest, FramesOfEachSizeArriveWholeAndAligned) {
  Join("tcp://127.0.0.1:0");
  for (std::size_t size = 0; size < 300; ++size) {
    ASSERT_TRUE(client.endpoint.Send({"server", Frame(std::string(size, 'a' + size % 26))}).ok());
  }
  ASSERT_TRUE(server.WaitFor(300));
  for (std::size_t size = 0; size < 300; ++size) {
    const Bytes& frame = server.frames[size].frame;
    EXPECT_EQ(BodyText(frame), std::string(size, 'a' + size % 26));
    EXPECT_EQ(reinterpret_cast<std::uintptr_t>(frame.data()) % 8, 0u) << size;
  }
  EXPECT_TRUE(server.bad.empty());
}

TEST_F(ZmqEndpointTest, TakesLargeFrames) {
  Join("tcp://127.0.0.1:0");
  std::string body(64u << 20, 'x');
  body.front() = 'a';
  body.back() = 'z';
  ASSERT_TRUE(client.endpoint.Send({"server", Frame(body)}).ok());
  ASSERT_TRUE(server.WaitFor(1));
  EXPECT_EQ(BodyText(server.frames[0].frame), body);
}

TEST_F(ZmqEndpointTest, UnknownPeersAreUnavailable) {
  EXPECT_EQ(client.endpoint.Send({"server", Frame("x")}).code(), StatusCode::kUnavailable);
  ASSERT_TRUE(server.endpoint.Bind("tcp://127.0.0.1:0").ok());
  const std::string id("\0gone", 5);
  EXPECT_EQ(server.endpoint.Send({id, Frame("x")}).code(), StatusCode::kUnavailable);
}

TEST_F(ZmqEndpointTest, BadAddressesAreUnavailable) {
  ASSERT_TRUE(server.endpoint.Bind("tcp://127.0.0.1:0").ok());
  EXPECT_EQ(client.endpoint.Bind(server.endpoint.bound_address()).code(), StatusCode::kUnavailable);
  EXPECT_EQ(client.endpoint.Connect("x", "nonsense").code(), StatusCode::kUnavailable);
}

TEST_F(ZmqEndpointTest, BadFramesAreReportedAndNotHandedOver) {
  Join("tcp://127.0.0.1:0");
  Node rude(context, FrameGuard{});
  ASSERT_TRUE(rude.endpoint.Connect("server", server.endpoint.bound_address()).ok());
  const Bytes unsealed = Frame("unsealed");
  ASSERT_TRUE(rude.endpoint.Send({"server", unsealed}).ok());
  const std::uint8_t junk[] = {1, 2, 3};
  ASSERT_TRUE(rude.endpoint.Send({"server", Bytes::Copy(junk)}).ok());
  ASSERT_TRUE(rude.endpoint.Send({"server", Bytes::Copy({})}).ok());
  const Bytes good = Frame("good");
  SealFrame(good);
  ASSERT_TRUE(rude.endpoint.Send({"server", good}).ok());
  ASSERT_TRUE(server.WaitFor(1));
  EXPECT_EQ(BodyText(server.frames[0].frame), "good");
  ASSERT_EQ(server.bad.size(), 3u);
  EXPECT_THAT(server.bad[0].message(), HasSubstr("checksum"));
  EXPECT_THAT(server.bad[1].message(), HasSubstr("3 bytes"));
}

TEST_F(ZmqEndpointTest, MessagesOfSeveralPartsAreNoFrames) {
  ASSERT_TRUE(server.endpoint.Bind("tcp://127.0.0.1:0").ok());
  zmq::context_t raw_context(1);
  zmq::socket_t raw(raw_context, zmq::socket_type::dealer);
  raw.set(zmq::sockopt::linger, 2000);
  raw.connect(server.endpoint.bound_address());
  raw.send(zmq::str_buffer("one"), zmq::send_flags::sndmore);
  raw.send(zmq::str_buffer("two"), zmq::send_flags::none);
  const Bytes good = Frame("good");
  SealFrame(good);
  raw.send(zmq::buffer(good.view()), zmq::send_flags::none);
  ASSERT_TRUE(server.WaitFor(1));
  ASSERT_EQ(server.bad.size(), 1u);
  EXPECT_THAT(server.bad[0].message(), HasSubstr("several parts"));
}

TEST_F(ZmqEndpointTest, TakesOverAListeningSocket) {
  const int fd = ::socket(AF_INET, SOCK_STREAM, 0);
  ASSERT_GE(fd, 0);
  sockaddr_in name{};
  name.sin_family = AF_INET;
  name.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
  ASSERT_EQ(::bind(fd, reinterpret_cast<sockaddr*>(&name), sizeof(name)), 0);
  ASSERT_EQ(::listen(fd, 10), 0);
  socklen_t size = sizeof(name);
  ASSERT_EQ(::getsockname(fd, reinterpret_cast<sockaddr*>(&name), &size), 0);
  const std::string address = "tcp://127.0.0.1:" + std::to_string(ntohs(name.sin_port));
  // Connected before the endpoint exists: the socket's queue keeps it.
  ASSERT_TRUE(client.endpoint.Connect("server", address).ok());
  ASSERT_TRUE(client.endpoint.Send({"server", Frame("early")}).ok());
  ASSERT_TRUE(server.endpoint.Bind(address, fd).ok());
  EXPECT_EQ(server.endpoint.bound_address(), address);
  ASSERT_TRUE(server.WaitFor(1));
  EXPECT_EQ(BodyText(server.frames[0].frame), "early");
}

TEST_F(ZmqEndpointTest, ReconnectsToAServerThatComesBack) {
  std::string address;
  {
    Node first(context);
    ASSERT_TRUE(first.endpoint.Bind("tcp://127.0.0.1:0").ok());
    address = first.endpoint.bound_address();
    ASSERT_TRUE(client.endpoint.Connect("server", address).ok());
    ASSERT_TRUE(client.endpoint.Send({"server", Frame("one")}).ok());
    ASSERT_TRUE(first.WaitFor(1));
  }
  // The port is free when ZeroMQ's thread has closed it; frames sent meanwhile may be lost, so it
  // is said again, as the protocol does.
  const Millis deadline = SteadyMillis() + 20000;
  while (!server.endpoint.Bind(address).ok()) {
    ASSERT_LT(SteadyMillis(), deadline);
    client.Poll(5);
  }
  while (server.frames.empty()) {
    ASSERT_LT(SteadyMillis(), deadline);
    ASSERT_TRUE(client.endpoint.Send({"server", Frame("two")}).ok());
    server.Poll(50);
  }
  EXPECT_EQ(BodyText(server.frames[0].frame), "two");
}

TEST_F(ZmqEndpointTest, ANameMayMoveToAnotherAddress) {
  Join("inproc://first");
  Node second(context);
  ASSERT_TRUE(second.endpoint.Bind("inproc://second").ok());
  ASSERT_TRUE(client.endpoint.Connect("server", "inproc://second").ok());
  ASSERT_TRUE(client.endpoint.Send({"server", Frame("x")}).ok());
  EXPECT_TRUE(second.WaitFor(1));
  EXPECT_TRUE(server.frames.empty());
}

TEST_F(ZmqEndpointTest, PollEndsWithoutFrames) {
  ASSERT_TRUE(server.endpoint.Bind("inproc://quiet").ok());
  server.Poll(0);
  server.Poll(5);
  EXPECT_TRUE(server.frames.empty());
}

// Frames cross threads both ways, written by one, read and freed by the other.
TEST_F(ZmqEndpointTest, ThreadsExchangeFramesInproc) {
  constexpr std::size_t kFrames = 500;
  Join("inproc://threads");
  std::jthread echo([this] {
    for (std::size_t served = 0; served < kFrames;) {
      ASSERT_TRUE(server.WaitFor(1));
      for (; !server.frames.empty(); server.frames.pop_front(), ++served) {
        const std::string text = BodyText(server.frames[0].frame);
        ASSERT_TRUE(server.endpoint.Send({server.frames[0].peer, Frame(text + "!")}).ok());
      }
    }
  });
  for (std::size_t i = 0; i < kFrames; ++i) {
    ASSERT_TRUE(client.endpoint.Send({"server", Frame(std::string(i, 'x'))}).ok());
  }
  ASSERT_TRUE(client.WaitFor(kFrames));
  for (std::size_t i = 0; i < kFrames; ++i) {
    ASSERT_EQ(BodyText(client.frames[i].frame), std::string(i, 'x') + "!");
  }
}

}  // namespace
}  // namespace plexus
