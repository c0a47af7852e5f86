// What a sweep needs in memory: centres, packed clouds, and the scratch of each thread.
#pragma once

#include "pack.h"

namespace dmmd::cpu {

// Pairs times operations that are not worth a second thread.
constexpr double kSmall = 3e4;

template <class T>
int worthwhile_threads(const Problem<T>& a, double pairs) {
  const double work = double(a.blocks) * pairs * double(a.d + a.p + 8 * a.components);
  return work < kSmall ? 1 : std::max(1, a.threads);
}

// Blocks from which on each is a task of its own: packed, swept and forgotten by one thread, so
// that its memory is small and stays in the cache.
constexpr int64_t kManyBlocks = 16;

template <class T>
Problem<T> block_of(const Problem<T>& a, int64_t block) {
  Problem<T> one = a;
  one.blocks = 1;
  one.threads = 1;
  for (auto array :
       {&Problem<T>::z, &Problem<T>::x, &Problem<T>::v, &Problem<T>::w, &Problem<T>::params})
    one.*array = {(a.*array).block(block), 0};
  return one;
}

/// run(problem, its first block, how many tasks there are): the whole, or block by block.
template <class T, class Run>
void by_blocks(const Problem<T>& a, double pairs, Run run) {
  if (a.blocks < kManyBlocks) return run(a, 0, 1);
  parallel_for(a.blocks, worthwhile_threads(a, pairs),
               [&](int64_t block, int) { run(block_of(a, block), block, a.blocks); });
}

template <class T>
Sweep<T> sweep_of(const Problem<T>& problem, int want) {
  Sweep<T> sweep;
  sweep.problem = problem;
  sweep.want = want;
  sweep.regime = regime_of(problem.d);
  // A cloud of up to two tiles is one tile.
  const int64_t width = sweep.regime.width / int64_t(sizeof(T));
  const int64_t columns = std::max(round_up(problem.m, kLanes<T>), kLanes<T>);
  sweep.width = columns <= 2 * width ? columns : width;
  if constexpr (__is_same(T, float))
    if (problem.high && problem.d >= kLeastTiledD) sweep.tiles = tile_unit();
  if (sweep.tiles)  // strips and items begin at whole tiles
    for (int64_t* rows : {&sweep.regime.strip, &sweep.regime.rows})
      *rows = *rows / kTileRows * kTileRows;
  return sweep;
}

/// What the points of a block are shifted by, so that products of them lose few digits: the mean of
/// x. Distances do not feel it.
template <class T>
void find_centre(const Problem<T>& a, int64_t block, T* centre) {
  const T* x = a.x.block(block);
  const auto mean = allocate<double>(a.d);
  std::fill_n(mean.get(), a.d, 0.0);
  for (int64_t j = 0; j < a.m; ++j)
    for (int64_t k = 0; k < a.d; ++k) mean[k] += double(x[j * a.d + k]);
  for (int64_t k = 0; k < a.d; ++k) {
    const T shift = T(mean[k] / double(a.m));
    centre[k] = std::isfinite(shift) ? shift : T(0);
  }
}

/// The packed clouds of a sweep, which points to them.
template <class T>
class PackedSweep {
 public:
  PackedSweep(Sweep<T>& sweep, bool second_order, int threads)
      : a_(sweep.problem), threads_(threads) {
    const bool radial = a_.kernel[0].profile != Profile::polynomial;
    const bool by_products = sweep.regime.method == Method::products;
    const Tiling points{a_.m, a_.d, sweep.width}, weights{a_.m, a_.p, sweep.width};
    if (by_products && radial) make_centre(sweep);

    const Batched<const T> xt = sweep.direction.x;
    x_ = columns(points, a_.x, centre_, false);
    w_ = columns(weights, a_.w, {}, true);
    xt_ = columns(points, xt, {}, true);
    if (by_products && (second_order || sweep.want & kGradient))
      x_of_ = rows(points, a_.x, centre_);
    if (by_products && xt) xt_of_ = rows(points, xt, {});
    if (sweep.want == kPotential && a_.p != 1) w_of_ = rows(weights, a_.w, {});
    if (by_products && radial)
      half_square_ =
          pack<T>(a_, a_.x.stride, points, 1, points.width, threads_,
                  [&](int64_t block, int64_t first, T* to) {
                    pack_half_squares(points, a_.x.block(block), centre(block), first, to);
                  });
    sweep.x = x_.packed;
    sweep.w = w_.packed;
    sweep.xt = xt_.packed;
    sweep.x_of = x_of_.packed;
    sweep.xt_of = xt_of_.packed;
    sweep.w_of = w_of_.packed;
    sweep.half_square = half_square_.packed;
    if constexpr (__is_same(T, float))
      if (sweep.tiles) pack_tiles(sweep, points);
  }

