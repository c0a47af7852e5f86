// The gradient of a strip by products with one pass over its pairs in between: from products to
// slopes, and their sums over rows. Near pairs go from differences to the sums at once.
#pragma once

#include "kernel.h"
#include "pull.h"

namespace dmmd::cpu::DMMD_ISA {

/// s = factor c dK/dq in place of the products of points, and zero where pairs are near, which it
/// lists. Adds sum_j s to the totals of the rows.
template <class Kernel, class T>
void slopes_of_products(Strip<T>& strip, const Kernel kernel) {
  using V = Vec<T>;
  const V factor(T(kernel.slope_factor()));
  const T *half_x = strip.half_square_of_columns(), *c = strip.c;
  int32_t* near = strip.item.scratch.near;
  const int64_t begin = strip.begin, end = strip.end;
  double* total = strip.item.scratch.total + (strip.row - strip.item.row);
  for (int64_t r = 0; r < strip.rows; ++r) {
    const V half_z = strip.half_square_of(r);
    T* pairs = strip.q + r * strip.pitch;
    V sum(0);
    for (int64_t j = begin; j < end; j += V::size) {
      const HalfDistance<T> half(half_z + V::load(half_x + j), V::load(pairs + j));
      V s = V::load(c + j) * (factor * kernel(half.value + half.value).slope);
      if (uint32_t lanes = lanes_of(half.is_near)) {
        for (; lanes; lanes &= lanes - 1)
          near[strip.near_pairs++] = int32_t(r * strip.pitch + j + __builtin_ctz(lanes));
        s = select(half.is_near, V(0), s);
      }
      s.store(pairs + j);
      sum = sum + s;
    }
    total[r] += dmmd::cpu::DMMD_ISA::sum(sum);
  }
}

/// Adds s (x - z) of the near pairs to the sums of their rows; columns beyond the cloud have none.
template <class Kernel, class T>
void pull_listed(const Strip<T>& strip, const Kernel& kernel) {
  using V = Vec<T>;
  const V factor(T(kernel.slope_factor()));
  for (int64_t i = 0; i < strip.near_pairs; ++i) {
    const int64_t at = strip.item.scratch.near[i], r = at / strip.pitch, j = at % strip.pitch;
    if (strip.first + j >= strip.problem().m) continue;
    T s[V::size];
    (V(strip.c[j]) * (factor * kernel(V(strip.near_distance(i))).slope)).store(s);
    add_difference(s[0], strip.z_at(r), strip.x_at(j), strip.problem().d, strip.sums(r));
  }
}

/// False, and nothing done, where the strip needs more than one pass.
template <class T>
bool pull_in_one_pass(Strip<T>& strip) {
  if (!strip.by_products() || !strip.radial() || strip.problem().p != 1 || strip.crosses_diagonal())
    return false;
  return with_kernel(strip, [&](const auto& kernel) {
    strip.c = strip.w().data;
    strip.multiply_points();
    slopes_of_products(strip, kernel);
    pull_listed(strip, kernel);
    multiply_columns(strip, strip.q);
  });
}

}  // namespace dmmd::cpu::DMMD_ISA
