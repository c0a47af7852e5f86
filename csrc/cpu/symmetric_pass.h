// A strip of a quadratic form by products, off the diagonal, with one pass over its pairs between
// them: from products to slopes, their sums over rows and columns, and the form's own sum. Near
// pairs go from differences to the sums at once.
#pragma once

#include "symmetric_strip.h"

namespace dmmd::cpu::DMMD_ISA {

/// Whether the derivatives in lambda and scale follow from value and slope, and there is no other.
DMMD_INLINE bool has_no_shape(Profile profile) {
  return profile == Profile::gaussian || profile == Profile::imq || profile == Profile::laplace ||
         profile == Profile::matern32 || profile == Profile::matern52 ||
         profile == Profile::square_distance;
}

/// What the slope factor of the one component is a multiple of its scale by.
template <class T>
double slope_per_scale(const Strip<T>& strip) {
  Parameters<T> unit = strip.parameters(0);
  unit.scale = T(1);
  double factor = 0;
  with_component(strip.problem().kernel[0].profile, unit,
                 [&](const auto& form) { factor = double(form.slope_factor); });
  return factor;
}

/// What the pairs of a strip add up to.
struct PassSums {
  double value = 0, by_scale = 0;  // of c K and c q dK/dq, but for the kernel's factors
};

/// s = c dK/dq in place of the products of points where Slope, and zero where pairs are near, which
/// it lists. Adds to the totals of rows in the item and of columns in `columns`.
template <bool Slope, bool Params, class Kernel, class T>
PassSums pass_over_products(SymmetricStrip<T>& strip, const Kernel kernel, T* columns) {
  using V = Vec<T>;
  const T* half_x = strip.half_square_of_columns();
  int32_t* near = strip.item.scratch.near;
  double* total = strip.item.scratch.total + (strip.row - strip.item.row);
  const int64_t begin = strip.begin, end = strip.end;
  PassSums sums;
  for (int64_t r = 0; r < strip.rows; ++r) {
    const double v = strip.v(r);
    const V half_z = strip.half_square_of(r), factor(bounded<T>(v * kernel.slope_factor()));
    const T* c = strip.c + r * strip.c_pitch;
    T* pairs = strip.q + r * strip.pitch;
    V value(0), by_scale(0), row(0);
    for (int64_t j = begin; j < end; j += V::size) {
      const HalfDistance<T> half(half_z + V::load(half_x + j), V::load(pairs + j));
      const V q = half.value + half.value, weight = V::load(c + j);
      const Pair<V> pair = kernel(q);
      V one_value = weight * pair.value, pull = weight * pair.slope, by_q = q * pull;
      if (uint32_t lanes = lanes_of(half.is_near)) {
        for (; lanes; lanes &= lanes - 1)
          near[strip.near_pairs++] = int32_t(r * strip.pitch + j + __builtin_ctz(lanes));
        one_value = select(half.is_near, V(0), one_value);
        pull = select(half.is_near, V(0), pull);
        by_q = select(half.is_near, V(0), by_q);
      }
      value = value + one_value;
      if constexpr (Params) by_scale = by_scale + by_q;
      if constexpr (Slope) {
        const V s = factor * pull;
        s.store(pairs + j);
        row = row + s;
        (V::load(columns + j) + s).store(columns + j);
      }
    }
    sums.value += v * sum(value);
    if constexpr (Params) sums.by_scale += v * sum(by_scale);
    if constexpr (Slope) total[r] += sum(row);
  }
  return sums;
}

/// The listed pairs: their share of the sums, and of the gradients at both of their points.
template <bool Slope, class Kernel, class T>
void meet_listed(const SymmetricStrip<T>& strip, const Kernel& kernel, PassSums& sums) {
  using V = Vec<T>;
  const int64_t d = strip.problem().d, z_pitch = strip.z().pitch;
  for (int64_t i = 0; i < strip.near_pairs; ++i) {
    const int64_t at = strip.item.scratch.near[i], r = at / strip.pitch, j = at % strip.pitch;
    if (strip.first + j >= strip.problem().m) continue;
    const double c = strip.v(r) * double(strip.c[r * strip.c_pitch + j]);
    const T q = strip.near_distance(i);
    const Pair<V> pair = kernel(V(q));
    T value[V::size], slope[V::size];
    pair.value.store(value);
    pair.slope.store(slope);
    sums.value += c * double(value[0]);
    sums.by_scale += c * double(q) * double(slope[0]);
    if constexpr (!Slope) continue;
    const T s = T(c * kernel.slope_factor() * double(slope[0]));
    add_difference(s, strip.z_at(r), strip.x_at(j), d, strip.sums(r));
    if (j < strip.moving_end)
      add_difference(s, strip.x_at(j), strip.z_at(r), d, strip.pair.column_sums + j * z_pitch);
  }
}

/// The pass, what it left out, and the products after it.
template <bool Slope, bool Params, class T>
bool meet_in_one_pass_for(SymmetricStrip<T>& strip) {
  return with_kernel(strip, [&](const auto& kernel) {
    strip.multiply_points();
    strip.c = strip.w().data;
    if (strip.problem().p != 1) strip.multiply_weights();
    T* columns = strip.buffer(2);
    for (int64_t j = 0; j < strip.end; ++j) columns[j] = T(0);
    PassSums sums = pass_over_products<Slope, Params>(strip, kernel, columns);
    meet_listed<Slope>(strip, kernel, sums);
    *strip.pair.value += kernel.value_factor() * sums.value;
    if constexpr (Params) {
      strip.item.q[0] += sums.value;
      strip.item.q[1] += slope_per_scale(strip) * sums.by_scale;
    }
    if constexpr (!Slope) return;
    for (int64_t j = strip.begin; j < strip.moving_end; ++j)
      strip.pair.column_total[j] += double(columns[j]);
    multiply_both(strip, strip.q);
  });
}

/// False, and nothing done, where the strip needs more than one pass, or moves in part.
template <class T>
bool meet_in_one_pass(SymmetricStrip<T>& strip) {
  const Problem<T>& a = strip.problem();
  const int want = strip.sweep.want;
  const bool moves = want & kGradient && strip.moving_rows > 0;
  const bool is_simple = a.components == 1 && has_no_shape(a.kernel[0].profile);
  if (!strip.by_products() || !strip.radial() || strip.pair.is_diagonal ||
      (want & kParams && !is_simple) || (moves && strip.moving_rows < strip.rows))
    return false;
  if (want & kParams)
    return moves ? meet_in_one_pass_for<true, true>(strip)
                 : meet_in_one_pass_for<false, true>(strip);
  return moves ? meet_in_one_pass_for<true, false>(strip)
               : meet_in_one_pass_for<false, false>(strip);
}

}  // namespace dmmd::cpu::DMMD_ISA
