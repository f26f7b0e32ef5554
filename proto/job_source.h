// JobSource: where each value of a job came from, for messages: a place in the file, or an
// override.
//
// A value is named by its path, "data.fields[3].tables[0]".
//
// Thread safety: none; one object per load.
#pragma once

#include <initializer_list>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include <google/protobuf/text_format.h>

namespace plexus {

class JobSource {
 public:
  explicit JobSource(std::string file) : file_(std::move(file)) {}

  // The parser records places here.
  google::protobuf::TextFormat::ParseInfoTree* tree() { return &tree_; }

  // `text`, as in "--set TEXT", has set the value at `path`, and all values below.
  void AddOverride(std::string path, std::string text);

  // Where to look for a mistake that involves the values at `paths`: the first of them that was
  // overridden, else the first that stands in the file, else the innermost message of the file
  // around the first.
  std::string Locate(std::initializer_list<std::string> paths) const;

  std::string Place(int line, int column) const;

 private:
  struct Override {
    std::string path;
    std::string text;
  };
  struct Found {
    google::protobuf::TextFormat::ParseLocation
        place;  // Line -1: nothing on the way stands in the file.
    bool exact = false;
  };
  const Override* OverrideOf(const std::string& path) const;
  Found Find(const std::string& path) const;

  std::string file_;
  google::protobuf::TextFormat::ParseInfoTree tree_;
  std::vector<Override> overrides_;
};

}  // namespace plexus
