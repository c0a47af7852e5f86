// Gradients by products: what s makes of the points of a strip, kept in T for a few tiles and then
// joined to the item's sums, in double.
#pragma once

#include "strip.h"

namespace dmmd::cpu::DMMD_ISA {

// Tiles whose sums are kept in T before they join the item's, in double.
constexpr int64_t kTilesPerFlush = 8;

/// Takes the near pairs out of s and adds s (x - z) to the sums of their rows, and, where
/// column_sums(j) is not null, s (z - x) to those of their columns.
template <class T, class ColumnSums>
void pull_near(const Strip<T>& strip, T* s, ColumnSums column_sums) {
  const int64_t d = strip.problem().d;
  for (int64_t i = 0; strip.radial() && i < strip.near_pairs; ++i) {
    const int64_t at = strip.item.scratch.near[i], r = at / strip.pitch, j = at % strip.pitch;
    add_difference(s[at], strip.z_at(r), strip.x_at(j), d, strip.sums(r));
    if (T* to = column_sums(j)) add_difference(s[at], strip.x_at(j), strip.z_at(r), d, to);
    s[at] = T(0);
  }
}

/// The sums of the strip's rows += sum_j s x.
template <class T>
void multiply_columns(const Strip<T>& strip, const T* s) {
  const Scratch<T>& scratch = strip.item.scratch;
  if constexpr (__is_same(T, float)) {
    if (const TileUnit* tiles = strip.sweep.tiles) {
      const Packed<Half>& x_of = strip.sweep.x_of_tiles;
      tiles->split(s, strip.pitch, strip.rows, strip.end, scratch.s_tiles);
      tiles->multiply(TileOperand{scratch.s_tiles, chunks_of(strip.end)},
                      TileOperand{x_of.tile(strip.item.block, strip.tile), chunks_of(strip.pitch)},
                      groups_of(strip.rows), groups_of(strip.problem().d), strip.sums(0),
                      scratch.sums_pitch, true);
      // Of the last tile's rows beyond the item's: NaN in x makes NaN of their zeros too.
      for (int64_t r = strip.rows; r < groups_of(strip.rows) * kTileRows; ++r)
        for (int64_t k = 0; k < scratch.sums_pitch; ++k) strip.sums(r)[k] = T(0);
      return;
    }
  }
  const Right<T> x{strip.sweep.x_of.tile(strip.item.block, strip.tile), kLanes<T> * strip.pitch,
                   kLanes<T>};
  multiply(Left<T>{s, strip.pitch, 1}, x, strip.rows, strip.end,
           round_to_vector<T>(strip.problem().d), strip.sums(0), strip.item.scratch.sums_pitch,
           true);
}

/// g += sum_j s (z - x), or without z, as z sum_j s - sum_j s x, where near pairs would cancel.
template <class T>
void pull_by_products(const Strip<T>& strip, T* s) {
  const Item<T>& item = strip.item;
  const int64_t pitch = strip.pitch;
  pull_near(strip, s, [](int64_t) -> T* { return nullptr; });
  double* total = item.scratch.total + (strip.row - item.row);
  for (int64_t r = 0; r < strip.rows; ++r) total[r] += sum_of(s + r * pitch, strip.end);
  multiply_columns(strip, s);
}

/// Adds the sums of products to gradient(row of the item), d numbers `Step` apart, where that is
/// not null, or to the item's f; clears them.
template <int64_t Step, class T, class Gradient>
void flush(const Sweep<T>& sweep, const Item<T>& item, Gradient gradient) {
  const Problem<T>& a = sweep.problem;
  const Scratch<T>& scratch = item.scratch;
  const bool radial = a.kernel[0].profile != Profile::polynomial;
  const bool sides = sweep.want == kPotential;
  const int64_t columns = sides ? a.p : a.d;
  for (int64_t r = 0; r < item.row_end - item.row; ++r) {
    T* sums = scratch.sums + r * scratch.sums_pitch;
    const T* z = scratch.z + r * scratch.z_pitch;
    if (sides) {
      for (int64_t e = 0; e < columns; ++e) item.f[grouped(r, e, columns)] += double(sums[e]);
    } else if (double* g = gradient(r)) {
      const double total = scratch.total[r];
      for (int64_t k = 0; radial && k < columns; ++k)
        g[k * Step] += total * double(z[k]) - double(sums[k]);
      for (int64_t k = 0; !radial && k < columns; ++k) g[k * Step] += double(sums[k]);
    }
    scratch.total[r] = 0;
    for (int64_t k = 0; k < scratch.sums_pitch; ++k) sums[k] = T(0);
  }
}

/// As above, to the item's sums.
template <class T>
void flush(const Sweep<T>& sweep, const Item<T>& item) {
  const int64_t d = sweep.problem.d;
  flush<kGroup>(sweep, item, [&](int64_t r) { return item.g + grouped(r, 0, d); });
}

}  // namespace dmmd::cpu::DMMD_ISA
