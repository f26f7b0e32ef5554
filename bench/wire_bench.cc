// wire_bench: keys a second through the whole path over TCP on one machine: a worker's client in
// this process, a server with its shard in another one.
//
//   wire_bench [--rows=10000000] [--requests=60] [--windows=1,2,4]
//
// Requests of 100,000 distinct keys, uniform over a HASHED table of 16 f32 with Adagrad that holds
// all of them.  A pull is read to the last row; a push is applied when it arrives (ASP).  `window`
// requests are under way at a time.  Prints one JSON object: for each window the median over the
// batches of requests.  bench/wire.py holds it against what a bare table and bare ZeroMQ reach.
#include <algorithm>
#include <array>
#include <csignal>
#include <cstdio>
#include <deque>
#include <memory>
#include <sstream>
#include <string>
#include <unordered_set>
#include <vector>

#include <gflags/gflags.h>
#include <glog/logging.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

#include "common/clock.h"
#include "common/random.h"
#include "launch/node.h"
#include "launch/plan.h"
#include "proto/control.h"
#include "proto/job.h"
#include "worker/rank_client.h"

DEFINE_uint64(rows, 10000000, "rows of the table");
DEFINE_uint32(keys, 100000, "distinct keys a request");
DEFINE_uint32(requests, 60, "requests in a row of each kind");
DEFINE_uint32(repeats, 3, "times that each kind is measured, in turn");
DEFINE_string(windows, "1,2,4", "requests under way");

namespace plexus {
namespace {

constexpr std::uint32_t kDim = 16;
constexpr Millis kPollMillis = 20;
constexpr Millis kResendMillis = 60000;
constexpr std::size_t kKeySets = 24;

constexpr char kJob[] = R"(
data { format: CRITEO fields { name: "C1" tables: "rows" } }
tables {
  name: "rows" dim: 16 init { kind: CONSTANT scale: 0.5 }
  optimizer { kind: ADAGRAD learning_rate: 0.02 epsilon: 1e-10 }
}
model { name: "dcn" hidden: [8] cross_layers: 1 }
train { ranks: 1 batch_size: 1 staleness: -1 }
)";

Key KeyOfRow(std::uint64_t row) { return Mix64(row + 0x9e3779b97f4a7c15ULL); }

std::shared_ptr<const JobPlan> MakeWirePlan() {
  StatusOr<proto::Job> job = ParseJob(kJob, "wire_bench", {});
  CHECK(job.ok()) << job.status().message();
  ResolveNumericProfile(&*job);
  StatusOr<JobPlan> plan = MakePlan(*job);
  CHECK(plan.ok()) << plan.status().message();
  return std::make_shared<const JobPlan>(*std::move(plan));
}

void FillGroup(std::vector<Key> keys, StepKeys* step) {
  GroupKeys& group = step->groups.emplace_back();
  group.counts.assign(keys.size(), 1);
  group.shard_begin = {0, static_cast<std::uint32_t>(keys.size())};
  group.keys = std::move(keys);
}

// Sets of distinct keys to choose from.
std::vector<StepKeys> MakeKeySets() {
  std::vector<StepKeys> sets(kKeySets);
  for (std::size_t s = 0; s < sets.size(); ++s) {
    const CounterRandom random(1, 2, s);
    std::unordered_set<std::uint64_t> seen;
    std::vector<Key> keys;
    for (std::uint64_t i = 0; keys.size() < FLAGS_keys; ++i) {
      const std::uint64_t row = random.Below(i, FLAGS_rows);
      if (seen.insert(row).second) {
        keys.push_back(KeyOfRow(row));
      }
    }
    FillGroup(std::move(keys), &sets[s]);
  }
  return sets;
}

// A worker's rank and, as far as the server can see, the scheduler.
class Client {
 public:
  explicit Client(std::shared_ptr<const JobPlan> plan)
      : context_(1),
        endpoint_(context_, PlexusFrameGuard()),
        client_(std::move(plan), 0, 1, kResendMillis),
        gradients_(std::size_t{FLAGS_keys} * kDim, 0.01f) {
    phase_.set_number(1);
    phase_.set_kind(proto::Phase::TRAIN);
    phase_.set_first_step(1);
  }

  std::string Listen() {
    const Status status = endpoint_.Bind("tcp://127.0.0.1:0");
    CHECK(status.ok()) << status.message();
    return endpoint_.bound_address();
  }

