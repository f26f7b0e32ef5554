// The format of model files, shared by those who write, read and check them; drawn in model_file.h.
//
// Thread safety: constants and pure functions.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>

#include "common/bytes.h"
#include "proto/table_spec.h"

namespace plexus {

inline constexpr std::string_view kModelMagic = "PLXMODEL";
inline constexpr std::uint32_t kModelFormat = 2;
inline constexpr std::uint32_t kIncrementalFormat = 3;         // Of a file that builds on others.
inline constexpr std::size_t kRowHeadBytes = 24;               // Key, last step and count.
inline constexpr std::uint32_t kModelBlockBytesMax = 1 << 28;  // No block of ours is longer.
inline constexpr const char* kManifestName = "manifest.textproto";

enum BlockKind : std::uint32_t {
  kHead = 1,
  kRows = 2,
  kDense = 3,
  kEnd = 4,
  kFilter = 5,
  kErased = 6,
};

struct BlockHead {
  std::uint32_t kind = 0;
  std::uint32_t bytes = 0;  // Of the payload behind it.
  std::uint64_t hash = 0;   // XXH3_64 of the payload.
};
static_assert(sizeof(BlockHead) == 16);

// Reads a name: u32 bytes, the bytes, up to a multiple of 8.
inline bool GetName(ByteReader* reader, std::string* name) {
  std::uint32_t size = 0;
  std::span<const char> bytes;
  if (!reader->Get(&size) || !reader->GetArray(size, &bytes) || !reader->Align(8)) {
    return false;
  }
  name->assign(bytes.begin(), bytes.end());
  return true;
}

// How rows are written: two tables of equal codes read each other's records.
std::uint32_t LayoutCode(const TableSpec& spec);

// The manifest's last line, over the bytes before it.
std::string ManifestSeal(std::string_view text);

}  // namespace plexus
