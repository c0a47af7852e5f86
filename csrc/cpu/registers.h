// Few dimensions: a pair stays in registers from its points to its sums.
//
// Two rows meet one vector of columns at a time. Only kernels whose components have one form, the
// common ones, come here; others have their pairs laid out in a strip.
#pragma once

#include "component.h"
#include "strip.h"

namespace dmmd::cpu::DMMD_ISA {

constexpr int64_t kMostComponents = 16;

/// Sums over the columns of a strip for R of its rows.
template <int D, int R, class T>
struct RowSums {
  Pack<T, R> value, gradient[D];
};

/// One component, whose factors are applied to the sums.
template <class Form>
struct One {
  Form form;

  template <class V>
  DMMD_INLINE Pair<V> operator()(V q) const {
    return form(q);
  }
  double value_factor() const { return form.value_factor; }
  double slope_factor() const { return form.slope_factor; }
};

/// Several components of one form over one distance.
template <class Form>
struct Several {
  const Form* forms;
  int64_t count;

  template <class V>
  DMMD_INLINE Pair<V> operator()(V q) const {
    Pair<V> total{V(0), V(0)};
    for (int64_t l = 0; l < count; ++l) {
      const Pair<V> one = forms[l](q);
      total.value = total.value + V(forms[l].value_factor) * one.value;
      total.slope = total.slope + V(forms[l].slope_factor) * one.slope;
    }
    return total;
  }
  double value_factor() const { return 1; }
  double slope_factor() const { return 1; }
};

/// Gaussians over one distance, with one exponential for two whose widths are a factor 2 apart.
template <class T>
struct Several<GaussianPair<T>> {
  const GaussianPair<T>* forms;
  int64_t count;

  template <class V>
  DMMD_INLINE Pair<V> operator()(V q) const {
    Pair<V> total = forms[0](q);
    for (int64_t l = 1; l < count; ++l) {
      const Pair<V> one = forms[l](q);
      total.value = total.value + one.value;
      total.slope = total.slope + one.slope;
    }
    return total;
  }
  double value_factor() const { return 1; }
  double slope_factor() const { return 1; }
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

template <class Form, class T>
void sweep_several(const Strip<T>& strip, Form* forms, int64_t count) {
  const Several<Form> kernel{forms, count};
  sweep_wanted(strip, kernel);
}

template <class T>
void sweep_several(const Strip<T>& strip, Gaussian<T>* forms, int64_t count) {
  for (int64_t l = 1; l < count; ++l)  // the widest first
    for (int64_t i = l; i > 0 && forms[i].scale < forms[i - 1].scale; --i) {
      const Gaussian<T> narrow = forms[i - 1];
      forms[i - 1] = forms[i];
      forms[i] = narrow;
    }
  alignas(GaussianPair<T>) char memory[kMostComponents * sizeof(GaussianPair<T>)];
  GaussianPair<T>* pairs = reinterpret_cast<GaussianPair<T>*>(memory);
  int64_t found = 0;
  for (int64_t l = 0; l < count; ++l) {
    int64_t i = 0;
    while (i < found && !pairs[i].takes(forms[l])) ++i;
    if (i < found) {
      pairs[i].take(forms[l]);
    } else {
      pairs[found++] = GaussianPair<T>(forms[l]);
    }
  }
  sweep_several<GaussianPair<T>>(strip, pairs, found);
}

/// Does a strip whose kernel is of one common form; false when it is not.
template <class T>
bool sweep_in_registers(const Strip<T>& strip) {
  const Problem<T>& a = strip.problem();
  const int64_t count = a.components;
  if (count > kMostComponents) return false;
  bool done = false;
  with_component(a.kernel[0].profile, strip.parameters(0), [&](auto form) {
    using Form = decltype(form);
    if constexpr (Form::is_common) {
      alignas(Form) char memory[kMostComponents * sizeof(Form)];
      Form* forms = reinterpret_cast<Form*>(memory);
      bool alike = true;
      for (int64_t l = 0; l < count; ++l)
        with_component(a.kernel[l].profile, strip.parameters(l), [&](auto other) {
          if constexpr (__is_same(decltype(other), Form)) {
            forms[l] = other;
          } else {
            alike = false;
          }
        });
      if (!alike) return;
      done = true;
      if (count != 1) return sweep_several(strip, forms, count);
      sweep_wanted(strip, One<Form>{form});
    }
  });
  return done;
}

}  // namespace dmmd::cpu::DMMD_ISA
