#include "common/bytes.h"

namespace plexus {

Bytes Bytes::Copy(std::span<const std::uint8_t> data) {
  ByteWriter writer(data.size());
  writer.PutArray(data);
  return writer.Finish();
}

}  // namespace plexus
