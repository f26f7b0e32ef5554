#include "common/bounded_queue.h"

#include <atomic>
#include <memory>
#include <thread>
#include <vector>

#include <gtest/gtest.h>

namespace plexus {
namespace {

TEST(BoundedQueueTest, IsFirstInFirstOut) {
  BoundedQueue<std::unique_ptr<int>> queue(3);
  for (int i = 0; i < 3; ++i) {
    EXPECT_TRUE(queue.Push(std::make_unique<int>(i)));
  }
  for (int i = 0; i < 3; ++i) {
    EXPECT_EQ(**queue.Pop(), i);
  }
  EXPECT_EQ(queue.TryPop(), std::nullopt);
}

TEST(BoundedQueueTest, AClosedQueueGivesWhatItHasAndTakesNothing) {
  BoundedQueue<int> queue(3);
  EXPECT_TRUE(queue.Push(1));
  queue.Close();
  EXPECT_FALSE(queue.Push(2));
  EXPECT_EQ(queue.Pop(), 1);
  EXPECT_EQ(queue.Pop(), std::nullopt);
  EXPECT_EQ(queue.TryPop(), std::nullopt);
}

TEST(BoundedQueueTest, CloseWakesWhoWaits) {
  BoundedQueue<int> empty(1);
  BoundedQueue<int> full(1);
  ASSERT_TRUE(full.Push(1));
  {
    std::jthread popper([&empty] { EXPECT_EQ(empty.Pop(), std::nullopt); });
    std::jthread pusher([&full] { EXPECT_FALSE(full.Push(2)); });
    empty.Close();
    full.Close();
  }
  EXPECT_EQ(full.Pop(), 1);
}

TEST(BoundedQueueTest, NeverHoldsMoreThanItsLimit) {
  constexpr int kValues = 2000;
  BoundedQueue<int> queue(4);
  std::atomic<int> pushed{0};
  std::vector<int> got;
  {
    std::jthread pusher([&] {
      for (int i = 0; i < kValues; ++i) {
        ASSERT_TRUE(queue.Push(i));
        pushed.store(i + 1);
      }
      queue.Close();
    });
    while (const std::optional<int> value = queue.Pop()) {
      got.push_back(*value);
      // Taken, waiting in the queue, and one that may be just pushed.
      ASSERT_LE(pushed.load(), static_cast<int>(got.size()) + 4 + 1);
    }
  }
  ASSERT_EQ(got.size(), static_cast<std::size_t>(kValues));
  for (int i = 0; i < kValues; ++i) {
    ASSERT_EQ(got[i], i);
  }
}

}  // namespace
}  // namespace plexus
