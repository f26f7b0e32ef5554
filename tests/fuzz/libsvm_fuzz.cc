// libsvm_fuzz: any bytes as a LIBSVM file.

#include "tests/fuzz/reader_fuzz.h"

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* bytes, std::size_t size) {
  plexus::FuzzReader(R"(format: LIBSVM shuffle_rows: 4 fields { name: "features" })", bytes, size);
  return 0;
}
