#include "scheduler/membership.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

namespace plexus {
namespace {

using testing::ElementsAre;
using testing::IsEmpty;
using testing::SizeIs;
using Change = Membership::Change;

constexpr Millis kLease = 1000;

class MembershipTest : public testing::Test {
 protected:
  Change Register(proto::Role role, std::uint32_t index, std::uint64_t incarnation, Millis now) {
    proto::Register info;
    info.set_role(role);
    info.set_index(index);
    info.set_incarnation(incarnation);
    return members_.OnRegister("peer-" + std::to_string(incarnation), info, now);
  }
  bool Beat(proto::Role role, std::uint32_t index, std::uint64_t incarnation, Millis now,
            std::uint64_t fence = 0, bool leaving = false) {
    proto::Heartbeat heartbeat;
    heartbeat.set_role(role);
    heartbeat.set_index(index);
    heartbeat.set_incarnation(incarnation);
    heartbeat.set_fence(fence);
    heartbeat.set_leaving(leaving);
    return members_.OnHeartbeat("peer-" + std::to_string(incarnation), heartbeat, now);
  }
  // Ranks that the worker may compute.
  std::vector<std::uint32_t> Carried(std::uint32_t worker) const {
    std::vector<std::uint32_t> ranks;
    for (const proto::Carrier& carrier : members_.CarriedBy(worker)) {
      EXPECT_EQ(carrier.epoch(), members_.epochs()[carrier.rank()]);
      ranks.push_back(carrier.rank());
    }
    return ranks;
  }
  // Server 0 and workers 0, 1 (incarnations 10, 20, 21) with four ranks.
  void Start() {
    Register(proto::SERVER, 0, 10, 0);
    Register(proto::WORKER, 0, 20, 0);
    Register(proto::WORKER, 1, 21, 0);
    EXPECT_TRUE(members_.AssignRanks(0));
    Beat(proto::SERVER, 0, 10, 0, members_.fence());
  }

