#include "common/net/zmq_zap.h"

#include <vector>

#include <glog/logging.h>
#include <pthread.h>

namespace plexus {
namespace {

constexpr const char* kAddress = "inproc://zeromq.zap.01";
constexpr const char* kVersion = "1.0";
constexpr std::size_t kKeyBytes = 32;

// Frames of a request, by position.
enum : std::size_t { kRequestVersion, kRequestId, kDomainName, kFrom, kIdentity, kMechanism, kKey };

std::string InZ85(const std::string& key) {
  char text[kKeyBytes * 5 / 4 + 1] = {};
  ::zmq_z85_encode(text, reinterpret_cast<const std::uint8_t*>(key.data()), kKeyBytes);
  return text;
}

}  // namespace

ZapHandler::ZapHandler(zmq::context_t& context, const std::map<std::string, std::string>& known)
    : context_(context), socket_(context, zmq::socket_type::rep) {
  for (const auto& [name, key] : known) {
    std::string bytes(kKeyBytes, '\0');
    CHECK(::zmq_z85_decode(reinterpret_cast<std::uint8_t*>(bytes.data()), key.c_str()) != nullptr)
        << "a public key was not checked when it was read";
    names_[bytes] = name;
  }
  socket_.set(zmq::sockopt::linger, 0);
  socket_.bind(kAddress);
  thread_ = std::jthread([this] { Run(); });
}

ZapHandler::~ZapHandler() {
  context_.shutdown();  // Wakes the thread.
  thread_.join();
}

void ZapHandler::Run() {
  pthread_setname_np(pthread_self(), "zap");
  while (true) {
    try {
      Serve();
    } catch (const zmq::error_t& error) {
      if (error.num() != EINTR) {
        LOG_IF(ERROR, error.num() != ETERM) << "nobody is admitted any more: " << error.what();
        return;
      }
    }
  }
}

void ZapHandler::Serve() {
  std::vector<std::string> request;
  zmq::message_t part;
  do {
    if (!socket_.recv(part, zmq::recv_flags::none)) {
      return;
    }
    request.push_back(part.to_string());
  } while (part.more());
  const bool whole = request.size() > kKey && request[kRequestVersion] == kVersion;
  const std::string id = request.size() > kRequestId ? request[kRequestId] : "";
  std::string name;
  if (whole && request[kDomainName] == kDomain && request[kMechanism] == "CURVE") {
    const auto at = names_.find(request[kKey]);
    name = at != names_.end() ? at->second : "";
  }
  if (name.empty()) {
    refused_.fetch_add(1, std::memory_order_relaxed);
    const bool has_key = whole && request[kKey].size() == kKeyBytes;
    LOG_EVERY_N(WARNING, 100) << "refused a connection from "
                              << (whole ? request[kFrom] : "somebody") << ": its public key "
                              << (has_key ? InZ85(request[kKey]) + " " : "")
                              << "is not in the key directory";
  }
  const bool admitted = !name.empty();
  const std::string replies[] = {
      kVersion, id, admitted ? "200" : "400", admitted ? "OK" : "unknown key", name, ""};
  for (const std::string& reply : replies) {
    const bool last = &reply == std::end(replies) - 1;
    socket_.send(zmq::buffer(reply), last ? zmq::send_flags::none : zmq::send_flags::sndmore);
  }
}

}  // namespace plexus
