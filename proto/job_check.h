// The checks of a job that need nothing but the job: ranges, names and contradictions.
//
// Thread safety: free functions without state; Mistakes has one owner.
#pragma once

#include <initializer_list>
#include <string>
#include <string_view>
#include <vector>

#include "common/status.h"
#include "proto/job.pb.h"
#include "proto/job_source.h"

namespace plexus {

// `text` between double quotes.
std::string Quoted(std::string_view text);

// Collects what is wrong, one line a mistake, each with its place.
class Mistakes {
 public:
  explicit Mistakes(const JobSource& source) : source_(source) {}

  // `paths`: the values that the mistake involves, see JobSource::Locate.
  void Add(std::initializer_list<std::string> paths, const std::string& message) {
    if (lines_.size() < kMistakesMax) {
      lines_.push_back(source_.Locate(paths) + ": " + message);
    }
  }
  // Adds `message` unless `holds`.
  void Require(bool holds, std::initializer_list<std::string> paths, const std::string& message) {
    if (!holds) {
      Add(paths, message);
    }
  }

  // kInvalidArgument with all lines, or ok.
  Status ToStatus() const;

 private:
  static constexpr std::size_t kMistakesMax = 20;  // A screen.

  const JobSource& source_;
  std::vector<std::string> lines_;
};

// Checks the job as written (defaults not yet resolved).
Status CheckJob(const proto::Job& job, const JobSource& source);

// Its parts: one list of samples and columns; tables; what fields and tables say of each other.
void CheckData(const proto::Data& data, Mistakes* mistakes);
void CheckTables(const proto::Job& job, Mistakes* mistakes);

void CheckOptimizer(const proto::Optimizer& optimizer, const std::string& path, Mistakes* mistakes);

}  // namespace plexus
