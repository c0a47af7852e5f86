// What the driver (pairwise.cpp) hands to the sweep, which is compiled once per instruction set.
//
// Columns x are packed into tiles, whose lanes run over columns. A work item is a few rows of one
// block against a range of tiles; it fills sums of its own in double, so that the partition alone,
// and not the threads, decides every rounding. Columns beyond m have weight zero and distance zero,
// so they add nothing, whatever the points are.
#pragma once

#include <cstdint>

#include "../dmmd.h"
#include "rows.h"
#include "tiles.h"

namespace dmmd::cpu {

constexpr int kGroup = 4;    // rows whose sums lie interleaved
constexpr int kPanel = 128;  // bytes; lanes of a panel, and what widths of tiles are multiples of
constexpr int64_t kMaxStrip = 126;

template <class T>
constexpr int64_t kLanes = kPanel / int64_t(sizeof(T));

/// How distances and gradients are made, by the dimension of the points.
enum class Method {
  registers,    // differences; a pair lives in registers from its points to its sums
  differences,  // differences; the pairs of a strip of rows lie in the L1
  products,     // z.x and s x by matrix products of centred points; near pairs by differences
};

struct Regime {
  int64_t most_d;
  Method method;
  int64_t strip;  // rows whose pairs are held at once
  int64_t width;  // bytes of a row of a tile
  int64_t rows;   // of an item, at most

  /// Rows that there is room for: whole tiles of them by products.
  constexpr int64_t room() const {
    return method == Method::products ? groups_of(strip) * kTileRows : strip;
  }
};

constexpr Regime kRegimes[] = {
    {3, Method::registers, 8, 768, 96},
    {8, Method::differences, 8, 768, 96},
    {512, Method::products, 48, 384, 96},
    // Tiles beyond the L2: more rows for each time that one is read.
    {INT64_MAX, Method::products, 126, 384, 126},
};

constexpr const Regime& regime_of(int64_t d) {
  int i = 0;
  while (d > kRegimes[i].most_d) ++i;
  return kRegimes[i];
}

/// Tiles of panels: entry k of lane l of tile i is
///     data[i * inner * lanes + l / kLanes * kLanes * inner + k * kLanes + l % kLanes]
template <class T>
struct Packed {
  Batched<T> array;
  int64_t inner = 0, lanes = 0;

  T* tile(int64_t block, int64_t i) const { return array.block(block) + i * inner * lanes; }
};

enum Want : int { kPotential = 1, kGradient = 2, kParams = 4, kMatrix = 8 };

template <class T>
struct Sweep {
  Problem<T> problem;
  Direction<T> direction;
  int want = 0;
  Regime regime;
  int64_t width = 0;            // columns of a tile, padded
  Packed<T> x, w, xt;           // lanes are columns: points, weights, tangents of the points
  Packed<T> x_of, xt_of, w_of;  // lanes are coordinates or right-hand sides
  Batched<T> centre;            // subtracted from x and x_of, and by items from z
  Packed<T> half_square;        // |x|^2 / 2, NaN where that is not finite; lanes are columns
  T* matrix = nullptr;
  int64_t moving = 0;  // of a quadratic form: points from the first on that have a gradient
  const TileUnit* tiles = nullptr;  // multiplies points in place of vectors; then also:
  Packed<Half> x_tiles, x_of_tiles;
};

/// Working memory of one thread.
template <class T>
struct Scratch {
  T* pairs;        // kStripBuffers times strip x width
  T* zeros;        // a row of max(d, width)
  T* z;            // rows of the item, centred, each of z_pitch numbers
  Half* z_tiles;   // the same, as a left operand
  Half* s_tiles;   // slopes of a strip, as a left operand
  T* half_square;  // of each of these rows
  T* sums;         // of each row, sums_pitch numbers: products before they join the item's sums
  double *total, *twist_total;  // of each row
  int32_t* near;                // strip x width
  int64_t z_pitch, sums_pitch;
};

constexpr int kStripBuffers = 6;

/// Rows [row, row_end) of a block against tiles [tile, tile_end), and the sums they fill:
///     f[grouped(i - row, e, p)], g[grouped(i - row, k, d)], q[3 l + parameter]
/// but for the factors 2 (radial) and v_i (p = 1) of g, which the driver applies.
template <class T>
struct Item {
  int64_t block, row, row_end, tile, tile_end;
  double *f, *g, *q;
  Scratch<T> scratch;
};

/// The rows of an item against tiles of the same cloud, each pair of points once.
template <class T>
struct SymmetricItem {
  Item<T> rows;
  bool is_diagonal;      // rows and columns are the same part of the cloud
  double* value;         // sum of c K over i < j, and half of it on i = j
  double* gradient;      // of the block (moving, d), but for a factor 4 (radial) or 2
  T* column_sums;        // d x width, or width x z_pitch by products; zero
  double* column_total;  // of each column of a tile; zero
};

/// Where entry (row, k) of an array with d columns lies: rows interleaved in groups.
constexpr int64_t grouped(int64_t row, int64_t k, int64_t d) {
  return (row / kGroup * d + k) * kGroup + row % kGroup;
}

template <class T>
struct FlowRows;

template <class T>
struct Isa {
  const char* name;
  void (*first_order)(const Sweep<T>&, const Item<T>&);
  void (*second_order)(const Sweep<T>&, const Item<T>&);
  void (*symmetric)(const Sweep<T>&, const SymmetricItem<T>&);
  void (*flow_rows)(const FlowRows<T>&);
  void (*sum_rows)(const RowSpan<T>&);
  void (*pull_rows)(const RowPull<T>&);
};

#define DMMD_DECLARE_ISA(name)      \
  namespace name {                  \
  extern const Isa<float> floats;   \
  extern const Isa<double> doubles; \
  }
DMMD_DECLARE_ISA(portable)
DMMD_DECLARE_ISA(avx2)
DMMD_DECLARE_ISA(avx512)
#undef DMMD_DECLARE_ISA

/// The one in use.
template <class T>
const Isa<T>& isa();

}  // namespace dmmd::cpu
