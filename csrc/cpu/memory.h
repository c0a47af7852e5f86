// Uninitialised working memory, aligned to cache lines, with sizes that cannot overflow.
#pragma once

#include <cstdint>
#include <initializer_list>
#include <memory>
#include <new>

#ifdef __linux__
#include <sys/mman.h>
#endif
#ifdef __SANITIZE_ADDRESS__
extern "C" void __asan_poison_memory_region(const volatile void* from, size_t bytes);
#endif

namespace dmmd::cpu {

/// The product of sizes. Throws std::bad_array_new_length where it does not fit.
template <class... Sizes>
int64_t product(Sizes... sizes) {
  int64_t total = 1;
  for (int64_t size : {int64_t(sizes)...})
    if (__builtin_mul_overflow(total, size, &total)) throw std::bad_array_new_length();
  return total;
}

constexpr int64_t round_up(int64_t size, int64_t to) { return (size + to - 1) / to * to; }

// Bytes from which on memory is asked for in huge pages.
constexpr int64_t kHuge = 4 << 20;
constexpr int64_t kHugePage = 2 << 20;

/// Asks that new memory come in huge pages, where the system leaves that to programs: the first
/// touch of a small page costs more than filling it.
inline void use_huge_pages(void* data, int64_t bytes) {
#ifdef __linux__
  if (bytes < kHuge) return;
  constexpr uintptr_t page = 4096;
  const uintptr_t begin = (reinterpret_cast<uintptr_t>(data) + page - 1) / page * page;
  const uintptr_t end = (reinterpret_cast<uintptr_t>(data) + uintptr_t(bytes)) / page * page;
  madvise(reinterpret_cast<void*>(begin), end - begin, MADV_HUGEPAGE);  // a wish, never an error
#else
  (void)data, (void)bytes;
#endif
}

struct Free {
  void operator()(void* p) const { ::operator delete(static_cast<void**>(p)[-1]); }
};

template <class T>
using Memory = std::unique_ptr<T[], Free>;

/// Aligned here, with the allocation's own address in front: allocators keep small blocks at hand,
/// but not aligned ones.
template <class T>
Memory<T> allocate(int64_t count) {
  const int64_t bytes = product(count, sizeof(T));
  const uintptr_t alignment = bytes < kHuge ? 64 : kHugePage, extra = alignment + sizeof(void*);
  const uintptr_t start = reinterpret_cast<uintptr_t>(::operator new(size_t(bytes) + extra));
  const uintptr_t aligned = (start + extra - 1) / alignment * alignment;
  void** data = reinterpret_cast<void**>(aligned);
  data[-1] = reinterpret_cast<void*>(start);
#ifdef __SANITIZE_ADDRESS__
  const auto forbid = [](uintptr_t from, uintptr_t to) {
    __asan_poison_memory_region(reinterpret_cast<void*>(from), to - from);
  };
  forbid(start, aligned - sizeof(void*));
  forbid(aligned + uintptr_t(bytes), start + uintptr_t(bytes) + extra);
#endif
  use_huge_pages(data, bytes);
  return Memory<T>(reinterpret_cast<T*>(data));
}

}  // namespace dmmd::cpu
