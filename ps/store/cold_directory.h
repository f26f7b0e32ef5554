// ColdDirectory: the directory of one life of one server's cold store: claimed, emptied, and
// removed at the end.
//
//   DIR/plexus-cold   empty; locked while someone uses DIR, and the sign that DIR may be emptied
//   DIR/rows          RocksDB's files
//   DIR/new           files that are being built
//
// Thread safety: none.
#pragma once

#include <memory>
#include <string>

#include "common/status.h"

namespace plexus {

class ColdDirectory {
 public:
  // kFailedPrecondition: another process uses it, or it holds what no cold store wrote.
  static StatusOr<std::unique_ptr<ColdDirectory>> Claim(const std::string& path);
  // Removes all of it.
  ~ColdDirectory();
  ColdDirectory(const ColdDirectory&) = delete;
  ColdDirectory& operator=(const ColdDirectory&) = delete;

  std::string rows() const { return path_ + "/rows"; }
  std::string fresh() const { return path_ + "/new"; }

 private:
  ColdDirectory(std::string path, int lock) : path_(std::move(path)), lock_(lock) {}

  const std::string path_;
  const int lock_;  // File descriptor.
};

}  // namespace plexus
