// wire_bench: keys a second through the whole path on one machine: workers' clients in this
// process, a server with its shard in another one (inproc: on a thread of this one).
//
//   wire_bench [--transport=tcp|ipc|inproc] [--precision=F32|BF16|F16|INT8] [--workers=1|2]
//              [--rows=10000000] [--requests=60] [--windows=1,2,4] [--kinds=pull,push,pull_push]
//
// Requests of 100,000 distinct keys, uniform over a HASHED table of 16 f32 with Adagrad that holds
// all of them.  A pull is decoded to f32 where --precision (of pulls) is less, and read to the last
// row; a push is applied when it arrives (ASP).  `window` requests of a worker are under way at a
// time.  Prints one JSON object: for each window the median over the batches of requests, of one
// worker (pull_W, push_W, pull_push_W) and, with --workers=2, the sum of two at once (two_pull_W,
// ...).  bench/wire.py holds it against what a bare table and bare ZeroMQ reach.
#include <algorithm>
#include <array>
#include <csignal>
#include <cstdio>
#include <cstdlib>
#include <deque>
#include <filesystem>
#include <memory>
#include <span>
#include <sstream>
#include <string>
#include <thread>
#include <unordered_set>
#include <vector>

#include <gflags/gflags.h>
#include <glog/logging.h>
#include <pthread.h>
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
DEFINE_string(kinds, "pull,push,pull_push", "what is measured");
DEFINE_string(transport, "tcp", "tcp, ipc or inproc");
DEFINE_string(precision, "F32", "of pulled rows on the wire: F32, BF16, F16 or INT8");
DEFINE_uint32(workers, 1, "1, or 2: also both at once");

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
train { batch_size: 2 staleness: -1 }
)";

Key KeyOfRow(std::uint64_t row) { return Mix64(row + 0x9e3779b97f4a7c15ULL); }

