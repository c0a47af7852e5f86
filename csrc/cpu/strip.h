// A strip: some rows of an item against one tile. Holds what first and second order share, the
// distances q and the coefficients c of its pairs.
//
// Distances come from differences, or, in many dimensions, from |z|^2 + |x|^2 - 2 z.x by a matrix
// product of centred points. Rounding makes that wrong by eps (|z|^2 + |x|^2), which is too much
// where the pair is near, so the distances of near pairs are made again from differences.
#pragma once

#include "component.h"
#include "products.h"
#include "tile.h"

namespace dmmd::cpu::DMMD_ISA {

// A pair is near when |z - x|^2 < kNear (|z|^2 + |x|^2), both centred.
constexpr double kNear = 0.25;

/// |z - x|^2 / 2 = halves - z.x with halves = (|z|^2 + |x|^2) / 2, and where that is not enough.
/// NaN is near: from differences it means what it means everywhere.
template <class T>
struct HalfDistance {
  Vec<T> value;
  typename Vec<T>::Bits is_near;

  DMMD_INLINE HalfDistance(Vec<T> halves, Vec<T> product)
      : value(halves - product), is_near(~(Vec<T>(kNear) * halves < value)) {}
};

template <class T>
struct Strip {
  const Sweep<T>& sweep;
  const Item<T>& item;
  int64_t tile, row, rows;    // the first row is `row` of the block
  int64_t begin, end, pitch;  // columns of the tile that are swept
  int64_t first;              // the column of the block where the tile starts
  int64_t near_pairs = 0;     // listed in item.scratch.near as row * pitch + column
  T* q;                       // rows x pitch
  const T* c = nullptr;       // c_ij, without v_i unless c_is_whole
  int64_t c_pitch = 0;
  bool c_is_whole = false;

  Strip(const Sweep<T>& sweep, const Item<T>& item, int64_t tile, int64_t row)
      : sweep(sweep), item(item), tile(tile), row(row), begin(0) {
    rows = item.row_end - row < sweep.regime.strip ? item.row_end - row : sweep.regime.strip;
    pitch = sweep.width;
    first = tile * sweep.width;
    // No more of the last tile than holds columns, in the pairs of vectors that loops take.
    const int64_t held = round_to(problem().m - first, 2 * Vec<T>::size);
    end = held < sweep.width ? held : sweep.width;
    q = buffer(0);
  }

  const Problem<T>& problem() const { return sweep.problem; }
  bool radial() const { return problem().kernel[0].profile != Profile::polynomial; }
  bool by_products() const { return sweep.regime.method == Method::products; }
  T* buffer(int64_t i) const { return item.scratch.pairs + i * sweep.regime.room() * pitch; }
  const T* zeros() const { return item.scratch.zeros; }
  const T* params() const { return problem().params.block(item.block); }

  Parameters<T> parameters(int64_t l) const {
    const T* at = params() + 3 * l;
    return {at[0], at[1], at[2], problem().kernel[l].degree};
  }

  /// Rows of an array (n, columns) of the block, beginning with those of the strip.
  Rows<T> rows_of(Batched<const T> array, int64_t columns) const {
    return {array.block(item.block) + row * columns, columns};
  }
  Columns<T> columns_of(const Packed<T>& packed) const {
    return {packed.tile(item.block, tile), packed.inner, begin, end};
  }
  Rows<T> z() const {
    if (!by_products()) return rows_of(problem().z, problem().d);
    return {item.scratch.z + (row - item.row) * item.scratch.z_pitch, item.scratch.z_pitch};
  }
  Columns<T> x() const { return columns_of(sweep.x); }
  Columns<T> w() const { return columns_of(sweep.w); }

  /// The points as they were given, of a row and a column of the strip.
  const T* z_at(int64_t r) const { return problem().z.block(item.block) + (row + r) * problem().d; }
  const T* x_at(int64_t j) const {
    const int64_t last = problem().m - 1, column = first + j < last ? first + j : last;
    return problem().x.block(item.block) + column * problem().d;
  }

  /// Where the sums of a row of the strip are kept until `flush`.
  T* sums(int64_t r) const {
    return item.scratch.sums + (row - item.row + r) * item.scratch.sums_pitch;
  }

  /// What c lacks in a row of the strip.
  double v(int64_t r) const {
    return problem().v && !c_is_whole ? double(problem().v.block(item.block)[row + r]) : 1.0;
  }

  template <class Term>
  void sum(const Term& term, int64_t d, T* to, bool add = false) const {
    sum_coordinates(term, rows, d, begin, end, pitch, to, add);
  }

  void measure() {
    measure_all();
    clear_padding(q);
  }

