// The steady clock of the runtimes.  Logic never reads it: protocol objects are told the time.
//
// Thread safety: pure functions.
#pragma once

#include <chrono>

#include "common/outbox.h"

namespace plexus {

inline double SteadySeconds() {
  return std::chrono::duration<double>(std::chrono::steady_clock::now().time_since_epoch()).count();
}

inline Millis SteadyMillis() { return static_cast<Millis>(SteadySeconds() * 1e3); }

}  // namespace plexus
