// Sums over the rows of one cloud, and their gradient: no pairs, so memory binds. Rows of few
// coordinates are taken several at a time, as one line whose length is a multiple of every vector.
#pragma once

#include <cstdint>

namespace dmmd::cpu {

constexpr int64_t kLine = 64;     // numbers that a line has at least
constexpr int64_t kWidest = 16;   // numbers of the widest vector
constexpr int64_t kTogether = 4;  // lines that are read side by side

/// Rows that make a line.
constexpr int64_t rows_per_line(int64_t d) {
  if (d >= kLine) return 1;
  const int64_t least = (kLine + d - 1) / d;
  return (least + kWidest - 1) / kWidest * kWidest;
}

/// Some rows of a cloud, and what is laid out for a line of them.
template <class T>
struct RowSpan {
  const T* x = nullptr;        // (rows, d)
  const T* weights = nullptr;  // (rows), or null for ones
  int64_t rows = 0, d = 0;
  const T* origin = nullptr;                   // a line, d numbers again and again
  T* line = nullptr;                           // kTogether + 1 lines to work in
  double *sums = nullptr, *squares = nullptr;  // (d) and 1, which are added to
};

/// g = w (pull + slope (x - o)) of these rows.
template <class T>
struct RowPull {
  RowSpan<T> span;
  const T* pull = nullptr;  // a line
  T slope = 0;
  T* g = nullptr;
  bool streams = false;  // g lies on whole vectors, and is too large for a cache
};

}  // namespace dmmd::cpu
