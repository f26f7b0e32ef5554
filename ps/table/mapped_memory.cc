#include "ps/table/mapped_memory.h"

#include <cstdint>
#include <utility>

#include <glog/logging.h>
#include <sys/mman.h>

namespace plexus {
namespace {

std::byte* Map(std::size_t bytes) {
  void* memory = mmap(nullptr, bytes, PROT_READ | PROT_WRITE,
                      MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  PCHECK(memory != MAP_FAILED) << "mmap of " << bytes << " bytes";
  return static_cast<std::byte*>(memory);
}

}  // namespace

MappedMemory::MappedMemory(std::size_t bytes) : bytes_(bytes) {
  CHECK_GT(bytes, 0u);
  if (bytes < kHugePageBytes) {
    data_ = Map(bytes);
    return;
  }
  // A huge page must be aligned: map one more than needed and give the two ends back.
  bytes_ = (bytes + kHugePageBytes - 1) / kHugePageBytes * kHugePageBytes;
  std::byte* mapped = Map(bytes_ + kHugePageBytes);
  const std::size_t head = -reinterpret_cast<std::uintptr_t>(mapped) % kHugePageBytes;
  data_ = mapped + head;
  if (head > 0) {
    munmap(mapped, head);
  }
  if (head < kHugePageBytes) {
    munmap(data_ + bytes_, kHugePageBytes - head);
  }
  madvise(data_, bytes_, MADV_HUGEPAGE);  // A wish: small pages do as well, only slower.
}

MappedMemory::~MappedMemory() {
  if (data_ != nullptr) {
    munmap(data_, bytes_);
  }
}

MappedMemory::MappedMemory(MappedMemory&& other) noexcept
    : data_(std::exchange(other.data_, nullptr)), bytes_(std::exchange(other.bytes_, 0)) {}

MappedMemory& MappedMemory::operator=(MappedMemory&& other) noexcept {
  std::swap(data_, other.data_);
  std::swap(bytes_, other.bytes_);
  return *this;
}

}  // namespace plexus
