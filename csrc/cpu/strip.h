// A strip: some rows of an item against one tile. Holds what first and second order share, the
// distances q and the coefficients c of its pairs.
#pragma once

#include "tile.h"

namespace dmmd::cpu::DMMD_ISA {

template <class T>
struct Strip {
  const Sweep<T>& sweep;
  const Item<T>& item;
  int64_t tile, row, rows;    // the first row is `row` of the block
  int64_t begin, end, pitch;  // columns of the tile that are swept
  int64_t first;              // the column of the block where the tile starts
  T* q;                       // rows x pitch
  const T* c = nullptr;       // c_ij without v_i when p = 1
  int64_t c_pitch = 0;

  Strip(const Sweep<T>& sweep, const Item<T>& item, int64_t tile, int64_t row)
      : sweep(sweep), item(item), tile(tile), row(row), begin(0), end(sweep.width) {
    rows = item.row_end - row < sweep.strip ? item.row_end - row : sweep.strip;
    pitch = sweep.x.pitch;
    first = tile * sweep.width;
    q = buffer(0);
    if ((sweep.want & kForm) && item.row > first) begin = item.row - first;
  }

  const Problem<T>& problem() const { return sweep.problem; }
  bool radial() const { return problem().kernel[0].profile != Profile::polynomial; }
  T* buffer(int64_t i) const { return item.scratch + i * sweep.strip * pitch; }
  const T* zeros() const { return buffer(kStripBuffers); }
  const T* params() const { return problem().params.block(item.block); }

  /// Rows of an array (n, columns) of the block, beginning with those of the strip.
  Rows<T> rows_of(Batched<const T> array, int64_t columns) const {
    return {array.block(item.block) + row * columns, columns};
  }
  Columns<T> columns_of(const Packed<T>& packed) const {
    return {packed.tile(item.block, tile), pitch, begin, end};
  }
  Rows<T> z() const { return rows_of(problem().z, problem().d); }
  Columns<T> x() const { return columns_of(sweep.x); }
  Columns<T> w() const { return columns_of(sweep.w); }

  /// v_i of a row of the strip, for p = 1.
  double v(int64_t r) const {
    return problem().v ? double(problem().v.block(item.block)[row + r]) : 1.0;
  }

  template <class Term>
  void sum(const Term& term, int64_t d, T* to, bool add = false) const {
    sum_coordinates(term, rows, d, begin, end, pitch, to, add);
  }

  void measure() const {
    if (radial()) {
      sum(SquaredDifference<T>{z(), x()}, problem().d, q);
    } else {
      sum(Product<T>{z(), x()}, problem().d, q);
    }
  }

  /// Needs q; sets c, and q = 0 with c = 0 for pairs that count for nothing.
  void weigh(bool needs_pairs) {
    T* own = buffer(1);
    const int64_t p = problem().p;
    if (p != 1 && !needs_pairs) return clear_skipped(q);
    if (p == 1) {
      c = w().data;
      if (!crosses_diagonal() && !crosses_triangle()) return;
      for (int64_t r = 0; r < rows; ++r)
        for (int64_t j = begin; j < end; ++j) own[r * pitch + j] = c[j];
    } else {
      sum(Product<T>{rows_of(problem().v, p), w()}, p, own);
    }
    c = own;
    c_pitch = pitch;
    if (sweep.want & kForm) halve_triangle(own);
    clear_skipped(own);
    clear_skipped(q);
  }

  /// Sets the entries of skipped pairs to zero.
  void clear_skipped(T* pairs) const {
    if (!crosses_diagonal()) return;
    for (int64_t r = 0; r < rows; ++r) {
      const int64_t j = row + r - first;
      if (j >= begin && j < end) pairs[r * pitch + j] = T(0);
    }
  }

 private:
  bool crosses_diagonal() const {
    return problem().skip_diagonal && row < first + end && row + rows > first + begin;
  }

  bool crosses_triangle() const { return sweep.want & kForm && row + rows > first + begin; }

  // Below the diagonal 0, on it 1/2: the other half of a symmetric sum, twice, is the whole.
  void halve_triangle(T* pairs) const {
    for (int64_t r = 0; r < rows; ++r) {
      const int64_t diagonal = row + r - first;
      for (int64_t j = begin; j < end && j < diagonal; ++j) pairs[r * pitch + j] = T(0);
      if (diagonal >= begin && diagonal < end) pairs[r * pitch + diagonal] *= T(0.5);
    }
  }
};

/// body(shape, l) for every component of the kernel.
template <class T, class Body>
DMMD_INLINE void for_components(const Strip<T>& strip, Body body) {
  for (int64_t l = 0; l < strip.problem().components; ++l) {
    Profile profile = strip.problem().kernel[l].profile;
    if (profile == Profile::energy && strip.params()[3 * l + 2] == T(1))
      profile = Profile::distance;
    with_shape(profile, [&](auto shape) { body(shape, l); });
  }
}

}  // namespace dmmd::cpu::DMMD_ISA
