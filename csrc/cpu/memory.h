// Uninitialised working memory, aligned to cache lines, with sizes that cannot overflow.
#pragma once

#include <cstdint>
#include <memory>
#include <new>

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

struct Free {
  void operator()(void* p) const { ::operator delete(p, std::align_val_t(64)); }
};

template <class T>
using Memory = std::unique_ptr<T[], Free>;

template <class T>
Memory<T> allocate(int64_t count) {
  const int64_t bytes = product(count, sizeof(T));
  return Memory<T>(static_cast<T*>(::operator new(size_t(bytes), std::align_val_t(64))));
}

}  // namespace dmmd::cpu