  void WaitForServer() {
    while (!connected_) {
      Exchange();
    }
  }

  // Makes all rows.
  void Fill() {
    for (std::uint64_t row = 0; row < FLAGS_rows;) {
      std::vector<Key> keys;
      while (keys.size() < FLAGS_keys && row < FLAGS_rows) {
        keys.push_back(KeyOfRow(row++));
      }
      StepKeys step;
      FillGroup(std::move(keys), &step);
      Push(step);
      while (client_.unacknowledged() > 0) {
        Exchange();
      }
    }
  }

  double PullRate(const std::vector<StepKeys>& sets, std::size_t window) {
    return Rate(sets, window, true, false);
  }
  double PushRate(const std::vector<StepKeys>& sets, std::size_t window) {
    return Rate(sets, window, false, true);
  }
  double PullPushRate(const std::vector<StepKeys>& sets, std::size_t window) {
    return Rate(sets, window, true, true);
  }

  void StopServer() {
    proto::View view = MakeView();
    view.mutable_stop()->set_exit_code(0);
    SendView(view);
    Exchange();
  }

 private:
  struct Pull {
    std::uint64_t request = 0;
    const StepKeys* keys = nullptr;
  };

  proto::View MakeView() const {
    proto::View view;
    view.set_incarnation(incarnation_);
    view.set_fence(1);
    view.set_generation(1);
    view.add_carrier_epochs(1);
    view.set_version(0);
    *view.mutable_phase() = phase_;
    return view;
  }

  void SendView(const proto::View& view) {
    proto::Control control;
    *control.mutable_view() = view;
    (void)endpoint_.Send({server_, ControlFrame(control)});
  }

  void OnControl(const std::string& peer, const Bytes& frame) {
    const StatusOr<proto::Control> control = DecodeControl(frame);
    CHECK(control.ok()) << control.status().message();
    if (control->has_register_member()) {
      server_ = peer;
      incarnation_ = control->register_member().incarnation();
      const Status status =
          endpoint_.Connect(ShardPeer(0), control->register_member().data_address());
      CHECK(status.ok()) << status.message();
      connected_ = true;
    }
    if (control->has_register_member() || control->has_heartbeat()) {
      SendView(MakeView());
    }
  }

  // Sends what is to be sent, waits for what comes.
  void Exchange() {
    for (const Envelope& envelope : client_.outbox().Take()) {
      if (connected_) {
        const Status sent = endpoint_.Send(envelope);
        CHECK(sent.ok()) << sent.message();
      }
    }
    const Status status = endpoint_.Poll(
        kPollMillis,
        [&](const std::string& peer, const Bytes& frame) {
          if (HeaderOf(frame).type == FrameType::kControl) {
            OnControl(peer, frame);
          } else {
            client_.OnMessage(peer, frame, SteadyMillis());
          }
        },
        [](const std::string&, const Status& bad) { LOG(FATAL) << bad.message(); });
    CHECK(status.ok()) << status.message();
    CHECK(client_.failure().empty()) << client_.failure();
  }

  void Push(const StepKeys& keys) {
    RankClient::Gradients gradients;
    gradients.keys = &keys;
    gradients.groups = {{gradients_.data()}};
    gradients.samples = 1;
    client_.Push(phase_, ++step_, 0, gradients, SteadyMillis());
  }

  // Every row once: the first element of each, all of a batch's rows being in use.
  void Read(const RankClient::Pulled& pulled) {
    CHECK(pulled.code == ReplyCode::kOk);
    const auto body = BodyOf(pulled.replies[0]);
    CHECK_EQ(body.size(), std::size_t{FLAGS_keys} * kDim * sizeof(float));
    const auto* values = reinterpret_cast<const float*>(body.data());
    for (std::size_t i = 0; i < FLAGS_keys; ++i) {
      checksum_ += values[i * kDim];
    }
    // The fill has moved every row from where it was made.
    CHECK(values[0] < 0.5f) << "a row that was not pushed";
  }

