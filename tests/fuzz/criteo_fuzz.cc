// criteo_fuzz: any bytes as a Criteo file.

#include "tests/fuzz/reader_fuzz.h"

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* bytes, std::size_t size) {
  plexus::FuzzReader(R"(shuffle_rows: 4
      fields { name: "I1" kind: DENSE transform: SQUARED_LOG_BUCKET }
      fields { name: "I2" kind: DENSE transform: LOG1P } fields { name: "I3" kind: DENSE }
      fields { name: "C*" })",
                     bytes, size);
  return 0;
}
