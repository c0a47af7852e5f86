// From the distances q of a strip to values, slopes and parameter gradients, component by
// component.
#pragma once

#include "kernel.h"

namespace dmmd::cpu::DMMD_ISA {

/// sums[r] = sum_j c K, and q becomes c dK/dq, with a kernel of kernel.h.
template <bool Value, bool Slope, class Kernel, class T>
void weigh_by(const Strip<T>& strip, const Kernel& kernel, double* sums) {
  using V = Vec<T>;
  const V factor(T(kernel.slope_factor()));
  for (int64_t r = 0; r < strip.rows; ++r) {
    T* q = strip.q + r * strip.pitch;
    const T* c = strip.c + r * strip.c_pitch;
    V sum(0);
    for (int64_t j = strip.begin; j < strip.end; j += V::size) {
      const Pair<V> pair = kernel(V::load(q + j));
      const V weight = V::load(c + j);
      if constexpr (Value) sum = sum + weight * pair.value;
      if constexpr (Slope) (weight * (factor * pair.slope)).store(q + j);
    }
    if constexpr (Value) sums[r] = kernel.value_factor() * dmmd::cpu::DMMD_ISA::sum(sum);
  }
}

/// One component of several: k += K, s += dK/dq.
template <bool Value, bool Slope, class Form, class T>
void add_one(const Strip<T>& strip, const Form& form, T* k, T* s) {
  using V = Vec<T>;
  const V value_factor(form.value_factor), slope_factor(form.slope_factor);
  for (int64_t r = 0; r < strip.rows; ++r) {
    const int64_t at = r * strip.pitch;
    for (int64_t j = at + strip.begin; j < at + strip.end; j += V::size) {
      const Pair<V> pair = form(V::load(strip.q + j));
      if constexpr (Value) (V::load(k + j) + value_factor * pair.value).store(k + j);
      if constexpr (Slope) (V::load(s + j) + slope_factor * pair.slope).store(s + j);
    }
  }
}

/// sums[r] = sum_j c k, and s becomes c s.
template <bool Value, bool Slope, class T>
void weigh_all(const Strip<T>& strip, const T* k, T* s, double* sums) {
  using V = Vec<T>;
  for (int64_t r = 0; r < strip.rows; ++r) {
    const int64_t at = r * strip.pitch;
    const T* c = strip.c + r * strip.c_pitch;
    V sum(0);
    for (int64_t j = strip.begin; j < strip.end; j += V::size) {
      const V weight = V::load(c + j);
      if constexpr (Value) sum = sum + weight * V::load(k + at + j);
      if constexpr (Slope) (weight * V::load(s + at + j)).store(s + at + j);
    }
    if constexpr (Value) sums[r] = dmmd::cpu::DMMD_ISA::sum(sum);
  }
}

/// k = K and s = dK/dq, with a kernel of kernel.h.
template <bool Value, bool Slope, class Kernel, class T>
void evaluate_by(const Strip<T>& strip, const Kernel& kernel, T* k, T* s) {
  using V = Vec<T>;
  const V value_factor(T(kernel.value_factor())), slope_factor(T(kernel.slope_factor()));
  for (int64_t r = 0; r < strip.rows; ++r) {
    const int64_t at = r * strip.pitch;
    for (int64_t j = at + strip.begin; j < at + strip.end; j += V::size) {
      const Pair<V> pair = kernel(V::load(strip.q + j));
      if constexpr (Value) (value_factor * pair.value).store(k + j);
      if constexpr (Slope) (slope_factor * pair.slope).store(s + j);
    }
  }
}

/// K into k, its slope into s, for kernels of any components.
template <bool Value, bool Slope, class T>
void evaluate(const Strip<T>& strip, T* k, T* s) {
  if (with_common_kernel(
          strip, [&](const auto& kernel) { evaluate_by<Value, Slope>(strip, kernel, k, s); }))
    return;
  if (Value) clear(strip, k);
  if (Slope) clear(strip, s);
  for (int64_t l = 0; l < strip.problem().components; ++l)
    with_form(strip, l, [&](const auto& form) { add_one<Value, Slope>(strip, form, k, s); });
}

/// Weighted sums over each row into sums, weighted slopes into the buffer that is returned.
template <bool Value, bool Slope, class T>
T* weigh(const Strip<T>& strip, double* sums) {
  const auto by = [&](const auto& kernel) { weigh_by<Value, Slope>(strip, kernel, sums); };
  if (with_kernel(strip, by)) return strip.q;
  T *k = strip.buffer(2), *s = strip.buffer(3);
  evaluate<Value, Slope>(strip, k, s);
  weigh_all<Value, Slope>(strip, k, s, sums);
  return s;
}

template <class S, class T>
void sum_params(const Strip<T>& strip, const Parameters<T>& one, double* to) {
  using V = Vec<T>;
  for (int64_t r = 0; r < strip.rows; ++r) {
    const T* q = strip.q + r * strip.pitch;
    const T* c = strip.c + r * strip.c_pitch;
    V by_lambda(0), by_scale(0), by_shape(0);
    for (int64_t j = strip.begin; j < strip.end; j += V::size) {
      const V at = V::load(q + j), weight = V::load(c + j);
      const Jet<V> jet = S::jet(V(one.scale) * at, V(one.shape), one.degree);
      by_lambda = by_lambda + weight * jet.psi;
      by_scale = by_scale + weight * (at * jet.d);
      by_shape = by_shape + weight * jet.a;
    }
    const double v = strip.v(r);
    to[0] += v * sum(by_lambda);
    to[1] += v * double(one.lambda) * sum(by_scale);
    to[2] += v * double(one.lambda) * sum(by_shape);
  }
}

}  // namespace dmmd::cpu::DMMD_ISA
