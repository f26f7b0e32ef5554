#include "ps/table/mapped_memory.h"

#include <array>
#include <cstdint>
#include <utility>

#include <fcntl.h>
#include <glog/logging.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <unistd.h>

namespace plexus {
namespace {

constexpr char kSettingFile[] = "/sys/kernel/mm/transparent_hugepage/enabled";

// Address space, at a multiple of `alignment`; PROT_NONE commits nothing and counts nowhere.
std::byte* Map(std::size_t bytes, std::size_t alignment, int protection) {
  // Map one alignment more than needed and give the two ends back.
  const std::size_t slack = alignment > kPageBytes ? alignment : 0;
  void* memory =
      mmap(nullptr, bytes + slack, protection, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  PCHECK(memory != MAP_FAILED) << "mmap of " << bytes << " bytes";
  auto* mapped = static_cast<std::byte*>(memory);
  const std::size_t head = -reinterpret_cast<std::uintptr_t>(mapped) % alignment;
  if (head > 0) {
    munmap(mapped, head);
  }
  if (head < slack) {
    munmap(mapped + head + bytes, slack - head);
  }
  return mapped + head;
}

std::size_t AlignmentOf(std::size_t bytes) {
  return bytes < kHugeBytesMin ? kPageBytes : kHugePageBytes;
}

// A wish: small pages do as well, only slower.
void AskForHugePages(std::byte* data, std::size_t bytes) {
  if (bytes >= kHugeBytesMin) {
    madvise(data, bytes, MADV_HUGEPAGE);
  }
}

}  // namespace

std::size_t MappedMemory::RoundUp(std::size_t bytes) {
  return (bytes + kPageBytes - 1) / kPageBytes * kPageBytes;
}

MappedMemory::MappedMemory(std::size_t bytes) : bytes_(RoundUp(bytes)) {
  CHECK_GT(bytes, 0u);
  data_ = Map(bytes_, AlignmentOf(bytes_), PROT_READ | PROT_WRITE);
  AskForHugePages(data_, bytes_);
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

void MappedMemory::Resize(std::size_t bytes) {
  CHECK_GT(bytes, 0u);
  if (data_ == nullptr) {
    *this = MappedMemory(bytes);
    return;
  }
  const std::size_t rounded = RoundUp(bytes);
  if (rounded <= bytes_) {
    if (rounded < bytes_) {
      PCHECK(munmap(data_ + rounded, bytes_ - rounded) == 0);
    }
    bytes_ = rounded;
    return;
  }
  const std::size_t alignment = AlignmentOf(rounded);
  void* grown = MAP_FAILED;
  if (reinterpret_cast<std::uintptr_t>(data_) % alignment == 0) {
    grown = mremap(data_, bytes_, rounded, 0);  // Succeeds if the addresses behind are free.
  }
  if (grown == MAP_FAILED) {
    // To an aligned place: the page tables move, whole huge pages with one entry each.
    std::byte* to = Map(rounded, alignment, PROT_NONE);
    grown = mremap(data_, bytes_, rounded, MREMAP_MAYMOVE | MREMAP_FIXED, to);
    PCHECK(grown != MAP_FAILED) << "mremap to " << rounded << " bytes";
  }
  data_ = static_cast<std::byte*>(grown);
  bytes_ = rounded;
  AskForHugePages(data_, bytes_);
}

void MappedMemory::GiveBack(std::size_t offset, std::size_t bytes) {
  CHECK(offset % kPageBytes == 0 && bytes % kPageBytes == 0 && offset + bytes <= bytes_);
  if (bytes > 0) {
    PCHECK(madvise(data_ + offset, bytes, MADV_DONTNEED) == 0);
  }
}

HugePages LookForHugePages() { return LookForHugePagesIn(kSettingFile); }

HugePages LookForHugePagesIn(const std::string& setting_file) {
  HugePages pages;
  const int file = open(setting_file.c_str(), O_RDONLY | O_CLOEXEC);
  if (file < 0) {
    pages.why = "the kernel has no " + setting_file;
    pages.remedy = "a kernel with CONFIG_TRANSPARENT_HUGEPAGE";
    return pages;
  }
  std::array<char, 128> text;
  const ssize_t size = read(file, text.data(), text.size());
  close(file);
  const std::string_view setting(text.data(), size < 0 ? 0 : static_cast<std::size_t>(size));
  if (setting.find("[always]") == std::string_view::npos &&
      setting.find("[madvise]") == std::string_view::npos) {
    pages.why = setting_file + " is neither \"madvise\" nor \"always\"";
    pages.remedy = "echo madvise > " + setting_file + " (as root)";
    return pages;
  }
  if (prctl(PR_GET_THP_DISABLE, 0, 0, 0, 0) == 1) {
    pages.why = "they are switched off for this process (PR_SET_THP_DISABLE)";
    pages.remedy = "start it from a process that has them";
    return pages;
  }
  pages.available = true;
  return pages;
}

}  // namespace plexus
