// MappedMemory: zeroed memory straight from the kernel, committed when it is first touched; in huge
// pages where it is large enough to need them.
//
// Below kHugeBytesMin memory comes in pages of 4 KiB: a huge page commits 2 MiB at once, which is
// much beside so little, and the processor knows so few small pages by heart.  From there on it is
// aligned to huge pages and asks for them; what is left at its end, less than one, is small pages.
//
// Thread safety: none; a move-only value.
#pragma once

#include <cstddef>
#include <string>

namespace plexus {

inline constexpr std::size_t kPageBytes = 4096;
inline constexpr std::size_t kHugePageBytes = std::size_t{2} << 20;
inline constexpr std::size_t kHugeBytesMin = std::size_t{8} << 20;

class MappedMemory {
 public:
  MappedMemory() = default;
  // `bytes` rounded up to pages of 4 KiB.  The process ends if the address space is exhausted.
  // REQUIRES: bytes > 0.
  explicit MappedMemory(std::size_t bytes);
  ~MappedMemory();
  MappedMemory(MappedMemory&& other) noexcept;
  MappedMemory& operator=(MappedMemory&& other) noexcept;

  // Page-aligned; nullptr if default-constructed.
  std::byte* data() const { return data_; }
  std::size_t bytes() const { return bytes_; }
  // What is committed at once where it is first touched: kPageBytes or kHugePageBytes.
  std::size_t page_bytes() const { return bytes_ < kHugeBytesMin ? kPageBytes : kHugePageBytes; }
  // bytes() of a MappedMemory(bytes).
  static std::size_t RoundUp(std::size_t bytes);

  // Keeps the contents of what remains; what is added is zeros, what is cut off goes back to the
  // kernel.  Copies nothing (mremap), but data() may be another.  REQUIRES: bytes > 0.
  void Resize(std::size_t bytes);

  // [offset, offset + bytes) goes back to the kernel and is zeros when it is next touched.
  // REQUIRES: both are multiples of kPageBytes (of page_bytes(), if it is to be given back whole).
  void GiveBack(std::size_t offset, std::size_t bytes);

 private:
  std::byte* data_ = nullptr;
  std::size_t bytes_ = 0;
};

// Does the kernel give this process the huge pages that MappedMemory asks for?  Tables are correct
// without, but random rows take about twice the time.
struct HugePages {
  bool available = false;
  // If not: what stands against it, and what to do about it, as half sentences.
  std::string why, remedy;
};
// Of this process.
HugePages LookForHugePages();
// The same, where the kernel's setting is read from `setting_file`, which holds text such as
// "always [madvise] never\n".
HugePages LookForHugePagesIn(const std::string& setting_file);

}  // namespace plexus