std::shared_ptr<const JobPlan> MakeWirePlan() {
  StatusOr<proto::Job> job = ParseJob(
      kJob, "wire_bench",
      {"train.ranks=" + std::to_string(FLAGS_workers), "train.pull_precision=" + FLAGS_precision});
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

// A worker's rank.  That of rank 0 is, as far as the server can see, the scheduler as well.
class Client {
 public:
  Client(std::shared_ptr<const JobPlan> plan, NetContext& context, std::uint32_t rank)
      : precision_(PullPrecision(*plan)),
        endpoint_(context, PlexusFrameGuard()),
        client_(std::move(plan), rank, 1, kResendMillis),
        gradients_(std::size_t{FLAGS_keys} * kDim, 0.01f),
        decoded_(gradients_.size()) {
    phase_.set_number(1);
    phase_.set_kind(proto::Phase::TRAIN);
    phase_.set_first_step(1);
  }

  std::string Listen(const std::string& address) {
    const Status status = endpoint_.Bind(address);
    CHECK(status.ok()) << status.message();
    return endpoint_.bound_address();
  }

  // Where the server takes pulls and pushes.
  std::string WaitForServer() {
    while (data_address_.empty()) {
      Exchange();
    }
    return data_address_;
  }

  void Connect(const std::string& data_address) {
    const Status status = endpoint_.Connect(ShardPeer(0), data_address);
    CHECK(status.ok()) << status.message();
    data_address_ = data_address;
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

  // FLAGS_requests of them, `window` under way: pulls, pushes, or pulls each followed by a push.
  struct Kind {
    bool pull = false;
    bool push = false;
  };
  void Run(const std::vector<StepKeys>& sets, std::size_t window, const Kind& kind) {
    std::deque<Pull> pulls;
    for (std::size_t issued = 0; issued < FLAGS_requests || !pulls.empty();) {
      while (issued < FLAGS_requests && pulls.size() + client_.unacknowledged() < window) {
        const StepKeys& keys = sets[next_set_++ % sets.size()];
        ++issued;
        if (kind.pull) {
          // What a push follows is the pull of the push's step.
          const std::uint64_t step = kind.push ? step_ + pulls.size() + 1 : 1;
          const std::uint32_t flags = kind.push ? 0 : kFlagReadOnly;
          pulls.push_back({client_.Pull(phase_, step, flags, &keys, SteadyMillis()), &keys});
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
        if (kind.push) {
          Push(*pulls.front().keys);
        }
        pulls.pop_front();
      }
    }
    while (client_.unacknowledged() > 0) {
      Exchange();
    }
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
    for (std::uint32_t rank = 0; rank < FLAGS_workers; ++rank) {
      view.add_carrier_epochs(1);
    }
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
      Connect(control->register_member().data_address());
    }
    if (control->has_register_member() || control->has_heartbeat()) {
      SendView(MakeView());
    }
  }

  // Sends what is to be sent, waits for what comes.
  void Exchange() {
    for (const Envelope& envelope : client_.outbox().Take()) {
      const Status sent = endpoint_.Send(envelope);
      CHECK(sent.ok()) << sent.message();
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
    CHECK_EQ(body.size(), FLAGS_keys * WireRowBytes(precision_, kDim));
    const auto* values = reinterpret_cast<const float*>(body.data());
    if (precision_ != Precision::kF32) {
      DecodeWireRows(precision_, body.data(), FLAGS_keys, kDim, decoded_.data());
      values = decoded_.data();
    }
    for (std::size_t i = 0; i < FLAGS_keys; ++i) {
      checksum_ += values[i * kDim];
    }
    // The fill has moved every row from where it was made.
    CHECK(values[0] < 0.5f) << "a row that was not pushed";
  }

  const Precision precision_;
  ZmqEndpoint endpoint_;
  RankClient client_;
  const std::vector<float> gradients_;
  std::vector<float> decoded_;
  proto::Phase phase_;
  std::string server_;
  std::uint64_t incarnation_ = 0;
  std::string data_address_;  // Empty: not connected.
  std::uint64_t step_ = 0;
  std::size_t next_set_ = 0;
  double checksum_ = 0;
};

// Keys a second of `clients` at once.
double Rate(std::span<const std::unique_ptr<Client>> clients, const std::vector<StepKeys>& sets,
            std::size_t window, const Client::Kind& kind) {
  const double began = SteadySeconds();
  {
    std::vector<std::jthread> others;
    for (const auto& client : clients.subspan(1)) {
      others.emplace_back([&] {
        pthread_setname_np(pthread_self(), "worker");
        client->Run(sets, window, kind);
      });
    }
    clients[0]->Run(sets, window, kind);
  }
  const double keys = static_cast<double>(clients.size()) * FLAGS_requests * FLAGS_keys;
  return keys / (SteadySeconds() - began);
}

double Median(std::vector<double> v) {
  std::sort(v.begin(), v.end());
  return v[v.size() / 2];
}

std::vector<std::string> Split(const std::string& text) {
  std::vector<std::string> parts;
  std::stringstream list(text);
  for (std::string part; std::getline(list, part, ',');) {
    parts.push_back(part);
  }
  return parts;
}

// Addresses of the scheduler and of the server's data plane.
struct Addresses {
  std::string scheduler;
  std::string data;
};

Addresses AddressesOf(const std::string& transport) {
  if (transport == "tcp") {
    return {"tcp://127.0.0.1:0", "tcp://127.0.0.1:0"};
  }
  if (transport == "inproc") {
    return {"inproc://scheduler", "inproc://server"};
  }
  CHECK_EQ(transport, "ipc") << "transport";
  std::array<char, 32> folder{"/tmp/wire_bench-XXXXXX"};
  PCHECK(::mkdtemp(folder.data()) != nullptr);
  const std::string path = folder.data();
  return {"ipc://" + path + "/scheduler", "ipc://" + path + "/server"};
}

int Serve(NetContext& context, const Addresses& addresses) {
  NodeOptions options;
  options.scheduler_address = addresses.scheduler;
  options.data_address = addresses.data;
  options.local = FLAGS_transport == "inproc";
  return RunServerNode(MakeWirePlan(), context, options);
}

void Measure(std::span<const std::unique_ptr<Client>> clients) {
  const double began = SteadySeconds();
  const std::string data_address = clients[0]->WaitForServer();
  for (const auto& client : clients.subspan(1)) {
    client->Connect(data_address);
  }
  clients[0]->Fill();
  std::fprintf(stderr, "%.1f s to make the rows\n", SteadySeconds() - began);
  const std::vector<StepKeys> sets = MakeKeySets();
  std::vector<std::size_t> windows;
  for (const std::string& window : Split(FLAGS_windows)) {
    windows.push_back(std::stoul(window));
  }
  const std::vector<std::string> names = Split(FLAGS_kinds);
  std::vector<std::pair<std::string, std::vector<double>>> rates;
  for (std::uint32_t repeat = 0; repeat < FLAGS_repeats; ++repeat) {
    std::size_t at = 0;
    for (const std::size_t window : windows) {
      for (const std::string& name : names) {
        const Client::Kind kind{.pull = name != "push", .push = name != "pull"};
        for (std::size_t workers = 1; workers <= clients.size(); ++workers, ++at) {
          if (repeat == 0) {
            rates.emplace_back((workers == 1 ? "" : "two_") + name + "_" + std::to_string(window),
                               std::vector<double>());
          }
          rates[at].second.push_back(Rate(clients.first(workers), sets, window, kind));
        }
      }
    }
  }
  std::string json = "{\"bench\":\"wire\",\"transport\":\"" + FLAGS_transport +
                     "\",\"precision\":\"" + FLAGS_precision +
                     "\",\"rows\":" + std::to_string(FLAGS_rows);
  for (const auto& [name, values] : rates) {
    json += ",\"" + name + "\":" + std::to_string(static_cast<std::uint64_t>(Median(values)));
  }
  std::printf("%s}\n", json.c_str());
}

void MeasureAndStop(std::span<const std::unique_ptr<Client>> clients) {
  Measure(clients);
  clients[0]->StopServer();
}

std::vector<std::unique_ptr<Client>> MakeClients(NetContext& context) {
  std::vector<std::unique_ptr<Client>> clients;
  for (std::uint32_t rank = 0; rank < FLAGS_workers; ++rank) {
    clients.push_back(std::make_unique<Client>(MakeWirePlan(), context, rank));
  }
  return clients;
}

// The server on a thread of this process.
int RunInside(Addresses addresses) {
  NetContext context(1);
  const std::vector<std::unique_ptr<Client>> clients = MakeClients(context);
  addresses.scheduler = clients[0]->Listen(addresses.scheduler);
  int code = 1;
  {
    const std::jthread server([&] { code = Serve(context, addresses); });
    MeasureAndStop(clients);
  }
  return code;
}

// The server in a process of its own, which hears through a pipe where the scheduler is.
int RunBeside(Addresses addresses) {
  std::array<int, 2> pipe{};
  PCHECK(::pipe(pipe.data()) == 0);
  const pid_t child = ::fork();  // Before any thread.
  PCHECK(child >= 0);
  if (child == 0) {
    PCHECK(::prctl(PR_SET_PDEATHSIG, SIGKILL) == 0);
    ::close(pipe[1]);
    std::array<char, 64> address{};
    PCHECK(::read(pipe[0], address.data(), address.size() - 1) > 0);
    addresses.scheduler = address.data();
    NetContext context(1);
    std::_Exit(Serve(context, addresses));
  }
  ::close(pipe[0]);
  {
    NetContext context(1);
    const std::vector<std::unique_ptr<Client>> clients = MakeClients(context);
    const std::string address = clients[0]->Listen(addresses.scheduler);
    PCHECK(::write(pipe[1], address.data(), address.size()) > 0);
    MeasureAndStop(clients);
  }
  int status = 0;
  PCHECK(::waitpid(child, &status, 0) == child);
  return status == 0 ? 0 : 1;
}

int Run() {
  CHECK(FLAGS_workers == 1 || FLAGS_workers == 2) << "--workers";
  const Addresses addresses = AddressesOf(FLAGS_transport);
  const int code = FLAGS_transport == "inproc" ? RunInside(addresses) : RunBeside(addresses);
  if (FLAGS_transport == "ipc") {
    std::error_code ignored;
    const std::string socket = addresses.data.substr(std::string("ipc://").size());
    std::filesystem::remove_all(std::filesystem::path(socket).parent_path(), ignored);
  }
  return code;
}

}  // namespace
}  // namespace plexus

int main(int argc, char** argv) {
  google::InitGoogleLogging(argv[0]);
  gflags::ParseCommandLineFlags(&argc, &argv, true);
  return plexus::Run();
}
