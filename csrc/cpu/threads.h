// A parallel loop: OpenMP, std::thread (-DDMMD_THREADS=std, for ThreadSanitizer), or none.
#pragma once

#include <atomic>
#include <cstdint>

#ifdef DMMD_STD_THREADS
#include <thread>
#include <vector>
#elif defined(_OPENMP)
#include <pthread.h>
#endif

namespace dmmd::cpu {

#ifdef DMMD_STD_THREADS
constexpr const char* kThreadModel = "std::thread";

/// body(i, worker) for i = 0..count-1 in any order, worker = 0..threads-1. body must not throw.
template <class Body>
void parallel_for(int64_t count, int threads, Body body) {
  std::atomic<int64_t> next = 0;
  const auto work = [&](int worker) {
    for (int64_t i; (i = next.fetch_add(1)) < count;) body(i, worker);
  };
  std::vector<std::thread> others;
  for (int worker = 1; worker < threads && worker < count; ++worker)
    others.emplace_back(work, worker);
  work(0);
  for (std::thread& other : others) other.join();
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

/// body(i, worker) for i = 0..count-1 in any order, worker = 0..threads-1. body must not throw.
template <class Body>
void parallel_for(int64_t count, int threads, Body body) {
#ifdef _OPENMP
  if (threads > 1 && count > 1 && !forked) {
    std::atomic<int> workers = 0;
#pragma omp parallel num_threads(threads)
    {
      const int worker = workers.fetch_add(1);
#pragma omp for schedule(dynamic, 1) nowait
      for (int64_t i = 0; i < count; ++i) body(i, worker);
    }
    return;
  }
#endif
  (void)threads;
  for (int64_t i = 0; i < count; ++i) body(i, 0);
}
#endif

}  // namespace dmmd::cpu
