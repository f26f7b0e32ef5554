// Finite: whether floats hold a NaN or an infinity, as they are or as wire rows.
//
// One pass of integer operations without branches: about as fast as memory.
//
// Thread safety: pure functions.
#pragma once

#include <cstddef>
#include <cstdint>

#include "common/precision/precision.h"

namespace plexus {

// `values` may lie anywhere: floats of frames are aligned to 4 bytes only.
bool AllFinite(const float* values, std::size_t n);

// What `rows` rows of `n` values, as EncodeWireRows writes them, decode to.  With a scale it is the
// scale that decides.
bool WireRowsAreFinite(Precision precision, const std::uint8_t* from, std::size_t rows,
                       std::size_t n);

}  // namespace plexus
