// MemoryGovernor: what a shard does about cluster.memory_limit, as arithmetic.
//
// Where rows can go to disk, a reserve is kept for what comes and goes between two looks at the
// process: frames, rows on their way, RocksDB's buffers.  It is a quarter more than the most that
// came so far, a sixth of the limit and 32 MiB at most (and as long as there was no look), half of
// that at least.  Of the rest, in order: rows go to disk while more than kSpillShare of it is used,
// down to kSpillTarget; committed memory without rows is given back beyond kReleaseShare; if rows
// on disk do not suffice (spilling is off, failed, or nothing is left to spill) and more than
// kEmergencyShare is used, or kHopelessShare whatever the disk does, it is an emergency, and what
// cluster.on_memory_limit says happens until less than kCalmShare is used; these, and what has to
// fit, are shares of the whole limit.
//
// Thread safety: a value.
#pragma once

#include <algorithm>
#include <cstdint>

namespace plexus {

// Bytes of a server.
struct MemoryUse {
  std::uint64_t committed = 0;  // Tables and dense parameters.
  std::uint64_t free = 0;       // Of committed: records without a row.
  std::uint64_t pending = 0;    // Frames that wait.
  std::uint64_t spilling = 0;   // Rows on their way to disk.
  std::uint64_t other = 0;      // Of the process, counted nowhere else.
  // The most by which the process was beyond the look before, between two looks.
  std::uint64_t swing = kUnknownSwing;

  static constexpr std::uint64_t kUnknownSwing = ~std::uint64_t{0};

  std::uint64_t resident() const { return committed + pending + spilling + other; }
  std::uint64_t used() const { return resident() - std::min(free, resident()); }
};

class MemoryGovernor {
 public:
  static constexpr double kSpillShare = 0.93;
  static constexpr double kSpillTarget = 0.91;
  static constexpr double kReleaseShare = 0.95;
  static constexpr double kEmergencyShare = 0.95;
  static constexpr double kCalmShare = 0.88;
  static constexpr double kEvictTarget = 0.84;
  static constexpr double kFullShare = 0.95;
  static constexpr double kHopelessShare = 1.02;

  // 0: no limit.
  explicit MemoryGovernor(std::uint64_t limit) : limit_(limit) {}

  std::uint64_t limit() const { return limit_; }

  // Bytes of rows to move to disk, if `coming` more are about to be made; 0: none.
  std::uint64_t BytesToSpill(const MemoryUse& use, std::uint64_t coming) const {
    const std::uint64_t used = use.used() + coming;
    const std::uint64_t target = SpillShare(use, kSpillTarget);
    return used > SpillShare(use, kSpillShare) ? used - target : 0;
  }
  // Whether `coming` bytes more are within the limit.
  bool Fits(const MemoryUse& use, std::uint64_t coming) const {
    return use.used() + coming <= Share(kFullShare);
  }
  // Whether `coming` bytes more are beyond what can be overlooked.
  bool IsHopeless(const MemoryUse& use, std::uint64_t coming) const {
    return limit_ != 0 && coming > 0 && use.used() + coming > Share(kHopelessShare);
  }
  // Free records should go back to the kernel, if `coming` bytes more are about to be made.
  bool ShouldRelease(const MemoryUse& use, std::uint64_t coming) const {
    return limit_ != 0 && use.resident() + coming > SpillShare(use, kReleaseShare) &&
           use.free > limit_ / 32;
  }
  // Whether it is an emergency now, given whether it was one and whether rows can still go to disk.
  bool IsEmergency(const MemoryUse& use, bool was, bool can_spill) const {
    if (limit_ == 0) {
      return false;
    }
    // Rows on their way to disk count until they are there.
    return use.used() > Share(was ? kCalmShare : can_spill ? kHopelessShare : kEmergencyShare);
  }
  // Bytes of rows that an emergency eviction has to free.
  std::uint64_t BytesToEvict(const MemoryUse& use) const {
    return use.used() - std::min(use.used(), Share(kEvictTarget));
  }

 private:
  static constexpr std::uint64_t kReserveMax = std::uint64_t{32} << 20;

  static std::uint64_t ShareOf(std::uint64_t bytes, double share) {
    return bytes == 0 ? ~std::uint64_t{0}
                      : static_cast<std::uint64_t>(static_cast<double>(bytes) * share);
  }
  std::uint64_t Share(double share) const { return ShareOf(limit_, share); }
  std::uint64_t SpillShare(const MemoryUse& use, double share) const {
    const std::uint64_t most = std::min(limit_ / 6, kReserveMax);
    const std::uint64_t reserve =
        use.swing >= most ? most : std::clamp(use.swing + use.swing / 4, most / 2, most);
    return ShareOf(limit_ - reserve, share);
  }

  const std::uint64_t limit_;
};

}  // namespace plexus
