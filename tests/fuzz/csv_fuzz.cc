// csv_fuzz: any bytes as a CSV file.

#include "tests/fuzz/reader_fuzz.h"

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* bytes, std::size_t size) {
  plexus::FuzzReader(R"(format: DELIMITED shuffle_rows: 4 group_column: "u" label { skip: 7 }
      fields { name: "x" kind: DENSE transform: STANDARD stddev: 0.5 } fields { name: "u" }
      fields { name: "m" kind: MULTI_VALUED separator: "ab" })",
                     bytes, size);
  return 0;
}
