// potential, potential_grad, params_grad, kernel_matrix and quadratic_form of one work item.
#include "../profile.h"
#include "math.h"
#include "strip.h"

namespace dmmd::cpu::DMMD_ISA {
namespace {

/// One component on vectors: psi and its derivatives at t = scale q.
template <class S, class T>
struct Evaluator {
  using V = Vec<T>;
  T lambda, scale, shape;
  int degree;

  Evaluator(const Strip<T>& strip, int64_t l)
      : lambda(strip.params()[3 * l]),
        scale(strip.params()[3 * l + 1]),
        shape(strip.params()[3 * l + 2]),
        degree(strip.problem().kernel[l].degree) {}

  DMMD_INLINE Jet<V> jet(V q) const { return S::jet(V(scale) * q, V(shape), degree); }
};

/// A kernel of one component: sums[r] = lambda sum_j c psi, and q becomes c lambda scale psi'.
template <bool Value, bool Slope, class S, class T>
void weigh_one(const Strip<T>& strip, const Evaluator<S, T>& one, double* sums) {
  using V = Vec<T>;
  const V slope(one.lambda * one.scale);
  for (int64_t r = 0; r < strip.rows; ++r) {
    T* q = strip.q + r * strip.pitch;
    const T* c = strip.c + r * strip.c_pitch;
    V sum(0);
    for (int64_t j = strip.begin; j < strip.end; j += V::size) {
      const Jet<V> jet = one.jet(V::load(q + j));
      const V weight = V::load(c + j);
      if constexpr (Value) sum = sum + weight * jet.psi;
      if constexpr (Slope) (weight * slope * jet.d).store(q + j);
    }
    if constexpr (Value) sums[r] = double(one.lambda) * dmmd::cpu::DMMD_ISA::sum(sum);
  }
}

/// One component of several: k += lambda psi, s += lambda scale psi'.
template <bool Value, bool Slope, class S, class T>
void add_one(const Strip<T>& strip, const Evaluator<S, T>& one, T* k, T* s) {
  using V = Vec<T>;
  const V lambda(one.lambda), slope(one.lambda * one.scale);
  for (int64_t r = 0; r < strip.rows; ++r) {
    const int64_t at = r * strip.pitch;
    for (int64_t j = at + strip.begin; j < at + strip.end; j += V::size) {
      const Jet<V> jet = one.jet(V::load(strip.q + j));
      if constexpr (Value) (V::load(k + j) + lambda * jet.psi).store(k + j);
      if constexpr (Slope) (V::load(s + j) + slope * jet.d).store(s + j);
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

template <class T>
void clear(const Strip<T>& strip, T* pairs) {
  for (int64_t r = 0; r < strip.rows; ++r)
    for (int64_t j = strip.begin; j < strip.end; j += Vec<T>::size)
      Vec<T>(0).store(pairs + r * strip.pitch + j);
}

/// K into k, its slope into s, for kernels of any number of components.
template <bool Value, bool Slope, class T>
void evaluate(const Strip<T>& strip, T* k, T* s) {
  if (Value) clear(strip, k);
  if (Slope) clear(strip, s);
  for_components(strip, [&](auto shape, int64_t l) {
    using S = decltype(shape);
    add_one<Value, Slope>(strip, Evaluator<S, T>(strip, l), k, s);
  });
}

/// Weighted sums over each row into sums, weighted slopes into the buffer that is returned.
template <bool Value, bool Slope, class T>
T* weigh(const Strip<T>& strip, double* sums) {
  if (strip.problem().components == 1) {
    for_components(strip, [&](auto shape, int64_t l) {
      using S = decltype(shape);
      weigh_one<Value, Slope>(strip, Evaluator<S, T>(strip, l), sums);
    });
    return strip.q;
  }
  T *k = strip.buffer(2), *s = strip.buffer(3);
  evaluate<Value, Slope>(strip, k, s);
  weigh_all<Value, Slope>(strip, k, s, sums);
  return s;
}

template <class T>
void pull(const Strip<T>& strip, const T* s) {
  const int64_t d = strip.problem().d;
  double* to = strip.item.g + grouped(strip.row - strip.item.row, 0, d);
  if (strip.radial()) {
    sum_columns<true>(strip.z(), strip.x(), strip.rows, d, s, strip.pitch, to);
  } else {
    sum_columns<false>(strip.z(), strip.x(), strip.rows, d, s, strip.pitch, to);
  }
}

/// f for p right-hand sides: K w
template <class T>
void apply(const Strip<T>& strip) {
  const int64_t p = strip.problem().p;
  T* k = strip.buffer(2);
  evaluate<true, false, T>(strip, k, nullptr);
  strip.clear_skipped(k);
  double* to = strip.item.f + grouped(strip.row - strip.item.row, 0, p);
  sum_columns<false>(Rows<T>{}, strip.w(), strip.rows, p, k, strip.pitch, to);
}

template <class S, class T>
void sum_params(const Strip<T>& strip, const Evaluator<S, T>& one, double* to) {
  using V = Vec<T>;
  for (int64_t r = 0; r < strip.rows; ++r) {
    const T* q = strip.q + r * strip.pitch;
    const T* c = strip.c + r * strip.c_pitch;
    V by_lambda(0), by_scale(0), by_shape(0);
    for (int64_t j = strip.begin; j < strip.end; j += V::size) {
      const V at = V::load(q + j), weight = V::load(c + j);
      const Jet<V> jet = one.jet(at);
      by_lambda = by_lambda + weight * jet.psi;
      by_scale = by_scale + weight * (at * jet.d);
      by_shape = by_shape + weight * jet.a;
    }
    const double v = strip.problem().p == 1 ? strip.v(r) : 1.0;
    to[0] += v * sum(by_lambda);
    to[1] += v * double(one.lambda) * sum(by_scale);
    to[2] += v * double(one.lambda) * sum(by_shape);
  }
}

template <class T>
void copy_matrix(const Strip<T>& strip) {
  const Problem<T>& a = strip.problem();
  T* k = strip.buffer(2);
  evaluate<true, false, T>(strip, k, nullptr);
  const int64_t count = strip.end < a.m - strip.first ? strip.end : a.m - strip.first;
  for (int64_t r = 0; r < strip.rows; ++r) {
    T* to = strip.sweep.matrix + (strip.item.block * a.n + strip.row + r) * a.m + strip.first;
    std::memcpy(to, k + r * strip.pitch, size_t(count) * sizeof(T));
  }
}

template <class T>
void sweep_strip(Strip<T>& strip) {
  const Problem<T>& a = strip.problem();
  const Item<T>& item = strip.item;
  const int want = strip.sweep.want;
  double sums[kMaxStrip];
  strip.measure();
  if (want == kMatrix) return copy_matrix(strip);
  strip.weigh(want != kPotential);
  if (want == kPotential && a.p != 1) return apply(strip);

  if (want == kPotential || want == kForm) {
    weigh<true, false>(strip, sums);
  } else if (want == kGradient) {
    pull(strip, weigh<false, true>(strip, sums));
  } else if (want == (kPotential | kGradient)) {
    pull(strip, weigh<true, true>(strip, sums));
  } else {
    for_components(strip, [&](auto shape, int64_t l) {
      using S = decltype(shape);
      sum_params(strip, Evaluator<S, T>(strip, l), item.q + 3 * l);
    });
  }
  for (int64_t r = 0; r < strip.rows; ++r) {
    if (want & kPotential) item.f[strip.row - item.row + r] += sums[r];
    if (want & kForm) *item.form += (a.p == 1 ? strip.v(r) : 1.0) * sums[r];
  }
}

template <class T>
void first_order(const Sweep<T>& sweep, const Item<T>& item) {
  for (int64_t tile = item.tile; tile < item.tile_end; ++tile) {
    for (int64_t row = item.row; row < item.row_end; row += sweep.strip) {
      Strip<T> strip(sweep, item, tile, row);
      sweep_strip(strip);
    }
  }
}

}  // namespace

template <class T>
void second_order(const Sweep<T>& sweep, const Item<T>& item);
extern template void second_order(const Sweep<float>&, const Item<float>&);
extern template void second_order(const Sweep<double>&, const Item<double>&);

#define DMMD_STRING_OF(name) #name
#define DMMD_STRING(name) DMMD_STRING_OF(name)
const Isa<float> floats = {DMMD_STRING(DMMD_ISA), first_order<float>, second_order<float>};
const Isa<double> doubles = {DMMD_STRING(DMMD_ISA), first_order<double>, second_order<double>};

}  // namespace dmmd::cpu::DMMD_ISA