 private:
  void make_centre(Sweep<T>& sweep) {
    const int64_t blocks = a_.x.stride ? a_.blocks : 1;
    centre_memory_ = allocate<T>(product(blocks, a_.d));
    centre_ = {centre_memory_.get(), a_.x.stride ? a_.d : 0};
    parallel_for(blocks, threads_,
                 [&](int64_t block, int) { find_centre(a_, block, centre_.block(block)); });
    sweep.centre = centre_;
  }

  void pack_tiles(Sweep<T>& sweep, Tiling points) {
    const auto packed = [&](int64_t lanes, int64_t inner, auto pack_tile) {
      return pack<Half>(a_, a_.x.stride, points, halves_of(lanes, inner), 1, threads_,
                        [&](int64_t block, int64_t first, Half* to) {
                          pack_tile(points, a_.x.block(block), centre(block), first, to);
                        });
    };
    x_tiles_ = packed(points.width, a_.d, pack_column_tiles);
    if (x_of_.memory) x_of_tiles_ = packed(a_.d, points.width, pack_row_tiles);
    sweep.x_tiles = x_tiles_.packed;
    sweep.x_of_tiles = x_of_tiles_.packed;
  }

  const T* centre(int64_t block) const { return centre_ ? centre_.block(block) : nullptr; }

  PackedMemory<T> columns(Tiling tiling, Batched<const T> from, Batched<T> centre, bool is_weight) {
    if (!from) return {};
    return pack<T>(a_, from.stride, tiling, tiling.columns, tiling.width, threads_,
                   [&](int64_t block, int64_t first, T* to) {
                     pack_columns(tiling, from.block(block), centre ? centre.block(block) : nullptr,
                                  first, is_weight, to);
                   });
  }

  PackedMemory<T> rows(Tiling tiling, Batched<const T> from, Batched<T> centre) {
    return pack<T>(a_, from.stride, tiling, tiling.width, round_up(tiling.columns, kLanes<T>),
                   threads_, [&](int64_t block, int64_t first, T* to) {
                     pack_rows(tiling, from.block(block), centre ? centre.block(block) : nullptr,
                               first, to);
                   });
  }