  Membership members_{1, 2, 4, kLease};
};

TEST_F(MembershipTest, MembersJoinOnceAndAreReplaced) {
  EXPECT_FALSE(members_.all_servers());
  EXPECT_EQ(Register(proto::SERVER, 0, 10, 0), Change::kJoined);
  EXPECT_TRUE(members_.all_servers());
  EXPECT_EQ(Register(proto::SERVER, 0, 10, 1), Change::kNone);
  EXPECT_EQ(Register(proto::SERVER, 0, 11, 2), Change::kReplaced);
  EXPECT_EQ(Register(proto::SERVER, 1, 12, 2), Change::kUnknownMember);
  EXPECT_EQ(Register(proto::SCHEDULER, 0, 13, 2), Change::kUnknownMember);
  EXPECT_EQ(Register(proto::WORKER, 1, 21, 2), Change::kJoined);
  EXPECT_FALSE(members_.all_workers_came());
  EXPECT_EQ(Register(proto::WORKER, 0, 20, 2), Change::kJoined);
  EXPECT_TRUE(members_.all_workers_came());
  EXPECT_EQ(Register(proto::WORKER, 0, 25, 3), Change::kReplaced) << "it died unnoticed";
}

TEST_F(MembershipTest, HeartbeatsOfStrangersAreRefused) {
  EXPECT_FALSE(Beat(proto::WORKER, 0, 0, 0)) << "nobody has come";
  EXPECT_FALSE(members_.any_worker_alive());
  Start();
  EXPECT_TRUE(Beat(proto::WORKER, 0, 20, 1));
  EXPECT_FALSE(Beat(proto::WORKER, 0, 99, 1));
  EXPECT_FALSE(Beat(proto::WORKER, 7, 20, 1));
  EXPECT_FALSE(Beat(proto::SCHEDULER, 0, 20, 1));
}

TEST_F(MembershipTest, RanksAreGivenInRunsAndWaitForTheFence) {
  Register(proto::SERVER, 0, 10, 0);
  Register(proto::WORKER, 0, 20, 0);
  Register(proto::WORKER, 1, 21, 0);
  EXPECT_TRUE(members_.AssignRanks(0));
  EXPECT_FALSE(members_.AssignRanks(0)) << "nothing is left to give";
  EXPECT_EQ(members_.fence(), 1u);
  EXPECT_THAT(members_.epochs(), ElementsAre(1, 1, 1, 1));
  EXPECT_THAT(Carried(0), IsEmpty()) << "the server does not know";
  EXPECT_FALSE(members_.fence_known());
  Beat(proto::SERVER, 0, 10, 1, 1);
  EXPECT_TRUE(members_.fence_known());
  EXPECT_THAT(Carried(0), ElementsAre(0, 1));
  EXPECT_THAT(Carried(1), ElementsAre(2, 3));
}

TEST_F(MembershipTest, ALostWorkersRanksGoToTheOneInItsPlace) {
  Start();
  Beat(proto::WORKER, 0, 20, 900);
  Beat(proto::SERVER, 0, 10, 900, 1);
  EXPECT_THAT(members_.Expire(1000, false), IsEmpty()) << "exactly the lease";
  const auto lost = members_.Expire(1001, false);
  ASSERT_THAT(lost, SizeIs(1));
  EXPECT_EQ(lost[0].role, proto::WORKER);
  EXPECT_EQ(lost[0].index, 1u);
  EXPECT_EQ(lost[0].silent_ms, 1001);
  EXPECT_THAT(members_.Expire(1002, false), IsEmpty()) << "lost once";
  EXPECT_FALSE(members_.AssignRanks(1100));
  EXPECT_EQ(Register(proto::WORKER, 1, 22, 1200), Change::kJoined);
  EXPECT_TRUE(members_.AssignRanks(1200));
  EXPECT_THAT(members_.epochs(), ElementsAre(1, 1, 2, 2));
  EXPECT_THAT(Carried(1), IsEmpty());
  EXPECT_THAT(Carried(0), ElementsAre(0, 1)) << "these go on";
  Beat(proto::SERVER, 0, 10, 1200, members_.fence());
  EXPECT_THAT(Carried(1), ElementsAre(2, 3));
}

TEST_F(MembershipTest, AfterAGraceTimeOthersCarryThem) {
  Start();
  Beat(proto::WORKER, 0, 20, 900);
  Beat(proto::SERVER, 0, 10, 900, 1);
  members_.Expire(1001, false);
  EXPECT_FALSE(members_.AssignRanks(1501)) << "half a lease is not over";
  EXPECT_TRUE(members_.AssignRanks(1502));
  Beat(proto::SERVER, 0, 10, 1502, members_.fence());
  EXPECT_THAT(Carried(0), ElementsAre(0, 1, 2, 3));
  EXPECT_EQ(Register(proto::WORKER, 1, 22, 1600), Change::kJoined);
  EXPECT_FALSE(members_.AssignRanks(1600)) << "too late: they are carried";
}

TEST_F(MembershipTest, AReplacedWorkersRanksChangeEpochAtOnce) {
  Start();
  EXPECT_EQ(Register(proto::WORKER, 0, 30, 10), Change::kReplaced);
  EXPECT_TRUE(members_.AssignRanks(10));
  EXPECT_THAT(members_.epochs(), ElementsAre(2, 2, 1, 1));
  EXPECT_EQ(members_.fence(), 2u);
}

TEST_F(MembershipTest, AWorkerThatWasOnlySilentComesBack) {
  Start();
  Beat(proto::WORKER, 0, 20, 900);
  members_.Expire(1001, false);
  EXPECT_TRUE(Beat(proto::WORKER, 1, 21, 1100));
  EXPECT_TRUE(members_.AssignRanks(1100));
  EXPECT_THAT(members_.epochs(), ElementsAre(1, 1, 2, 2)) << "its old frames stay fenced";
}

TEST_F(MembershipTest, ALostServerDoesNotComeBack) {
  Start();
  EXPECT_THAT(members_.Expire(1001, false), SizeIs(3));
  EXPECT_FALSE(Beat(proto::SERVER, 0, 10, 1100));
  EXPECT_FALSE(members_.all_servers());
  EXPECT_FALSE(members_.any_worker_alive());
  EXPECT_TRUE(members_.everyone_left());
}

TEST_F(MembershipTest, WhoLeavesIsNotLost) {
  Start();
  Beat(proto::SERVER, 0, 10, 5, ~0ULL, true);
  Beat(proto::WORKER, 0, 20, 5, 0, true);
  EXPECT_FALSE(members_.everyone_left());
  Beat(proto::WORKER, 1, 21, 5, 0, true);
  EXPECT_TRUE(members_.everyone_left());
  EXPECT_THAT(members_.Expire(100000, false), IsEmpty());
}

}  // namespace
}  // namespace plexus
