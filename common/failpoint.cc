#include "common/failpoint.h"

#include <algorithm>
#include <atomic>
#include <charconv>
#include <csignal>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <string>
#include <vector>

#include <fcntl.h>
#include <unistd.h>

namespace plexus::failpoints {
namespace {

constexpr const char* kVariable = "PLEXUS_FAILPOINT";

struct Armed {
  std::size_t index = 0;
  std::uint64_t passage = 0;
  std::string marker;
};

std::array<std::atomic<std::uint64_t>, kFailpoints.size()> passages{};

[[noreturn]] void Refuse(std::string_view text) {
  std::fprintf(stderr,
               "%s: \"%.*s\" is not NAME:PASSAGE:MARKER with a name of common/failpoint.h\n",
               kVariable, static_cast<int>(text.size()), text.data());
  std::_Exit(2);
}

Armed Parse(std::string_view text) {
  const std::size_t first = text.find(':');
  const std::size_t second = text.find(':', first == text.npos ? first : first + 1);
  if (second == text.npos || second + 1 == text.size()) {
    Refuse(text);
  }
  const auto at = std::find(kFailpoints.begin(), kFailpoints.end(), text.substr(0, first));
  Armed armed{.index = static_cast<std::size_t>(at - kFailpoints.begin()),
              .passage = 0,
              .marker = std::string(text.substr(second + 1))};
  const char* const end = text.data() + second;
  const auto [stop, bad] = std::from_chars(text.data() + first + 1, end, armed.passage);
  if (at == kFailpoints.end() || bad != std::errc() || stop != end || armed.passage == 0) {
    Refuse(text);
  }
  return armed;
}

std::vector<Armed> ParseAll() {
  std::vector<Armed> all;
  const char* const variable = std::getenv(kVariable);
  std::string_view text = variable == nullptr ? "" : variable;
  while (!text.empty()) {
    const std::size_t comma = std::min(text.find(','), text.size());
    all.push_back(Parse(text.substr(0, comma)));
    text.remove_prefix(std::min(comma + 1, text.size()));
  }
  return all;
}

// Read once, before threads are.
const std::vector<Armed>& All() {
  static const std::vector<Armed> all = ParseAll();
  return all;
}

}  // namespace

const bool armed = !All().empty();

bool IsDue(std::size_t index) {
  const std::uint64_t passage = passages[index].fetch_add(1, std::memory_order_relaxed) + 1;
  return std::any_of(All().begin(), All().end(), [&](const Armed& point) {
    if (point.index != index || point.passage != passage) {
      return false;
    }
    const int marker = ::open(point.marker.c_str(), O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0644);
    if (marker < 0) {
      return false;  // Another process died here, or nobody could know that this one did.
    }
    const std::string pid = std::to_string(::getpid());
    (void)!::write(marker, pid.data(), pid.size());  // For people.
    ::close(marker);
    return true;
  });
}

void Die(std::size_t index) {
  const std::string_view name = kFailpoints[index];
  std::fprintf(stderr, "%s: %.*s: process %d is killed\n", kVariable, static_cast<int>(name.size()),
               name.data(), ::getpid());
  ::kill(::getpid(), SIGKILL);
  std::abort();  // Not reached.
}

}  // namespace plexus::failpoints
