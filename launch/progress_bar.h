// ProgressBar: how far the training is, on stderr: a bar that is drawn again and again on a
// terminal, a plain line every ten seconds elsewhere.
//
// While a bar is drawn, log lines that would go to stderr go through it, so that neither destroys
// the other.
//
// Thread safety: one thread, beside the log lines, which may come from any.
#pragma once

#include <cstdint>
#include <memory>
#include <string>

namespace plexus {

struct ProgressFigures {
  double share = 0;               // Of the training, in [0, 1].
  double samples_per_second = 0;  // 0: not known yet.
  std::uint64_t samples = 0;
  double loss = -1;         // Negative: not known yet.
  double auc = -1;          // Likewise.
  double eta_seconds = -1;  // Likewise.
  std::string note;         // Instead of the ETA: what else goes on.
};

class ProgressBar {
 public:
  enum class Style { kNone, kLines, kBar };
  // What fits stderr; kNone if nothing is wanted.
  static Style StyleOfStderr(bool wanted);

  explicit ProgressBar(Style style);
  ~ProgressBar();
  ProgressBar(const ProgressBar&) = delete;
  ProgressBar& operator=(const ProgressBar&) = delete;

  // Whether Show() is due at `now`, a steady clock's seconds; true starts the next interval.
  bool IsDue(double now);
  void Show(const ProgressFigures& figures);
  // The last word.
  void Finish(const ProgressFigures& figures);

 private:
  class Sink;

  const Style style_;
  double next_ = 0;
  std::unique_ptr<Sink> sink_;  // kBar only.
};

// "12 s", "3 m 20 s", "2 h 05 m".
std::string DurationText(double seconds);

// "[###...]  42%  20000 samples/s  loss 0.4512  auc 0.7812  eta 53 s"; the bar if `width` > 0.
std::string ProgressText(const ProgressFigures& figures, int width);

}  // namespace plexus