  const Problem<T>& a_;
  int threads_;
  Memory<T> centre_memory_;
  Batched<T> centre_;
  PackedMemory<T> x_, w_, xt_, x_of_, w_of_, xt_of_, half_square_;
  PackedMemory<Half> x_tiles_, x_of_tiles_;
};

/// Numbers from one row to the next: an odd number of lines of the cache, since rows a power of two
/// apart would share a few of its sets.
template <class T>
constexpr int64_t pitch_of(int64_t columns) {
  constexpr int64_t line = 64 / int64_t(sizeof(T));
  return ((columns + line - 1) / line | 1) * line;
}

/// The scratch of every thread of a sweep over items of at most `rows` rows.
template <class T>
class ScratchMemory {
 public:
  ScratchMemory(const Sweep<T>& sweep, int64_t rows, bool second_order, int threads) {
    const Problem<T>& a = sweep.problem;
    const bool by_products = sweep.regime.method == Method::products;
    const bool sums_sides = sweep.want == kPotential && a.p != 1;
    const bool sums_gradient = by_products && (second_order || sweep.want & kGradient);
    if (by_products) z_pitch_ = pitch_of<T>(a.d);
    if (sums_sides || sums_gradient) sums_pitch_ = pitch_of<T>(sums_sides ? a.p : a.d);
    rows_ = round_up(rows, kLanes<T>);
    pairs_ = sweep.regime.room() * sweep.width;
    zeros_ = round_up(std::max(a.d, sweep.width), kLanes<T>);
    per_thread_ =
        product(kStripBuffers, pairs_) + zeros_ + rows_ + product(rows_, z_pitch_ + sums_pitch_);
    numbers_ = allocate<T>(product(threads, per_thread_));
    totals_ = allocate<double>(product(threads, 2, rows_));
    near_ = allocate<int32_t>(product(threads, pairs_));
    if (sweep.tiles) {
      z_halves_ = halves_of(rows_, a.d);
      s_halves_ = halves_of(sweep.regime.strip, sweep.width);
      halves_ = allocate<Half>(product(threads, z_halves_ + s_halves_));
    }
    std::fill_n(totals_.get(), threads * 2 * rows_, 0.0);
    for (int worker = 0; worker < threads; ++worker) {
      const Scratch<T> scratch = of(worker);
      std::fill_n(scratch.zeros, zeros_, T(0));
      std::fill_n(scratch.sums, rows_ * sums_pitch_, T(0));
    }
  }

  /// With zeros where a sweep relies on them, and leaves them.
  Scratch<T> of(int worker) const {
    T* at = numbers_.get() + worker * per_thread_;
    Scratch<T> scratch;
    scratch.pairs = at;
    scratch.zeros = at + kStripBuffers * pairs_;
    scratch.half_square = scratch.zeros + zeros_;
    scratch.z = scratch.half_square + rows_;
    scratch.sums = scratch.z + rows_ * z_pitch_;
    scratch.total = totals_.get() + worker * 2 * rows_;
    scratch.twist_total = scratch.total + rows_;
    scratch.near = near_.get() + worker * pairs_;
    scratch.z_pitch = z_pitch_;
    scratch.sums_pitch = sums_pitch_;
    scratch.z_tiles = halves_.get() + worker * (z_halves_ + s_halves_);
    scratch.s_tiles = scratch.z_tiles + z_halves_;
    return scratch;
  }

 private:
  int64_t z_pitch_ = 0, sums_pitch_ = 0, rows_, pairs_, zeros_, per_thread_;
  Memory<T> numbers_;
  Memory<double> totals_;
  Memory<int32_t> near_;
  int64_t z_halves_ = 0, s_halves_ = 0;
  Memory<Half> halves_;
};

/// Puts the centred rows of an item into its scratch, where products read them.
template <class T>
void prepare_rows(const Sweep<T>& sweep, const Item<T>& item) {
  const Problem<T>& a = sweep.problem;
  const int64_t pitch = item.scratch.z_pitch;
  if (pitch == 0) return;
  const T* centre = sweep.centre ? sweep.centre.block(item.block) : nullptr;
  const bool is_packed =
      sweep.half_square.array && a.z.data == a.x.data && a.z.stride == a.x.stride && a.n <= a.m;
  for (int64_t r = 0; r < item.row_end - item.row; ++r) {
    const int64_t row = item.row + r;
    const T* from = a.z.block(item.block) + row * a.d;
    T* to = item.scratch.z + r * pitch;
    for (int64_t k = 0; k < a.d; ++k) to[k] = centre ? from[k] - centre[k] : from[k];
    std::fill(to + a.d, to + pitch, T(0));
    item.scratch.half_square[r] =
        is_packed ? sweep.half_square.tile(item.block, row / sweep.width)[row % sweep.width]
                  : half_square(to, a.d);
  }
  if constexpr (__is_same(T, float))
    if (sweep.tiles)
      sweep.tiles->split(item.scratch.z, pitch, item.row_end - item.row, a.d, item.scratch.z_tiles);
}

}  // namespace dmmd::cpu