  double Rate(const std::vector<StepKeys>& sets, std::size_t window, bool pull, bool push) {
    std::deque<Pull> pulls;
    const double began = SteadySeconds();
    for (std::size_t issued = 0; issued < FLAGS_requests || !pulls.empty();) {
      while (issued < FLAGS_requests && pulls.size() + client_.unacknowledged() < window) {
        const StepKeys& keys = sets[next_set_++ % sets.size()];
        ++issued;
        if (pull) {
          pulls.push_back({client_.Pull(phase_, 1, kFlagReadOnly, &keys, SteadyMillis()), &keys});
        } else {
          Push(keys);
        }
      }
      Exchange();
      while (!pulls.empty()) {
        const auto pulled = client_.TakePulled(pulls.front().request);
        if (!pulled.has_value()) {
          break;
        }
        Read(*pulled);
        if (push) {
          Push(*pulls.front().keys);
        }
        pulls.pop_front();
      }
    }
    while (client_.unacknowledged() > 0) {
      Exchange();
    }
    return static_cast<double>(FLAGS_requests) * FLAGS_keys / (SteadySeconds() - began);
  }

  NetContext context_;
  ZmqEndpoint endpoint_;
  RankClient client_;
  const std::vector<float> gradients_;
  proto::Phase phase_;
  std::string server_;
  std::uint64_t incarnation_ = 0;
  bool connected_ = false;
  std::uint64_t step_ = 0;
  std::size_t next_set_ = 0;
  double checksum_ = 0;
};

double Median(std::vector<double> v) {
  std::sort(v.begin(), v.end());
  return v[v.size() / 2];
}

// The server's process: hears through the pipe where the scheduler is.
int Serve(int from_parent) {
  std::array<char, 64> address{};
  PCHECK(::read(from_parent, address.data(), address.size() - 1) > 0);
  NetContext context(1);
  NodeOptions options;
  options.scheduler_address = address.data();
  options.data_address = "tcp://127.0.0.1:0";
  return RunServerNode(MakeWirePlan(), context, options);
}

void Measure(Client* client) {
  const double began = SteadySeconds();
  client->WaitForServer();
  client->Fill();
  std::fprintf(stderr, "%.1f s to make the rows\n", SteadySeconds() - began);
  const std::vector<StepKeys> sets = MakeKeySets();
  std::vector<std::size_t> windows;
  std::stringstream list(FLAGS_windows);
  for (std::string window; std::getline(list, window, ',');) {
    windows.push_back(std::stoul(window));
  }
  std::string json = "{\"bench\":\"wire\",\"rows\":" + std::to_string(FLAGS_rows);
  std::vector<std::vector<double>> rates(3 * windows.size());
  for (std::uint32_t repeat = 0; repeat < FLAGS_repeats; ++repeat) {
    for (std::size_t w = 0; w < windows.size(); ++w) {
      rates[3 * w].push_back(client->PullRate(sets, windows[w]));
      rates[3 * w + 1].push_back(client->PushRate(sets, windows[w]));
      rates[3 * w + 2].push_back(client->PullPushRate(sets, windows[w]));
    }
  }
  constexpr std::array kNames = {"pull", "push", "pull_push"};
  for (std::size_t i = 0; i < rates.size(); ++i) {
    json += std::string(",\"") + kNames[i % 3] + "_" + std::to_string(windows[i / 3]) +
            "\":" + std::to_string(static_cast<std::uint64_t>(Median(rates[i])));
  }
  std::printf("%s}\n", json.c_str());
}

int Run() {
  std::array<int, 2> pipe{};
  PCHECK(::pipe(pipe.data()) == 0);
  const pid_t child = ::fork();  // Before any thread.
  PCHECK(child >= 0);
  if (child == 0) {
    PCHECK(::prctl(PR_SET_PDEATHSIG, SIGKILL) == 0);
    ::close(pipe[1]);
    std::_Exit(Serve(pipe[0]));
  }
  ::close(pipe[0]);
  int status = 0;
  {
    Client client(MakeWirePlan());
    const std::string address = client.Listen();
    PCHECK(::write(pipe[1], address.data(), address.size()) > 0);
    Measure(&client);
    client.StopServer();
  }
  PCHECK(::waitpid(child, &status, 0) == child);
  return status == 0 ? 0 : 1;
}

}  // namespace
}  // namespace plexus

int main(int argc, char** argv) {
  google::InitGoogleLogging(argv[0]);
  gflags::ParseCommandLineFlags(&argc, &argv, true);
  return plexus::Run();
}
