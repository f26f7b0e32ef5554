#include "launch/progress_bar.h"

#include <gtest/gtest.h>

namespace plexus {
namespace {

TEST(ProgressBarTest, DurationsAreForPeople) {
  EXPECT_EQ(DurationText(0), "0 s");
  EXPECT_EQ(DurationText(-3), "0 s");
  EXPECT_EQ(DurationText(59.4), "59 s");
  EXPECT_EQ(DurationText(59.6), "1 m 00 s");
  EXPECT_EQ(DurationText(200), "3 m 20 s");
  EXPECT_EQ(DurationText(7500), "2 h 05 m");
}

TEST(ProgressBarTest, SaysOnlyWhatIsKnown) {
  ProgressFigures figures;
  EXPECT_EQ(ProgressText(figures, 0), "  0%");
  EXPECT_EQ(ProgressText(figures, 4), "[....]   0%");
  figures = {.share = 0.5,
             .samples_per_second = 20000,
             .samples = 7,
             .loss = 0.45119,
             .auc = 0.78123,
             .eta_seconds = 53,
             .note = ""};
  EXPECT_EQ(ProgressText(figures, 4),
            "[##..]  50%  20000 samples/s  loss 0.4512  auc 0.7812  eta 53 s");
  figures.note = "evaluating valid";
  EXPECT_EQ(ProgressText(figures, 0),
            " 50%  20000 samples/s  loss 0.4512  auc 0.7812  evaluating valid");
}

TEST(ProgressBarTest, SharesBeyondTheEndsAreTheEnds) {
  EXPECT_EQ(ProgressText({.share = 1.5, .note = ""}, 4), "[####] 100%");
  EXPECT_EQ(ProgressText({.share = -1, .note = ""}, 4), "[....]   0%");
}

TEST(ProgressBarTest, LinesComeEveryTenSecondsButNotAtTheStart) {
  ProgressBar bar(ProgressBar::Style::kLines);
  EXPECT_FALSE(bar.IsDue(100));
  EXPECT_FALSE(bar.IsDue(109.9));
  EXPECT_TRUE(bar.IsDue(110));
  EXPECT_FALSE(bar.IsDue(111));
  ProgressBar none(ProgressBar::Style::kNone);
  EXPECT_FALSE(none.IsDue(100));
}

}  // namespace
}  // namespace plexus
