// Bytes: an immutable, reference-counted run of bytes; ByteWriter and ByteReader: how frames are
// laid out and read.
//
// A Bytes may own an aligned buffer or borrow one from its owner (a ZeroMQ message), so that a
// received frame is parsed where it lies and a frame that may have to be sent again is kept without
// a copy.
//
// Thread safety: Bytes like shared_ptr<const>; reader and writer none.
#pragma once

#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <memory>
#include <new>
#include <span>
#include <string_view>
#include <type_traits>

#include <glog/logging.h>

namespace plexus {

inline constexpr std::size_t kCacheLine = 64;

class Bytes {
 public:
  Bytes() = default;
  Bytes(std::shared_ptr<const void> owner, const std::uint8_t* data, std::size_t size)
      : owner_(std::move(owner)), data_(data), size_(size) {}

  // A copy of `data`, aligned to a cache line.
  static Bytes Copy(std::span<const std::uint8_t> data);

  const std::uint8_t* data() const { return data_; }
  std::size_t size() const { return size_; }
  bool empty() const { return size_ == 0; }
  std::string_view view() const { return {reinterpret_cast<const char*>(data_), size_}; }

 private:
  std::shared_ptr<const void> owner_;
  const std::uint8_t* data_ = nullptr;
  std::size_t size_ = 0;
};

// Builds one Bytes of a size known in advance.
class ByteWriter {
 public:
  explicit ByteWriter(std::size_t size)
      : buffer_(static_cast<std::uint8_t*>(
                    std::aligned_alloc(kCacheLine, (size + kCacheLine) / kCacheLine * kCacheLine)),
                std::free),
        size_(size) {
    CHECK(buffer_ != nullptr) << "out of memory: " << size << " bytes of frame";
  }

  template <typename T>
  requires std::is_trivially_copyable_v<T>
  void Put(const T& value) { std::memcpy(Reserve(sizeof(T)), &value, sizeof(T)); }
  template <typename T>
  requires std::is_trivially_copyable_v<T>
  void PutArray(std::span<const T> values) {
    if (!values.empty()) {
      std::memcpy(Reserve(values.size_bytes()), values.data(), values.size_bytes());
    }
  }
  // Zeros up to the next multiple of `alignment`.
  void Align(std::size_t alignment) {
    const std::size_t padding = (alignment - position_ % alignment) % alignment;
    std::memset(Reserve(padding), 0, padding);
  }
  // The next `size` bytes, for the caller to fill.
  std::uint8_t* Reserve(std::size_t size) {
    DCHECK_LE(position_ + size, size_);
    std::uint8_t* at = buffer_.get() + position_;
    position_ += size;
    return at;
  }
  std::size_t position() const { return position_; }
  std::uint8_t* data() { return buffer_.get(); }

  // REQUIRES: everything was written.
  Bytes Finish() {
    CHECK_EQ(position_, size_) << "a frame was sized wrongly";
    const std::uint8_t* data = buffer_.get();
    return Bytes(std::move(buffer_), data, size_);
  }

 private:
  std::shared_ptr<std::uint8_t> buffer_;
  std::size_t size_;
  std::size_t position_ = 0;
};

// Reads what a peer sent: nothing is trusted, each Get says whether the bytes were there.
class ByteReader {
 public:
  ByteReader(const std::uint8_t* data, std::size_t size) : data_(data), size_(size) {}

  template <typename T>
  requires std::is_trivially_copyable_v<T>
  bool Get(T* value) {
    if (size_ - position_ < sizeof(T)) {
      return false;
    }
    std::memcpy(value, data_ + position_, sizeof(T));
    position_ += sizeof(T);
    return true;
  }
  // Borrows `count` values in place.  False also if they are not aligned for T.
  template <typename T>
  requires std::is_trivially_copyable_v<T>
  bool GetArray(std::uint64_t count, std::span<const T>* values) {
    if (count > (size_ - position_) / sizeof(T) ||
        reinterpret_cast<std::uintptr_t>(data_ + position_) % alignof(T) != 0) {
      return false;
    }
    *values = {reinterpret_cast<const T*>(data_ + position_), static_cast<std::size_t>(count)};
    position_ += values->size_bytes();
    return true;
  }
  bool Align(std::size_t alignment) {
    const std::size_t padding = (alignment - position_ % alignment) % alignment;
    if (size_ - position_ < padding) {
      return false;
    }
    position_ += padding;
    return true;
  }
  std::size_t remaining() const { return size_ - position_; }

 private:
  const std::uint8_t* data_;
  std::size_t size_;
  std::size_t position_ = 0;
};

}  // namespace plexus
