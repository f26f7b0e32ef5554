#include "launch/progress_bar.h"

#include <algorithm>
#include <cstdio>
#include <mutex>

#include <glog/logging.h>
#include <sys/ioctl.h>
#include <unistd.h>

namespace plexus {
namespace {

constexpr double kDrawSeconds = 0.25;
constexpr double kLineSeconds = 10;
constexpr int kBarWidthMax = 24;
constexpr int kBarWidthMin = 6;
constexpr const char* kClearLine = "\r\033[K";

int TerminalColumns() {
  winsize size{};
  const bool known = ::ioctl(STDERR_FILENO, TIOCGWINSZ, &size) == 0 && size.ws_col > 0;
  return known ? size.ws_col : 80;
}

// As much of a bar as the line has room for; a longer line would wrap, and could not be taken back.
std::string FittingText(const ProgressFigures& figures, int columns) {
  const std::string plain = ProgressText(figures, 0);
  const int room = columns - 1 - static_cast<int>(plain.size()) - 3;  // Brackets, a space.
  const std::string text =
      room < kBarWidthMin ? plain : ProgressText(figures, std::min(room, kBarWidthMax));
  return text.substr(0, static_cast<std::size_t>(columns - 1));
}

std::string Formatted(const char* format, double value) {
  char text[64];
  std::snprintf(text, sizeof(text), format, value);
  return text;
}

}  // namespace

// Takes what glog would write to stderr, while it lives.
class ProgressBar::Sink final : public google::LogSink {
 public:
  using google::LogSink::send;

  Sink()
      : to_stderr_(FLAGS_logtostderr),
        stderr_threshold_(FLAGS_stderrthreshold),
        least_(to_stderr_ ? google::GLOG_INFO : stderr_threshold_) {
    if (to_stderr_) {
      for (int severity = google::GLOG_INFO; severity <= google::GLOG_FATAL; ++severity) {
        google::SetLogDestination(severity, "");  // Nor to files.
      }
    }
    google::AddLogSink(this);
    FLAGS_logtostderr = false;
    FLAGS_stderrthreshold = google::GLOG_FATAL;
  }
  ~Sink() override {
    FLAGS_logtostderr = to_stderr_;
    FLAGS_stderrthreshold = stderr_threshold_;
    google::RemoveLogSink(this);
  }
  Sink(const Sink&) = delete;
  Sink& operator=(const Sink&) = delete;

  void send(google::LogSeverity severity, const char*, const char* base_filename, int line,
            const google::LogMessageTime& time, const char* message, std::size_t size) override {
    if (severity >= least_ && severity < google::GLOG_FATAL) {
      const std::lock_guard lock(mutex_);
      // The next drawing brings the bar back.
      Write(kClearLine + ToString(severity, base_filename, line, time, message, size) + "\n");
    }
  }

  void Draw(const ProgressFigures& figures, const char* end) {
    const std::lock_guard lock(mutex_);
    Write(kClearLine + FittingText(figures, TerminalColumns()) + end);
  }

 private:
  static void Write(const std::string& text) {
    std::fwrite(text.data(), 1, text.size(), stderr);
    std::fflush(stderr);
  }

  const bool to_stderr_;
  const int stderr_threshold_;
  const int least_;
  std::mutex mutex_;  // Of what is written.
};

std::string DurationText(double seconds) {
  const auto whole = static_cast<long long>(std::max(0.0, seconds) + 0.5);
  char text[64];
  if (whole < 60) {
    std::snprintf(text, sizeof(text), "%lld s", whole);
  } else if (whole < 3600) {
    std::snprintf(text, sizeof(text), "%lld m %02lld s", whole / 60, whole % 60);
  } else {
    std::snprintf(text, sizeof(text), "%lld h %02lld m", whole / 3600, whole / 60 % 60);
  }
  return text;
}

std::string ProgressText(const ProgressFigures& figures, int width) {
  const double share = std::clamp(figures.share, 0.0, 1.0);
  std::string text;
  if (width > 0) {
    std::string bar(static_cast<std::size_t>(share * width), '#');
    bar.resize(static_cast<std::size_t>(width), '.');
    text = "[" + bar + "] ";
  }
  text += Formatted("%3.0f%%", share * 100);
  if (figures.samples_per_second > 0) {
    text += Formatted("  %.0f samples/s", figures.samples_per_second);
  }
  if (figures.loss >= 0) {
    text += Formatted("  loss %.4f", figures.loss);
  }
  if (figures.auc >= 0) {
    text += Formatted("  auc %.4f", figures.auc);
  }
  if (!figures.note.empty()) {
    text += "  " + figures.note;
  } else if (figures.eta_seconds >= 0) {
    text += "  eta " + DurationText(figures.eta_seconds);
  }
  return text;
}

ProgressBar::Style ProgressBar::StyleOfStderr(bool wanted) {
  if (!wanted) {
    return Style::kNone;
  }
  return ::isatty(STDERR_FILENO) != 0 ? Style::kBar : Style::kLines;
}

ProgressBar::ProgressBar(Style style) : style_(style) {
  if (style == Style::kBar) {
    sink_ = std::make_unique<Sink>();
  }
}

ProgressBar::~ProgressBar() = default;

bool ProgressBar::IsDue(double now) {
  if (style_ == Style::kNone) {
    return false;
  }
  if (next_ == 0 && style_ == Style::kLines) {
    next_ = now + kLineSeconds;  // Nothing to say at the start.
  }
  if (now < next_) {
    return false;
  }
  next_ = now + (style_ == Style::kBar ? kDrawSeconds : kLineSeconds);
  return true;
}

void ProgressBar::Show(const ProgressFigures& figures) {
  if (style_ == Style::kBar) {
    sink_->Draw(figures, "");
  } else if (style_ == Style::kLines) {
    std::fprintf(stderr, "training %s  samples %llu\n", ProgressText(figures, 0).c_str(),
                 static_cast<unsigned long long>(figures.samples));
  }
}

void ProgressBar::Finish(const ProgressFigures& figures) {
  if (style_ == Style::kBar) {
    sink_->Draw(figures, "\n");
  } else if (style_ == Style::kLines) {
    Show(figures);
  }
}

}  // namespace plexus
