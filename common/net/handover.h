// HandOver, TakeOver: tell ThreadSanitizer that a frame's memory goes from one thread to another
// through ZeroMQ, whose own synchronisation it cannot see: the library was not built with it.
// Nothing in other builds.
//
// Thread safety: pure functions.
#pragma once

#if defined(__has_feature)
#if __has_feature(thread_sanitizer)
#define PLEXUS_THREAD_SANITIZER 1
#endif
#elif defined(__SANITIZE_THREAD__)
#define PLEXUS_THREAD_SANITIZER 1
#endif

#ifdef PLEXUS_THREAD_SANITIZER
extern "C" void __tsan_acquire(void* address);
extern "C" void __tsan_release(void* address);
#endif

namespace plexus {

// What this thread did to the memory at `data` is done; another thread may take it over.
inline void HandOver([[maybe_unused]] const void* data) {
#ifdef PLEXUS_THREAD_SANITIZER
  __tsan_release(const_cast<void*>(data));
#endif
}

// This thread goes on from where HandOver(data) was called.
inline void TakeOver([[maybe_unused]] const void* data) {
#ifdef PLEXUS_THREAD_SANITIZER
  __tsan_acquire(const_cast<void*>(data));
#endif
}

}  // namespace plexus
