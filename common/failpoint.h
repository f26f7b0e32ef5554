// Failpoint: a named place in the code at which a test can have the process killed.
//
//   PLEXUS_FAILPOINT=log.appended:7:/tmp/marker plexus train ...
//
// kills (SIGKILL, nothing is flushed) the process that comes to the place for the 7th time, if it
// is the first one to make the file /tmp/marker: a restarted process lives on.  Several, separated
// by commas, are independent of one another.  Passages are counted in each process, over all its
// threads.  What cannot be read, or names no failpoint, ends the process with 2.
//
// Costs one predictable branch while the variable is unset; the state machines may have some.
//
// Thread safety: all.
#pragma once

#include <array>
#include <cstddef>
#include <string_view>

namespace plexus {

// All there are; tests/chaos/failpoints_test.py checks that each is in the code.
inline constexpr std::array kFailpoints = std::to_array<std::string_view>({
    // A server's thread.
    "server.before_commit",  // A word of the scheduler has come, and is not looked at.
    "server.applied",        // A version more, of which neither log nor peers know.
    "server.logging",        // There are records that no log has.
    "server.logged",         // The log has it, nobody was told.
    "server.told",           // And now they were.
    "server.restored",       // A checkpoint was read, its log was not.
    "server.replaying",      // A record of the log was replayed.
    "server.recovered",      // All were; the scheduler does not know.
    "shard.applying",        // Rows have the step, dense parameters do not.
    "table.evicting",        // A row has gone.
    "cold.spilling",         // Rows are on their way to disk.
    "cold.spilled",          // They are there, memory does not know.
    // Logs.
    "log.torn",       // Half a record was written.
    "log.appended",   // A whole one.
    "log.segment",    // A segment has a name and nothing else.
    "log.truncated",  // What lay behind a position is gone.
    "log.dropping",   // An old segment has gone, others have not.
    // Files of models.
    "model.block",    // A block of a model file was written.
    "model.unnamed",  // The file is whole, and has its temporary name.
    "model.named",    // It has its own.
    "file.unnamed",   // Any other file is whole, and has its temporary name.
    // The scheduler.
    "scheduler.committing",  // A commit is in no log.
    "scheduler.logged",      // It is in the log, nobody was told.
    "scheduler.told",        // The servers were.
    "checkpoint.files",      // All shards' files are there, the manifest is not.
    "checkpoint.manifest",   // The manifest is, LATEST is not.
    "checkpoint.latest",     // Older checkpoints are not deleted.
    "checkpoint.deleting",   // Of one, the manifest is.
    // A worker's rank.
    "rank.sending",  // Frames have been made and not sent.
    "rank.sent",     // They were.
});

namespace failpoints {

consteval std::size_t IndexOf(std::string_view name) {
  for (std::size_t i = 0; i < kFailpoints.size(); ++i) {
    if (kFailpoints[i] == name) {
      return i;
    }
  }
  throw "no such failpoint";  // At compile time.
}

struct Name {
  consteval Name(const char* name) : index(IndexOf(name)) {}  // NOLINT: a literal is one.
  std::size_t index;
};

extern const bool armed;

// Whether this passage is the one; kills nobody.
bool IsDue(std::size_t index);
[[noreturn]] void Die(std::size_t index);

}  // namespace failpoints

inline void Failpoint(failpoints::Name name) {
  if (failpoints::armed && failpoints::IsDue(name.index)) [[unlikely]] {
    failpoints::Die(name.index);
  }
}

// For what has to be done half before the process dies: true at the passage that is named, after
// which DieAt has to be called.
inline bool FailpointIsDue(failpoints::Name name) {
  return failpoints::armed && failpoints::IsDue(name.index);
}
[[noreturn]] inline void DieAt(failpoints::Name name) { failpoints::Die(name.index); }

}  // namespace plexus
