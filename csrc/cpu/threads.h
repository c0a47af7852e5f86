// A parallel loop: OpenMP, std::thread (-DDMMD_THREADS=std, for ThreadSanitizer), or none.
#pragma once

#include <atomic>
#include <cstdint>
#include <exception>
#include <mutex>

#ifdef __SSE2__
#include <xmmintrin.h>
#endif

#ifdef DMMD_STD_THREADS
#include <thread>
#include <vector>
#elif defined(_OPENMP)
#include <pthread.h>
#endif

namespace dmmd::cpu {

/// While one lives, results of its thread that are below the smallest normal number are 0. Narrow
/// kernels have plenty of those, and each would take a processor ten times as long as any other.
class FlushToZero {
#ifdef __SSE2__
 public:
  FlushToZero() { _mm_setcsr(before_ | kFlush); }
  ~FlushToZero() { _mm_setcsr(before_); }
  FlushToZero(const FlushToZero&) = delete;

 private:
  static constexpr unsigned kFlush = 0x8000;
  const unsigned before_ = _mm_getcsr();
#else
 public:
  FlushToZero() {}
#endif
};

/// Keeps the first exception of the bodies of a loop, to be thrown again when its threads are done.
class FirstError {
 public:
  template <class Body>
  void guard(Body body) {
    try {
      body();
    } catch (...) {
      const std::lock_guard<std::mutex> lock(mutex_);
      if (!error_) error_ = std::current_exception();
    }
  }
  void rethrow() const {
    if (error_) std::rethrow_exception(error_);
  }

 private:
  std::mutex mutex_;
  std::exception_ptr error_;
};

#ifdef DMMD_STD_THREADS
constexpr const char* kThreadModel = "std::thread";

/// body(i, worker) for i = 0..count-1 in any order, worker = 0..threads-1.
template <class Body>
void parallel_for(int64_t count, int threads, Body body) {
  std::atomic<int64_t> next = 0;
  FirstError error;
  const auto work = [&](int worker) {
    const FlushToZero flush;
    for (int64_t i; (i = next.fetch_add(1)) < count;) error.guard([&] { body(i, worker); });
  };
  std::vector<std::thread> others;
  for (int worker = 1; worker < threads && worker < count; ++worker)
    others.emplace_back(work, worker);
  work(0);
  for (std::thread& other : others) other.join();
  error.rethrow();
}

#else
#ifdef _OPENMP
constexpr const char* kThreadModel = "OpenMP";

// After a fork the child has none of OpenMP's threads, and would wait for them for ever.
inline std::atomic<bool> forked = false;
inline const int watches_forks = pthread_atfork(nullptr, nullptr, [] { forked = true; });
#else
constexpr const char* kThreadModel = "none";
#endif

/// body(i, worker) for i = 0..count-1 in any order, worker = 0..threads-1.
template <class Body>
void parallel_for(int64_t count, int threads, Body body) {
#ifdef _OPENMP
  if (threads > 1 && count > 1 && !forked) {
    std::atomic<int> workers = 0;
    FirstError error;
#pragma omp parallel num_threads(threads)
    {
      const FlushToZero flush;
      const int worker = workers.fetch_add(1);
#pragma omp for schedule(dynamic, 1) nowait
      for (int64_t i = 0; i < count; ++i) error.guard([&] { body(i, worker); });
    }
    return error.rethrow();
  }
#endif
  (void)threads;
  const FlushToZero flush;
  for (int64_t i = 0; i < count; ++i) body(i, 0);
}
#endif

}  // namespace dmmd::cpu
