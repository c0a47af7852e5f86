// Packing: (m, columns) arrays of points or weights into the tiles of sweep.h.
#pragma once

#include <algorithm>
#include <cmath>
#include <limits>

#include "memory.h"
#include "sweep.h"
#include "threads.h"

namespace dmmd::cpu {

/// What a tile holds: `width` rows of the array, or fewer at its end.
struct Tiling {
  int64_t m, columns, width;

  int64_t tiles() const { return (m + width - 1) / width; }
};

/// Lane j of the tile is row `first` + j of the array; beyond m the last row, or zeros for weights.
template <class T>
void pack_columns(Tiling a, const T* from, const T* centre, int64_t first, bool is_weight, T* to) {
  constexpr int64_t P = kLanes<T>;
  const int64_t count = std::min(a.width, a.m - first);
  for (int64_t j = 0; j < a.width; ++j) {
    T* lane = to + j / P * P * a.columns + j % P;
    const T* row = from + (first + std::min(j, count - 1)) * a.columns;
    if (j >= count && is_weight) {
      for (int64_t k = 0; k < a.columns; ++k) lane[k * P] = T(0);
    } else if (centre) {
      for (int64_t k = 0; k < a.columns; ++k) lane[k * P] = row[k] - centre[k];
    } else {
      for (int64_t k = 0; k < a.columns; ++k) lane[k * P] = row[k];
    }
  }
}

/// Lane k of the tile is column k of the array, entry j its row `first` + j; zeros beyond both.
template <class T>
void pack_rows(Tiling a, const T* from, const T* centre, int64_t first, T* to) {
  constexpr int64_t P = kLanes<T>;
  const int64_t count = std::min(a.width, a.m - first);
  for (int64_t k0 = 0; k0 < a.columns; k0 += P) {
    const int64_t lanes = std::min(P, a.columns - k0);
    for (int64_t j = 0; j < a.width; ++j, to += P) {
      const T* row = from + (first + j) * a.columns + k0;
      const int64_t filled = j < count ? lanes : 0;
      for (int64_t k = 0; k < filled; ++k) to[k] = centre ? row[k] - centre[k0 + k] : row[k];
      for (int64_t k = filled; k < P; ++k) to[k] = T(0);
    }
  }
}

/// |x|^2 / 2, NaN where that is not finite: pairs of such points are treated as near.
template <class T>
T half_square(const T* row, int64_t d) {
  constexpr int64_t kSums = 4;  // side by side, for vectors
  double sums[kSums] = {};
  int64_t k = 0;
  for (; k + kSums <= d; k += kSums)
    for (int64_t i = 0; i < kSums; ++i) sums[i] += double(row[k + i]) * double(row[k + i]);
  for (; k < d; ++k) sums[0] += double(row[k]) * double(row[k]);
  const T half = T(0.5 * ((sums[0] + sums[1]) + (sums[2] + sums[3])));
  return std::isfinite(half) ? half : std::numeric_limits<T>::quiet_NaN();
}

/// Half the squares of the centred rows of a tile.
template <class T>
void pack_half_squares(Tiling a, const T* from, const T* centre, int64_t first, T* to) {
  const auto row = allocate<T>(a.columns);
  for (int64_t j = 0; j < a.width; ++j) {
    const T* at = from + std::min(first + j, a.m - 1) * a.columns;
    for (int64_t k = 0; k < a.columns; ++k) row[k] = centre ? at[k] - centre[k] : at[k];
    to[j] = half_square(row.get(), a.columns);
  }
}

/// As pack_columns of points, as a right operand of tiles whose lanes are the rows of the array.
inline void pack_column_tiles(Tiling a, const float* from, const float* centre, int64_t first,
                              Half* to) {
  const int64_t chunks = chunks_of(a.columns);
  std::fill_n(to, halves_of(a.width, a.columns), Half(0));
  for (int64_t j = 0; j < a.width; ++j) {
    const float* row = from + std::min(first + j, a.m - 1) * a.columns;
    for (int64_t k = 0; k < a.columns; ++k)
      put_right(to, chunks, k, j, centre ? row[k] - centre[k] : row[k]);
  }
}

/// As pack_rows, as a right operand whose lanes are the columns of the array.
inline void pack_row_tiles(Tiling a, const float* from, const float* centre, int64_t first,
                           Half* to) {
  const int64_t chunks = chunks_of(a.width), count = std::min(a.width, a.m - first);
  std::fill_n(to, halves_of(a.columns, a.width), Half(0));
  for (int64_t j = 0; j < count; ++j) {
    const float* row = from + (first + j) * a.columns;
    for (int64_t k = 0; k < a.columns; ++k)
      put_right(to, chunks, j, k, centre ? row[k] - centre[k] : row[k]);
  }
}

template <class T>
struct PackedMemory {
  Memory<T> memory;
  Packed<T> packed;
};

/// Packs every block of an array once, however many blocks share it, by
/// pack_tile(rows of the block, index of the block, first row, tile).
template <class Out, class T, class PackTile>
PackedMemory<Out> pack(const Problem<T>& a, bool is_batched, Tiling tiling, int64_t inner,
                       int64_t lanes, int threads, PackTile pack_tile) {
  const int64_t blocks = is_batched ? a.blocks : 1;
  const int64_t per_block = product(tiling.tiles(), inner, lanes);
  PackedMemory<Out> result{allocate<Out>(product(blocks, per_block)), {}};
  result.packed = {{result.memory.get(), is_batched ? per_block : 0}, inner, lanes};
  // Every parallel loop ends with all threads waiting for one another, which costs more than a
  // copy.
  const bool small = double(blocks) * double(per_block) < 1e5;
  parallel_for(blocks * tiling.tiles(), small ? 1 : threads, [&](int64_t i, int) {
    const int64_t block = i / tiling.tiles(), tile = i % tiling.tiles();
    pack_tile(block, tile * tiling.width, result.packed.tile(block, tile));
  });
  return result;
}

}  // namespace dmmd::cpu
