#include "worker/nn/arena.h"

#include <algorithm>
#include <cstdlib>

#include <glog/logging.h>
#include <sys/mman.h>

namespace plexus {
namespace {

constexpr std::size_t kHugePage = std::size_t{2} << 20;

std::size_t RoundUp(std::size_t bytes, std::size_t unit) {
  return (bytes + unit - 1) / unit * unit;
}

}  // namespace

void Arena::Free::operator()(std::byte* block) const { std::free(block); }

void* Arena::Allocate(std::size_t bytes) {
  bytes = RoundUp(std::max<std::size_t>(bytes, 1), kAlignment);
  if (blocks_.empty() || blocks_.back().size - used_ < bytes) {
    AddBlock(std::max(bytes, reserved_));  // At least doubles: a first step makes few blocks.
  }
  std::byte* const result = blocks_.back().bytes.get() + used_;
  used_ += bytes;
  return result;
}

void Arena::Reset() {
  if (blocks_.size() > 1) {
    const std::size_t total = reserved_;
    blocks_.clear();
    reserved_ = 0;
    AddBlock(total);
  }
  used_ = 0;
}

void Arena::AddBlock(std::size_t bytes_min) {
  const std::size_t size = RoundUp(bytes_min, kHugePage);
  auto* const bytes = static_cast<std::byte*>(std::aligned_alloc(kHugePage, size));
  CHECK(bytes != nullptr) << "no memory for " << size << " bytes of tensors";
  // Advice only: without huge pages everything works, a little slower.
  (void)madvise(bytes, size, MADV_HUGEPAGE);
  blocks_.push_back({std::unique_ptr<std::byte, Free>(bytes), size});
  used_ = 0;
  reserved_ += size;
}

}  // namespace plexus
