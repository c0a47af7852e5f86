// Threads that work on one thing from beginning to end, and wait for one another in between.
#pragma once

#include "threads.h"

#ifdef DMMD_STD_THREADS
#include <thread>
#else
#include <sched.h>
#endif
#ifdef _OPENMP
#include <omp.h>
#endif

namespace dmmd::cpu {

/// All of `size` threads pass when the last has come. They spin, since a step of a flow takes
/// microseconds; after a while they let others run, who may be the ones awaited.
class Barrier {
 public:
  void wait(int size) {
    const unsigned round = round_.load(std::memory_order_relaxed);
    if (waiting_.fetch_add(1, std::memory_order_acq_rel) + 1 == size) {
      waiting_.store(0, std::memory_order_relaxed);
      round_.store(round + 1, std::memory_order_release);
      return;
    }
    for (int spins = 0; round_.load(std::memory_order_acquire) == round; ++spins) {
      if (spins < kSpins) {
        pause();
      } else {
        yield();
      }
    }
  }

 private:
  static constexpr int kSpins = 4000;

  static void pause() {
#if defined(__x86_64__) || defined(__i386__)
    __builtin_ia32_pause();
#endif
  }
  static void yield() {
#ifdef DMMD_STD_THREADS
    std::this_thread::yield();
#else
    sched_yield();
#endif
  }

  alignas(64) std::atomic<int> waiting_ = 0;
  alignas(64) std::atomic<unsigned> round_ = 0;
};

/// body(rank, size) on size threads at once, 1 <= size <= threads. body must not throw.
template <class Body>
void parallel_team(int threads, Body body) {
#ifdef DMMD_STD_THREADS
  std::vector<std::thread> others;
  for (int rank = 1; rank < threads; ++rank) others.emplace_back(body, rank, threads);
  body(0, threads);
  for (std::thread& other : others) other.join();
#else
#ifdef _OPENMP
  if (threads > 1 && !forked) {
#pragma omp parallel num_threads(threads)
    body(omp_get_thread_num(), omp_get_num_threads());
    return;
  }
#endif
  (void)threads;
  body(0, 1);
#endif
}

/// One of the threads of a flow: see ../flow.h.
struct Team {
  Barrier& barrier;
  std::atomic<int64_t>& failed;
  int rank, size;

  void sync() {
    if (size > 1) barrier.wait(size);
  }
  // Steps go up and all stop at the first one raised, so a later one never hides it.
  void raise(int64_t step) { failed.store(step, std::memory_order_relaxed); }
  bool raised(int64_t step) const { return failed.load(std::memory_order_relaxed) == step; }
};

struct End {
  int64_t step;  // as advance() returns it
  int now;       // which of the two buffers the particles are in
};

/// body(team, now) on a team of up to `threads`, all of which come to the same end.
template <class Body>
End run_team(int threads, Body body) {
  Barrier barrier;
  std::atomic<int64_t> failed = 0;
  End end = {};
  parallel_team(threads, [&](int rank, int size) {
    const FlushToZero flush;
    Team team{barrier, failed, rank, size};
    int now = 0;
    const int64_t step = body(team, now);
    if (rank == 0) end = {step, now};
  });
  return end;
}

}  // namespace dmmd::cpu
