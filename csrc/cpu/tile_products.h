// The functions of a TileUnit by a class Tiles that holds two operands and four sums:
//     zero(), load(c, pitch), store(c, pitch)     sums of R x L tiles of 16 x 16
//     left(a0, a1), right(b0, b1), multiply()     sums += left right, tile by tile
#pragma once

#include "tiles.h"

namespace dmmd::cpu {

static inline void split_rows(const float* from, int64_t pitch, int64_t rows, int64_t inner,
                              Half* to) {
  const int64_t chunks = chunks_of(inner);
  for (int64_t r = 0; r < groups_of(rows) * kTileRows; ++r) {
    for (int64_t chunk = 0; chunk < chunks; ++chunk) {
      Half* hi = to + (r / kTileRows * chunks + chunk) * 2 * kTile + r % kTileRows * kTileInner;
      Half* lo = hi + kTile;
      const float* row = from + r * pitch + chunk * kTileInner;
      const int64_t left = inner - chunk * kTileInner;
      const int64_t count = r >= rows ? 0 : left < kTileInner ? left : kTileInner;
      for (int64_t k = 0; k < count; ++k) {
        hi[k] = to_half(row[k]);
        lo[k] = to_half(row[k] - to_float(hi[k]));
      }
      for (int64_t k = count; k < kTileInner; ++k) hi[k] = lo[k] = 0;
    }
  }
}

/// Sums of R x L tiles, from the groups (r, l) on.
template <class Tiles, int R, int L>
void multiply_tiles(TileOperand a, TileOperand b, int64_t r, int64_t l, float* c, int64_t c_pitch,
                    bool add) {
  constexpr bool hi = false, lo = true;
  Tiles tiles;
  if (add) {
    tiles.template load<R, L>(c, c_pitch);
  } else {
    tiles.template zero<R, L>();
  }
  for (int64_t k = 0; k < a.chunks; ++k) {
    tiles.template right<L>(b.tile(l, k, hi), b.tile(l + L - 1, k, hi));
    tiles.template left<R>(a.tile(r, k, lo), a.tile(r + R - 1, k, lo));
    tiles.template multiply<R, L>();
    tiles.template left<R>(a.tile(r, k, hi), a.tile(r + R - 1, k, hi));
    tiles.template multiply<R, L>();
    tiles.template right<L>(b.tile(l, k, lo), b.tile(l + L - 1, k, lo));
    tiles.template multiply<R, L>();
  }
  tiles.template store<R, L>(c, c_pitch);
}

template <class Tiles, int R>
void multiply_groups(TileOperand a, TileOperand b, int64_t r, int64_t lane_groups, float* c,
                     int64_t c_pitch, bool add) {
  float* row = c + r * kTileRows * c_pitch;
  int64_t l = 0;
  for (; l + 2 <= lane_groups; l += 2)
    multiply_tiles<Tiles, R, 2>(a, b, r, l, row + l * kTileRows, c_pitch, add);
  if (l < lane_groups) multiply_tiles<Tiles, R, 1>(a, b, r, l, row + l * kTileRows, c_pitch, add);
}

template <class Tiles>
void multiply_split(TileOperand a, TileOperand b, int64_t row_groups, int64_t lane_groups, float* c,
                    int64_t c_pitch, bool add) {
  const typename Tiles::Use use;
  int64_t r = 0;
  for (; r + 2 <= row_groups; r += 2)
    multiply_groups<Tiles, 2>(a, b, r, lane_groups, c, c_pitch, add);
  if (r < row_groups) multiply_groups<Tiles, 1>(a, b, r, lane_groups, c, c_pitch, add);
}

}  // namespace dmmd::cpu