  /// q = z.x, of the centred points where K is radial.
  void multiply_points() {
    const int64_t d = problem().d;
    if constexpr (__is_same(T, float))
      if (sweep.tiles) return multiply_tiles();
    const Left<T> left{z().data, z().pitch, 1};
    const Right<T> right{sweep.x.tile(item.block, tile) + begin * d, kLanes<T> * d, kLanes<T>};
    multiply(left, right, rows, d, end - begin, q + begin, pitch, false);
  }

  const T* half_square_of_columns() const { return sweep.half_square.tile(item.block, tile); }
  Vec<T> half_square_of(int64_t r) const {
    return Vec<T>(item.scratch.half_square[row - item.row + r]);
  }
  /// The distance of a pair in the list, from differences.
  T near_distance(int64_t i) const {
    const int64_t at = item.scratch.near[i];
    return square_distance(z_at(at / pitch), x_at(at % pitch), problem().d);
  }

  /// Sets the entries of columns beyond the cloud to zero: zero weights would not mend infinities.
  void clear_padding(T* pairs) const {
    const int64_t count = problem().m - first;
    for (int64_t r = 0; count < end && r < rows; ++r)
      for (int64_t j = count > begin ? count : begin; j < end; ++j) pairs[r * pitch + j] = T(0);
  }

  /// Needs q; sets c, and q = 0 with c = 0 for pairs that count for nothing.
  void weigh(bool needs_pairs) {
    T* own = buffer(1);
    const int64_t p = problem().p;
    if (p != 1 && !needs_pairs) return clear_skipped(q);
    if (p == 1) {
      c = w().data;
      c_pitch = 0;
      if (!crosses_diagonal()) return;
      for (int64_t r = 0; r < rows; ++r)
        for (int64_t j = begin; j < end; ++j) own[r * pitch + j] = c[j];
    } else {
      sum(Product<T>{rows_of(problem().v, p), w()}, p, own);
      c_is_whole = true;
    }
    c = own;
    c_pitch = pitch;
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

  bool crosses_diagonal() const {
    return problem().skip_diagonal && row < first + end && row + rows > first + begin;
  }

 private:
  void multiply_tiles() {
    const Packed<Half>& x = sweep.x_tiles;
    const int64_t chunks = chunks_of(problem().d), from = begin / kTileRows;
    const TileOperand left{item.scratch.z_tiles + halves_of(row - item.row, problem().d), chunks};
    const TileOperand right{x.tile(item.block, tile) + halves_of(from * kTileRows, problem().d),
                            chunks};
    sweep.tiles->multiply(left, right, groups_of(rows), groups_of(end) - from, q + from * kTileRows,
                          pitch, false);
  }

  void measure_all() {
    const int64_t d = problem().d;
    if (by_products()) {
      multiply_points();
      if (radial()) distances_of_products();
    } else if (radial()) {
      sum(SquaredDifference<T>{z(), x()}, d, q);
    } else {
      sum(Product<T>{z(), x()}, d, q);
    }
  }

  /// q = |z|^2 + |x|^2 - 2 q, and from differences where the pair is near.
  void distances_of_products() {
    using V = Vec<T>;
    const T* half_x = half_square_of_columns();
    int32_t* near = item.scratch.near;
    for (int64_t r = 0; r < rows; ++r) {
      const V half_z = half_square_of(r);
      for (int64_t j = begin; j < end; j += V::size) {
        T* at = q + r * pitch + j;
        const HalfDistance<T> half(half_z + V::load(half_x + j), V::load(at));
        (half.value + half.value).store(at);
        uint32_t lanes = lanes_of(half.is_near);
        for (; lanes; lanes &= lanes - 1)
          near[near_pairs++] = int32_t(r * pitch + j + __builtin_ctz(lanes));
      }
    }
    for (int64_t i = 0; i < near_pairs; ++i) q[near[i]] = near_distance(i);
  }
};

template <class T>
void clear(const Strip<T>& strip, T* pairs) {
  for (int64_t r = 0; r < strip.rows; ++r)
    for (int64_t j = strip.begin; j < strip.end; j += Vec<T>::size)
      Vec<T>(0).store(pairs + r * strip.pitch + j);
}

/// body(shape) for component l.
template <class T, class Body>
DMMD_INLINE void with_shape_of(const Strip<T>& strip, int64_t l, Body body) {
  Profile profile = strip.problem().kernel[l].profile;
  if (profile == Profile::energy && strip.params()[3 * l + 2] == T(1)) profile = Profile::distance;
  with_shape(profile, body);
}

/// body(shape, l) for every component of the kernel.
template <class T, class Body>
DMMD_INLINE void for_components(const Strip<T>& strip, Body body) {
  for (int64_t l = 0; l < strip.problem().components; ++l)
    with_shape_of(strip, l, [&](auto shape) { body(shape, l); });
}

}  // namespace dmmd::cpu::DMMD_ISA
