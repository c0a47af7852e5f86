// What the driver (pairwise.cpp) hands to the sweep, which is compiled once per instruction set.
//
// Columns x are packed into tiles, coordinate by coordinate: lanes run over columns. A work item is
// a few rows of one block against a range of tiles; it fills sums of its own in double, so that the
// partition alone, and not the threads, decides every rounding. Columns beyond m repeat the last
// one *with weight zero*, so they add nothing and need no other mask.
#pragma once

#include <cstdint>

#include "../dmmd.h"

namespace dmmd::cpu {

constexpr int kGroup = 4;    // rows swept together
constexpr int kPanel = 128;  // bytes; widths of tiles are multiples of it
constexpr int kTile = 1024;  // bytes; columns of a tile
constexpr int64_t kRowsPerItem = 64;

// Rows whose pairs are held at once: few, so that the pairs stay in the L1 beside a tile of up to
// kSmallD coordinates; many, so that a slice of a larger tile is used often once it is there.
constexpr int64_t kMinStrip = 8, kMaxStrip = 32, kSmallD = 32;

/// Coordinate k of column j of tile i: data.block(b)[(i * coordinates + k) * pitch + j].
template <class T>
struct Packed {
  Batched<T> array;
  int64_t coordinates = 0;
  int64_t pitch = 0;

  const T* tile(int64_t block, int64_t i) const {
    return array.block(block) + i * coordinates * pitch;
  }
};

enum Want : int { kPotential = 1, kGradient = 2, kParams = 4, kMatrix = 8, kForm = 16 };

template <class T>
struct Sweep {
  Problem<T> problem;
  Direction<T> direction;
  int want = 0;
  Packed<T> x, w, xt;  // points, weights, tangents of the points
  int64_t width = 0;   // columns of a tile, padded
  int64_t strip = 0;   // rows of an item whose pairs are held at once, a multiple of kGroup
  T* matrix = nullptr;
};

/// Rows [row, row_end) of a block against tiles [tile, tile_end), and the sums they fill:
///     f[grouped(i - row, e, p)], g[grouped(i - row, k, d)], q[3 l + parameter], form[0]
/// but for the factors 2 (radial) and v_i (p = 1) of g, which the driver applies.
template <class T>
struct Item {
  int64_t block, row, row_end, tile, tile_end;
  double *f, *g, *q, *form;
  T* scratch;
};

/// Where entry (row, k) of an array with d columns lies: rows interleaved in groups.
constexpr int64_t grouped(int64_t row, int64_t k, int64_t d) {
  return (row / kGroup * d + k) * kGroup + row % kGroup;
}

/// Buffers of strip x pitch numbers, and then one row of d zeros.
constexpr int kStripBuffers = 6;

template <class T>
struct Isa {
  const char* name;
  void (*first_order)(const Sweep<T>&, const Item<T>&);
  void (*second_order)(const Sweep<T>&, const Item<T>&);
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
