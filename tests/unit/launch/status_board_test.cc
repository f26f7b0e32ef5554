#include "launch/status_board.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "common/clock.h"
#include "tests/unit/common/net/tcp_client.h"

namespace plexus {
namespace {

using testing::HasSubstr;

NodeOptions At(const std::string& address, bool local = false) {
  NodeOptions options;
  options.index = 3;
  options.http_address = address;
  options.local = local;
  return options;
}

std::unique_ptr<StatusBoard> Board(const NodeOptions& options, Millis lease_ms = 60000) {
  StatusOr<std::unique_ptr<StatusBoard>> board =
      StatusBoard::Start(options, proto::SERVER, lease_ms);
  CHECK(board.ok()) << board.status().ToString();
  return *std::move(board);
}

TEST(StatusBoardTest, ServesWhatWasPublishedLast) {
  const auto board = Board(At("127.0.0.1:0"));
  ASSERT_TRUE(board->on());
  TcpClient client(board->address());
  RawReply reply = client.Get("/healthz");
  EXPECT_EQ(reply.status, 503);
  EXPECT_THAT(reply.body, HasSubstr("starting"));

  board->Publish({.metrics = "plexus_a 1\n", .status = "{\"a\": 1}\n", .illness = ""});
  EXPECT_EQ(client.Get("/healthz").body, "ok\n");
  reply = client.Get("/metrics");
  EXPECT_EQ(reply.body, "plexus_a 1\n");
  EXPECT_THAT(reply.Field("Content-Type"), HasSubstr("version=0.0.4"));
  reply = client.Get("/status");
  EXPECT_EQ(reply.body, "{\"a\": 1}\n");
  EXPECT_EQ(reply.Field("Content-Type"), "application/json");

  board->Publish({.metrics = "", .status = "{}", .illness = "failed: the disk is full"});
  reply = client.Get("/healthz");
  EXPECT_EQ(reply.status, 503);
  EXPECT_EQ(reply.body, "failed: the disk is full\n");
}

TEST(StatusBoardTest, AThreadThatDoesNotComeRoundIsIll) {
  const auto board = Board(At("127.0.0.1:0"), /*lease_ms=*/1000);
  board->Publish({.metrics = "", .status = "{}", .illness = ""});
  TcpClient client(board->address());
  EXPECT_TRUE(board->IsDue(SteadyMillis()));
  EXPECT_EQ(client.Get("/healthz").status, 200);
  (void)board->IsDue(SteadyMillis() - 5000);
  const RawReply reply = client.Get("/healthz");
  EXPECT_EQ(reply.status, 503);
  EXPECT_THAT(reply.body, HasSubstr("has not come round"));
}

TEST(StatusBoardTest, PagesAreDueAFewTimesASecond) {
  const auto board = Board(At("127.0.0.1:0"));
  EXPECT_TRUE(board->IsDue(100000));
  EXPECT_FALSE(board->IsDue(100100));
  EXPECT_TRUE(board->IsDue(100250));
}

TEST(StatusBoardTest, WithoutAnAddressThereIsNothing) {
  const auto board = Board(At(""));
  EXPECT_FALSE(board->on());
  EXPECT_EQ(board->address(), "");
  EXPECT_FALSE(board->IsDue(100000));
}

TEST(StatusBoardTest, ATakenPortNamesTheNode) {
  const auto board = Board(At("127.0.0.1:0"));
  const StatusOr<std::unique_ptr<StatusBoard>> second =
      StatusBoard::Start(At(board->address()), proto::SERVER, 1000);
  ASSERT_FALSE(second.ok());
  EXPECT_THAT(second.status().message(), HasSubstr("server 3 cannot serve HTTP"));
  EXPECT_THAT(second.status().message(), HasSubstr(board->address()));
}

TEST(StatusBoardTest, NodesOfOneProcessHaveEachTheirPort) {
  const auto board = Board(At("127.0.0.1:0"));
  const auto second = Board(At(board->address(), /*local=*/true));
  EXPECT_NE(second->address(), board->address());
  EXPECT_THAT(second->address(), testing::StartsWith("127.0.0.1:"));
}

}  // namespace
}  // namespace plexus
