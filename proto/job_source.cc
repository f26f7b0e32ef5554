#include "proto/job_source.h"

#include <cstdlib>
#include <string_view>

#include <glog/logging.h>

#include "proto/job.pb.h"

namespace plexus {
namespace {

using google::protobuf::FieldDescriptor;
using google::protobuf::TextFormat;

// One step of a path: "fields[3]" is {"fields", 3}, "train" is {"train", -1}.
struct PathStep {
  std::string name;
  int index = -1;
};

std::vector<PathStep> SplitPath(std::string_view path) {
  std::vector<PathStep> steps;
  while (!path.empty()) {
    const std::size_t dot = path.find('.');
    const std::string part(path.substr(0, dot));
    PathStep step;
    const std::size_t bracket = part.find('[');
    step.name = part.substr(0, bracket);
    if (bracket != std::string::npos) {
      step.index = std::atoi(part.c_str() + bracket + 1);
    }
    steps.push_back(std::move(step));
    path = dot == std::string_view::npos ? std::string_view() : path.substr(dot + 1);
  }
  return steps;
}

// The place of a field's value.  A list written as [a, b] has one place for all its values.
TextFormat::ParseLocation PlaceOf(const TextFormat::ParseInfoTree& tree,
                                  const FieldDescriptor* field, int index) {
  if (!field->is_repeated()) {
    return tree.GetLocation(field, -1);
  }
  for (int i = index < 0 ? 0 : index; i >= 0; --i) {
    const TextFormat::ParseLocation place = tree.GetLocation(field, i);
    if (place.line >= 0) {
      return place;
    }
  }
  return {};
}

}  // namespace

void JobSource::AddOverride(std::string path, std::string text) {
  overrides_.push_back({std::move(path), std::move(text)});
}

const JobSource::Override* JobSource::OverrideOf(const std::string& path) const {
  for (auto it = overrides_.rbegin(); it != overrides_.rend(); ++it) {
    if (path.compare(0, it->path.size(), it->path) == 0) {
      const char next = path.size() == it->path.size() ? '.' : path[it->path.size()];
      if (next == '.' || next == '[') {
        return &*it;
      }
    }
  }
  return nullptr;
}

JobSource::Found JobSource::Find(const std::string& path) const {
  const google::protobuf::Descriptor* type = proto::Job::descriptor();
  const TextFormat::ParseInfoTree* tree = &tree_;
  Found found;
  const std::vector<PathStep> steps = SplitPath(path);
  for (std::size_t i = 0; i < steps.size(); ++i) {
    const FieldDescriptor* field = type->FindFieldByName(steps[i].name);
    CHECK(field != nullptr) << "no such path in the schema: " << path;
    const TextFormat::ParseLocation place = PlaceOf(*tree, field, steps[i].index);
    if (place.line < 0) {
      return found;
    }
    found.place = place;
    if (i + 1 == steps.size()) {
      found.exact = true;
      return found;
    }
    type = field->message_type();
    CHECK(type != nullptr) << "not a message on the way of the path " << path;
    const int index = field->is_repeated() ? (steps[i].index < 0 ? 0 : steps[i].index) : -1;
    tree = tree->GetTreeForNested(field, index);
    if (tree == nullptr) {
      return found;
    }
  }
  return found;
}

std::string JobSource::Locate(std::initializer_list<std::string> paths) const {
  for (const std::string& path : paths) {
    if (const Override* override = OverrideOf(path)) {
      return "--set " + override->text;
    }
  }
  Found best;
  for (const std::string& path : paths) {
    const Found found = Find(path);
    if (found.exact) {
      return Place(found.place.line, found.place.column);
    }
    if (best.place.line < 0) {
      best = found;
    }
  }
  return Place(best.place.line < 0 ? 0 : best.place.line,
               best.place.line < 0 ? 0 : best.place.column);
}

std::string JobSource::Place(int line, int column) const {
  return file_ + ":" + std::to_string(line + 1) + ":" + std::to_string(column + 1);
}

}  // namespace plexus
