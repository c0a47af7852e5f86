// Matrix products of small packed blocks, the inner loops of every sweep in many dimensions.
#pragma once

#include "sweep.h"
#include "vector.h"

namespace dmmd::cpu::DMMD_ISA {

// Products summed in registers before they join the total, which bounds the error of long sums.
constexpr int64_t kInner = 128;
// Rows swept together: with two registers of lanes each, as many sums as registers can hold.
constexpr int kRows = DMMD_VECTOR_BYTES == 64 ? 12 : 6;

constexpr int64_t round_to(int64_t count, int64_t multiple) {
  return (count + multiple - 1) / multiple * multiple;
}

template <class T>
constexpr int64_t round_to_vector(int64_t count) {
  return round_to(count, Vec<T>::size);
}

/// a(r, k) = data[r * row + k * inner]
template <class T>
struct Left {
  const T* data;
  int64_t row, inner;
};

/// b(k, l) = data[l / kLanes * panel + k * pitch + l % kLanes]
template <class T>
struct Right {
  const T* data;
  int64_t panel, pitch;

  DMMD_INLINE const T* lane(int64_t l) const {
    return data + l / kLanes<T> * panel + l % kLanes<T>;
  }
};

template <int R, int N, class T>
DMMD_INLINE void multiply_block(Left<T> a, const T* b, int64_t pitch, int64_t count, T* c,
                                int64_t c_pitch, bool add) {
  using V = Vec<T>;
  V sum[R][N];
  for (int r = 0; r < R; ++r)
    for (int i = 0; i < N; ++i) sum[r][i] = V(0);
  for (int64_t k = 0; k < count; ++k, b += pitch) {
    V right[N];
    for (int i = 0; i < N; ++i) right[i] = V::load(b + i * V::size);
    for (int r = 0; r < R; ++r) {
      const V left(a.data[r * a.row + k * a.inner]);
      for (int i = 0; i < N; ++i) sum[r][i] = sum[r][i] + left * right[i];
    }
  }
  for (int r = 0; r < R; ++r) {
    for (int i = 0; i < N; ++i) {
      T* at = c + r * c_pitch + i * V::size;
      (add ? V::load(at) + sum[r][i] : sum[r][i]).store(at);
    }
  }
}

template <int N, class T>
DMMD_INLINE void multiply_lanes(Left<T> a, const T* b, int64_t pitch, int64_t rows, int64_t count,
                                T* c, int64_t c_pitch, bool add) {
  int64_t row = 0;
  const auto from = [&] { return Left<T>{a.data + row * a.row, a.row, a.inner}; };
  for (; row + kRows <= rows; row += kRows)
    multiply_block<kRows, N>(from(), b, pitch, count, c + row * c_pitch, c_pitch, add);
  for (; row + 4 <= rows; row += 4)
    multiply_block<4, N>(from(), b, pitch, count, c + row * c_pitch, c_pitch, add);
  for (; row + 2 <= rows; row += 2)
    multiply_block<2, N>(from(), b, pitch, count, c + row * c_pitch, c_pitch, add);
  if (row < rows) multiply_block<1, N>(from(), b, pitch, count, c + row * c_pitch, c_pitch, add);
}

/// c = a b, or c += a b: rows by `inner` times `inner` by lanes, a multiple of the vector size.
template <class T>
void multiply(Left<T> a, Right<T> b, int64_t rows, int64_t inner, int64_t lanes, T* c,
              int64_t c_pitch, bool add) {
  constexpr int64_t size = Vec<T>::size;
  int64_t k = 0;
  do {
    const int64_t count = inner - k < kInner ? inner - k : kInner;
    const Left<T> slice{a.data + k * a.inner, a.row, a.inner};
    int64_t l = 0;
    for (; l + 2 * size <= lanes; l += 2 * size)
      multiply_lanes<2>(slice, b.lane(l) + k * b.pitch, b.pitch, rows, count, c + l, c_pitch, add);
    if (l < lanes)
      multiply_lanes<1>(slice, b.lane(l) + k * b.pitch, b.pitch, rows, count, c + l, c_pitch, add);
    add = true;
    k += count;
  } while (k < inner);
}

/// |z - x|^2 of one pair
template <class T>
DMMD_INLINE T square_distance(const T* z, const T* x, int64_t d) {
  using V = Vec<T>;
  V a(0), b(0);
  int64_t k = 0;
  for (; k + 2 * V::size <= d; k += 2 * V::size) {
    const V da = V::load(z + k) - V::load(x + k);
    const V db = V::load(z + k + V::size) - V::load(x + k + V::size);
    a = a + da * da;
    b = b + db * db;
  }
  double rest = 0;
  for (; k < d; ++k) rest += double(z[k] - x[k]) * double(z[k] - x[k]);
  return T(sum(a + b) + rest);
}

/// to += s (x - z)
template <class T>
DMMD_INLINE void add_difference(T s, const T* z, const T* x, int64_t d, T* to) {
  using V = Vec<T>;
  int64_t k = 0;
  for (; k + V::size <= d; k += V::size)
    (V::load(to + k) + V(s) * (V::load(x + k) - V::load(z + k))).store(to + k);
  for (; k < d; ++k) to[k] += s * (x[k] - z[k]);
}

/// The sum of count numbers, a multiple of the vector size.
template <class T>
DMMD_INLINE double sum_of(const T* numbers, int64_t count) {
  using V = Vec<T>;
  V total(0);
  for (int64_t j = 0; j < count; j += V::size) total = total + V::load(numbers + j);
  return sum(total);
}

}  // namespace dmmd::cpu::DMMD_ISA
