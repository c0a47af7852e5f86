// Few dimensions: a pair stays in registers from its points to its sums.
//
// Two rows meet one vector of columns at a time. Only kernels whose components have one form, the
// common ones, come here; others have their pairs laid out in a strip.
#pragma once

#include "kernel.h"

namespace dmmd::cpu::DMMD_ISA {

/// Sums over the columns of a strip for R of its rows.
template <int D, int R, class T>
struct RowSums {
  Pack<T, R> value, gradient[D];
};

template <int D, int R, bool Value, bool Slope, class T, class Kernel>
DMMD_INLINE RowSums<D, R, T> sweep_rows(const Strip<T>& strip, const Kernel& kernel, int64_t row) {
  using V = Vec<T>;
  using P = Pack<T, R>;
  const Rows<T> rows = strip.z();
  P z[D];
  RowSums<D, R, T> sums{P(0), {}};
  for (int k = 0; k < D; ++k) {
    for (int r = 0; r < R; ++r) z[k].v[r] = V(rows.data[(row + r) * rows.pitch + k]);
    sums.gradient[k] = P(0);
  }
  for (int64_t panel = strip.begin; panel < strip.end; panel += kLanes<T>) {
    const T* x = strip.x().at(0, panel);
    const T* c = strip.c + panel;
    for (int64_t j = 0; j < kLanes<T>; j += V::size) {
      P q(0), difference[D];
      for (int k = 0; k < D; ++k) {
        difference[k] = z[k] - P(V::load(x + k * kLanes<T> + j));
        q = k == 0 ? difference[k] * difference[k] : q + difference[k] * difference[k];
      }
      const Pair<P> pair = kernel(q);
      const P weight(V::load(c + j));
      if constexpr (Value) sums.value = sums.value + weight * pair.value;
      if constexpr (Slope) {
        const P pull = weight * pair.slope;
        for (int k = 0; k < D; ++k) sums.gradient[k] = sums.gradient[k] + pull * difference[k];
      }
    }
  }
  return sums;
}

/// Adds the potential, and with Slope the gradient, of every row of the strip to the item's sums.
template <int D, bool Value, bool Slope, class T, class Kernel>
void sweep_in_registers(const Strip<T>& strip, const Kernel& kernel) {
  const int64_t at = strip.row - strip.item.row;
  const auto add = [&](const auto& sums, int64_t row, int rows) {
    for (int r = 0; r < rows; ++r) {
      if constexpr (Value)
        strip.item.f[at + row + r] += kernel.value_factor() * sum(sums.value.v[r]);
      for (int k = 0; Slope && k < D; ++k)
        strip.item.g[grouped(at + row + r, k, D)] +=
            kernel.slope_factor() * sum(sums.gradient[k].v[r]);
    }
  };
  int64_t row = 0;
  for (; row + 2 <= strip.rows; row += 2)
    add(sweep_rows<D, 2, Value, Slope>(strip, kernel, row), row, 2);
  if (row < strip.rows) add(sweep_rows<D, 1, Value, Slope>(strip, kernel, row), row, 1);
}

template <bool Value, bool Slope, class T, class Kernel>
void sweep_in_registers(const Strip<T>& strip, const Kernel& kernel) {
  switch (strip.problem().d) {
    case 1:
      return sweep_in_registers<1, Value, Slope>(strip, kernel);
    case 2:
      return sweep_in_registers<2, Value, Slope>(strip, kernel);
    case 3:
      return sweep_in_registers<3, Value, Slope>(strip, kernel);
  }
}

template <class T, class Kernel>
void sweep_wanted(const Strip<T>& strip, const Kernel& kernel) {
  const bool value = strip.sweep.want & kPotential, slope = strip.sweep.want & kGradient;
  if (value && slope) return sweep_in_registers<true, true>(strip, kernel);
  if (slope) return sweep_in_registers<false, true>(strip, kernel);
  sweep_in_registers<true, false>(strip, kernel);
}

/// Does a strip whose kernel is of one common form; false when it is not.
template <class T>
bool sweep_in_registers(const Strip<T>& strip) {
  return with_common_kernel(strip, [&](const auto& kernel) { sweep_wanted(strip, kernel); });
}

}  // namespace dmmd::cpu::DMMD_ISA
