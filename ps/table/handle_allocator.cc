#include "ps/table/handle_allocator.h"

#include <bit>

#include <glog/logging.h>

namespace plexus {
namespace {

constexpr std::uint64_t Bit(std::uint64_t i) { return std::uint64_t{1} << (i % 64); }

void SetBit(std::uint64_t i, std::vector<std::uint64_t>* bits) {
  if (bits->size() <= i / 64) {
    bits->resize(i / 64 + 1);
  }
  (*bits)[i / 64] |= Bit(i);
}

}  // namespace

std::uint32_t HandleAllocator::Allocate() {
  if (free_ == 0) {
    return static_cast<std::uint32_t>(high_water_++);
  }
  // 2^32 handles are 256 words of top_bits_.
  std::uint64_t at = 0;
  while (top_bits_[at] == 0) {
    ++at;
  }
  at = at * 64 + std::countr_zero(top_bits_[at]);
  const std::uint64_t chunk = at * 64 + std::countr_zero(chunk_bits_[at]);
  const std::uint32_t word = std::countr_zero(chunks_[chunk]->nonzero);
  const std::uint32_t bit = std::countr_zero(chunks_[chunk]->words[word]);
  TakeFree(chunk, word, Bit(bit));
  --free_;
  return static_cast<std::uint32_t>(chunk * kChunkHandles + word * 64 + bit);
}

void HandleAllocator::Free(std::uint32_t handle) {
  CHECK_LT(handle, high_water_);
  if (handle + std::uint64_t{1} == high_water_) {
    --high_water_;
    Trim();
    return;
  }
  const std::uint64_t chunk = handle / kChunkHandles;
  if (chunks_.size() <= chunk) {
    chunks_.resize(chunk + 1);
  }
  if (chunks_[chunk] == nullptr) {
    chunks_[chunk] = std::make_unique<Chunk>();
    ++chunk_count_;
    SetBit(chunk, &chunk_bits_);
    SetBit(chunk / 64, &top_bits_);
  }
  const std::uint32_t word = handle % kChunkHandles / 64;
  CHECK_EQ(chunks_[chunk]->words[word] & Bit(handle), 0u) << "handle freed twice";
  chunks_[chunk]->words[word] |= Bit(handle);
  chunks_[chunk]->nonzero |= Bit(word);
  ++free_;
}

void HandleAllocator::TakeFree(std::uint64_t chunk, std::uint32_t word, std::uint64_t bits) {
  Chunk& from = *chunks_[chunk];
  from.words[word] &= ~bits;
  if (from.words[word] != 0) {
    return;
  }
  from.nonzero &= ~Bit(word);
  if (from.nonzero != 0) {
    return;
  }
  chunks_[chunk].reset();
  --chunk_count_;
  chunk_bits_[chunk / 64] &= ~Bit(chunk);
  if (chunk_bits_[chunk / 64] == 0) {
    top_bits_[chunk / 64 / 64] &= ~Bit(chunk / 64);
  }
}

void HandleAllocator::Trim() {
  while (free_ > 0) {
    const std::uint64_t last = high_water_ - 1;
    const std::uint64_t chunk = last / kChunkHandles;
    if (chunk >= chunks_.size() || chunks_[chunk] == nullptr) {
      return;
    }
    const std::uint32_t word = last % kChunkHandles / 64;
    // Free handles from `last` downwards within the word.
    const std::uint32_t behind = 63 - last % 64;
    const std::uint32_t run = std::countl_one(chunks_[chunk]->words[word] << behind);
    if (run == 0) {
      return;
    }
    const std::uint64_t ones = run == 64 ? ~std::uint64_t{0} : Bit(run) - 1;
    TakeFree(chunk, word, ones << (last % 64 + 1 - run));
    high_water_ -= run;
    free_ -= run;
  }
}

std::uint64_t HandleAllocator::memory_bytes() const {
  constexpr std::uint64_t kMallocBytes = 16;
  return chunk_count_ * (sizeof(Chunk) + kMallocBytes) +
         chunks_.capacity() * sizeof(std::unique_ptr<Chunk>) +
         (chunk_bits_.capacity() + top_bits_.capacity()) * sizeof(std::uint64_t);
}

}  // namespace plexus
