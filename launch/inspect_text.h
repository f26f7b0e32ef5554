// InspectText: what `plexus inspect` prints for people, out of the object that it prints for
// programs: aligned, at most 110 columns (but for the run's path), units stated.
//
// Thread safety: a pure function.
#pragma once

#include <string>

#include <nlohmann/json.hpp>

namespace plexus {

// `report` as docs/observability.md has it.
std::string InspectText(const nlohmann::ordered_json& report);

}  // namespace plexus
