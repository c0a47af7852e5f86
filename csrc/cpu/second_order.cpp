// tangents of one work item: the derivatives of f, g and q along a direction.
#include "strip.h"

namespace dmmd::cpu::DMMD_ISA {
namespace {

// Of each pair: q' in qt, K' in kt, dK'/dq in pull, dK/dq in twist.
template <class T>
struct Pairs {
  T *qt, *kt, *pull, *twist;
};

/// q' = 2 <z - x, z' - x'>, or <z', x> + <z, x'>. What is absent from the direction is zero.
template <class T>
void measure_tangents(const Strip<T>& strip, T* qt) {
  const int64_t d = strip.problem().d;
  const Direction<T>& to = strip.sweep.direction;
  const Rows<T> none{strip.zeros(), 0};
  const Rows<T> zt = to.z ? strip.rows_of(to.z, d) : none;
  const Columns<T> xt = to.x ? strip.columns_of(strip.sweep.xt)
                             : Columns<T>{strip.zeros(), 0, strip.begin, strip.end};
  if (strip.radial()) {
    strip.sum(DifferenceTangent<T>{strip.z(), zt, strip.x(), xt}, d, qt);
  } else {
    strip.sum(Product<T>{zt, strip.x()}, d, qt);
    strip.sum(Product<T>{strip.z(), xt}, d, qt, true);
  }
}

/// Adds component l to the pairs, and its part of sum_ij c_ij grad_params K'_ij to q.
template <class S, class T>
void add_one(const Strip<T>& strip, const Pairs<T>& pairs, int64_t l, double* q) {
  using V = Vec<T>;
  const T* at = strip.params() + 3 * l;
  const Batched<const T>& direction = strip.sweep.direction.params;
  const T none[3] = {};
  const T* to = direction ? direction.block(strip.item.block) + 3 * l : none;
  const V lambda(at[0]), scale(at[1]), shape(at[2]);
  const V lambda_t(to[0]), scale_t(to[1]), shape_t(to[2]);
  const int degree = strip.problem().kernel[l].degree;
  for (int64_t r = 0; r < strip.rows; ++r) {
    const int64_t row = r * strip.pitch;
    const T* c = strip.c + r * strip.c_pitch;
    V by_lambda(0), by_scale(0), by_shape(0);
    for (int64_t j = strip.begin; j < strip.end; j += V::size) {
      const V qj = V::load(strip.q + row + j), qt = V::load(pairs.qt + row + j);
      const V weight = V::load(c + j);
      const V t = scale * qj;
      const Jet<V> k = S::jet(t, shape, degree);
      const V slope = k.d + t * k.dd;
      const V st = scale * qt;
      const V by_l = st * k.d + scale_t * qj * k.d + shape_t * k.a;
      const V kt = V::load(pairs.kt + row + j) + lambda * by_l + lambda_t * k.psi;
      const V pull = V::load(pairs.pull + row + j) + lambda_t * scale * k.d +
                     lambda * (scale * (st * k.dd + shape_t * k.da) + scale_t * slope);
      const V twist = V::load(pairs.twist + row + j) + lambda * scale * k.d;
      kt.store(pairs.kt + row + j);
      pull.store(pairs.pull + row + j);
      twist.store(pairs.twist + row + j);
      by_lambda = by_lambda + weight * by_l;
      by_scale = by_scale +
                 weight * (lambda_t * qj * k.d + lambda * (slope * qt + scale_t * qj * (qj * k.dd) +
                                                           shape_t * qj * k.da));
      by_shape = by_shape + weight * (lambda_t * k.a +
                                      lambda * (st * k.da + scale_t * qj * k.da + shape_t * k.aa));
    }
    const double v = strip.v(r);
    q[3 * l] += v * sum(by_lambda);
    q[3 * l + 1] += v * sum(by_scale);
    q[3 * l + 2] += v * sum(by_shape);
  }
}

template <class T>
void clear(const Strip<T>& strip, T* pairs) {
  for (int64_t r = 0; r < strip.rows; ++r)
    for (int64_t j = strip.begin; j < strip.end; j += Vec<T>::size)
      Vec<T>(0).store(pairs + r * strip.pitch + j);
}

/// pull and twist times c; f = sum_j w K' for p = 1.
template <class T>
void weigh(const Strip<T>& strip, const Pairs<T>& pairs, double* f) {
  using V = Vec<T>;
  for (int64_t r = 0; r < strip.rows; ++r) {
    const int64_t row = r * strip.pitch;
    const T* c = strip.c + r * strip.c_pitch;
    V total(0);
    for (int64_t j = strip.begin; j < strip.end; j += V::size) {
      const V weight = V::load(c + j);
      total = total + weight * V::load(pairs.kt + row + j);
      (weight * V::load(pairs.pull + row + j)).store(pairs.pull + row + j);
      (weight * V::load(pairs.twist + row + j)).store(pairs.twist + row + j);
    }
    if (strip.problem().p == 1) f[r] += sum(total);
  }
}

/// g += pull (z - x) + twist (z' - x'), or pull x + twist x'.
template <class T>
void sum_gradient(const Strip<T>& strip, const Pairs<T>& pairs) {
  const int64_t d = strip.problem().d, rows = strip.rows, pitch = strip.pitch;
  const Direction<T>& to = strip.sweep.direction;
  double* g = strip.item.g + grouped(strip.row - strip.item.row, 0, d);
  const Rows<T> none{strip.zeros(), 0};
  const Rows<T> zt = to.z ? strip.rows_of(to.z, d) : none;
  const Columns<T> xt = to.x ? strip.columns_of(strip.sweep.xt)
                             : Columns<T>{strip.zeros(), 0, strip.begin, strip.end};
  if (strip.radial()) {
    sum_columns<true>(strip.z(), strip.x(), rows, d, pairs.pull, pitch, g);
    if (to.z || to.x) sum_columns<true>(zt, xt, rows, d, pairs.twist, pitch, g);
  } else {
    sum_columns<false>(strip.z(), strip.x(), rows, d, pairs.pull, pitch, g);
    if (to.x) sum_columns<false>(zt, xt, rows, d, pairs.twist, pitch, g);
  }
}

template <class T>
void sweep_strip(Strip<T>& strip) {
  const int64_t p = strip.problem().p;
  const Pairs<T> pairs{strip.buffer(2), strip.buffer(3), strip.buffer(4), strip.buffer(5)};
  double* f = strip.item.f + grouped(strip.row - strip.item.row, 0, p);
  strip.measure();
  measure_tangents(strip, pairs.qt);
  strip.weigh(true);
  strip.clear_skipped(pairs.qt);
  clear(strip, pairs.kt);
  clear(strip, pairs.pull);
  clear(strip, pairs.twist);
  for_components(strip, [&](auto shape, int64_t l) {
    add_one<decltype(shape)>(strip, pairs, l, strip.item.q);
  });
  weigh(strip, pairs, f);
  if (p != 1) {
    strip.clear_skipped(pairs.kt);
    sum_columns<false>(Rows<T>{}, strip.w(), strip.rows, p, pairs.kt, strip.pitch, f);
  }
  sum_gradient(strip, pairs);
}

}  // namespace

template <class T>
void second_order(const Sweep<T>& sweep, const Item<T>& item) {
  for (int64_t tile = item.tile; tile < item.tile_end; ++tile) {
    for (int64_t row = item.row; row < item.row_end; row += sweep.regime.strip) {
      Strip<T> strip(sweep, item, tile, row);
      sweep_strip(strip);
    }
  }
}

template void second_order(const Sweep<float>&, const Item<float>&);
template void second_order(const Sweep<double>&, const Item<double>&);

}  // namespace dmmd::cpu::DMMD_ISA
