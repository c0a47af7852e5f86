// Sums over rows and their gradient, compiled once per instruction set.
#include "rows.h"
#include "vector.h"

namespace dmmd::cpu::DMMD_ISA {
namespace {

/// The weights of the lines at hand: none, one for each, or one for each number.
template <class T>
struct NoWeights {
  void set(const RowSpan<T>&, int64_t, int64_t, int64_t) {}
  template <class V>
  DMMD_INLINE V times(V value, int64_t, int64_t) const {
    return value;
  }
};

template <class T>
struct LineWeights {
  const T* at = nullptr;

  void set(const RowSpan<T>& a, int64_t row, int64_t, int64_t) { at = a.weights + row; }
  template <class V>
  DMMD_INLINE V times(V value, int64_t line, int64_t) const {
    return V(at[line]) * value;
  }
};

template <class T>
struct NumberWeights {
  T* at = nullptr;
  int64_t length = 0;

  void set(const RowSpan<T>& a, int64_t row, int64_t rows, int64_t line_length) {
    at = a.line + line_length;
    length = line_length;
    for (int64_t r = 0; r < rows; ++r)
      for (int64_t k = 0; k < a.d; ++k) at[r * a.d + k] = a.weights[row + r];
  }
  DMMD_INLINE Vec<T> times(Vec<T> value, int64_t line, int64_t j) const {
    return Vec<T>::load(at + line * length + j) * value;
  }
  DMMD_INLINE T times(T value, int64_t line, int64_t j) const {
    return at[line * length + j] * value;
  }
};

/// sums[j] += sum of w (x - o) over L lines; returns the sum of w (x - o)^2.
template <int64_t L, class T, class Weights>
double add_lines(const T* x, const T* origin, int64_t length, const Weights& w, T* sums) {
  using V = Vec<T>;
  V squares[L];
  for (V& one : squares) one = V(0);
  int64_t j = 0;
  for (; j + V::size <= length; j += V::size) {
    const V o = V::load(origin + j);
    V total(0);
    for (int64_t l = 0; l < L; ++l) {
      const V difference = V::load(x + l * length + j) - o, weighted = w.times(difference, l, j);
      total = l == 0 ? weighted : total + weighted;
      squares[l] = squares[l] + weighted * difference;
    }
    (V::load(sums + j) + total).store(sums + j);
  }
  double square = 0;
  for (const V& one : squares) square += sum(one);
  for (; j < length; ++j) {
    for (int64_t l = 0; l < L; ++l) {
      const T difference = x[l * length + j] - origin[j], weighted = w.times(difference, l, j);
      sums[j] += weighted;
      square += double(weighted) * double(difference);
    }
  }
  return square;
}

// Lines whose sums are kept in T.
constexpr int64_t kLinesPerFlush = 16;

/// Moves the sums of a line into those of a row.
template <class T>
void flush_line(T* line, int64_t length, int64_t d, double* sums) {
  for (int64_t j = 0; j < length; j += d)
    for (int64_t k = 0; k < d; ++k) sums[k] += double(line[j + k]);
  for (int64_t j = 0; j < length; ++j) line[j] = T(0);
}

template <class T, class Weights>
void sum_rows(const RowSpan<T>& a, Weights w) {
  const int64_t together = rows_per_line(a.d), length = together * a.d, lines = a.rows / together;
  T* sums = a.line;
  for (int64_t j = 0; j < length; ++j) sums[j] = T(0);
  int64_t line = 0;
  while (line < lines) {
    const int64_t count = lines - line < kTogether ? 1 : kTogether;
    w.set(a, line * together, count * together, length);
    const T* x = a.x + line * length;
    *a.squares += count == 1 ? add_lines<1>(x, a.origin, length, w, sums)
                             : add_lines<kTogether>(x, a.origin, length, w, sums);
    line += count;
    if (line % kLinesPerFlush == 0 || line == lines) flush_line(sums, length, a.d, a.sums);
  }
  for (int64_t row = lines * together; row < a.rows; ++row) {
    const double weight = a.weights ? double(a.weights[row]) : 1.0;
    for (int64_t k = 0; k < a.d; ++k) {
      const double difference = double(a.x[row * a.d + k] - a.origin[k]);
      a.sums[k] += weight * difference;
      *a.squares += weight * difference * difference;
    }
  }
}

template <bool Streams, class T, class Weights>
void pull_line(const RowPull<T>& a, const T* x, int64_t length, const Weights& w, T* g) {
  using V = Vec<T>;
  const V slope(a.slope);
  int64_t j = 0;
  for (; j + V::size <= length; j += V::size) {
    const V difference = V::load(x + j) - V::load(a.span.origin + j);
    const V pull = w.times(V::load(a.pull + j) + slope * difference, 0, j);
    if constexpr (Streams) {
      pull.stream(g + j);
    } else {
      pull.store(g + j);
    }
  }
  for (; j < length; ++j) g[j] = w.times(a.pull[j] + a.slope * (x[j] - a.span.origin[j]), 0, j);
}

template <class T, class Weights>
void pull_rows(const RowPull<T>& a, Weights w) {
  const RowSpan<T>& span = a.span;
  const int64_t d = span.d, together = rows_per_line(d), length = together * d;
  int64_t row = 0;
  for (; row + together <= span.rows; row += together) {
    w.set(span, row, together, length);
    const T* x = span.x + row * d;
    if (a.streams) {
      pull_line<true>(a, x, length, w, a.g + row * d);
    } else {
      pull_line<false>(a, x, length, w, a.g + row * d);
    }
  }
  if (row < span.rows) {
    w.set(span, row, span.rows - row, length);
    pull_line<false>(a, span.x + row * d, (span.rows - row) * d, w, a.g + row * d);
  }
  if (a.streams) finish_streams();
}

/// body(weights) with the cheapest form of the weights.
template <class T, class Body>
void with_weights(const RowSpan<T>& a, Body body) {
  if (!a.weights) return body(NoWeights<T>());
  if (rows_per_line(a.d) == 1) return body(LineWeights<T>());
  body(NumberWeights<T>());
}

}  // namespace

template <class T>
void sum_rows(const RowSpan<T>& a) {
  if (a.d == 0) return;
  with_weights(a, [&](auto weights) { sum_rows(a, weights); });
}

template <class T>
void pull_rows(const RowPull<T>& a) {
  if (a.span.d == 0) return;
  with_weights(a.span, [&](auto weights) { pull_rows(a, weights); });
}

template void sum_rows(const RowSpan<float>&);
template void sum_rows(const RowSpan<double>&);
template void pull_rows(const RowPull<float>&);
template void pull_rows(const RowPull<double>&);

}  // namespace dmmd::cpu::DMMD_ISA
