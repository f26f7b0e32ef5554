// ByteSource: a stream of bytes from a file, from memory, or out of a gzip stream over either.
//
// InputFile names the bytes and knows whether they are gzip (by content, not by name); a reader
// opens it as often as it needs.
//
// Thread safety: an InputFile is an immutable value; a ByteSource has one owner at a time.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <string_view>

#include "common/status.h"

namespace plexus {

class ByteSource {
 public:
  virtual ~ByteSource() = default;

  // Reads up to `size` (> 0) bytes into `data`; 0 means the end.
  virtual StatusOr<std::size_t> Read(char* data, std::size_t size) = 0;

  // Bytes taken so far of what is stored: compressed ones, of a gzip stream.
  virtual std::uint64_t stored_bytes_read() const = 0;
};

class InputFile {
 public:
  // A regular file.  kNotFound: there is none.  kInvalidArgument: it is not a regular file.
  static StatusOr<InputFile> OfPath(const std::string& path);
  // Bytes in memory, which must outlive the InputFile and what it opens.
  static InputFile OfMemory(std::string name, std::string_view bytes);

  // The bytes from `offset` on, decompressed if gzip().  REQUIRES: offset == 0 if gzip().
  StatusOr<std::unique_ptr<ByteSource>> Open(std::uint64_t offset) const;

  const std::string& name() const { return name_; }
  bool gzip() const { return gzip_; }
  // As stored, at the time of OfPath().
  std::uint64_t size_bytes() const { return size_bytes_; }

 private:
  InputFile() = default;

  StatusOr<std::unique_ptr<ByteSource>> OpenRaw(std::uint64_t offset) const;

  std::string name_;
  std::optional<std::string_view> memory_;
  bool gzip_ = false;
  std::uint64_t size_bytes_ = 0;
};

}  // namespace plexus
