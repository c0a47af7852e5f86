// A strip of a quadratic form: rows and columns are of one cloud, so each pair is met once, for
// both of its points. Those that move have a gradient.
#pragma once

#include "kernel.h"
#include "pull.h"

namespace dmmd::cpu::DMMD_ISA {

constexpr int64_t clamp(int64_t i, int64_t least, int64_t most) {
  return i < least ? least : i > most ? most : i;
}

template <class T>
struct SymmetricStrip : Strip<T> {
  const SymmetricItem<T>& pair;
  int64_t moving_rows, moving_end;  // the first rows move, and columns before an end, in vectors

  SymmetricStrip(const Sweep<T>& sweep, const SymmetricItem<T>& pair, int64_t tile, int64_t row)
      : Strip<T>(sweep, pair.rows, tile, row), pair(pair) {
    // Left of the diagonal a pair has been met, or will be, as its mirror image.
    if (pair.is_diagonal && row > this->first)
      this->begin = (row - this->first) / kLanes<T> * kLanes<T>;
    const int64_t columns = round_to_vector<T>(clamp(sweep.moving - this->first, 0, this->end));
    moving_rows = clamp(sweep.moving - row, 0, this->rows);
    moving_end = clamp(columns, this->begin, this->end);
  }

  /// c_ij into a buffer of its own.
  void multiply_weights() {
    const Problem<T>& a = this->problem();
    T* own = this->buffer(1);
    if (a.v) this->sum(Product<T>{this->rows_of(a.v, a.p), this->w()}, a.p, own);
    for (int64_t r = 0; !a.v && r < this->rows; ++r)
      for (int64_t j = this->begin; j < this->end; ++j)
        own[r * this->pitch + j] = this->w().data[j];
    this->c = own;
    this->c_is_whole = true;
    this->c_pitch = this->pitch;
  }

  /// The same, but 0 below the diagonal and 1/2 on it, or 0 where it is skipped.
  void weigh_symmetric() {
    multiply_weights();
    if (!pair.is_diagonal) return;
    for (int64_t r = 0; r < this->rows; ++r) {
      const int64_t diagonal = this->row + r - this->first;
      T* at = this->buffer(1) + r * this->pitch;
      for (int64_t j = this->begin; j < this->end && j < diagonal; ++j) at[j] = T(0);
      if (diagonal < this->begin || diagonal >= this->end) continue;
      at[diagonal] *= T(0.5);
      if (!this->problem().skip_diagonal) continue;
      at[diagonal] = this->q[r * this->pitch + diagonal] = T(0);
    }
  }
};

/// The sums of rows that move += sum_j s x, and of columns that do += sum_r s z, where `s` is of
/// whole products.
template <class T>
void multiply_both(const SymmetricStrip<T>& strip, const T* s) {
  const Item<T>& item = strip.item;
  const int64_t pitch = strip.pitch, begin = strip.begin, rows = strip.moving_rows;
  const int64_t moving = strip.moving_end - begin, z_pitch = strip.z().pitch;
  const int64_t lanes = round_to_vector<T>(strip.problem().d);
  const Right<T> x{strip.sweep.x_of.tile(item.block, strip.tile) + begin * kLanes<T>,
                   kLanes<T> * pitch, kLanes<T>};
  multiply(Left<T>{s + begin, pitch, 1}, x, rows, strip.end - begin, lanes, strip.sums(0),
           item.scratch.sums_pitch, true);
  if (moving == 0) return;
  // The rows, as they are packed as columns: their own are too far apart.
  const int64_t row_tile = strip.row / pitch;
  const T* rows_of = strip.sweep.x_of.tile(item.block, row_tile);
  const Right<T> z{rows_of + (strip.row - row_tile * pitch) * kLanes<T>, kLanes<T> * pitch,
                   kLanes<T>};
  multiply(Left<T>{s + begin, 1, pitch}, z, moving, rows, lanes,
           strip.pair.column_sums + begin * z_pitch, z_pitch, true);
}

}  // namespace dmmd::cpu::DMMD_ISA
