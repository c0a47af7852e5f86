// Kernels as one function of a distance: of one component, or of several that have one common form,
// which then share what they can and are added up in registers.
#pragma once

#include "strip.h"

namespace dmmd::cpu::DMMD_ISA {

constexpr int64_t kMostComponents = 16;

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

/// body(form) with the form of component l that first order uses.
template <class T, class Body>
DMMD_INLINE void with_form(const Strip<T>& strip, int64_t l, Body body) {
  with_component(strip.problem().kernel[l].profile, strip.parameters(l), body);
}

template <class Form, class Body>
void with_several(Form* forms, int64_t count, Body body) {
  body(Several<Form>{forms, count});
}

template <class T, class Body>
void with_several(Gaussian<T>* forms, int64_t count, Body body) {
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
  body(Several<GaussianPair<T>>{pairs, found});
}

/// body(kernel) where all components are of one common form; false, and nothing done, where not.
template <class T, class Body>
bool with_common_kernel(const Strip<T>& strip, Body body) {
  const int64_t count = strip.problem().components;
  if (count > kMostComponents) return false;
  bool done = false;
  with_form(strip, 0, [&](auto form) {
    using Form = decltype(form);
    if constexpr (Form::is_common) {
      alignas(Form) char memory[kMostComponents * sizeof(Form)];
      Form* forms = reinterpret_cast<Form*>(memory);
      bool alike = true;
      for (int64_t l = 0; l < count; ++l)
        with_form(strip, l, [&](auto other) {
          if constexpr (__is_same(decltype(other), Form)) {
            forms[l] = other;
          } else {
            alike = false;
          }
        });
      if (!alike) return;
      done = true;
      if (count != 1) return with_several(forms, count, body);
      body(One<Form>{form});
    }
  });
  return done;
}

/// The same, and for one component of any form.
template <class T, class Body>
bool with_kernel(const Strip<T>& strip, Body body) {
  if (with_common_kernel(strip, body)) return true;
  if (strip.problem().components != 1) return false;
  with_form(strip, 0, [&](auto form) {
    if constexpr (!decltype(form)::is_common) body(One<decltype(form)>{form});
  });
  return true;
}

}  // namespace dmmd::cpu::DMMD_ISA
