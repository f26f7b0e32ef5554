// TextWriter: writes a text file that is there whole or not at all: PATH.tmp first, PATH when it is
// finished.
//
// Thread safety: one owner at a time.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <string_view>

#include "common/status.h"

namespace plexus {

class TextWriter {
 public:
  // Makes the folder of `path` too.
  static StatusOr<std::unique_ptr<TextWriter>> Create(const std::string& path);
  // Removes PATH.tmp unless Finish() was called.
  ~TextWriter();
  TextWriter(const TextWriter&) = delete;
  TextWriter& operator=(const TextWriter&) = delete;

  Status Append(std::string_view text);
  // Appends one line, with its LF.
  Status AppendLine(std::string_view text);
  // Writes what is left and gives the file its name; an older file of that name is replaced.  Call
  // once, last.
  Status Finish();

  std::uint64_t bytes() const { return bytes_; }

 private:
  TextWriter(std::string path, int fd);

  Status Flush();

  std::string path_;
  int fd_;
  std::string buffer_;
  std::uint64_t bytes_ = 0;
  bool finished_ = false;
};

}  // namespace plexus
