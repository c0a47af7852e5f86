// Tiles in the registers of Intel's AMX, compiled for processors that have it.
#include <immintrin.h>

#include "tile_products.h"

namespace dmmd::cpu {
namespace {

struct alignas(64) Configuration {
  uint8_t palette = 1, start_row = 0, reserved[14] = {};
  uint16_t bytes[16] = {64, 64, 64, 64, 64, 64, 64, 64};
  uint8_t rows[16] = {16, 16, 16, 16, 16, 16, 16, 16};
};

// The compiler does not know that tiles are read from memory and written to it.
inline void finish_memory() { __asm__ volatile("" ::: "memory"); }

/// Sums in tmm0 to tmm3, the left operand in tmm4 and 5, the right one in tmm6 and 7.
struct AmxTiles {
  /// While one lives, its thread's tiles are in use.
  struct Use {
    Use() {
      const Configuration configuration;
      _tile_loadconfig(&configuration);
      finish_memory();
    }
    ~Use() {
      finish_memory();
      _tile_release();
    }
  };

  template <int R, int L>
  void zero() const {
    _tile_zero(0);
    if constexpr (L == 2) _tile_zero(1);
    if constexpr (R == 2) _tile_zero(2);
    if constexpr (R == 2 && L == 2) _tile_zero(3);
  }

  template <int R, int L>
  void load(const float* c, int64_t pitch) const {
    const float* below = c + kTileRows * pitch;
    _tile_loadd(0, c, pitch * 4);
    if constexpr (L == 2) _tile_loadd(1, c + kTileRows, pitch * 4);
    if constexpr (R == 2) _tile_loadd(2, below, pitch * 4);
    if constexpr (R == 2 && L == 2) _tile_loadd(3, below + kTileRows, pitch * 4);
  }

  template <int R, int L>
  void store(float* c, int64_t pitch) const {
    float* below = c + kTileRows * pitch;
    _tile_stored(0, c, pitch * 4);
    if constexpr (L == 2) _tile_stored(1, c + kTileRows, pitch * 4);
    if constexpr (R == 2) _tile_stored(2, below, pitch * 4);
    if constexpr (R == 2 && L == 2) _tile_stored(3, below + kTileRows, pitch * 4);
  }

  template <int R>
  void left(const Half* a0, const Half* a1) const {
    _tile_loadd(4, a0, 64);
    if constexpr (R == 2) _tile_loadd(5, a1, 64);
  }

  template <int L>
  void right(const Half* b0, const Half* b1) const {
    _tile_loadd(6, b0, 64);
    if constexpr (L == 2) _tile_loadd(7, b1, 64);
  }

  template <int R, int L>
  void multiply() const {
    _tile_dpbf16ps(0, 4, 6);
    if constexpr (L == 2) _tile_dpbf16ps(1, 4, 7);
    if constexpr (R == 2) _tile_dpbf16ps(2, 5, 6);
    if constexpr (R == 2 && L == 2) _tile_dpbf16ps(3, 5, 7);
  }
};

}  // namespace

const TileUnit kAmx = {"AMX", split_rows, multiply_split<AmxTiles>};

}  // namespace dmmd::cpu
