// tangents of one work item: the derivatives of f, g and q along a direction.
#include "pull.h"

namespace dmmd::cpu::DMMD_ISA {
namespace {

// Of each pair: q' in qt, K' in kt, dK'/dq in pull, dK/dq in twist.
template <class T>
struct Pairs {
  T *qt, *kt, *pull, *twist;
};

/// The tangents z' of the strip's rows and x' of its columns; zeros where the direction has none.
template <class T>
Rows<T> zt_of(const Strip<T>& strip) {
  const Batched<const T>& zt = strip.sweep.direction.z;
  return zt ? strip.rows_of(zt, strip.problem().d) : Rows<T>{strip.zeros(), 0};
}

template <class T>
Columns<T> xt_of(const Strip<T>& strip) {
  if (strip.sweep.direction.x) return strip.columns_of(strip.sweep.xt);
  return {strip.zeros(), 0, strip.begin, strip.end};
}

/// Where only one of z' and x' is there, q' needs one matrix product:
///     2 <z - x, z'> = 2 <z, z'> - 2 <x, z'>,    -2 <z - x, x'> = 2 <x, x'> - 2 <z, x'>
template <class T>
void products_of_tangents(const Strip<T>& strip, T* qt) {
  using V = Vec<T>;
  const int64_t d = strip.problem().d, panel = kLanes<T> * d, pitch = strip.pitch;
  const bool along_z = bool(strip.sweep.direction.z);
  const Rows<T> left = along_z ? zt_of(strip) : strip.z();
  const Columns<T> right = along_z ? strip.x() : xt_of(strip);
  multiply(Left<T>{left.data, left.pitch, 1}, Right<T>{right.data, panel, kLanes<T>}, strip.rows, d,
           strip.end, qt, pitch, false);
  T* own = strip.buffer(3);  // <x, x'> of the columns
  if (!along_z) {
    for (int64_t j = 0; j < strip.end; j += V::size) {
      V sum(0);
      for (int64_t k = 0; k < d; ++k)
        sum = sum + V::load(strip.x().at(k, j)) * V::load(right.at(k, j));
      sum.store(own + j);
    }
  }
  for (int64_t r = 0; r < strip.rows; ++r) {
    T dot = T(0);
    const T *z = strip.z().data + r * strip.z().pitch, *zt = left.data + r * left.pitch;
    for (int64_t k = 0; along_z && k < d; ++k) dot += z[k] * zt[k];
    for (int64_t j = 0; j < strip.end; j += V::size) {
      const V whole = along_z ? V(dot) : V::load(own + j);
      const V rest = whole - V::load(qt + r * pitch + j);
      (rest + rest).store(qt + r * pitch + j);
    }
  }
}

/// q' of the near pairs, from differences of the points as they were given.
template <class T>
void mend_tangents(const Strip<T>& strip, T* qt) {
  const Rows<T> zt = zt_of(strip);
  const Columns<T> xt = xt_of(strip);
  for (int64_t i = 0; i < strip.near_pairs; ++i) {
    const int64_t at = strip.item.scratch.near[i], r = at / strip.pitch, j = at % strip.pitch;
    const T *z = strip.z_at(r), *x = strip.x_at(j), *row = zt.data + r * zt.pitch;
    double dot = 0;
    for (int64_t k = 0; k < strip.problem().d; ++k)
      dot += double(z[k] - x[k]) * double(row[k] - *xt.at(k, j));
    qt[at] = T(2 * dot);
  }
}

/// q' = 2 <z - x, z' - x'>, or <z', x> + <z, x'>
template <class T>
void measure_tangents(const Strip<T>& strip, T* qt) {
  const int64_t d = strip.problem().d;
  const Direction<T>& to = strip.sweep.direction;
  if (!to.z && !to.x) return clear(strip, qt);
  if (strip.radial() && strip.by_products() && bool(to.z) != bool(to.x)) {
    products_of_tangents(strip, qt);
  } else if (strip.radial()) {
    strip.sum(DifferenceTangent<T>{strip.z(), zt_of(strip), strip.x(), xt_of(strip)}, d, qt);
  } else {
    strip.sum(Product<T>{zt_of(strip), strip.x()}, d, qt);
    strip.sum(Product<T>{strip.z(), xt_of(strip)}, d, qt, true);
  }
  mend_tangents(strip, qt);
  strip.clear_padding(qt);
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

/// psi = (1 + t)^(-n / 2) from the inverse root: rational quadratic with 2 a whole, and imq.
struct RootShape {
  template <class V>
  DMMD_INLINE static Jet<V> jet(V t, V, int n) {
    const V root = inverse_root(V(1) + t), square = root * root, a(0.5f * float(n));
    V psi = root;
    for (int i = 1; i < n; ++i) psi = psi * root;
    const V psi_u = psi * square;
    return {psi, -a * psi_u, a * (a + V(1)) * (psi_u * square), V(0), V(0), V(0)};
  }
};

/// Of component l, c times its pull and twist, where the gradient alone is asked for and parameters
/// stay; added to those of components before it. May overwrite q and qt.
template <class S, bool Adds, class T>
void add_pulls(const Strip<T>& strip, const Pairs<T>& pairs, const Parameters<T>& one) {
  using V = Vec<T>;
  const V scale(one.scale), shape(one.shape), factor(bounded<T>(double(one.lambda) * one.scale));
  for (int64_t r = 0; r < strip.rows; ++r) {
    const int64_t row = r * strip.pitch;
    const T* c = strip.c + r * strip.c_pitch;
    for (int64_t j = strip.begin; j < strip.end; j += V::size) {
      const Jet<V> k = S::jet(scale * V::load(strip.q + row + j), shape, one.degree);
      const V weight = V::load(c + j);
      V pull = weight * (scale * V::load(pairs.qt + row + j) * (factor * k.dd));
      V twist = weight * (factor * k.d);
      if constexpr (Adds) pull = pull + V::load(pairs.pull + row + j);
      if constexpr (Adds) twist = twist + V::load(pairs.twist + row + j);
      pull.store(pairs.pull + row + j);
      twist.store(pairs.twist + row + j);
    }
  }
}

template <bool Adds, class T>
void add_pulls_of(const Strip<T>& strip, const Pairs<T>& pairs, int64_t l) {
  Parameters<T> one = strip.parameters(l);
  const Profile profile = strip.problem().kernel[l].profile;
  const bool has_roots = profile == Profile::imq || profile == Profile::rational_quadratic;
  if (const int degree = has_roots ? half_degree(profile, one.shape) : 0) {
    one.degree = degree;
    return add_pulls<RootShape, Adds>(strip, pairs, one);
  }
  with_shape_of(strip, l, [&](auto shape) { add_pulls<decltype(shape), Adds>(strip, pairs, one); });
}

/// c times pull and twist of all components; of one, in the place of qt and q.
template <class T>
Pairs<T> pulls(const Strip<T>& strip, T* qt) {
  if (strip.problem().components == 1) {
    const Pairs<T> pairs{.qt = qt, .kt = nullptr, .pull = qt, .twist = strip.q};
    add_pulls_of<false>(strip, pairs, 0);
    return pairs;
  }
  const Pairs<T> pairs{.qt = qt, .kt = nullptr, .pull = strip.buffer(4), .twist = strip.buffer(5)};
  add_pulls_of<false>(strip, pairs, 0);
  for (int64_t l = 1; l < strip.problem().components; ++l) add_pulls_of<true>(strip, pairs, l);
  return pairs;
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

/// g += pull (z - x) + twist (z' - x'), or pull x + twist x', by products, as in pull.h. Only
/// twists of both z' and x' could cancel, so they come from differences.
template <class T>
void sum_by_products(const Strip<T>& strip, const Pairs<T>& pairs) {
  const Item<T>& item = strip.item;
  const Direction<T>& to = strip.sweep.direction;
  const int64_t d = strip.problem().d, pitch = strip.pitch;
  pull_by_products(strip, pairs.pull);
  if (to.z && to.x && strip.radial()) {
    double* g = item.g + grouped(strip.row - item.row, 0, d);
    return sum_columns<true>(zt_of(strip), xt_of(strip), strip.rows, d, pairs.twist, pitch, g);
  }
  double* total = item.scratch.twist_total + (strip.row - item.row);
  for (int64_t r = 0; to.z && r < strip.rows; ++r)
    total[r] += sum_of(pairs.twist + r * pitch, strip.end);
  if (!to.x) return;
  const Right<T> xt{strip.sweep.xt_of.tile(item.block, strip.tile), kLanes<T> * pitch, kLanes<T>};
  multiply(Left<T>{pairs.twist, pitch, 1}, xt, strip.rows, strip.end, round_to_vector<T>(d),
           strip.sums(0), item.scratch.sums_pitch, true);
}

template <class T>
void sum_gradient(const Strip<T>& strip, const Pairs<T>& pairs) {
  if (strip.by_products()) return sum_by_products(strip, pairs);
  const int64_t d = strip.problem().d, rows = strip.rows, pitch = strip.pitch;
  const Direction<T>& to = strip.sweep.direction;
  double* g = strip.item.g + grouped(strip.row - strip.item.row, 0, d);
  if (strip.radial()) {
    sum_columns<true>(strip.z(), strip.x(), rows, d, pairs.pull, pitch, g);
    if (to.z || to.x) sum_columns<true>(zt_of(strip), xt_of(strip), rows, d, pairs.twist, pitch, g);
  } else {
    sum_columns<false>(strip.z(), strip.x(), rows, d, pairs.pull, pitch, g);
    if (to.x) sum_columns<false>(zt_of(strip), xt_of(strip), rows, d, pairs.twist, pitch, g);
  }
}

/// Moves the sums of products into the item's.
template <class T>
void flush_tangents(const Sweep<T>& sweep, const Item<T>& item) {
  const Problem<T>& a = sweep.problem;
  const bool twists = sweep.direction.z && a.kernel[0].profile != Profile::polynomial;
  for (int64_t r = 0; twists && r < item.row_end - item.row; ++r) {
    const T* zt = sweep.direction.z.block(item.block) + (item.row + r) * a.d;
    double& total = item.scratch.twist_total[r];
    for (int64_t k = 0; k < a.d; ++k) item.g[grouped(r, k, a.d)] += total * double(zt[k]);
    total = 0;
  }
  flush(sweep, item);
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
  if (strip.sweep.want == kGradient) return sum_gradient(strip, pulls(strip, pairs.qt));
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
    const int64_t done = tile - item.tile + 1;
    if (sweep.regime.method == Method::products &&
        (done % kTilesPerFlush == 0 || tile + 1 == item.tile_end))
      flush_tangents(sweep, item);
  }
}

template void second_order(const Sweep<float>&, const Item<float>&);
template void second_order(const Sweep<double>&, const Item<double>&);

}  // namespace dmmd::cpu::DMMD_ISA
