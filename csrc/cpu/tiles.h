// precision "high": products of points by bf16 tiles of 16 rows and 32 columns, where a processor
// has a unit for them (Intel's AMX).
//
// A float is split into hi + lo, two bf16; a product a b is then hi hi + hi lo + lo hi, wrong by
// 2^-16 |a| |b| or less, added up in float. An operand lies in blocks of a tile of hi and one of
// lo:
//     left  (r, k)    group r / 16 of rows,  chunk k / 32:  tile[r % 16 * 32 + k % 32]
//     right (k, l)    group l / 16 of lanes, chunk k / 32:  tile[k % 32 / 2 * 32 + l % 16 * 2 + k %
//     2]
// group by group, chunk by chunk, with zeros beyond the operand.
#pragma once

#include <cstdint>
#include <cstring>

namespace dmmd::cpu {

using Half = uint16_t;  // the bits of a bf16

constexpr int64_t kTileRows = 16, kTileInner = 32, kTile = kTileRows * kTileInner;
// Coordinates from which on tiles pay.
constexpr int64_t kLeastTiledD = 16;

/// An operand, or its groups from some one on; `chunks` of the inner dimension to each group.
struct TileOperand {
  const Half* data;
  int64_t chunks;

  const Half* tile(int64_t group, int64_t chunk, bool lo) const {
    return data + ((group * chunks + chunk) * 2 + lo) * kTile;
  }
};

constexpr int64_t chunks_of(int64_t inner) { return (inner + kTileInner - 1) / kTileInner; }
constexpr int64_t groups_of(int64_t rows) { return (rows + kTileRows - 1) / kTileRows; }
constexpr int64_t halves_of(int64_t rows, int64_t inner) {
  return groups_of(rows) * chunks_of(inner) * 2 * kTile;
}

// Static, as each instruction set must have its own.

/// The nearest bf16, ties to even; NaN stays NaN.
static inline Half to_half(float x) {
  uint32_t bits;
  std::memcpy(&bits, &x, sizeof bits);
  const uint32_t rounded = (bits + 0x7fff + (bits >> 16 & 1)) >> 16;
  return Half(x == x ? rounded : bits >> 16 | 0x40);
}

static inline float to_float(Half half) {
  const uint32_t bits = uint32_t(half) << 16;
  float x;
  std::memcpy(&x, &bits, sizeof x);
  return x;
}

/// Entry (k, l) of a right operand.
static inline void put_right(Half* to, int64_t chunks, int64_t k, int64_t l, float x) {
  Half* hi = to + (l / kTileRows * chunks + k / kTileInner) * 2 * kTile +
             k % kTileInner / 2 * kTileInner + l % kTileRows * 2 + k % 2;
  hi[0] = to_half(x);
  hi[kTile] = to_half(x - to_float(hi[0]));
}

/// What multiplies tiles.
struct TileUnit {
  const char* name;

  /// The left operand of `rows` rows, `pitch` apart, of `inner` numbers.
  void (*split)(const float* from, int64_t pitch, int64_t rows, int64_t inner, Half* to);

  /// c = a b, or c += a b, for whole groups of rows and lanes.
  void (*multiply)(TileOperand a, TileOperand b, int64_t row_groups, int64_t lane_groups, float* c,
                   int64_t c_pitch, bool add);
};

#ifdef DMMD_AMX
extern const TileUnit kAmx;
#endif

/// The one in use: null where the machine has none or the system forbids it.
const TileUnit* tile_unit();

/// For tests, and null again.
void use_tile_unit(const TileUnit* unit);

}  // namespace dmmd::cpu
