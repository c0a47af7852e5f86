// The two products of a sweep from differences, of a few rows with a tile of packed columns:
// pairwise sums over coordinates (distances), and sums over columns (gradients). products.h makes
// them faster where there are many coordinates.
#pragma once

#include "sweep.h"
#include "vector.h"

namespace dmmd::cpu::DMMD_ISA {

// Coordinates summed in registers before they join the total, which keeps the error of long sums
// and the part of a tile in use small.
constexpr int64_t kCoordinates = 64;

/// Rows of points or weights, `pitch` apart; 0: one row for all.
template <class T>
struct Rows {
  const T* data;
  int64_t pitch;
};

/// Columns [begin, end) of a packed tile of `inner` coordinates; inner 0: one row of lanes for all.
template <class T>
struct Columns {
  const T* data;
  int64_t inner, begin, end;

  DMMD_INLINE const T* at(int64_t k, int64_t j) const {
    if (inner == 0) return data + j;
    return data + (j / kLanes<T> * inner + k) * kLanes<T> + j % kLanes<T>;
  }
};

/// (z - x)^2
template <class T>
struct SquaredDifference {
  Rows<T> z;
  Columns<T> x;

  template <int R, class V>
  DMMD_INLINE void add(V (&sum)[R][2], int64_t row, int64_t k, int64_t j) const {
    const T* at = x.at(k, j);
    const V x0 = V::load(at), x1 = V::load(at + V::size);
    for (int r = 0; r < R; ++r) {
      const V zr(z.data[(row + r) * z.pitch + k]);
      const V d0 = zr - x0, d1 = zr - x1;
      sum[r][0] = sum[r][0] + d0 * d0;
      sum[r][1] = sum[r][1] + d1 * d1;
    }
  }
};

/// z x
template <class T>
struct Product {
  Rows<T> z;
  Columns<T> x;

  template <int R, class V>
  DMMD_INLINE void add(V (&sum)[R][2], int64_t row, int64_t k, int64_t j) const {
    const T* at = x.at(k, j);
    const V x0 = V::load(at), x1 = V::load(at + V::size);
    for (int r = 0; r < R; ++r) {
      const V zr(z.data[(row + r) * z.pitch + k]);
      sum[r][0] = sum[r][0] + zr * x0;
      sum[r][1] = sum[r][1] + zr * x1;
    }
  }
};

/// 2 (z - x) (z' - x'): the derivative of (z - x)^2
template <class T>
struct DifferenceTangent {
  Rows<T> z, zt;
  Columns<T> x, xt;

  template <int R, class V>
  DMMD_INLINE void add(V (&sum)[R][2], int64_t row, int64_t k, int64_t j) const {
    for (int half = 0; half < 2; ++half) {
      const V xj = V::load(x.at(k, j) + half * V::size);
      const V xtj = V::load(xt.at(k, j) + half * V::size);
      const V twice = xtj + xtj;
      for (int r = 0; r < R; ++r) {
        const V zt2(2 * zt.data[(row + r) * zt.pitch + k]);
        const V zr(z.data[(row + r) * z.pitch + k]);
        sum[r][half] = sum[r][half] + (zr - xj) * (zt2 - twice);
      }
    }
  }
};

template <int R, class T, class Term>
DMMD_INLINE void sum_panel(const Term& term, int64_t row, int64_t k, int64_t k_end, int64_t j,
                           int64_t pitch, T* q, bool add) {
  using V = Vec<T>;
  V sum[R][2];
  for (int r = 0; r < R; ++r) sum[r][0] = sum[r][1] = V(0);
  for (; k < k_end; ++k) term.template add<R>(sum, row, k, j);
  for (int r = 0; r < R; ++r) {
    for (int half = 0; half < 2; ++half) {
      T* at = q + (row + r) * pitch + j + half * V::size;
      (add ? V::load(at) + sum[r][half] : sum[r][half]).store(at);
    }
  }
}

/// q[row, j] = sum_k term(row, k, j), added to q when asked
template <class T, class Term>
void sum_coordinates(const Term& term, int64_t rows, int64_t d, int64_t begin, int64_t end,
                     int64_t pitch, T* q, bool add = false) {
  int64_t k = 0;
  do {
    const int64_t k_end = k + kCoordinates < d ? k + kCoordinates : d;
    for (int64_t j = begin; j < end; j += 2 * Vec<T>::size) {
      int64_t row = 0;
      for (; row + kGroup <= rows; row += kGroup)
        sum_panel<kGroup>(term, row, k, k_end, j, pitch, q, add);
      for (; row < rows; ++row) sum_panel<1>(term, row, k, k_end, j, pitch, q, add);
    }
    add = true;
    k = k_end;
  } while (k < d);
}

/// z - x, or x alone
template <bool Difference, class V>
DMMD_INLINE V pull_of(V z, V x) {
  if constexpr (Difference) {
    return z - x;
  } else {
    return x;
  }
}

template <bool Difference, int R, class T>
DMMD_INLINE void sum_group(Rows<T> z, Columns<T> x, int64_t d, const T* s, int64_t s_pitch,
                           int64_t row, double* to) {
  using V = Vec<T>;
  double* at = to + grouped(row, 0, d);
  for (int64_t k = 0; k < d; ++k) {
    V sum[R][2], zr[R];
    for (int r = 0; r < R; ++r) {
      sum[r][0] = sum[r][1] = V(0);
      if constexpr (Difference) zr[r] = V(z.data[(row + r) * z.pitch + k]);
    }
    for (int64_t j = x.begin; j < x.end; j += 2 * V::size) {
      const V x0 = V::load(x.at(k, j)), x1 = V::load(x.at(k, j) + V::size);
      for (int r = 0; r < R; ++r) {
        const T* sr = s + (row + r) * s_pitch + j;
        sum[r][0] = sum[r][0] + V::load(sr) * pull_of<Difference>(zr[r], x0);
        sum[r][1] = sum[r][1] + V::load(sr + V::size) * pull_of<Difference>(zr[r], x1);
      }
    }
    if constexpr (R == 4) {
      const V total[4] = {sum[0][0] + sum[0][1], sum[1][0] + sum[1][1], sum[2][0] + sum[2][1],
                          sum[3][0] + sum[3][1]};
      add_sums(total, at + k * kGroup);
    } else {
      at[k * kGroup] += dmmd::cpu::DMMD_ISA::sum(sum[0][0] + sum[0][1]);
    }
  }
}

/// to[row, k] += sum_j s[row, j] (z[row, k] - x[k, j]), or without z when not Difference; `to` is
/// grouped.
template <bool Difference, class T>
void sum_columns(Rows<T> z, Columns<T> x, int64_t rows, int64_t d, const T* s, int64_t s_pitch,
                 double* to) {
  int64_t row = 0;
  for (; row + kGroup <= rows; row += kGroup)
    sum_group<Difference, kGroup>(z, x, d, s, s_pitch, row, to);
  for (; row < rows; ++row) sum_group<Difference, 1>(z, x, d, s, s_pitch, row, to);
}

}  // namespace dmmd::cpu::DMMD_ISA
