// Packing: (m, columns) arrays of points or weights into the tiles of sweep.h.
#pragma once

#include <algorithm>

#include "memory.h"
#include "sweep.h"
#include "threads.h"

namespace dmmd::cpu {

/// Column j of the tile from row j of the array; beyond m the last row, or zeros for weights.
template <class T>
void pack_tile(const T* from, int64_t m, int64_t columns, int64_t first, int64_t width,
               int64_t pitch, bool is_weight, T* to) {
  const int64_t count = std::min(width, m - first);
  for (int64_t j = 0; j < count; ++j)
    for (int64_t k = 0; k < columns; ++k) to[k * pitch + j] = from[(first + j) * columns + k];
  for (int64_t k = 0; k < columns; ++k)
    for (int64_t j = count; j < width; ++j)
      to[k * pitch + j] = is_weight ? T(0) : to[k * pitch + count - 1];
}

template <class T>
struct PackedMemory {
  Memory<T> memory;
  Packed<T> packed;
};

/// Packs every block of an array once, however many blocks share it.
template <class T>
PackedMemory<T> pack(const Problem<T>& a, Batched<const T> from, int64_t columns, int64_t width,
                     bool is_weight, int threads) {
  // An odd number of cache lines, so that a column of a tile spreads over all sets of the L1.
  const int64_t line = 64 / int64_t(sizeof(T));
  const int64_t pitch = width + line;
  const int64_t tiles = (a.m + width - 1) / width;
  const int64_t blocks = from.stride ? a.blocks : 1;
  const int64_t per_block = product(tiles, columns, pitch);
  PackedMemory<T> result{allocate<T>(product(blocks, per_block)), {}};
  result.packed = {{result.memory.get(), from.stride ? per_block : 0}, columns, pitch};
  // Every parallel loop ends with all threads waiting for one another, which costs more than a
  // copy.
  const bool small = double(blocks) * double(per_block) < 1e5;
  parallel_for(blocks * tiles, small ? 1 : threads, [&](int64_t i, int) {
    const int64_t block = i / tiles, tile = i % tiles;
    pack_tile(from.block(block), a.m, columns, tile * width, width, pitch, is_weight,
              result.memory.get() + block * per_block + tile * columns * pitch);
  });
  return result;
}

}  // namespace dmmd::cpu
