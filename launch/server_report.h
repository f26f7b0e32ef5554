// ServerReport: what a server says of its shard's tables when it saves a model and when it leaves:
// RUN/servers/N.json, which `plexus inspect` reads.  docs/observability.md lists the names.
//
// Thread safety: pure functions; WriteServerReport writes files.
#pragma once

#include <array>
#include <cstdint>
#include <string>
#include <utility>

#include <nlohmann/json.hpp>

#include "common/status.h"
#include "ps/shard_state.h"
#include "ps/table/table.h"

namespace plexus {

// Counters by the names that reports, metrics and `plexus inspect` give them.
using TableEvent = std::pair<const char*, std::uint64_t>;
std::array<TableEvent, 12> EventsOf(const TableCounters& counters);
// Parts of a table's memory; they add up to total() but for "free", which is part of "rows".
std::array<std::pair<const char*, std::uint64_t>, 5> PartsOf(const TableMemory& memory);

// admitted + restored + promoted - evicted - demoted = rows = rows in memory + rows on disk.
bool IsBalanced(const Table& table);

// One table; its index is measured, which reads all of it.
nlohmann::ordered_json TableReport(const Table& table);

// `event`: "saved" or "left".
nlohmann::ordered_json ServerReport(const ShardState& state, std::uint32_t server,
                                    std::uint64_t version, const std::string& event);

// RUN/servers/N.json.
std::string ServerReportPath(const std::string& run_dir, std::uint32_t server);
// Replaces the server's report; the directory is made if absent.
Status WriteServerReport(const std::string& run_dir, const ShardState& state, std::uint32_t server,
                         std::uint64_t version, const std::string& event);

}  // namespace plexus
