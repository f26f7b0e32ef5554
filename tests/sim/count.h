// Counts what a BSP step costs in messages and bytes, by kind, with the real protocol objects and
// no arithmetic: the input of docs/scaling.md.
//
// Thread safety: none.
#pragma once

#include <cstdint>

namespace plexus::sim {

struct CountShape {
  std::uint32_t ranks = 4;
  std::uint32_t servers = 2;
  std::uint32_t workers = 2;
  std::uint32_t keys = 1000;  // Unique keys of a rank's step.
  std::uint32_t dim = 16;     // Floats a row.
  std::uint32_t dense = 0;    // Dense parameters.
};

// Prints one JSON object; returns the exit code.
int CountMessages(const CountShape& shape);

}  // namespace plexus::sim
