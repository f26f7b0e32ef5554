// Arena: memory of one step's tensors, 64-byte aligned, taken front to back and given back all at
// once.
//
// Reset() merges what a step needed into one block, so that from the second equal step on nothing
// is allocated.  Blocks lie in huge pages where the kernel gives them: a tower's activations are a
// few MiB, read and written row by row.
//
// Thread safety: one object per rank, used by one thread.
#pragma once

#include <cstddef>
#include <memory>
#include <vector>

namespace plexus {

class Arena {
 public:
  static constexpr std::size_t kAlignment = 64;

  // Uninitialised; valid until Reset().  The address is a multiple of kAlignment.
  void* Allocate(std::size_t bytes);

  template <typename T>
  T* Array(std::size_t count) {
    return static_cast<T*>(Allocate(count * sizeof(T)));
  }

  void Reset();

  std::size_t bytes_reserved() const { return reserved_; }

 private:
  struct Free {
    void operator()(std::byte* block) const;
  };
  struct Block {
    std::unique_ptr<std::byte, Free> bytes;
    std::size_t size = 0;
  };

  void AddBlock(std::size_t bytes_min);

  std::vector<Block> blocks_;  // The last one is being filled.
  std::size_t used_ = 0;       // Bytes of the last block.
  std::size_t reserved_ = 0;
};

}  // namespace plexus
